# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The reference of the command line, from what `longspan help COMMAND` prints.
import re
import subprocess

HEAD = """# Reference: the command line

<!-- Written by tools/make_reference.py from `longspan help`. Change the help, not this page. -->

Every command and every option, with what it takes and what it is without being said. Tensors of files, records, exit codes
and what options mean together: [command-line.md](command-line.md).

"""
# An option's columns: two spaces, its names and argument, and its help from column 30 on, or on the next line.
ENTRY = re.compile(r"^  (\S.*?)(?: {2,}(\S.*))?$")
FURTHER = re.compile(r"^ {10,}(\S.*)$")


def printed(program, *words):
    return subprocess.run([program, *words], check=True, text=True, stdout=subprocess.PIPE).stdout


def sections_of(text):
    """(what stands above the first heading, [(heading, its lines)]); a heading is a line that ends with a colon."""
    above, sections = [], []
    for line in text.splitlines():
        if re.fullmatch(r"\S.*:", line):
            sections.append((line[:-1], []))
        elif sections:
            sections[-1][1].append(line)
        else:
            above.append(line)
    return above, sections


def entries_of(lines):
    """[names with argument, help] of a section of options."""
    entries = []
    for line in filter(None, lines):
        further = FURTHER.match(line)
        if further:
            entries[-1][1] = f"{entries[-1][1]} {further[1]}".strip()
        else:
            entries.append([part or "" for part in ENTRY.match(line).groups()])
    return entries


def paragraphs_of(lines):
    """What is said in lines that are not indented: those without an empty one between them are one paragraph."""
    said = "\n".join(line for line in lines if not line.startswith(" "))
    return [" ".join(part.split()) for part in said.split("\n\n") if part.strip()]


def split_default(text):
    """Help ends with its default in parentheses, which may hold parentheses."""
    depth, at = 0, len(text)
    while text.endswith(")") and at > 0:
        at -= 1
        depth += (text[at] == ")") - (text[at] == "(")
        if depth == 0:
            return text[:at].rstrip(), text[at + 1:-1]
    return text, ""


def code(text):
    return f"`{text}`" if text else ""


def row(cells):
    return "|" + "|".join(f" {cell} ".replace("|", "\\|") if cell else " " for cell in cells) + "|"


def table(heading, lines):
    positional = heading == "Positionals"
    rows = [["argument" if positional else "option", "takes", "meaning", "default"]]
    for names, text in entries_of(lines):
        name, _, argument = names.partition(" ")
        meaning, default = split_default(text)
        rows.append([code(name.replace(",", ", ")), code(argument), meaning, default])
    empty = [n for n in (1, 3) if not any(cells[n] for cells in rows[1:])]
    rows = [[cell for n, cell in enumerate(cells) if n not in empty] for cells in rows]
    return "\n".join([row(rows[0]), "|" + "---|" * len(rows[0]), *map(row, rows[1:])])


def command_section(program, name):
    (what, usage, *_), sections = sections_of(printed(program, "help", name))
    parts = [f"## {name}", f"{what}.", f"```text\n{usage.removeprefix('Usage: ')}\n```"]
    for heading, lines in sections:
        if heading == "Examples":
            examples = "\n".join(line.strip() for line in lines if line.startswith("  "))
            parts.append(f"```sh not-run\n{examples}\n```")
            parts += paragraphs_of(lines)
            continue
        if heading not in ("Positionals", "Options"):
            parts.append(f"**{heading}**")
        parts.append(table(heading, lines))
    return "\n\n".join(parts)


def page(program):
    """The text of docs/reference-command-line.md."""
    above, sections = sections_of(printed(program, "--help"))
    sections = dict(sections)
    commands = entries_of(sections["Subcommands"])
    rows = ["| command | what it does |", "|---|---|"]
    rows += [row([f"[`{name}`](#{name})" if name != "help" else "`help COMMAND`", what]) for name, what in commands]
    rows += [row([code(names.replace(",", ", ")), what]) for names, what in entries_of(sections["Options"])]
    parts = ["\n".join(rows)]
    parts += paragraphs_of(sections["Examples"])
    parts += [command_section(program, name) for name, _ in commands if name != "help"]
    return HEAD + "\n\n".join(parts) + "\n"
