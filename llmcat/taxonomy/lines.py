"""Plain lines to rows of a tree: a list, paths, indented lines; bullets and ids in front.

What is not understood is refused. Names of a flat list may hold a slash; where all lines share
their first parts, slashes separate levels.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from typing import TYPE_CHECKING

from llmcat.errors import LlmcatNote

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SEPARATOR", "path_lines", "slashes_separate"]

SEPARATOR = re.compile(r"\s*(?:[-=]?>+(?!\d)|[»›→]+)\s*")
"""Between levels; `>15 inch` is part of a name."""
_BULLET = re.compile(r"(?P<indent>\s*)(?:[-*+•–]|\d{1,3}[.)])\s+(?P<name>.*)")
_NUMBERED = re.compile(r"(?P<id>\d+) - (?P<name>[^\W\d_].*)")
_ADDRESSED = re.compile(r"(?P<id>\w+://\S+)\s*:\s+(?P<name>.*)")

Line = tuple[int, str]


def path_lines(text: str, source: str, problems: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield rows with their line numbers: a `path` (`A > B > C`), and an `id` where one is given.

    How the lines were understood is said, as an `LlmcatNote`, where it is not the usual.
    """
    lines = [(number, raw.rstrip()) for number, raw in enumerate(text.split("\n"), 1)]
    lines = [(n, raw) for n, raw in lines if raw.strip() and not raw.lstrip().startswith("#")]
    lines = _without_bullets(lines, problems)
    problems += [f"line {n}: a tab within a line: is this a table (.tsv)?" for n, raw in lines
                 if "\t" in raw.strip()]  # fmt: skip
    for form in (_NUMBERED, _ADDRESSED):
        met = [form.fullmatch(raw.strip()) for _, raw in lines]
        if any(met) and (form is _ADDRESSED or all(met)):
            for (number, _), found in zip(lines, met, strict=True):
                if found:
                    yield number, {"id": found["id"], "path": found["name"]}
                else:
                    problems.append(f"line {number}: no id in front, as other lines have")
            return
    if len({_indent(raw) for _, raw in lines}) > 1:
        yield from _indented(lines, source, problems)
        return
    names = [raw.strip() for _, raw in lines]
    slashed = slashes_separate(names)
    if slashed:
        _say(source, "`/` separates levels: read as a tree (write A > B to be sure)")
    for (number, _), name in zip(lines, names, strict=True):
        yield number, {"path": re.sub(r"\s*/\s*", " > ", name) if slashed else name}


def _say(source: str, what: str) -> None:
    warnings.warn(f"{source}: {what}", LlmcatNote, stacklevel=4)


def _without_bullets(lines: list[Line], problems: list[str]) -> list[Line]:
    """Return the lines without what marks them as a list, where each has one."""
    met = [_BULLET.fullmatch(raw) for _, raw in lines]
    if lines and all(met):
        return [(n, m["indent"] + m["name"]) for (n, _), m in zip(lines, met, strict=True) if m]
    plain = [bool(re.match(r"\s*[-*+•]\s", raw)) for _, raw in lines]
    if any(plain):
        first = lines[plain.index(True)][0]
        problems.append(f"line {first} begins with a bullet, and others do not")
    return lines


def _indent(raw: str) -> str:
    return raw[: len(raw) - len(raw.lstrip())]


def _indented(
    lines: list[Line], source: str, problems: list[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the paths of an indented tree: a line hangs below the last that is less indented."""
    above: list[tuple[str, str]] = []
    deepest = 0
    for number, raw in lines:
        indent, name = _indent(raw), raw.strip()
        if SEPARATOR.search(name):
            problems.append(f"line {number}: a path within indented lines: use one of the two")
            continue
        before = above[-1][0] if above else indent
        while above and len(above[-1][0]) >= len(indent):
            above.pop()
        if above and not indent.startswith(above[-1][0]):
            problems.append(f"line {number}: indented by blanks and by tabs: use one of the two")
        deeper = indent[len(above[-1][0]) :] if above else ""
        if deeper == " ":
            problems.append(
                f"line {number}: indented by one blank; a level is a tab, or two blanks and more"
            )
        if len(indent) < len(before) and above and _uneven(lines, number, indent, len(above)):
            problems.append(f"line {number}: indented as no line above it")
        above.append((indent, name))
        deepest = max(deepest, len(above))
        yield number, {"path": " > ".join(each for _, each in above)}
    _say(source, f"indented lines: read as a tree of {deepest} levels (write A > B to be sure)")


def _uneven(lines: list[Line], number: int, indent: str, depth: int) -> bool:
    """Tell whether a line goes back to an indentation that no line above it has."""
    return depth > 0 and indent not in {_indent(raw) for n, raw in lines if n < number}


def slashes_separate(names: list[str]) -> bool:
    """Tell whether slashes separate levels: each line has one, or is the part above others."""
    if not names or any(SEPARATOR.search(name) for name in names):
        return False
    parts = [re.split(r"\s*/\s*", name) for name in names]
    if not all(all(each) for each in parts):
        return False
    shared = Counter(each[0] for each in parts if len(each) > 1)
    alone = {each[0] for each in parts if len(each) == 1}
    return bool(shared) and alone <= set(shared) and max(shared.values()) > 1
