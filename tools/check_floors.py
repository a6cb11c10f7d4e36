#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Checks the house: who includes whom, where SIMD lives, how long files are, that ARCHITECTURE.md names real paths.
"""usage: check_floors.py [ROOT]    prints one line per fault, exit 1 if there is one"""

import posixpath
import re
import sys
from pathlib import Path

FLOORS = {
    "base": 0,
    "partial": 1, "mask": 1, "io": 1,
    "kernels": 2,
    "engine": 3,
    "exact": 4, "lsh": 4,
    "compose": 5, "explain": 5,
    "cli": 6, "c_api": 6, "python": 6,
}
PUBLIC = "include/longspan"
LINE_LIMIT = 500
COUNTED_FOLDERS = ["include", "src", "cli", "tests", "bench", "tools", "examples", "python"]
COUNTED_SUFFIXES = {".h", ".cpp", ".py", ".sh", ".cmake", ".txt"}
SOURCE_SUFFIXES = {".h", ".cpp"}
SIMD = re.compile(r'#\s*include\s*[<"](hwy/|[a-z0-9]*intrin\.h|arm_neon\.h|arm_sve\.h)|\b_mm\d*_\w+\(|\b__m(128|256|512)')
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def files_under(root, folders, suffixes):
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and path.suffix in suffixes and not name.startswith("tests/golden/"):
                yield name


def floor_name(name):
    """src/mask/band.h -> mask; cli/main.cpp -> cli; src/c_api.cpp -> c_api; a public header -> None"""
    parts = name.split("/")
    if parts[0] != "src":
        return None if name.startswith(PUBLIC + "/") else parts[0]
    return parts[1] if len(parts) > 2 else Path(parts[1]).stem


def resolve(root, name, included):
    """The repository path of #include "included" in file `name`, or None."""
    for folder in (posixpath.dirname(name), "src", "include"):
        candidate = posixpath.normpath(f"{folder}/{included}")
        if (root / candidate).is_file() and not candidate.startswith("../"):
            return candidate
    return None


def check_include(name, target):
    """The fault in `name` including `target`, or None."""
    if target.startswith(PUBLIC + "/"):
        return None
    if name.startswith(PUBLIC + "/"):
        return f"{name}: a public header includes {target}, which is not public"
    own, other = floor_name(name), floor_name(target)
    for folder, where in ((own, name), (other, target)):
        if folder not in FLOORS:
            return f"{where}: {folder} has no floor"
    if own == other or FLOORS[other] < FLOORS[own]:
        return None
    how = "climbs to" if FLOORS[other] > FLOORS[own] else "includes its sibling"
    return f"{name}: {own} [{FLOORS[own]}] {how} {other} [{FLOORS[other]}] through {target}"


def find_circle(graph):
    """A list of files that include each other in a ring, or None."""
    done, trail = set(), []

    def visit(name):
        if name in trail:
            return trail[trail.index(name):] + [name]
        if name in done:
            return None
        trail.append(name)
        for target in graph.get(name, ()):
            circle = visit(target)
            if circle:
                return circle
        trail.pop()
        done.add(name)
        return None

    for start in sorted(graph):
        circle = visit(start)
        if circle:
            return circle
    return None


def check_includes(root):
    graph = {}
    for name in files_under(root, ["include", "src", "cli", "python"], SOURCE_SUFFIXES):
        graph[name] = []
        for included in INCLUDE.findall((root / name).read_text()):
            target = resolve(root, name, included)
            if target is None:
                yield f'{name}: #include "{included}" leads nowhere'
                continue
            # A file that includes itself once per instruction set (foreach_target) is no circle.
            if target != name:
                graph[name].append(target)
            fault = check_include(name, target)
            if fault:
                yield fault
    circle = find_circle(graph)
    if circle:
        yield "circle: " + " -> ".join(circle)


def check_simd(root):
    for name in files_under(root, ["include", "src", "cli", "tests", "examples", "python"], SOURCE_SUFFIXES):
        if name.startswith(("src/kernels/", "tests/twins/")):
            continue
        for number, line in enumerate((root / name).read_text().splitlines(), 1):
            if SIMD.search(line):
                yield f"{name}:{number}: SIMD outside src/kernels: {line.strip()}"


def check_lengths(root):
    for name in files_under(root, COUNTED_FOLDERS, COUNTED_SUFFIXES):
        lines = len((root / name).read_text().splitlines())
        if lines > LINE_LIMIT:
            yield f"{name}: {lines} lines, at most {LINE_LIMIT}"


def paths_in_tree(block):
    """Paths of a drawn tree, whose lines are `drawing name more-names comment`; the depth is the column of the name.
    Each comes as a list of what it may stand for: further names on a folder's line lie in the folder or beside it."""
    stack = []  # (column, folder) of the folders around the present line
    for line in block.splitlines():
        drawing, words = re.match(r"^([\s│├└─]*)(.*)$", line).groups()
        names = leading_paths(words)
        if not names:
            continue
        if not re.search(r"[├└]", drawing):
            continue  # the repository's own name, or a comment that goes on
        while stack and stack[-1][0] >= len(drawing):
            stack.pop()
        around = "".join(folder for _, folder in stack)
        yield [around + names[0]]
        for name in names[1:]:
            yield [around + name, around + names[0] + name]
        if names[0].endswith("/"):
            stack.append((len(drawing), names[0]))


def leading_paths(words):
    """The names a line begins with, up to the first word that is none: `README.md LICENSE what it is` -> 2 names"""
    names = []
    for word in words.split():
        word = word.rstrip(",")
        if not re.fullmatch(r"(?:[\w.*-]+/)+[\w.*-]*|[\w*-]*\.[\w.*-]*\w|Makefile|LICENSE", word):
            break
        names.append(word)
    return names


def top_folders(root):
    return {path.name for path in root.iterdir() if path.is_dir()} | set(COUNTED_FOLDERS)


def paths_in_picture(root, block):
    """Words of the other lines of a drawing that begin with a folder of the root."""
    tops = top_folders(root)
    for line in block.splitlines():
        if not re.search(r"[├└]", line):
            words = re.findall(r"(?<![\w./-])[\w.-]+/[\w./*-]*", line)
            yield from ([word] for word in words if word.split("/")[0] in tops - {"build", "out"})


def paths_in_text(root, text):
    """What stands in backticks and looks like a path here: it begins with a folder of the root, or is a file of it."""
    tops = top_folders(root)
    for quoted in re.findall(r"`([^`\n]+)`", text):
        word = quoted.strip()
        if not re.fullmatch(r"[\w.*/-]+", word) or word.startswith(("/", "-", "build/", "out/")):
            continue
        if "/" in word and word.split("/")[0] in tops:
            yield [word]
        elif "/" in word and word.split("/")[0] in FLOORS:
            yield ["src/" + word]
        elif re.fullmatch(r"[\w.-]+\.(md|txt|json)|Makefile|LICENSE", word):
            yield [word]


def check_architecture(root):
    file = root / "ARCHITECTURE.md"
    if not file.is_file():
        yield "ARCHITECTURE.md: absent"
        return
    text = file.read_text()
    blocks = re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
    prose = re.sub(r"```[^\n]*\n.*?```", "", text, flags=re.DOTALL)
    named = list(paths_in_text(root, prose))
    for block in blocks:
        named += [*paths_in_tree(block), *paths_in_picture(root, block)]
    for names in named:
        if not any(any(root.glob(name.rstrip("/"))) for name in names):
            yield f"ARCHITECTURE.md: names {names[0]}, which does not exist"


def faults(root):
    for check in (check_includes, check_simd, check_lengths, check_architecture):
        yield from check(root)


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    found = list(faults(root))
    print("\n".join(found) if found else "floors: includes, SIMD, lengths and paths are in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
