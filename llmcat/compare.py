"""Is arm B better than arm A? Paired comparisons of two arms over the same items.

Pure functions from arrays of shape `(n,)` to intervals and p-values; a difference is B - A. Items
that look the same to a statistic are one cell, so that a draw of the bootstrap is a multinomial
draw of the cells' counts and no Python loop runs over draws. This module does not know files,
prompts or engines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest, norm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Difference",
    "McNemar",
    "difference_of_f1",
    "difference_of_means",
    "holm",
    "items_needed",
    "mcnemar",
    "smallest_effect",
]

Array = np.ndarray[Any, Any]
Statistic = "Callable[[Array], Array]"
"""From weights of cells, shape `(draws, cells)`, to one value per draw."""

DRAWS = 4000
_CHUNK = 1 << 22
"""Numbers held at once."""
_ALPHA, _POWER = 0.05, 0.8


@dataclass(frozen=True, slots=True)
class McNemar:
    """How many items only one arm got right, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a: Array, b: Array) -> McNemar:
    """Compare two columns of right and wrong by the items in which they differ (McNemar 1947).

    The p-value is that of the binomial test; without any that differ it is 1.
    """
    a, b = a.astype(bool), b.astype(bool)
    only_a, only_b = int(np.count_nonzero(a & ~b)), int(np.count_nonzero(b & ~a))
    if not only_a + only_b:
        return McNemar(0, 0, 1.0)
    return McNemar(only_a, only_b, float(binomtest(only_a, only_a + only_b).pvalue))


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference B - A with its 95 % interval, from so many items and draws."""

    value: float
    low: float
    high: float
    n: int
    draws: int


def difference_of_means(a: Array, b: Array, *, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Compare means of something each item has in both arms: right or wrong, a loss.

    Paired bootstrap with BCa intervals (Efron 1987; Efron and Tibshirani 1993, section 14.3): the
    acceleration of a mean is a sixth of its skewness over the root of n.
    """
    values, counts = np.unique(b.astype(float) - a.astype(float), return_counts=True)
    n = int(counts.sum())
    if not n:
        return Difference(math.nan, math.nan, math.nan, 0, 0)

    def mean(weights: Array) -> Array:
        return np.asarray(weights @ values / n)

    estimate = float(values @ counts / n)
    influence = values - estimate
    return _interval(mean, counts, estimate, influence, draws=draws, seed=seed)


def difference_of_f1(
    gold: Array,
    a: Array,
    b: Array,
    labels: Sequence[str],
    *,
    macro: bool,
    least: int = 10,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Compare micro F1 over `labels` (without `none`, say), or macro F1 of those with items.

    Macro F1 takes classes with at least `least` items in the data at hand, the same ones in each
    draw; a class absent from a draw has F1 0 there unless nobody names it, then it is left out.
    """
    columns, counts = _cells(gold, a, b)
    n = int(counts.sum())
    gold_is, a_is, b_is = ((c[:, None] == np.array(labels)).astype(float) for c in columns)
    if macro:
        frequent = counts @ gold_is >= least
        gold_is, a_is, b_is = gold_is[:, frequent], a_is[:, frequent], b_is[:, frequent]
    if not n or not gold_is.shape[1]:
        return Difference(math.nan, math.nan, math.nan, n, 0)

    def f1(weights: Array, label_is: Array) -> Array:
        both = weights @ (gold_is * label_is)
        marked = weights @ (gold_is + label_is)
        if not macro:
            return np.asarray(2 * both.sum(axis=1) / np.maximum(marked.sum(axis=1), 1))
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nanmean(2 * both / np.where(marked, marked, np.nan), axis=1))

    def difference(weights: Array) -> Array:
        return f1(weights, b_is) - f1(weights, a_is)

    estimate = float(difference(counts[None].astype(float))[0])
    influence = estimate - _in_chunks(
        lambda rows: difference(counts[None] - np.eye(len(counts))[rows]), len(counts), len(counts)
    )
    return _interval(difference, counts, estimate, influence, draws=draws, seed=seed)


def _cells(*columns: Array) -> tuple[list[Array], Array]:
    """Return the distinct rows of some columns of text, and how often each occurs."""
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        names, code = np.unique(column, return_inverse=True)
        codes = codes * len(names) + code
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    return [column[first] for column in columns], counts


def _in_chunks(work: Callable[[Array], Array], rows: int, width: int) -> Array:
    """Do work for so many rows, as many at a time as fit in memory; `width` numbers each."""
    at_once = max(1, _CHUNK // max(width, 1))
    starts = range(0, rows, at_once)
    return np.concatenate([work(np.arange(s, min(s + at_once, rows))) for s in starts])


def _interval(
    statistic: Callable[[Array], Array],
    counts: Array,
    estimate: float,
    influence: Array,
    *,
    draws: int,
    seed: int,
) -> Difference:
    """Return the BCa interval; `influence` is what one item of each cell adds, up to a factor."""
    n, draw = int(counts.sum()), np.random.default_rng(seed)
    influence = influence - counts @ influence / n
    share = counts / n
    drawn = _in_chunks(
        lambda rows: statistic(draw.multinomial(n, share, size=len(rows)).astype(float)),
        draws,
        len(counts),
    )
    spread = float(counts @ influence**2)
    if not spread or np.ptp(drawn) == 0:
        return Difference(estimate, estimate, estimate, n, draws)
    # Ties count half: with few different values the median is a heavy one.
    below = (np.count_nonzero(drawn < estimate) + 0.5 * np.count_nonzero(drawn == estimate)) / draws
    bias = norm.ppf(np.clip(below, 0.5 / draws, 1 - 0.5 / draws))
    acceleration = float(counts @ influence**3) / (6 * spread**1.5)
    z = norm.ppf([_ALPHA / 2, 1 - _ALPHA / 2])
    levels = norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
    low, high = np.quantile(drawn, levels)
    return Difference(estimate, float(low), float(high), n, draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for there being several (Holm 1979), in their order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = so_far
    return adjusted


def items_needed(effect: float, *, differing: float) -> float:
    """Return how many items show a difference in accuracy with power 0.8 at the level of 5 %.

    `differing` is the share of items that only one arm gets right, at least `effect`
    (Connor 1987, formula for McNemar's test). Infinite for an effect of 0.
    """
    effect = abs(effect)
    if not effect:
        return math.inf
    differing = max(differing, effect)
    sure, power = norm.ppf(1 - _ALPHA / 2), norm.ppf(_POWER)
    root = sure * math.sqrt(differing) + power * math.sqrt(differing - effect**2)
    return float((root / effect) ** 2)


def smallest_effect(n: int, *, differing: float) -> float:
    """Return the smallest difference in accuracy that n items show with power 0.8, or NaN.

    The inverse of `items_needed`; NaN where not even `differing` itself would be shown.
    """
    from scipy.optimize import brentq

    if n < 1 or items_needed(differing, differing=differing) > n:
        return math.nan
    return float(brentq(lambda e: items_needed(e, differing=differing) - n, 1e-9, differing))
