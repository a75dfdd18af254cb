"""Drafts of categories from text: paths, rows, trees."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmcat.errors import BadTaxonomy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import yaml

__all__ = [
    "DEEPEST",
    "SEPARATOR",
    "Draft",
    "csv_rows",
    "join_path",
    "json_lines",
    "read_paths",
    "read_rows",
    "read_tree",
    "tidy",
]


SEPARATOR = re.compile(r"\s*>\s*")


_NODE_KEYS = {"id", "name", "names", "description", "synonyms", "deprecated", "children"}


_ROW_KEYS = (_NODE_KEYS - {"children", "names"}) | {"parent", "path"}


DEEPEST = 64


_PAIR = re.compile(
    r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)


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
    """Normalise a name: NFC, no control characters, single spaces."""
    text = unicodedata.normalize("NFC", str(text))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def read_paths(text: str) -> list[Draft]:
    """`A > B > C` lines; the path is the id. Parents come into being by being named."""
    drafts: dict[str, Draft] = {}
    listed: set[str] = set()
    repeats: list[Draft] = []
    for line, raw in enumerate(text.split("\n"), 1):
        path = tidy(raw)
        if not path or path.startswith("#"):
            continue
        names = SEPARATOR.split(path)
        for level in range(1, len(names) + 1):
            id_ = " > ".join(names[:level])
            parent = " > ".join(names[: level - 1]) or None
            drafts.setdefault(id_, Draft(id=id_, name=names[level - 1], parent=parent, line=line))
        if id_ in listed:
            repeats.append(Draft(id=id_, name=names[-1], parent=parent, line=line))
        listed.add(id_)
    return [*drafts.values(), *repeats]


def csv_rows(
    text: str, delimiter: str, problems: list[str]
) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Yield the rows of a table with their line numbers."""
    csv.field_size_limit(64 * 1024 * 1024)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = rows.fieldnames or ()
        problems += [
            f"line 1: column {name!r} stands twice" for name in names if list(names).count(name) > 1
        ]
        for row in rows:
            yield rows.line_num, row
    except csv.Error as exc:
        problems.append(f"line {rows.line_num}: not CSV: {exc}")


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
    table: list[tuple[int, dict[str, Any], tuple[str, ...]]] = []
    unknown: dict[str, int] = {}
    for line, raw in rows:
        if None in raw:
            problems.append(f"line {line}: more cells than columns")
            continue
        row = {str(k).strip(): v for k, v in raw.items() if v not in (None, "", [])}
        unknown |= {
            k: line
            for k in row
            if k not in _ROW_KEYS and not k.startswith("name_") and k not in unknown
        }
        path = tuple(p for p in SEPARATOR.split(tidy(row.get("path", ""))) if p)
        table.append((line, row, path))
    problems += [f"line {line}: unknown column {name!r}" for name, line in unknown.items()]
    id_of = {path: tidy(row.get("id", "")) or join_path(path) for _, row, path in table if path}

    drafts: list[Draft] = []
    for line, row, path in table:
        parent = tidy(row["parent"]) if row.get("parent") else None
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
                deprecated=_flag(row.get("deprecated", ""), "deprecated", line, problems),
            )
        )
    return drafts


def _flag(value: object, key: str, line: int, problems: list[str]) -> bool:
    text = str(value).lower()
    if text not in {"", "0", "1", "false", "true", "no", "yes"}:
        problems.append(f"line {line}: {key}: expected true or false, found {text!r}")
    return text in {"1", "true", "yes"}


def join_path(path: tuple[str, ...]) -> str:
    """Return a path as it is written: names joined by " > "."""
    return " > ".join(path)


def read_tree(
    text: str, suffix: str, source: str, problems: list[str]
) -> tuple[list[Draft], str, bool]:
    """YAML or JSON: `{about, ordered, labels: [{id, name, ..., children: [...]}]}` or the list.

    Returns the drafts, what the items are, and whether the labels are the levels of a scale.
    """
    import yaml

    if suffix == ".json":
        text = _yaml_of_json(text, source)
    loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        root = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 0
        raise BadTaxonomy(source, [f"line {line}: not YAML: {exc.problem}"]) from exc
    except (yaml.YAMLError, RecursionError) as exc:
        raise BadTaxonomy(source, [f"not YAML: {exc}"]) from exc
    about, ordered = "", False
    if isinstance(root, yaml.MappingNode):
        top = _mapping(root, problems)
        problems += [
            f"line {_line(top[key])}: unknown key {key!r}"
            for key in top
            if key not in {"name", "about", "ordered", "labels"}
        ]
        about = _text(top.get("about"), "about", problems)
        if (scale := top.get("ordered")) is not None:
            ordered = _flag(_text(scale, "ordered", problems), "ordered", _line(scale), problems)
        root = top.get("labels")
    if not isinstance(root, yaml.SequenceNode):
        raise BadTaxonomy(
            source,
            ["expected a list of labels, or `labels:` with one"],
            hint="each label is a name, or {id, name, description, synonyms, children}",
        )
    drafts: list[Draft] = []
    _walk_tree(root, None, drafts, problems, seen=set())
    return drafts, about, ordered


def _yaml_of_json(text: str, source: str) -> str:
    """Check that the text is JSON and return it as YAML, which tells lines.

    YAML is JSON's superset but for tabs between tokens, escaped surrogate pairs and DEL.
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as exc:
        raise BadTaxonomy(source, [f"line {exc.lineno}: not JSON: {exc.msg}"]) from exc
    except RecursionError as exc:
        raise BadTaxonomy(source, ["nested too deeply"]) from exc
    text = text.replace("\t", " ").replace("\x7f", " ")
    return _PAIR.sub(lambda m: m[1] + json.loads(f'"{m[2]}"'), text)


def _walk_tree(
    nodes: yaml.SequenceNode,
    parent: str | None,
    drafts: list[Draft],
    problems: list[str],
    seen: set[int],
) -> None:
    import yaml

    for node in nodes.value:
        line = _line(node)
        if id(node) in seen:
            problems.append(f"line {line}: YAML aliases are not followed")
            return
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            name = tidy(node.value)
            drafts.append(Draft(id=name, name=name, parent=parent, line=line))
            continue
        if not isinstance(node, yaml.MappingNode):
            problems.append(f"line {line}: a label is a name or a mapping, not a list")
            continue
        keys = _mapping(node, problems)
        problems += [
            f"line {_line(keys[k])}: unknown key {k!r}" for k in keys if k not in _NODE_KEYS
        ]
        name = _text(keys.get("name"), "name", problems)
        draft = Draft(
            id=_text(keys.get("id"), "id", problems) or name,
            name=name,
            parent=parent,
            line=line,
            description=_text(keys.get("description"), "description", problems),
            deprecated=_flag(
                _text(keys.get("deprecated"), "deprecated", problems), "deprecated", line, problems
            ),
        )
        draft.synonyms = tuple(_texts(keys.get("synonyms"), "synonyms", problems))
        names = keys.get("names")
        if isinstance(names, yaml.MappingNode):
            draft.names = {
                k: _text(v, f"names.{k}", problems) for k, v in _mapping(names, problems).items()
            }
        elif names is not None:
            problems.append(f"line {_line(names)}: names: expected {{zh: ..., ...}}")
        drafts.append(draft)
        below = keys.get("children")
        if isinstance(below, yaml.SequenceNode):
            _walk_tree(below, draft.id, drafts, problems, seen)
        elif below is not None:
            problems.append(f"line {_line(below)}: children: expected a list")


def _mapping(node: yaml.MappingNode, problems: list[str]) -> dict[str, yaml.Node]:
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if str(key.value) in found:
            problems.append(f"line {_line(key)}: key {key.value!r} stands twice")
        found[str(key.value)] = value
    return found


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _text(node: yaml.Node | None, key: str, problems: list[str]) -> str:
    """Return a scalar as it stands in the file: `00123`, `no` and `1.0` stay what they are."""
    import yaml

    if node is None:
        return ""
    if not isinstance(node, yaml.ScalarNode):
        problems.append(f"line {_line(node)}: {key}: expected text")
        return ""
    return "" if node.tag.endswith(":null") else tidy(node.value)


def _texts(node: yaml.Node | None, key: str, problems: list[str]) -> list[str]:
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return [t for n in node.value if (t := _text(n, key, problems))]
    one = _text(node, key, problems)
    return [one] if one else []
