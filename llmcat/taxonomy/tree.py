"""The user's categories: read from a file, checked as a whole, looked up by id, path or name.

This module does not know menus, prompts or items.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcat.errors import BadTaxonomy
from llmcat.records import NONE, Node, digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import yaml

__all__ = ["Taxonomy"]

_SEPARATOR = re.compile(r"\s*>\s*")
_NODE_KEYS = {"id", "name", "names", "description", "synonyms", "deprecated", "children"}
_ROW_KEYS = (_NODE_KEYS - {"children", "names"}) | {"parent", "path"}
DEEPEST = 64
_PAIR = re.compile(
    r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
_SUFFIXES = ".yaml .yml .json .jsonl .csv .tsv .txt"


@dataclass(slots=True)
class _Draft:
    """A node as read: nothing is checked yet, `line` is where it stands."""

    id: str
    name: str
    parent: str | None
    line: int
    description: str = ""
    synonyms: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    deprecated: bool = False


@dataclass(frozen=True)
class Taxonomy:
    """A tree of nodes in the order given; a flat list is a tree of depth one.

    `nodes` maps id to node. `about` says in a few words what the items are
    (`products of an online shop`); prompts may show it.
    """

    nodes: Mapping[str, Node]
    about: str = ""
    source: str = ""

    # -- reading ----------------------------------------------------------------------------

    @classmethod
    def from_labels(cls, labels: Iterable[str]) -> Taxonomy:
        """Make a flat taxonomy; each label is its own id.

        Raises `BadTaxonomy` with every problem found.
        """
        names = ["" if label is None else _tidy(label) for label in labels]
        drafts = [_Draft(id=t, name=t, parent=None, line=0) for t in names]
        return _build(drafts, source="labels", about="", problems=[])

    @classmethod
    def load(cls, path: str | Path) -> Taxonomy:
        """Read YAML, JSON, JSONL, CSV, TSV or `A > B > C` lines, by the file's suffix.

        Raises `BadTaxonomy` with every problem found, each with its line.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as exc:
            raise BadTaxonomy(str(path), [f"cannot be read: {exc.strerror}"]) from exc
        except UnicodeDecodeError as exc:
            raise BadTaxonomy(str(path), [f"not UTF-8 at byte {exc.start}"]) from exc
        return cls.parse(text, suffix=path.suffix.lower() or ".txt", source=str(path))

    @classmethod
    def parse(cls, text: str, *, suffix: str, source: str = "taxonomy") -> Taxonomy:
        """Read a taxonomy from text; `suffix` names the format, as a file would."""
        problems: list[str] = []
        about = ""
        if suffix in {".yaml", ".yml", ".json"}:
            drafts, about = _read_tree(text, suffix, source, problems)
        elif suffix in {".csv", ".tsv"}:
            drafts = _read_rows(
                _csv_rows(text, "\t" if suffix == ".tsv" else ",", problems), problems
            )
        elif suffix == ".jsonl":
            drafts = _read_rows(_json_lines(text, problems), problems)
        elif suffix == ".txt":
            drafts = _read_paths(text)
        else:
            raise BadTaxonomy(source, [f"unknown format {suffix!r}; use one of {_SUFFIXES}"])
        return _build(drafts, source=source, about=about, problems=problems)

    # -- asking -----------------------------------------------------------------------------

    @cached_property
    def roots(self) -> tuple[Node, ...]:
        """The nodes at the top, deprecated ones left out."""
        return tuple(n for n in self.nodes.values() if n.parent is None and not n.deprecated)

    @cached_property
    def leaves(self) -> tuple[Node, ...]:
        """The nodes an item can be labelled with, in order; deprecated ones left out."""
        return tuple(self._live_leaves())

    @cached_property
    def depth(self) -> int:
        """The number of levels; 1 for a flat list."""
        return max(len(n.path) for n in self.nodes.values())

    @property
    def digest(self) -> str:
        """A hash of everything a prompt could show."""
        return digest(self.about, *(repr(n) for n in self.nodes.values()))

    def children(self, node: Node | None) -> tuple[Node, ...]:
        """The live children of a node, or the roots for None."""
        if node is None:
            return self.roots
        return tuple(n for n in map(self.nodes.__getitem__, node.children) if not n.deprecated)

    def ancestors(self, node: Node) -> Iterator[Node]:
        """The node's parent, its parent, up to the root."""
        while node.parent is not None:
            node = self.nodes[node.parent]
            yield node

    def resolve(self, label: str) -> str | None:
        """Find a label given from outside: by id, then full path, then unique name.

        Returns the node's id, `none` for the exit, or None when nothing fits. Deprecated
        nodes resolve like any other.
        """
        label = _tidy(label)
        if label in self.nodes or label == NONE:
            return label
        wanted = _SEPARATOR.sub(" > ", label).casefold()
        by_path, by_name = self._index
        return by_path.get(wanted) or by_name.get(wanted)

    @cached_property
    def _index(self) -> tuple[dict[str, str], dict[str, str | None]]:
        """Case-folded paths, and names (None where two nodes share one), to ids."""
        by_path: dict[str, str] = {}
        by_name: dict[str, str | None] = {}
        for node in self.nodes.values():
            by_path.setdefault(node.label.casefold(), node.id)
            name = node.name.casefold()
            by_name[name] = None if name in by_name else node.id
        return by_path, by_name

    def _live_leaves(self, node: Node | None = None) -> Iterator[Node]:
        for child in self.children(node):
            if self.children(child):
                yield from self._live_leaves(child)
            else:
                yield child


# -- formats --------------------------------------------------------------------------------


def _tidy(text: object) -> str:
    """Normalise a name: NFC, no control characters, single spaces."""
    text = unicodedata.normalize("NFC", str(text))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _read_paths(text: str) -> list[_Draft]:
    """`A > B > C` lines; the path is the id. Parents come into being by being named."""
    drafts: dict[str, _Draft] = {}
    listed: set[str] = set()
    repeats: list[_Draft] = []
    for line, raw in enumerate(text.split("\n"), 1):
        path = _tidy(raw)
        if not path or path.startswith("#"):
            continue
        names = _SEPARATOR.split(path)
        for level in range(1, len(names) + 1):
            id_ = " > ".join(names[:level])
            parent = " > ".join(names[: level - 1]) or None
            drafts.setdefault(id_, _Draft(id=id_, name=names[level - 1], parent=parent, line=line))
        if id_ in listed:
            repeats.append(_Draft(id=id_, name=names[-1], parent=parent, line=line))
        listed.add(id_)
    return [*drafts.values(), *repeats]


def _csv_rows(
    text: str, delimiter: str, problems: list[str]
) -> Iterator[tuple[int, dict[Any, Any]]]:
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


def _json_lines(text: str, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
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


def _read_rows(rows: Iterable[tuple[int, Mapping[Any, Any]]], problems: list[str]) -> list[_Draft]:
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
        path = tuple(p for p in _SEPARATOR.split(_tidy(row.get("path", ""))) if p)
        table.append((line, row, path))
    problems += [f"line {line}: unknown column {name!r}" for name, line in unknown.items()]
    id_of = {path: _tidy(row.get("id", "")) or _join(path) for _, row, path in table if path}

    drafts: list[_Draft] = []
    for line, row, path in table:
        parent = _tidy(row["parent"]) if row.get("parent") else None
        for level in range(1, len(path)):
            upper, above = path[:level], path[: level - 1]
            if upper not in id_of:
                id_of[upper] = _join(upper)
                drafts.append(_Draft(_join(upper), upper[-1], id_of.get(above), line))
        if parent is None and len(path) > 1:
            parent = id_of[path[:-1]]
        name = _tidy(row.get("name", "")) or (path[-1] if path else "")
        synonyms = row.get("synonyms", ())
        if not isinstance(synonyms, list | tuple):
            synonyms = str(synonyms).split("|")
        drafts.append(
            _Draft(
                id=_tidy(row.get("id", "")) or _join(path) or name,
                name=name,
                parent=parent,
                line=line,
                description=_tidy(row.get("description", "")),
                synonyms=tuple(s for s in map(_tidy, synonyms) if s),
                names={k[5:]: _tidy(v) for k, v in row.items() if k.startswith("name_")},
                deprecated=_flag(row.get("deprecated", ""), line, problems),
            )
        )
    return drafts


def _flag(value: object, line: int, problems: list[str]) -> bool:
    text = str(value).lower()
    if text not in {"", "0", "1", "false", "true", "no", "yes"}:
        problems.append(f"line {line}: deprecated: expected true or false, found {text!r}")
    return text in {"1", "true", "yes"}


def _join(path: tuple[str, ...]) -> str:
    return " > ".join(path)


def _read_tree(
    text: str, suffix: str, source: str, problems: list[str]
) -> tuple[list[_Draft], str]:
    """YAML or JSON: `{about, labels: [{id, name, ..., children: [...]}]}` or just the list."""
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
    about = ""
    if isinstance(root, yaml.MappingNode):
        top = _mapping(root, problems)
        problems += [
            f"line {_line(top[key])}: unknown key {key!r}"
            for key in top
            if key not in {"name", "about", "labels"}
        ]
        about = _text(top.get("about"), "about", problems)
        root = top.get("labels")
    if not isinstance(root, yaml.SequenceNode):
        raise BadTaxonomy(
            source,
            ["expected a list of labels, or `labels:` with one"],
            hint="each label is a name, or {id, name, description, synonyms, children}",
        )
    drafts: list[_Draft] = []
    _walk_tree(root, None, drafts, problems, seen=set())
    return drafts, about


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
    drafts: list[_Draft],
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
            name = _tidy(node.value)
            drafts.append(_Draft(id=name, name=name, parent=parent, line=line))
            continue
        if not isinstance(node, yaml.MappingNode):
            problems.append(f"line {line}: a label is a name or a mapping, not a list")
            continue
        keys = _mapping(node, problems)
        problems += [
            f"line {_line(keys[k])}: unknown key {k!r}" for k in keys if k not in _NODE_KEYS
        ]
        name = _text(keys.get("name"), "name", problems)
        draft = _Draft(
            id=_text(keys.get("id"), "id", problems) or name,
            name=name,
            parent=parent,
            line=line,
            description=_text(keys.get("description"), "description", problems),
            deprecated=_flag(_text(keys.get("deprecated"), "deprecated", problems), line, problems),
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
    return "" if node.tag.endswith(":null") else _tidy(node.value)


def _texts(node: yaml.Node | None, key: str, problems: list[str]) -> list[str]:
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return [t for n in node.value if (t := _text(n, key, problems))]
    one = _text(node, key, problems)
    return [one] if one else []


# -- checking -------------------------------------------------------------------------------


def _build(drafts: list[_Draft], *, source: str, about: str, problems: list[str]) -> Taxonomy:
    """Check everything, then make nodes. Raises `BadTaxonomy` with all problems at once."""
    first: dict[str, _Draft] = {}
    for draft in drafts:
        first.setdefault(draft.id, draft)
    problems += _each(drafts, first) + _cycles(first)
    if problems:
        raise BadTaxonomy(source, problems)

    children: dict[str, list[str]] = {}
    for draft in drafts:
        if draft.parent is not None:
            children.setdefault(draft.parent, []).append(draft.id)
    nodes: dict[str, Node] = {}
    paths: dict[tuple[str, ...], _Draft] = {}
    for draft in drafts:
        path = tuple(d.name for d in reversed(_chain(draft, first)))
        if len(path) > DEEPEST:
            raise BadTaxonomy(source, [f"{_at(draft)}more than {DEEPEST} levels"])
        if path in paths:
            twice = f"{_join(path)!r} stands twice (also line {paths[path].line})"
            problems.append(_at(draft) + twice)
        paths.setdefault(path, draft)
        nodes[draft.id] = Node(
            id=draft.id,
            name=draft.name,
            path=path,
            parent=draft.parent,
            children=tuple(children.get(draft.id, ())),
            description=draft.description,
            synonyms=draft.synonyms,
            names=draft.names,
            deprecated=draft.deprecated,
        )
    taxonomy = Taxonomy(nodes=nodes, about=about, source=source)
    count = len(taxonomy.leaves)
    if count == 0:
        problems.append("no categories")
    elif count == 1:
        problems.append("only one category: there is nothing to choose")
    if problems:
        raise BadTaxonomy(source, problems)
    return taxonomy


def _at(draft: _Draft) -> str:
    """Return where a draft stands, for the start of a problem; empty without a file."""
    return f"line {draft.line}: " if draft.line else ""


def _each(drafts: list[_Draft], first: Mapping[str, _Draft]) -> list[str]:
    """Return the problems that a draft has by itself or with its namesakes."""
    problems: list[str] = []
    for draft in drafts:
        at, earlier = _at(draft), first[draft.id]
        if not draft.name:
            problems.append(f"{at}empty name" + (f" (id {draft.id!r})" if draft.id else ""))
        if draft.id == NONE:
            problems.append(
                f"{at}{NONE!r} is reserved: every menu already offers `none of these`; "
                "leave it out, or give your category another id"
            )
        if draft.id and earlier is not draft:
            where = f" (first on line {earlier.line})" if draft.line else ""
            problems.append(f"{at}duplicate id {draft.id!r}{where}")
        if draft.parent is not None and draft.parent not in first:
            problems.append(f"{at}{draft.id!r} has unknown parent {draft.parent!r}")
    return problems


def _chain(draft: _Draft, first: Mapping[str, _Draft]) -> list[_Draft]:
    chain = [draft]
    while chain[-1].parent is not None:
        chain.append(first[chain[-1].parent])
    return chain


def _cycles(first: Mapping[str, _Draft]) -> list[str]:
    """Name each cycle once."""
    found: list[str] = []
    safe: set[str] = set()
    for start in first:
        trail: list[str] = []
        here: str | None = start
        while here is not None and here in first and here not in safe and here not in trail:
            trail.append(here)
            here = first[here].parent
        if here is not None and here in trail:
            loop = trail[trail.index(here) :]
            found.append(f"{_at(first[here])}cycle: {' > '.join([*reversed(loop), loop[-1]])}")
        safe.update(trail)
    return found
