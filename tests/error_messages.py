"""Every message of the error tree, read from the source: what docs/errors.md is made of."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from helpers import ROOT

from llmcat import errors

INTRO = """\
# Errors

Every message that llmcat can end with, by its class; what differs stands in ‹brackets›. On the
command line it is one line, and most say in a second one what to do (`hint`). From Python they
are exceptions, all of them `LlmcatError`. This page is made from the source
(`PYTHONPATH=tests python tests/test_docs.py`).

Exit codes: 0 done; 1 done, but some rows are errors (`doctor`: warnings); 2 something given cannot
be used; 3 no usable engine; 70 a bug of llmcat; 130 interrupted, and the same command goes on.
"""


def messages() -> dict[str, set[tuple[str, str]]]:
    """Each class's messages with their hints, an ellipsis for what differs."""
    found = defaultdict(set)
    for path in (ROOT / "llmcat").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            kind = getattr(errors, node.func.id, None)
            if not (isinstance(kind, type) and issubclass(kind, errors.LlmcatError) and node.args):
                continue
            text = shown(node.args[0])
            hints = [shown(k.value) for k in node.keywords if k.arg == "hint"]
            if text.strip("… ,;:‹›"):
                found[node.func.id].add((text, hints[0] if hints and hints[0] != "…" else ""))
    return found


def shown(node: ast.expr) -> str:
    """A string as it would be read."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(shown(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return f"‹{name(node.value)}›"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return shown(node.left) + shown(node.right)
    return "…"


def name(node: ast.expr) -> str:
    """What stands in a gap: the last name of what fills it."""
    if isinstance(node, ast.Call):
        return name(node.args[0] if node.args else node.func)
    if isinstance(node, ast.Attribute):
        return name(node.value) if node.attr.startswith("_") else node.attr.strip("_")
    if isinstance(node, ast.Subscript):
        return name(node.value)
    if isinstance(node, ast.BinOp):
        return name(node.right if isinstance(node.left, ast.Constant) else node.left)
    return node.id.strip("_") if isinstance(node, ast.Name) else "…"


def page() -> str:
    """docs/errors.md, whole."""
    parts = [INTRO]
    every = messages()
    kinds = [errors.LlmcatError, *below(errors.LlmcatError)]
    for kind in kinds:
        if kind.__name__.startswith("_"):  # a module's own, caught there
            continue
        doc = str(kind.__doc__).split("\n", maxsplit=1)[0].strip()
        base = "" if kind is errors.LlmcatError else f"; a kind of `{kind.__bases__[0].__name__}`"
        parts.append(f"## `{kind.__name__}`\n\n{doc} Exit code {kind.exit_code}{base}.\n")
        rows = [f"| {cell(text)} | {cell(hint)} |" for text, hint in sorted(every[kind.__name__])]
        if rows:
            parts.append("\n".join(["| message | hint |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def below(kind: type[errors.LlmcatError]) -> list[type[errors.LlmcatError]]:
    """All kinds of a kind, each before its own."""
    return [each for one in kind.__subclasses__() for each in (one, *below(one))]


def cell(text: str) -> str:
    """A text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


ERROR_PAGE: Path = ROOT / "docs" / "errors.md"
