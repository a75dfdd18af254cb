"""The user's categories: read from a file, checked as a whole, looked up by id, path or name.

This module does not know menus, prompts or items.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmcat.errors import BadTaxonomy, InputError, LlmcatNote
from llmcat.files.opened import bare, is_workbook, open_bytes, refuse, start_of
from llmcat.files.text import lines_of, text_of
from llmcat.records import NONE, SEVERAL, Node, digest, joined
from llmcat.taxonomy.formats import (
    DEEPEST,
    ITEM_COLUMNS,
    Draft,
    csv_rows,
    join_path,
    json_lines,
    read_rows,
    tidy,
)
from llmcat.taxonomy.lines import SEPARATOR, path_lines
from llmcat.taxonomy.trees import read_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


__all__ = ["Taxonomy"]

MANY = 20
"""Problems of a file that is likely something else."""
NOT_GIVEN = {"", "nan", "null", "nat", "<na>"}
_SLASH = re.compile(r"\s*/\s*")
_WHOLE = re.compile(r"\d+\.0+")
_SUFFIXES = ".yaml .yml .json .jsonl .csv .tsv .txt"


@dataclass(frozen=True)
class Taxonomy:
    """A tree of nodes in the order given; a flat list is a tree of depth one.

    `nodes` maps id to node. `about` says in a few words what the items are
    (`products of an online shop`); prompts may show it. `ordered`: the leaves are the levels of a
    scale, lowest first.
    """

    nodes: Mapping[str, Node]
    about: str = ""
    source: str = ""
    ordered: bool = False

    # -- reading ----------------------------------------------------------------------------

    @classmethod
    def from_labels(cls, labels: Iterable[str]) -> Taxonomy:
        """Make a flat taxonomy; each label is its own id.

        Raises `BadTaxonomy` with every problem found.
        """
        names = ["" if label is None else tidy(label) for label in labels]
        drafts = [Draft(id=t, name=t, parent=None, line=0) for t in names]
        return _build(drafts, source="labels", about="", problems=[])

    @classmethod
    def load(cls, path: str | Path) -> Taxonomy:
        """Read YAML, JSON, JSONL, CSV, TSV or `A > B > C` lines, by the file's suffix.

        Raises `BadTaxonomy` with every problem found, each with its line.
        """
        suffix = Path(bare(str(path))).suffix or ".txt"
        try:
            with open_bytes(path) as raw:
                start = start_of(raw)
                refuse(start, path)
                if is_workbook(raw, path):
                    raise BadTaxonomy(str(path), ["a workbook: save its sheet as CSV"])
                how = text_of(start)
                if how.guessed:
                    told = f"{path}: read as {how.encoding} (told by its bytes; save it as UTF-8)"
                    warnings.warn(told, LlmcatNote, stacklevel=2)
                text = b"".join(lines_of(raw, how)).decode()
        except UnicodeDecodeError as exc:
            raise BadTaxonomy(str(path), [f"not UTF-8 at byte {exc.start}"]) from exc
        except InputError as exc:
            if isinstance(exc, BadTaxonomy):
                raise
            what = str(exc).removeprefix(f"{path}: ")
            raise BadTaxonomy(str(path), [what], hint=exc.hint) from exc
        return cls.parse(text, suffix=suffix, source=str(path))

    @classmethod
    def parse(cls, text: str, *, suffix: str, source: str = "taxonomy") -> Taxonomy:
        """Read a taxonomy from text; `suffix` names the format, as a file would."""
        problems: list[str] = []
        text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
        about, ordered = "", False
        if suffix in {".yaml", ".yml", ".json"}:
            drafts, about, ordered = read_tree(text, suffix, source, problems)
        elif suffix in {".csv", ".tsv"}:
            usual = "\t" if suffix == ".tsv" else ","
            drafts = read_rows(csv_rows(text, usual, source, problems), problems)
        elif suffix == ".jsonl":
            drafts = read_rows(json_lines(text, problems), problems)
        elif suffix == ".txt":
            drafts = read_rows(path_lines(text, source, problems), problems)
        else:
            raise BadTaxonomy(source, [f"unknown format {suffix!r}; use one of {_SUFFIXES}"])
        made = _build(drafts, source=source, about=about, problems=problems)
        if ordered and made.depth > 1:
            raise BadTaxonomy(source, ["`ordered` is for levels of a scale, and this is a tree"])
        return replace(made, ordered=ordered)

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

    @cached_property
    def digest(self) -> str:
        """A hash of everything a prompt could show."""
        scale = ("ordered",) if self.ordered else ()
        return digest(self.about, *scale, *(repr(n) for n in self.nodes.values()))

    @cached_property
    def levels(self) -> dict[str, int]:
        """The place of each leaf on the scale, from 1."""
        return {node.id: level for level, node in enumerate(self.leaves, 1)}

    def children(self, node: Node | None) -> tuple[Node, ...]:
        """The live children of a node, or the roots for None."""
        if node is None:
            return self.roots
        return tuple(n for n in map(self.nodes.__getitem__, node.children) if not n.deprecated)

    def onward(self, node: Node | None) -> Node | None:
        """Return what a node leads to: itself, or down to where there is more than one way to go.

        None stands for the top.
        """
        while len(below := self.children(node)) == 1:
            node = below[0]
        return node

    def ancestors(self, node: Node) -> Iterator[Node]:
        """The node's parent, its parent, up to the root."""
        while node.parent is not None:
            node = self.nodes[node.parent]
            yield node

    def resolve(self, label: str) -> str | None:
        """Find a label given from outside: by id, then full path, then unique name.

        A path may be written with `/` or `»`, and a number as spreadsheets write it (1.0 for 1).

        Returns the node's id, `none` for that word however it is written (unless a category is
        called so), or None when nothing fits. Deprecated nodes resolve like any other.
        """
        label = tidy(label)
        if label in self.nodes or label == NONE:
            return label
        wanted = SEPARATOR.sub(" > ", label).casefold()
        by_path, by_name = self._index
        found = by_path.get(wanted) or by_name.get(wanted)
        if found is None and "/" in label:
            found = by_path.get(_SLASH.sub(" > ", label).casefold())
        if found is None and _WHOLE.fullmatch(label) and (whole := label.split(".")[0]):
            found = whole if whole in self.nodes else by_name.get(whole)
        return found or (NONE if wanted == NONE and wanted not in by_name else None)

    def given(self, label: str | None) -> str | None:
        """Return a known label as it was given, None where it only says that none was.

        `nan`, `null` and their like are what tables write for an empty cell, unless a category is
        called so.
        """
        missing = (label or "").casefold() in NOT_GIVEN and self.resolve(label or "") is None
        return None if missing else label

    def resolve_all(self, labels: str) -> str | None:
        """Find an item's labels, `joined` where there are several; None where one does not fit."""
        found = [self.resolve(label) for label in labels.split(SEVERAL)]
        return None if None in found else joined(filter(None, found))

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


# -- checking -------------------------------------------------------------------------------


def _build(drafts: list[Draft], *, source: str, about: str, problems: list[str]) -> Taxonomy:
    """Check everything, then make nodes. Raises `BadTaxonomy` with all problems at once."""
    first: dict[str, Draft] = {}
    for draft in drafts:
        first.setdefault(draft.id, draft)
    problems += _each(drafts, first) + _cycles(first)
    if problems:
        items = any(f"unknown column {name!r}" in p for name in ITEM_COLUMNS for p in problems)
        many = len(problems) > MANY
        hint = "it looks like a file of items: --file is for those" if items or many else ""
        raise BadTaxonomy(source, problems, hint=hint)

    children: dict[str, list[str]] = {}
    for draft in drafts:
        if draft.parent is not None:
            children.setdefault(draft.parent, []).append(draft.id)
    nodes: dict[str, Node] = {}
    paths: dict[tuple[str, ...], Draft] = {}
    for draft in drafts:
        path = tuple(d.name for d in reversed(_chain(draft, first)))
        if len(path) > DEEPEST:
            raise BadTaxonomy(source, [f"{_at(draft)}more than {DEEPEST} levels"])
        if path in paths:
            twice = f"{join_path(path)!r} stands twice (also line {paths[path].line})"
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


def _at(draft: Draft) -> str:
    """Return where a draft stands, for the start of a problem; empty without a file."""
    return f"line {draft.line}: " if draft.line else ""


def _each(drafts: list[Draft], first: Mapping[str, Draft]) -> list[str]:
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


def _chain(draft: Draft, first: Mapping[str, Draft]) -> list[Draft]:
    chain = [draft]
    while chain[-1].parent is not None:
        chain.append(first[chain[-1].parent])
    return chain


def _cycles(first: Mapping[str, Draft]) -> list[str]:
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
