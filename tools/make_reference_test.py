#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# What the references are made of: columns of help, defaults, signatures, docstrings.
import ast
import unittest

import reference_command_line as command_line
import reference_python as python

HELP = """What it does
Usage: longspan do [OPTIONS]

Options:
  -o,--output FILE            the result (none)
  --a-long-name one|two|three
                              one of them (one)
  --flag                      a flag, which has
                              no default


Others:
  --scale X                   factor (1 / sqrt(head_dim))

Examples:
  longspan do
  longspan do -o file

A note.
"""


class CommandLine(unittest.TestCase):
    def test_sections(self):
        above, sections = command_line.sections_of(HELP)
        self.assertEqual(above[:2], ["What it does", "Usage: longspan do [OPTIONS]"])
        self.assertEqual([heading for heading, _ in sections], ["Options", "Others", "Examples"])

    def test_table(self):
        lines = command_line.sections_of(HELP)[1][0][1]
        self.assertEqual(command_line.table("Options", lines).splitlines(), [
            "| option | takes | meaning | default |", "|---|---|---|---|",
            "| `-o, --output` | `FILE` | the result | none |",
            "| `--a-long-name` | `one\\|two\\|three` | one of them | one |",
            "| `--flag` | | a flag, which has no default | |"])

    def test_default(self):
        for text, parts in {"factor (1 / sqrt(head_dim))": ("factor", "1 / sqrt(head_dim)"), "a (b) c": ("a (b) c", ""),
                            "both (a) (b)": ("both (a)", "b"), "": ("", ""), "odd)": ("odd)", "")}.items():
            self.assertEqual(command_line.split_default(text), parts)


class Python(unittest.TestCase):
    def signature(self, source, **options):
        return python.signature("f", ast.parse(source).body[0], **options)

    def test_signature(self):
        self.assertEqual(self.signature("def f(): pass"), "f()")
        self.assertEqual(self.signature("def f(self, a, b=2, *c, d: int = 3, **e) -> None: pass", is_method=True),
                         "f(a, b=2, *c, d: int = 3, **e) -> None")
        self.assertEqual(self.signature("def f(a, *, b: str = 'x'): pass"), 'f(a, *, b: str = "x")')

    def test_long_signature(self):
        lines = self.signature(f"def f({', '.join(f'argument_{n}: int = {n}' for n in range(20))}): pass").splitlines()
        self.assertGreater(len(lines), 2)
        self.assertTrue(all(len(line) <= python.WIDTH for line in lines))

    def test_docstring(self):
        words = "What it does.\n\na, b\n    Two *things*,\n    `a*b`.\nand more\n    Others.\n\n    x = 1\n\n    y = 2\n\none    1\ntwo    2"
        self.assertEqual(python.as_markdown(words), "\n\n".join([
            "What it does.", "- `a`, `b`: Two \\*things\\*, `a*b`.\n- and more: Others.",
            "```python not-run\nx = 1\n\ny = 2\n```", "```text\none    1\ntwo    2\n```"]))

    def test_no_docstring(self):
        with self.assertRaises(SystemExit):
            python.entry("f", ast.parse("def f(): pass").body[0])


if __name__ == "__main__":
    unittest.main()
