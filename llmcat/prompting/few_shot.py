"""Few-shot examples: a pool of labelled items, and which of them a request shows.

`fixed` shows the same balanced handful to every item, so the server's prefix cache holds
them. `nearest` shows the pool items most like this one (tf-idf over character n-grams, which
needs no word boundaries and so works for Chinese), the most similar last, next to the item
(Liu et al. 2022, "What Makes Good In-Context Examples for GPT-3?", section 2).

This module does not know prompts or engines.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llmcat.errors import InputError
from llmcat.records import NONE, Item, Menu, digest, each_of, readable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["Pool", "Select"]

Select = Literal["fixed", "nearest"]


@dataclass(frozen=True)
class Pool:
    """Labelled items; `labels[i]` is the node id (or `none`) of `items[i]`."""

    items: tuple[Item, ...]
    labels: tuple[str, ...]
    taxonomy: Taxonomy
    select: Select = "fixed"
    shots: int = 8
    seed: int = 0
    _index: list[Any] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def build(
        cls,
        items: Iterable[Item],
        taxonomy: Taxonomy,
        *,
        select: Select = "fixed",
        shots: int = 8,
        seed: int = 0,
    ) -> Pool:
        """Resolve the gold labels of the items. Raises `InputError` with every bad one.

        An item with several labels is an example of each.
        """
        kept, labels, problems = [], [], []
        for item in items:
            given = taxonomy.given(item.gold)
            label = taxonomy.resolve_all(given) if given else None
            if item.error or label is None:
                what = item.error or (
                    f"label {readable(item.gold)!r} is not in the taxonomy"
                    if item.gold
                    else "no label"
                )
                problems.append(f"example {item.row + 1} ({item.id}): {what}")
                continue
            for one in each_of(label) or (NONE,):
                kept.append(item)
                labels.append(one)
        if problems:
            raise InputError("\n  ".join(["the examples have problems:", *problems]))
        return cls(tuple(kept), tuple(labels), taxonomy, select=select, shots=shots, seed=seed)

    @property
    def digest(self) -> str:
        """A hash of the pool and of how examples are chosen from it."""
        pairs = (
            f"{i.content}\x1e{label}" for i, label in zip(self.items, self.labels, strict=True)
        )
        return digest(self.select, str(self.shots), str(self.seed), *pairs)

    def code_of(self, index: int, menu: Menu) -> str | None:
        """Return the code an example has on a menu: its label's, or its label's ancestor's.

        None when the menu offers neither.
        """
        label = self.labels[index]
        codes = {n.id: c for c, n in zip(menu.codes, menu.nodes, strict=False)}
        if label == NONE:
            return menu.exit if menu.parent is None else None
        node = self.taxonomy.nodes[label]
        for here in (node, *self.taxonomy.ancestors(node)):
            if here.id in codes:
                return codes[here.id]
        return None

    def fixed(self, menu: Menu) -> list[tuple[Item, str]]:
        """Return up to `shots` (item, code) pairs for a menu, spread over its labels.

        One example per label in turn, labels and examples in a seeded order, so that no label
        is shown twice before every label was shown once.
        """
        by_code: dict[str, list[int]] = {}
        for index in range(len(self.items)):
            code = self.code_of(index, menu)
            if code is not None:
                by_code.setdefault(code, []).append(index)
        draw = random.Random(f"{self.seed}")
        stacks = list(by_code.items())
        draw.shuffle(stacks)
        for _, stack in stacks:
            draw.shuffle(stack)
        chosen: list[tuple[Item, str]] = []
        while len(chosen) < self.shots and any(stack for _, stack in stacks):
            for code, stack in stacks:
                if stack and len(chosen) < self.shots:
                    chosen.append((self.items[stack.pop()], code))
        return chosen

    def nearest(self, item: Item, menu: Menu) -> list[tuple[Item, str]]:
        """Return up to `shots` (item, code) pairs most like an item, the most similar last.

        An example with the item's own text is left out: it would give the answer away.
        """
        vectorizer, matrix = self._fitted()
        similarity = (matrix @ vectorizer.transform([item.content]).T).toarray().ravel()
        chosen: list[tuple[Item, str]] = []
        for index in (-similarity).argsort(kind="stable"):
            code = self.code_of(int(index), menu)
            if code is not None and self.items[index].content != item.content:
                chosen.append((self.items[index], code))
            if len(chosen) == self.shots:
                break
        return chosen[::-1]

    def _fitted(self) -> tuple[Any, Any]:
        if not self._index:
            from sklearn.feature_extraction.text import TfidfVectorizer

            vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
            matrix = vectorizer.fit_transform([i.content for i in self.items])
            self._index.extend((vectorizer, matrix))
        return self._index[0], self._index[1]
