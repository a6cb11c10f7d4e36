#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Runs the examples of README.md and docs/: what a reader copies must work, and print what the page shows.
"""usage: check_examples.py PAGE.md BUILD_FOLDER [PYTHON]

Blocks run in their order in one scratch folder. `longspan` there is that of BUILD_FOLDER, data/ the project's own; beside it
are input.safetensors (query, key, value, doutput) and query.npy, key.npy, value.npy: one head of 8, 8192 positions.

  ```sh       is run by bash up to the first command that fails, which is a fault; make, cmake, git and pip are left out
  ```console  each line `$ COMMAND` is run by bash and must exit with 0, and print, on both streams together, the lines that
              follow it. A line `...` there stands for any lines, `...` within a line for anything in it: `0.31...` is a
              number whose digits go on, and `... s` a time. The widths of spaces do not count
  ```cpp      must stand, word by word, in a file of examples/, which is built and whose program must exit with 0
  ```python   blocks are one program, run at the end by PYTHON with the package of BUILD_FOLDER; skipped without PYTHON

A block with `not-run` behind its language, and one of any other language, is text. Exit code 1: a block is at fault, or
there is none; 77: all that is there is skipped."""

import difflib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from array import array
from collections import Counter
from pathlib import Path

FENCE = re.compile(r"^```(sh|console|cpp|python)( not-run)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = re.compile(r"^[ \t]*(?:make|cmake|git|pip)\b(?:.*\\\n)*.*\n", re.MULTILINE)
SHAPE = (1, 8192, 1, 8)


def write_inputs(folder):
    rng = random.Random(0)
    count = SHAPE[1] * SHAPE[3]
    tensors = {name: array("f", (4 * rng.random() - 2 for _ in range(count))).tobytes()
               for name in ("query", "key", "value", "doutput")}
    offsets = (n * 4 * count for n in range(len(tensors)))
    header = json.dumps({name: {"dtype": "F32", "shape": SHAPE, "data_offsets": [begin, begin + 4 * count]}
                         for name, begin in zip(tensors, offsets)}).encode()
    (folder / "input.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"".join(tensors.values()))
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {SHAPE}}}".encode().ljust(117) + b"\n"
    header = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header  # 128 bytes
    for name in ("query", "key", "value"):
        (folder / f"{name}.npy").write_bytes(header + tensors[name])


def bash(script, folder, build, **streams):
    environment = dict(os.environ, PATH=f"{build / 'cli'}:{os.environ['PATH']}")
    return subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, check=False, **streams)


def run_sh(block, folder, build):
    return bash(LEFT_OUT.sub("", block), folder, build).returncode == 0


def commands_of(block):
    """(command, the lines below it) of a ```console block."""
    lines = block.splitlines()
    while lines:
        command = lines.pop(0)
        if not command.startswith("$ "):
            raise ValueError(f"a console block begins with `$ COMMAND`, not with: {command}")
        while command.endswith("\\") and lines:
            command += "\n" + lines.pop(0).removeprefix("> ")
        shown = []
        while lines and not lines[0].startswith("$ "):
            shown.append(lines.pop(0))
        yield command.removeprefix("$ "), shown


def as_words(line):
    return " ".join(line.split())


def is_shown(printed, shown):
    """Whether the printed lines are what a page shows."""
    pattern = "".join(r"(?:.*\n)*" if line.strip() == "..." else
                      ".*".join(map(re.escape, as_words(line).split("..."))) + r"\n" for line in shown)
    return re.fullmatch(pattern, "".join(as_words(line) + "\n" for line in printed)) is not None


def run_console(block, folder, build):
    for command, shown in commands_of(block):
        done = bash(command, folder, build, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        printed = done.stdout.splitlines()
        if done.returncode != 0:
            print(done.stdout + f"examples: exit code {done.returncode}: {command}")
            return False
        if not is_shown(printed, shown):
            sides = [list(map(as_words, lines)) for lines in (shown, printed)]
            print("\n".join(difflib.unified_diff(*sides, "the page shows", "it prints", lineterm="")))
            return False
    return True


def run_cpp(block, root, build):
    words = as_words(block)
    for file in sorted((root / "examples").glob("*.cpp")):
        if words in as_words(file.read_text()):
            return subprocess.run([str(build / "examples" / f"example_{file.stem}")], check=False).returncode == 0
    print("examples: no file of examples/ holds this block")
    return False


def run_python(block, folder, build, python):
    environment = dict(os.environ, PYTHONPATH=str(build / "python"), PYTHONDONTWRITEBYTECODE="1")
    return subprocess.run([python, "-c", block], cwd=folder, env=environment, check=False).returncode == 0


def blocks_of(page):
    """(language, block) in the order in which they run, and how many there are of each kind that is not run."""
    blocks, python, idle = [], [], Counter()
    for language, not_run, block in FENCE.findall(page):
        if not_run or (language == "sh" and not LEFT_OUT.sub("", block).strip()):
            idle[language] += 1
        elif language == "python":
            python.append(block)
        else:
            blocks.append((language, block))
    if python:
        blocks.append(("python", "\n".join(python)))
    return blocks, idle


def counted(counts):
    return ", ".join(f"{count} of {language}" for language, count in counts.items()) or "none"


def main():
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    page, build = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    python = os.path.abspath(sys.argv[3]) if sys.argv[3:] and sys.argv[3] else ""
    root = Path(__file__).resolve().parent.parent
    blocks, idle = blocks_of(page.read_text())
    ran = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").symlink_to(root / "data")
        write_inputs(folder)
        for language, block in blocks:
            if language == "python" and not python:
                print("examples: no Python was given: its blocks are skipped")
                idle["python"] += 1
                continue
            print(f"examples: {language}\n{block}", flush=True)
            good = (run_sh(block, folder, build) if language == "sh" else
                    run_console(block, folder, build) if language == "console" else
                    run_cpp(block, root, build) if language == "cpp" else run_python(block, folder, build, python))
            if not good:
                print(f"examples: this block of {page.name} failed:\n{block}")
                return 1
            ran[language] += 1
    print(f"examples: ran {counted(ran)}; not run: {counted(idle)}")
    return 0 if ran else 77 if idle else 1


if __name__ == "__main__":
    sys.exit(main())
