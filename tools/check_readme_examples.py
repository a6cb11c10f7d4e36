#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Runs the examples of README.md or a document: what a reader copies must work.
"""usage: check_readme_examples.py README.md BUILD_FOLDER [PYTHON]

  ```sh   blocks are run by bash, in order, in one scratch folder that has data/; those with make, git or cmake are not
  ```cpp  blocks must stand, word by word, in a file of examples/, which is built and whose program must exit with 0
  ```python  blocks are one program, run there by PYTHON with the package of BUILD_FOLDER; skipped without it"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(sh|cpp|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run_shell(block, folder, build):
    environment = dict(os.environ, PATH=f"{build / 'cli'}:{os.environ['PATH']}")
    return subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, check=False).returncode == 0


def run_python(blocks, folder, build, python):
    environment = dict(os.environ, PYTHONPATH=str(build / "python"), PYTHONDONTWRITEBYTECODE="1")
    return subprocess.run([python, "-c", "\n".join(blocks)], cwd=folder, env=environment, check=False).returncode == 0


def run_program(block, build):
    words = " ".join(block.split())
    for file in sorted((ROOT / "examples").glob("*.cpp")):
        if words in " ".join(file.read_text().split()):
            return subprocess.run([str(build / "examples" / f"example_{file.stem}")], check=False).returncode == 0
    print("examples: no file of examples/ holds this block")
    return False


def main():
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    readme, build = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    interpreter = os.path.abspath(sys.argv[3]) if sys.argv[3:] and sys.argv[3] else ""
    found = FENCE.findall(readme.read_text())
    blocks = [(language, block) for language, block in found if language != "python"]
    python = [block for language, block in found if language == "python"]
    counts = Counter()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "data").symlink_to(ROOT / "data")
        for language, block in blocks:
            if language == "sh" and re.search(r"^\s*(make|git|cmake)\b", block, re.MULTILINE):
                continue
            print(f"examples: {language}\n{block}", flush=True)
            counts[language] += 1
            good = run_shell(block, folder, build) if language == "sh" else run_program(block, build)
            if not good:
                print(f"examples: this block of {readme.name} failed:\n{block}")
                return 1
        if python and not interpreter:
            print("examples: no Python was given: its blocks are skipped")
        elif python:
            print("examples: python\n" + "\n".join(python), flush=True)
            counts["python"] = len(python)
            if not run_python(python, folder, build, interpreter):
                print(f"examples: the python blocks of {readme.name} failed")
                return 1
    print("examples: ran " + ", ".join(f"{count} of {language}" for language, count in counts.items()))
    return 0 if counts else 1


if __name__ == "__main__":
    sys.exit(main())
