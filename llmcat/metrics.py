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

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Confusion",
    "Estimate",
    "OfClass",
    "accuracy",
    "averaged",
    "brier_score",
    "calibration_error",
    "confusions",
    "coverage_at",
    "hierarchical",
    "log_loss",
    "of_classes",
    "risk_coverage",
]

Array = np.ndarray[Any, Any]

_NOTHING = "no items"
LEAST = 1e-15
"""A probability of 0 for what happened counts as this, as in scikit-learn's `log_loss`."""


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
    from sklearn.metrics import precision_recall_fscore_support

    if not len(gold):
        return []
    precision, recall, f1, support = precision_recall_fscore_support(
        gold, label, labels=list(labels), zero_division=np.nan
    )
    given = Counter(label.tolist())
    columns = zip(labels, support, precision, recall, f1, strict=True)
    return [OfClass(c, int(s), given[c], float(p), float(r), float(f)) for c, s, p, r, f in columns]


def averaged(
    classes: Sequence[OfClass],
    of: Literal["precision", "recall", "f1"],
    how: Literal["macro", "weighted"],
    *,
    least: int = 1,
) -> Estimate:
    """Average over classes with at least `least` items: plainly, or weighted by their items.

    A class that was never given has no precision; it counts as 0, as in scikit-learn with
    `zero_division=0`, since its items were all missed. (Micro averages over all classes are the
    accuracy.)
    """
    counted = [c for c in classes if c.support >= least]
    if not counted:
        return nothing(f"no class has {least} items")
    values = np.nan_to_num([getattr(c, of) for c in counted])
    weights = np.array([c.support if how == "weighted" else 1 for c in counted])
    return Estimate(float(np.average(values, weights=weights)), n=len(counted))


def hierarchical(
    gold: Sequence[frozenset[str]], label: Sequence[frozenset[str]]
) -> tuple[Estimate, Estimate, Estimate]:
    """Hierarchical precision, recall and F1 (Kiritchenko, Matwin and Famili 2005, section 3.2).

    Each set holds a node and its ancestors without the root; the empty set stands for `none`.
    """
    if not len(gold):
        return nothing(), nothing(), nothing()
    both = sum(len(g & p) for g, p in zip(gold, label, strict=True))
    given, wanted = sum(map(len, label)), sum(map(len, gold))
    precision = both / given if given else math.nan
    recall = both / wanted if wanted else math.nan
    f1 = 2 * both / (given + wanted) if given + wanted else math.nan
    n = len(gold)
    return (
        Estimate(precision, n=n, why="" if given else "no label was given"),
        Estimate(recall, n=n, why="" if wanted else "no item has a label"),
        Estimate(f1, n=n, why="" if given + wanted else "there are no labels"),
    )


def log_loss(p_gold: Array) -> Estimate:
    """Mean negative natural logarithm of the probability given to the true label."""
    if not len(p_gold):
        return nothing()
    losses = -np.log(np.clip(p_gold, LEAST, 1.0))
    return _mean(losses)


def brier_score(p_gold: Array, p_squares: Array) -> Estimate:
    """Mean squared distance of the probabilities to the truth (Brier 1950), from 0 to 2.

    `p_squares` is the sum of the squares of an item's probabilities: the distance is
    `p_squares - 2 p_gold + 1`.
    """
    if not len(p_gold):
        return nothing()
    return _mean(p_squares - 2 * p_gold + 1.0)


def calibration_error(
    confidence: Array, correct: Array, *, bins: int = 15
) -> tuple[Estimate, Estimate]:
    """Expected calibration error over bins of equal mass, as it is and debiased.

    The plain error is too large, since within a bin chance alone parts accuracy from
    confidence: with few items a perfect model has one. Debiased by how much more chance adds to the
    found accuracies (Kumar, Liang and Ma 2019, section 4.2 and appendix), which is
    normal with variance `a (1 - a) / n` per bin; computed in closed form, not by drawing.
    """
    n = len(confidence)
    if not n:
        return nothing(), nothing()
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, n)) if len(part)]
    share = np.array([len(part) / n for part in parts])
    sure = np.array([float(confidence[part].mean()) for part in parts])
    right = np.array([float(correct[part].mean()) for part in parts])
    gaps = np.abs(right - sure)
    plain = float(share @ gaps)
    deviation = np.sqrt(right * (1 - right) / np.array([len(part) for part in parts]))
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


def _mean(values: Array) -> Estimate:
    """Return a mean with its normal interval (the central limit theorem; NaN for one value)."""
    n, mean = len(values), float(values.mean())
    if n < 2:  # noqa: PLR2004
        return Estimate(mean, n=n)
    half = 1.959963984540054 * float(values.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)
