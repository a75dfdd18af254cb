"""How good predictions are: pure functions from arrays to numbers.

`gold` and `label` are arrays of node ids, shape `(n,)`; `none` is a label like any other. `correct`
and `confidence` are arrays of shape `(n,)`. A metric of nothing is NaN and says why. What
scikit-learn and scipy have is theirs. This module does not know files, taxonomies or engines.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmcat.evaluation.bootstrap import BIASED, Bootstrap, cells, resample
from llmcat.records import each_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "LEAST",
    "LEAST_ITEMS",
    "Array",
    "Confusion",
    "Estimate",
    "Of",
    "Ratio",
    "accuracy",
    "brier_score",
    "calibration_error",
    "confusions",
    "coverage_at",
    "example_f1",
    "hamming_losses",
    "hierarchical",
    "hierarchical_ratios",
    "interval_of",
    "kappa",
    "log_loss",
    "losses",
    "mean",
    "nothing",
    "reliability",
    "risk_coverage",
    "squared_errors",
    "top_k",
]

Array = np.ndarray[Any, Any]

_NOTHING = "no items"
LEAST_ITEMS = 10
NORMAL = 1.959963984540054
"""The normal quantile of a 95 % interval."""
LEAST = 1e-15
"""A probability of 0 for what happened counts as this, as in scikit-learn's `log_loss`."""


Of = Literal["precision", "recall", "f1"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, its 95 % interval where one is sound, and over how many; `why` it is NaN."""

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    why: str = ""


def nothing(why: str = _NOTHING) -> Estimate:
    """Return the estimate of what is not there."""
    return Estimate(math.nan, why=why)


def accuracy(correct: Array) -> Estimate:
    """Share of true values, with Wilson's score interval (Wilson 1927)."""
    from scipy.stats import binomtest

    n, hits = len(correct), int(np.count_nonzero(correct))
    if not n:
        return nothing()
    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return Estimate(hits / n, float(interval.low), float(interval.high), n)


def kappa(gold: Array, label: Array, *, levels: Array | None = None) -> Estimate:
    """Cohen's kappa: agreement beyond chance (Cohen 1960), with its asymptotic interval.

    With `levels`, the labels of a scale in their order, quadratically weighted: a label that is d
    levels off costs d squared (Cohen 1968). Variance by Fleiss, Cohen and Everitt (1969). NaN where
    chance alone agrees always.
    """
    from scipy.stats.contingency import crosstab

    n = len(gold)
    if not n:
        return nothing()
    names = np.unique(np.concatenate([gold, label])) if levels is None else levels
    place = np.arange(len(names))
    agree = np.eye(len(names))
    if levels is not None:
        agree = 1 - ((place[:, None] - place) / max(len(names) - 1, 1)) ** 2
    p = np.asarray(crosstab(gold, label, levels=(names, names)).count, dtype=float) / n
    of_gold, of_label = p.sum(axis=1), p.sum(axis=0)
    by_chance = float(of_gold @ agree @ of_label)
    if by_chance >= 1.0:
        return nothing("one label only: chance alone agrees always")
    agreed = float((p * agree).sum())
    value = (agreed - by_chance) / (1 - by_chance)
    apart = (agree @ of_label)[:, None] + (of_gold @ agree)[None, :]
    off = float((p * (agree - apart * (1 - value)) ** 2).sum())
    rest = (value - by_chance * (1 - value)) ** 2
    spread = max(off - rest, 0.0)
    half = NORMAL * math.sqrt(spread / n) / (1 - by_chance)
    return Estimate(value, value - half, min(1.0, value + half), n)


class Ratio:
    """A ratio of sums over cells: weights `(draws, cells)` to `(draws,)`."""

    def __init__(self, above: Array, below: Array) -> None:
        """`above` and `below` hold what each cell adds, shape `(cells,)`."""
        self.above, self.below = np.asarray(above, float), np.asarray(below, float)

    def __call__(self, weights: Array) -> Array:
        """Return the ratio for each draw."""
        return np.asarray((weights @ self.above) / np.maximum(weights @ self.below, 1e-300))

    def influence(self, counts: Array) -> Array:
        """The derivative by each cell's weight, up to a factor, shape `(cells,)`."""
        value = (counts @ self.above) / (counts @ self.below)
        return np.asarray((self.above - value * self.below) / (counts @ self.below))


def hierarchical_ratios(
    gold: Iterable[frozenset[str]], label: Iterable[frozenset[str]]
) -> dict[Of, Ratio]:
    """Hierarchical precision, recall and F1 (Kiritchenko, Matwin and Famili 2005, section 3.2).

    Each set holds a node and its ancestors without the root; the empty set stands for `none`, or
    for no answer.
    """
    sizes = [(len(g & p), len(p), len(g)) for g, p in zip(gold, label, strict=True)]
    both, given, wanted = np.array(sizes, dtype=float).reshape(-1, 3).T
    return {
        "precision": Ratio(both, given),
        "recall": Ratio(both, wanted),
        "f1": Ratio(2 * both, given + wanted),
    }


def hierarchical(ratio: Ratio, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """Return one of the hierarchical ratios with its BCa interval."""
    if not len(ratio.above):
        return nothing()
    if not ratio.below.any():
        return nothing("there are no labels")
    (above, below), counts = cells(ratio.above, ratio.below)
    one = Ratio(above, below)
    strap = resample(one, counts, one.influence(counts), draws=draws, seed=seed)
    return Estimate(strap.value, *interval_of(strap), len(ratio.above))


def interval_of(strap: Bootstrap) -> tuple[float, float]:
    """Return an interval where one is sound: the draws differ, and around the estimate."""
    if not len(strap.drawn) or abs(strap.bias) > 2 * BIASED:
        return math.nan, math.nan
    return strap.interval()


def top_k(rank: Array, k: int) -> Estimate:
    """Share of items whose true label is among the k likeliest (`rank` from 1; NaN: unknown)."""
    if np.isnan(rank).any():
        return nothing("some answers have no probabilities")
    return accuracy(rank <= k)


def losses(p_gold: Array) -> Array:
    """Negative natural logarithm of the probability given to each true label."""
    return np.asarray(-np.log(np.clip(p_gold, LEAST, 1.0)))


def log_loss(p_gold: Array) -> Estimate:
    """Mean of `losses`, with its normal interval."""
    return mean(losses(p_gold)) if len(p_gold) else nothing()


def squared_errors(p_gold: Array, p_squares: Array) -> Array:
    """Squared distance of each item's probabilities to the truth (Brier 1950), from 0 to 2.

    `p_squares` is the sum of the squares of an item's probabilities: the distance is
    `p_squares - 2 p_gold + 1`.
    """
    return np.asarray(p_squares - 2 * p_gold + 1.0)


def brier_score(p_gold: Array, p_squares: Array) -> Estimate:
    """Mean of `squared_errors`, with its normal interval."""
    return mean(squared_errors(p_gold, p_squares)) if len(p_gold) else nothing()


def reliability(confidence: Array, correct: Array, *, bins: int = 15) -> tuple[Array, Array, Array]:
    """Return share, mean confidence and accuracy of bins of equal mass, each `(at most bins,)`.

    Equal confidences stay together, so that the order of the items does not matter.
    """
    n = len(confidence)
    if not n:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    _, value, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2  # mean rank of each value, from 0
    _, part, items = np.unique(
        np.floor(middle * bins / n)[value], return_inverse=True, return_counts=True
    )
    sure = np.bincount(part, weights=confidence) / items
    right = np.bincount(part, weights=correct.astype(float)) / items
    return items / n, sure, right


def example_f1(gold: Array, label: Array) -> Array:
    """Return the F1 of each item's labels, both columns `joined`; 1 where there are and were none.

    (Godbole and Sarawagi 2004.) Shape `(n,)`.
    """
    pairs = [
        ({*each_of(g)}, {*each_of(p)}) for g, p in zip(gold.tolist(), label.tolist(), strict=True)
    ]
    return np.array([2 * len(g & p) / (len(g) + len(p)) if g or p else 1.0 for g, p in pairs])


def hamming_losses(gold: Array, label: Array, labels: int) -> Array:
    """Return each item's share of so many labels wrongly given or left out, shape `(n,)`."""
    pairs = zip(gold.tolist(), label.tolist(), strict=True)
    wrong = [len({*each_of(g)} ^ {*each_of(p)}) for g, p in pairs]
    return np.array(wrong, dtype=float) / max(labels, 1)


def calibration_error(
    confidence: Array, correct: Array, *, bins: int = 15
) -> tuple[Estimate, Estimate]:
    """Expected calibration error over bins of equal mass, as it is and debiased.

    The plain error is too large, since within a bin chance alone parts accuracy from
    confidence: with few items a perfect model has one. Debiased by how much more chance adds to the
    found accuracies (Kumar, Liang and Ma 2019, on debiased estimates), taken as normal with
    variance `a (1 - a) / n` per bin; computed in closed form, not by drawing.
    """
    n = len(confidence)
    if not n:
        return nothing(), nothing()
    share, sure, right = reliability(confidence, correct, bins=bins)
    plain = float(share @ np.abs(right - sure))
    deviation = np.sqrt(right * (1 - right) / (share * n))
    again = float(share @ _folded_mean(right - sure, deviation))
    return Estimate(plain, n=n), Estimate(max(0.0, plain - (again - plain)), n=n)


def _folded_mean(mean: Array, deviation: Array) -> Array:
    """Return E|X| of normal variables (Leone, Nelson and Nottingham 1961)."""
    from scipy.stats import norm

    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(deviation > 0, mean / deviation, np.inf * np.sign(mean))
    spread = deviation * math.sqrt(2 / math.pi) * np.exp(-(ratio**2) / 2)
    folded = spread + mean * (1 - 2 * norm.cdf(-ratio))
    return np.where(deviation > 0, folded, np.abs(mean))


def risk_coverage(confidence: Array, correct: Array) -> tuple[Array, Array]:
    """Return coverage and risk (share of errors) when the surest items are taken first.

    One point per distinct confidence: items of the same one are taken together (El-Yaniv and
    Wiener 2010, section 2).
    """
    if not len(confidence):
        return np.zeros(0), np.zeros(0)
    order = np.argsort(-confidence, kind="stable")
    sure = confidence[order]
    last = np.append(np.flatnonzero(np.diff(sure)), len(sure) - 1)
    wrong = np.cumsum(~correct[order].astype(bool))[last]
    taken = last + 1
    return taken / len(sure), wrong / taken


def coverage_at(confidence: Array, correct: Array, *, precision: float) -> Estimate:
    """Return the largest share of items, surest first, of which `precision` is right.

    Chosen on the items it is measured on, so it flatters; a promise needs other items.
    """
    coverage, risk = risk_coverage(confidence, correct)
    if not len(coverage):
        return nothing()
    good = coverage[risk <= 1.0 - precision + 1e-12]
    return Estimate(float(good.max()) if len(good) else 0.0, n=len(confidence))


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often items of one label were given another, and what that costs together."""

    gold: str
    label: str
    count: int
    cost: float


def confusions(
    gold: Array, label: Array, *, cost: Mapping[tuple[str, str], float] | None = None
) -> list[Confusion]:
    """Return the confused pairs, the dearest first; a pair without a cost costs 1 a time."""
    wrong = gold != label
    pairs = Counter(zip(gold[wrong].tolist(), label[wrong].tolist(), strict=True))
    found = [
        Confusion(g, p, count, count * (cost or {}).get((g, p), 1.0))
        for (g, p), count in pairs.items()
    ]
    return sorted(found, key=lambda c: (-c.cost, -c.count, c.gold, c.label))


def mean(values: Array, *, shares: bool = False) -> Estimate:
    """Return a mean with its normal interval (the central limit theorem; NaN for one value).

    Of `shares` the interval stays between 0 and 1.
    """
    if not len(values):
        return nothing()
    n, value = len(values), float(values.mean())
    if n < 2:  # noqa: PLR2004
        return Estimate(value, n=n)
    half = NORMAL * float(values.std(ddof=1)) / math.sqrt(n)
    low, high = value - half, value + half
    return (
        Estimate(value, max(0.0, low), min(1.0, high), n)
        if shares
        else Estimate(value, low, high, n)
    )
