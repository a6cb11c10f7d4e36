#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Writes the references of docs/ from the code: the command line from its help, Python from its sources.
"""usage: make_reference.py BUILD_FOLDER [--check]

Writes docs/reference-command-line.md from `longspan help` of BUILD_FOLDER, and docs/reference-python.md from python/longspan,
which is read, not imported. --check writes nothing, and exits with 1 and the difference when a page is not what the code says."""

import difflib
import sys
from pathlib import Path

import reference_command_line
import reference_python

ROOT = Path(__file__).resolve().parent.parent


def main():
    words = [word for word in sys.argv[1:] if word != "--check"]
    if len(words) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    pages = {
        "docs/reference-command-line.md": reference_command_line.page(Path(words[0]).resolve() / "cli" / "longspan"),
        "docs/reference-python.md": reference_python.page(ROOT / "python" / "longspan"),
    }
    stale = 0
    for name, text in pages.items():
        path = ROOT / name
        old = path.read_text() if path.exists() else ""
        if "--check" not in sys.argv:
            path.write_text(text)
        elif old != text:
            stale = 1
            lines = difflib.unified_diff(old.splitlines(), text.splitlines(), name, "what the code says", lineterm="")
            print("\n".join(lines))
            print(f"reference: {name} is not what the code says: make reference writes it")
    return stale


if __name__ == "__main__":
    sys.exit(main())
