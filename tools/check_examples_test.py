#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Pages with and without a fault, run by check_examples.py over a `longspan` that is a script.
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

CHECK = Path(__file__).parent / "check_examples.py"
PROGRAM = "#!/bin/sh\necho took 0.1257 s >&2\nseq -f 'row %.0f   of it' $1\n[ $1 -lt 9 ]\n"

GOOD = {
    "sh": "```sh\nlongspan 1\n[ -s query.npy ] && ls data/README.md\n```\n",
    "left out": "```sh\nmake \\\n  nothing\nlongspan 1\n  cmake --nothing\n```\n",
    "left out, and one": "```sh\npip install .\n```\n```sh\nlongspan 1\n```\n",
    "not run": "```sh not-run\nfalse\n```\n```text\nfalse\n```\n```\n$ false\n```\n```sh\ntrue\n```\n",
    "words": "```console\n$ longspan 2\ntook 0.1257 s\nrow 1 of it\nrow 2 of    it\n```\n",
    "lines left out": "```console\n$ longspan 8\n...\nrow 2 of it\n...\n```\n",
    "no line left out": "```console\n$ longspan 1\n...\ntook 0.1257 s\n...\nrow 1 of it\n```\n",
    "digits left out": "```console\n$ longspan 1\ntook 0.12... s\nrow ...\n```\n",
    "two commands": "```console\n$ longspan \\\n>  1\n...\n$ test -e input.safetensors\n$ echo a.c\na.c\n```\n",
}
BAD = {
    "sh": "```sh\nlongspan 9\ntrue\n```\n",
    "later": "```sh\ntrue\n```\n```sh\nfalse\n```\n",
    "variable": "```sh\necho $nothing\n```\n",
    "exit code": "```console\n$ longspan 9\n...\n```\n",
    "other words": "```console\n$ longspan 1\ntook 0.1258 s\nrow 1 of it\n```\n",
    "a line too few": "```console\n$ longspan 2\n...\nrow 1 of it\n```\n",
    "a line too many": "```console\n$ longspan 1\n...\nrow 1 of it\nrow 2 of it\n```\n",
    "nothing shown": "```console\n$ longspan 1\n```\n",
    "no pattern": "```console\n$ echo abc\na.c\n```\n",
    "no example holds it": "```cpp\nint no_such_name;\n```\n",
    "nothing": "words\n",
}


class CheckExamplesTest(unittest.TestCase):
    def check(self, page):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "cli").mkdir()
            (folder / "cli" / "longspan").write_text(PROGRAM)
            (folder / "cli" / "longspan").chmod(0o755)
            (folder / "page.md").write_text(page)
            done = subprocess.run([sys.executable, CHECK, folder / "page.md", folder], check=False, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            return done.returncode, done.stdout

    def test_good_pages(self):
        for what, page in GOOD.items():
            with self.subTest(what):
                code, printed = self.check(page)
                self.assertEqual(code, 0, printed)

    def test_faults(self):
        for what, page in BAD.items():
            with self.subTest(what):
                code, printed = self.check(page)
                self.assertEqual(code, 1, printed)

    def test_skipped(self):
        for page in ("```python\n1 / 0\n```\n", "```sh\nmake run\n```\n", "```sh not-run\nfalse\n```\n"):
            code, printed = self.check(page)
            self.assertEqual(code, 77, printed)

    def test_difference_is_shown(self):
        self.assertIn("-took 0.1258 s\n+took 0.1257 s\n row 1 of it\n", self.check(BAD["other words"])[1])


if __name__ == "__main__":
    unittest.main()
