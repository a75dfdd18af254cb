"""Drafts of categories from rows: of tables, of JSON lines, of paths."""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmcat.errors import InputError, LlmcatNote
from llmcat.files import tables
from llmcat.files.characters import decoded, seen
from llmcat.taxonomy.lines import SEPARATOR, slashes_separate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


__all__ = [
    "DEEPEST",
    "ITEM_COLUMNS",
    "NODE_KEYS",
    "ROW_KEYS",
    "Draft",
    "csv_rows",
    "flag",
    "join_path",
    "json_lines",
    "read_rows",
    "tidy",
]


_CALLED = {"label": "name", "category": "name", "parent_id": "parent", "parentid": "parent"}
"""What others call a column."""


ITEM_COLUMNS = {"title", "text", "query", "price", "sku", "brand"}


_NO_PARENT = {"", "nan", "none", "null", "<na>", "nat"}


NODE_KEYS = {"id", "name", "names", "description", "synonyms", "deprecated", "children"}


ROW_KEYS = (NODE_KEYS - {"children", "names"}) | {"parent", "path"}


DEEPEST = 64


JOINERS = "\u200c\u200d"
"""They hold emoji together and Persian words apart."""


@dataclass(slots=True)
class Draft:
    """A node as read: nothing is checked yet, `line` is where it stands."""

    id: str
    name: str
    parent: str | None
    line: int
    description: str = ""
    synonyms: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    deprecated: bool = False


def tidy(text: object) -> str:
    """Normalise a name: no entities, no unseen or control characters, NFC, single spaces."""
    text = unicodedata.normalize("NFC", seen(decoded(str(text))))
    return " ".join("".join(c if c.isprintable() or c in JOINERS else " " for c in text).split())


def csv_rows(
    text: str, usual: str, source: str, problems: list[str]
) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Yield the rows of a table with their line numbers; its dialect is told by its first lines."""
    lines = [f"{line}\n" for line in text.rstrip("\n").split("\n")]
    dialect = tables.sniff(lines, usual=usual)
    for said in dialect.said:
        warnings.warn(f"{source}: {said}", LlmcatNote, stacklevel=4)
    header: list[str] = []
    try:
        for number, cells, wrong in tables.numbered(lines, dialect):
            if wrong:
                more = "cells in a row" in wrong
                problems.append(f"line {number}: {'more cells than columns' if more else wrong}")
            elif not header:
                header = cells
            else:
                yield number, {k: v for k, v in zip(header, cells, strict=True) if k}
    except InputError as exc:
        problems.append(f"line 1: {exc}")


def json_lines(text: str, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of JSON lines with their line numbers."""
    for line, raw in enumerate(text.split("\n"), 1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except json.JSONDecodeError as exc:
            problems.append(f"line {line}: not JSON: {exc.msg}")
            continue
        if isinstance(row, dict):
            yield line, row
        else:
            problems.append(f"line {line}: expected an object")


def read_rows(rows: Iterable[tuple[int, Mapping[Any, Any]]], problems: list[str]) -> list[Draft]:
    """Flat rows: `id,name,parent,...` or `path,...`; synonyms split at `|`, names as `name_zh`.

    A row with a path hangs below the row that has the path above it; ancestors that no row
    has come into being with their path as id.
    """
    rows = list(rows)
    slashed = slashes_separate([str(raw["path"]) for _, raw in rows if raw.get("path")])
    table: list[tuple[int, dict[str, Any], tuple[str, ...]]] = []
    unknown: dict[str, int] = {}
    for line, raw in rows:
        row: dict[str, Any] = {}
        for name, value in raw.items():
            if value in (None, "", []):
                continue
            if (key := _key(name)) in row and row[key] != value:
                problems.append(f"line {line}: more than one column is the {key}")
            row[key] = value
        if isinstance(row.get("path"), list):
            row["path"] = join_path(tuple(map(str, row["path"])))
        unknown |= {
            k: line
            for k in row
            if k not in ROW_KEYS and not k.startswith("name_") and k not in unknown
        }
        written = tidy(row.get("path", ""))
        written = written.replace("/", " > ") if slashed else written
        path = tuple(p for p in SEPARATOR.split(written) if p)
        table.append((line, row, path))
    problems += [f"line {line}: unknown column {name!r}" for name, line in unknown.items()]
    id_of = {path: tidy(row.get("id", "")) or join_path(path) for _, row, path in table if path}

    drafts: list[Draft] = []
    for line, row, path in table:
        parent = tidy(row["parent"]) if "parent" in row else None
        for level in range(1, len(path)):
            upper, above = path[:level], path[: level - 1]
            if upper not in id_of:
                id_of[upper] = join_path(upper)
                drafts.append(Draft(join_path(upper), upper[-1], id_of.get(above), line))
        if parent is None and len(path) > 1:
            parent = id_of[path[:-1]]
        name = tidy(row.get("name", "")) or (path[-1] if path else "")
        synonyms = row.get("synonyms", ())
        if not isinstance(synonyms, list | tuple):
            synonyms = str(synonyms).split("|")
        drafts.append(
            Draft(
                id=tidy(row.get("id", "")) or join_path(path) or name,
                name=name,
                parent=parent,
                line=line,
                description=tidy(row.get("description", "")),
                synonyms=tuple(s for s in map(tidy, synonyms) if s),
                names={k[5:]: tidy(v) for k, v in row.items() if k.startswith("name_")},
                deprecated=flag(row.get("deprecated", ""), "deprecated", line, problems),
            )
        )
    _place(drafts)
    return drafts


def _key(name: object) -> str:
    """Return what a column is called here, whatever letters it is written in."""
    plain = str(name).strip().casefold().replace(" ", "_")
    return _CALLED.get(plain, plain)


def _place(drafts: Sequence[Draft]) -> None:
    """Find the parents that are not given as an id: none, a number as text, a unique name.

    A spreadsheet writes the parent 1 as 1.0; 0 stands for the top where nothing has it as id.
    """
    ids = {draft.id for draft in drafts}
    named = Counter(draft.name for draft in drafts)
    by_name = {draft.name: draft.id for draft in drafts if named[draft.name] == 1}
    for draft in drafts:
        parent = draft.parent
        if parent is None or parent in ids:
            continue
        whole = re.sub(r"\.0+$", "", parent)
        if whole in ids:
            draft.parent = whole
        elif parent.casefold() in _NO_PARENT or whole in {"0", "-1"}:
            draft.parent = None
        else:
            draft.parent = by_name.get(parent, parent)


def flag(value: object, key: str, line: int, problems: list[str]) -> bool:
    """Read a yes or no; what is neither is a problem."""
    text = str(value).lower()
    if text not in {"", "0", "1", "false", "true", "no", "yes"}:
        problems.append(f"line {line}: {key}: expected true or false, found {text!r}")
    return text in {"1", "true", "yes"}


def join_path(path: tuple[str, ...]) -> str:
    """Return a path as it is written: names joined by " > "."""
    return " > ".join(path)
