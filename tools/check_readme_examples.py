#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Runs the examples of README.md: what a reader copies must work.
"""usage: check_readme_examples.py README.md BUILD_FOLDER

  ```sh   blocks are run by bash, in order, in one scratch folder that has data/; those with make, git or cmake are not
  ```cpp  blocks must stand, word by word, in a file of examples/, which is built and whose program must exit with 0"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FENCE = re.compile(r"^```(sh|cpp)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run_shell(block, folder, build):
    environment = dict(os.environ, PATH=f"{build / 'cli'}:{os.environ['PATH']}")
    return subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, check=False).returncode == 0


def run_program(block, root, build):
    words = " ".join(block.split())
    for file in sorted((root / "examples").glob("*.cpp")):
        if words in " ".join(file.read_text().split()):
            return subprocess.run([str(build / "examples" / f"example_{file.stem}")], check=False).returncode == 0
    print("examples: no file of examples/ holds this block")
    return False


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    readme, build = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    blocks = FENCE.findall(readme.read_text())
    counts = {"sh": 0, "cpp": 0}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "data").symlink_to(readme.parent / "data")
        for language, block in blocks:
            if language == "sh" and re.search(r"^\s*(make|git|cmake)\b", block, re.MULTILINE):
                continue
            print(f"examples: {language}\n{block}", flush=True)
            counts[language] += 1
            good = run_shell(block, folder, build) if language == "sh" else run_program(block, readme.parent, build)
            if not good:
                print(f"examples: this block of {readme.name} failed:\n{block}")
                return 1
    print(f"examples: {counts['sh']} shell blocks and {counts['cpp']} programs ran")
    return 0 if all(counts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
