"""Precision, recall and F1 by class and averaged, with intervals."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from llmcat.evaluation.bootstrap import cells, resample_all
from llmcat.evaluation.metrics import LEAST_ITEMS, Array, Estimate, Of, interval_of, nothing
from llmcat.records import SEVERAL

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["F1", "How", "averages", "of_classes"]


@dataclass(frozen=True, slots=True)
class OfClass:
    """One class: how many items have it, how many were given it, and how well that went.

    Precision is NaN for a class that was never given, recall for one without items.
    """

    label: str
    support: int
    given: int
    precision: float
    recall: float
    f1: float


def of_classes(gold: Array, label: Array, labels: Sequence[str]) -> list[OfClass]:
    """Precision, recall and F1 of each class, in the order of `labels`."""
    if not len(gold) or not len(labels):
        return []
    is_gold, is_given = _indicator(gold, labels), _indicator(label, labels)
    support, given, both = (
        np.asarray(of.sum(axis=0)).ravel() for of in (is_gold, is_given, is_gold.multiply(is_given))
    )
    with np.errstate(invalid="ignore"):
        rates = both / given, both / support, 2 * both / (given + support)
    columns = zip(labels, support, given, *rates, strict=True)
    return [OfClass(c, int(s), int(g), *map(float, of)) for c, s, g, *of in columns]


How = Literal["micro", "macro", "weighted"]


class F1:
    """Averaged F1 (or precision, or recall) over cells: weights `(draws, cells)` to `(draws,)`.

    `gold` and `label` have one entry per cell, `counts` says how often it occurs. Macro and
    weighted averages run over those of `labels` that have at least `least` items (in `.labels`).
    An entry may be several labels `joined`; then micro averages are over pairs of item and label.
    A class that was never given has precision 0, as in scikit-learn with `zero_division=0`.
    `.sound` tells whether each class has enough items for an interval.
    """

    def __init__(
        self,
        gold: Array,
        label: Array,
        counts: Array,
        labels: Sequence[str],
        *,
        how: How,
        of: Of = "f1",
        least: int = 1,
    ) -> None:
        """Find the classes that are counted, and what each cell adds to them."""
        self.how, self.of = how, of
        support = Counter[str]()
        for name, count in zip(gold.tolist(), counts.tolist(), strict=True):
            for part in name.split(SEVERAL):
                support[part] += count
        self.labels = [c for c in labels if how == "micro" or support[c] >= least]
        self.sound = how == "micro" or all(support[c] >= LEAST_ITEMS for c in self.labels)
        self._is_gold = _indicator(gold, self.labels)
        self._is_given = _indicator(label, self.labels)
        self._is_both = self._is_gold.multiply(self._is_given).tocsr()
        self._counts = counts

    def _parts(self, weights: Array) -> tuple[Array, Array, Array]:
        """Return numerators, denominators and items of each class, shape `(draws, classes)`."""
        both, gold = weights @ self._is_both, weights @ self._is_gold
        given = weights @ self._is_given
        if self.of == "precision":
            return both, given, gold
        return (both, gold, gold) if self.of == "recall" else (2 * both, gold + given, gold)

    def __call__(self, weights: Array) -> Array:
        """Return the average for each draw; a class that does not occur in a draw is left out."""
        above, below, items = self._parts(weights)
        if self.how == "micro":
            return np.asarray(above.sum(axis=1) / np.maximum(below.sum(axis=1), 1))
        values = above / np.maximum(below, 1)
        shares = items if self.how == "weighted" else (items + below > 0).astype(float)
        return np.asarray((values * shares).sum(axis=1) / np.maximum(shares.sum(axis=1), 1))

    @property
    def influence(self) -> Array:
        """The derivative by each cell's weight, shape `(cells,)`."""
        above, below, items = (part[0] for part in self._parts(self._counts[None].astype(float)))
        gold, given, both = self._is_gold, self._is_given, self._is_both
        if self.of == "f1":
            d_above, d_below = 2 * both, gold + given
        else:
            d_above, d_below = both, given if self.of == "precision" else gold
        if self.how == "micro":
            total = max(below.sum(), 1)
            value = above.sum() / total
            change = np.asarray((d_above - value * d_below).sum(axis=1)).ravel()
            return np.asarray(change / total)
        values, below = above / np.maximum(below, 1), np.maximum(below, 1)
        shares = items if self.how == "weighted" else np.ones_like(values)
        change = d_above @ (shares / below) - d_below @ (shares * values / below)
        if self.how == "weighted":
            change += gold @ (values - values @ items / max(items.sum(), 1))
        return np.asarray(change / max(shares.sum(), 1))


def _indicator(names: Array, labels: Sequence[str]) -> Any:
    """Return which cell has which label, sparse, shape `(cells, labels)`."""
    from scipy.sparse import csr_matrix

    at = {name: i for i, name in enumerate(labels)}
    pairs = [
        (row, at[part])
        for row, name in enumerate(names.tolist())
        for part in name.split(SEVERAL)
        if part in at
    ]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    return csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(names), len(labels)))


def averages(
    gold: Array,
    label: Array,
    labels: Sequence[str],
    *,
    least: int = 1,
    draws: int = 2000,
    seed: int = 0,
) -> dict[tuple[How, Of], Estimate]:
    """Average precision, recall and F1 over classes, with BCa intervals (`draws` 0 for none).

    Where items have several labels, entries are these `joined`. Macro and weighted averages take
    classes with at least `least` items; micro averages of one label each are the accuracy. `n`
    counts classes. No interval is sound for an average over classes of which one has fewer than
    `LEAST_ITEMS` items.
    """
    pairs: list[tuple[How, Of]] = [(how, of) for how in get_args(How) for of in get_args(Of)]
    if not len(gold):
        return dict.fromkeys(pairs, nothing())
    (g, p), counts = cells(gold, label)
    found = [F1(g, p, counts, labels, how=how, of=of, least=least) for how, of in pairs]
    whole = counts[None].astype(float)
    spans = [(math.nan, math.nan)] * len(pairs)
    if draws:
        both = [(one, one.influence) for one in found]
        straps = resample_all(both, counts, draws=draws, seed=seed)
        spans = [
            interval_of(strap) if one.sound else span
            for strap, one, span in zip(straps, found, spans, strict=True)
        ]
    return {
        pair: Estimate(float(one(whole)[0]), *span, len(one.labels))
        if one.labels
        else nothing(f"no class has {least} items")
        for pair, one, span in zip(pairs, found, spans, strict=True)
    }
