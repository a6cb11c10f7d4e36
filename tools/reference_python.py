# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The reference of the Python package, from its sources: signatures and docstrings of the names in each __all__. What has
# no types is not for users. Nothing is imported, so no framework has to be there.
import ast
import re
import textwrap

HEAD = """# Reference: Python

<!-- Written by tools/make_reference.py from python/longspan. Change the docstrings, not this page. -->

Every public name, its signature and what its arguments are. How they are used: [python.md](python.md),
[frameworks.md](frameworks.md), [lsh.md](lsh.md).
"""
MODULES = ("longspan", "longspan.torch", "longspan.transformers", "longspan.jax")
WIDTH = 110


class Module:
    """A file: its tree, and the functions and classes it defines."""

    def __init__(self, path):
        self.folder = path.parent
        source = path.read_text()
        self.lines = source.splitlines()
        self.tree = ast.parse(source)
        self.defined = {node.name: node for node in self.tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}

    def inherited(self, node):
        """What stands in the classes of other files here that a class is derived from; nothing for a function."""
        bases = {ast.unparse(base) for base in getattr(node, "bases", ())}
        found = []
        for item in self.tree.body:
            if isinstance(item, ast.ImportFrom) and item.level == 1:
                for name in bases.intersection(alias.name for alias in item.names):
                    other = Module(self.folder / f"{item.module}.py")
                    base = other.defined[name]
                    found += [*base.body, *other.inherited(base)]
        return found

    def aliases(self):
        """(name, what it stands for, the comment behind it) of each TypeAlias."""
        for node in self.tree.body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
                yield node.target.id, ast.unparse(node.value), self.lines[node.lineno - 1].partition("  # ")[2]


def is_documented(node):
    """Whether a function, method or constructor is for users: it has types."""
    return node.returns is not None or any(a.annotation for a in (*node.args.args, *node.args.kwonlyargs))


def arguments_of(node, is_method):
    """Each argument as it stands in a signature."""
    args = node.args
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + args.defaults

    def written(argument, default):
        kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
        equals = " = " if kind else "="
        return argument.arg + kind + ("" if default is None else equals + as_source(default))

    words = [written(*pair) for pair in zip(plain, defaults)][int(is_method):]
    if args.vararg:
        words.append(f"*{args.vararg.arg}")
    elif args.kwonlyargs:
        words.append("*")
    words += [written(*pair) for pair in zip(args.kwonlyargs, args.kw_defaults)]
    return words + ([f"**{args.kwarg.arg}"] if args.kwarg else [])


def as_source(node):
    return ast.unparse(node).replace("'", '"')


def signature(name, node, is_method=False, returns=True):
    """Lines of at most WIDTH, broken between arguments."""
    words = arguments_of(node, is_method)
    end = f") -> {as_source(node.returns)}" if returns and node.returns is not None else ")"
    lines, start = [], f"{name}("
    for n, word in enumerate(words):
        word += end if n + 1 == len(words) else ","
        if len(start) + len(word) + 1 > WIDTH and not start.endswith("("):
            lines.append(start)
            start = " " * 4 + word
        else:
            start += word if start.endswith("(") else f" {word}"
    return "\n".join([*lines, start if words else start + end])


def as_markdown(text):
    """A docstring: paragraphs, `name` lines with indented meanings, programs and columns."""
    blocks = re.split(r"\n{2,}", text)
    for n in reversed(range(1, len(blocks))):
        if blocks[n].startswith("    ") and blocks[n - 1].startswith("    "):
            blocks[n - 1:n + 1] = ["\n\n".join(blocks[n - 1:n + 1])]  # a program with an empty line
    return "\n\n".join(map(block_as_markdown, blocks))


def block_as_markdown(block):
    lines = block.splitlines()
    if lines[0].startswith("    "):
        return f"```python not-run\n{textwrap.dedent(block)}\n```"
    if any(re.search(r"\S {2,}\S", line) for line in lines) and len(lines) > 1:
        return f"```text\n{block}\n```"
    if any(line.startswith("    ") for line in lines):
        items = []
        for line in lines:
            if line.startswith("    "):
                items[-1].append(line.strip())
            else:
                items.append([])
                names = ", ".join(f"`{name}`" if name.isidentifier() else name for name in line.split(", "))
                items[-1].append(f"- {names}:")
        return "\n".join(filled(escaped(" ".join(item)), "  ") for item in items)
    return filled(escaped(" ".join(lines)))


def escaped(text):
    """Stars that are not code are stars."""
    return "".join(part if n % 2 else part.replace("*", "\\*") for n, part in enumerate(re.split(r"(`[^`]*`)", text)))


def first_line(words):
    """The first paragraph, without its stop."""
    return " ".join(words.partition("\n\n")[0].split()).rstrip(".")


def filled(text, indent=""):
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def documented(name, node):
    words = ast.get_docstring(node)
    if not words:
        raise SystemExit(f"reference: {name} has no docstring")
    return words


def entry(name, node, inherited=()):
    """The section of a function or class."""
    parts = [f"### {name}"]
    if isinstance(node, ast.FunctionDef):
        return "\n\n".join([*parts, in_code(signature(name, node)), as_markdown(documented(name, node))])
    methods = [item for item in (*node.body, *inherited) if isinstance(item, ast.FunctionDef)]
    made = next((item for item in methods if item.name == "__init__" and is_documented(item)), None)
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    if made is not None:
        parts.append(in_code(signature(name, made, is_method=True, returns=False)))
    elif fields:
        words = ", ".join(f"{item.target.id}: {ast.unparse(item.annotation)}" for item in fields)
        parts.append(in_code(f"{name}({words})"))
    parts.append(as_markdown(documented(name, node)))
    for item in methods:
        if item.name.startswith("_") or not is_documented(item):
            continue
        words = documented(f"{name}.{item.name}", item)
        is_property = any(ast.unparse(decorator) == "property" for decorator in item.decorator_list)
        line = f"{item.name}: {as_source(item.returns)}" if is_property else signature(item.name, item, is_method=True)
        parts += [in_code(f".{line}"), as_markdown(words)]
    return "\n\n".join(parts)


def in_code(text):
    return f"```python not-run\n{text}\n```"


def package_section(folder, name):
    """A package: its docstring, then its names in the order in which its modules are imported."""
    package = Module(folder / "__init__.py")
    public = next(ast.literal_eval(node.value) for node in package.tree.body
                  if isinstance(node, ast.Assign) and node.targets[0].id == "__all__")
    summary = documented(name, package.tree)
    found = {}
    for node in ast.walk(package.tree):
        if not isinstance(node, ast.ImportFrom) or node.level != 1 or not (folder / f"{node.module}.py").exists():
            continue
        module = Module(folder / f"{node.module}.py")
        names = {alias.name for alias in node.names}.intersection(public)
        found.update((f"{name}.{each}", (item, module.inherited(item))) for each, item in module.defined.items() if each in names)
    missing = [each for each in public if f"{name}.{each}" not in found and each not in summary]
    if missing:
        raise SystemExit(f"reference: {name}: {', '.join(missing)}: neither defined in a file nor named in the docstring")
    rows = ["| name | what it is |", "|---|---|"]
    rows += [f"| [`{each}`](#{each.lower().replace('.', '')}) | {escaped(first_line(documented(each, item)))} |"
             for each, (item, _) in found.items()]
    entries = [entry(each, *of) for each, of in found.items()]
    return "\n\n".join([f"## {name}", as_markdown(summary), "\n".join(rows), *entries])


def alias_section(folder):
    rows = ["## The words of signatures", "", "| word | stands for | |", "|---|---|---|"]
    for path in sorted(folder.glob("_*.py")):
        for name, meaning, comment in Module(path).aliases():
            meaning = meaning.replace("'", '"').replace("|", "\\|")
            rows.append(f"| `{name}` | `{meaning}` | {comment} |")
    return "\n".join(rows)


def page(root):
    """The text of docs/reference-python.md, from the folder python/longspan."""
    folders = [root.joinpath(*name.split(".")[1:]) for name in MODULES]
    sections = [package_section(folder, name) for folder, name in zip(folders, MODULES)]
    return HEAD + "\n" + "\n\n".join([*sections, alias_section(root)]) + "\n"
