"""What retrieval reads: a category as one text, an item as one text, and which texts are near.

This module does not know vectors of any special kind, menus or models.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llmcat.records import Item, Node

__all__ = [
    "CLAUSES",
    "clauses_of",
    "document",
    "duplicates_of",
    "group_of",
    "in_latin",
    "item_text",
    "normal",
]

MOST = 2_000
"""Characters of an item that retrieval reads: encoders cut there, and the title comes first."""
CLAUSES = 16
_CLAUSE = re.compile(r"(?<=[.?!;])\s+|(?<=[。？！；])|\s+\+\s+|\n+")
_SPACE = re.compile(r"[\W_]+")


def document(node: Node, nodes: Mapping[str, Node]) -> str:
    """Return a category as text: its path, description and synonyms, its names in all languages.

    A name whose words are joined by `_` (an intent, a column of a data frame) is read as words.
    """
    chain = [node]
    while chain[-1].parent is not None:
        chain.append(nodes[chain[-1].parent])
    languages = dict.fromkeys(name for one in chain for name in one.names)
    paths = [" > ".join(one.name for one in reversed(chain))]
    paths += [
        " ".join(one.names[k] for one in reversed(chain) if k in one.names) for k in languages
    ]
    words = ". ".join(paths[:1]).replace("_", " ")
    return ". ".join(
        part for part in (words, node.description, " ".join(node.synonyms), *paths[1:]) if part
    )


def item_text(item: Item) -> str:
    """Return an item as text: what its fields hold, the title first."""
    return " ".join(item.fields.values())[:MOST]


def clauses_of(item: Item) -> list[Item]:
    """Return an item once for each of its clauses, `CLAUSES` at most: neighbours share one then.

    Clauses end with sentences, at a semicolon, a plus between spaces, or a new line. An item of
    one clause is itself.
    """
    parts = [
        (name, part.strip())
        for name, text in item.fields.items()
        for part in _CLAUSE.split(text[:MOST])
        if part.strip()
    ]
    if len(parts) < 2:  # noqa: PLR2004
        return [item]
    each = -(-len(parts) // CLAUSES)
    grouped = [parts[i : i + each] for i in range(0, len(parts), each)]
    return [
        replace(item, fields={group[0][0]: " ".join(text for _, text in group)})
        for group in grouped
    ]


def normal(text: str) -> str:
    """Return a text without case, accents of width, punctuation and repeated space."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def in_latin(text: str) -> bool:
    """Tell whether at least half of a text's letters are those of the Latin alphabet."""
    letters = [c for c in text if c.isalpha()]
    latin = sum(c < "\u0250" or "\u1e00" <= c < "\u1f00" for c in letters)
    return 2 * latin >= len(letters)


def _shingles(text: str) -> frozenset[str]:
    """Return the runs of five characters of a normalised text (Broder 1997, section 2)."""
    plain = normal(text)
    return frozenset(plain[i : i + 5] for i in range(max(1, len(plain) - 4)))


ALIKE = 0.8
"""Texts are near duplicates if their shingles have so much of their union in common (Jaccard)."""


class _Shelf:
    """Texts' shingles, and where each shingle stands."""

    def __init__(self) -> None:
        self.sets: list[frozenset[str]] = []
        self.places: dict[str, list[int]] = {}

    def add(self, mine: frozenset[str]) -> None:
        """Put one text's shingles behind the others."""
        for shingle in mine:
            self.places.setdefault(shingle, []).append(len(self.sets))
        self.sets.append(mine)

    def near(self, mine: frozenset[str]) -> list[int]:
        """Return which texts are nearly the one with these shingles."""
        common = Counter(i for shingle in mine for i in self.places.get(shingle, ()))
        union = {i: len(mine) + len(self.sets[i]) - n for i, n in common.items()}
        return [i for i, n in common.items() if n >= ALIKE * union[i]]


def duplicates_of(texts: Sequence[str], others: Iterable[str]) -> list[bool]:
    """Tell of each text whether one of `others` is the same or nearly so."""
    shelf = _Shelf()
    for text in others:
        shelf.add(_shingles(text))
    return [bool(shelf.near(_shingles(text))) for text in texts]


def group_of(texts: Sequence[str], given: Sequence[str] | None = None) -> list[int]:
    """Return a number for each text, equal for texts that belong together.

    Near duplicates do, and texts with the same name in `given` (variants of a product; an empty
    name groups nothing). Groups that share a member are one.
    """
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    named: dict[str, int] = {}
    for i, name in enumerate(given or ()):
        if name:
            parent[root(i)] = root(named.setdefault(name, i))
    shelf = _Shelf()
    for i, text in enumerate(texts):
        mine = _shingles(text)
        for j in shelf.near(mine):
            parent[root(i)] = root(j)
        shelf.add(mine)
    return [root(i) for i in range(len(texts))]
