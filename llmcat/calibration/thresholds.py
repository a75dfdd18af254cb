"""Where to draw the line: a promise about the precision of what is accepted.

*Of what is accepted, at least `precision` is right; the chance that the line was drawn too low is
at most `risk`.* Thresholds and their order are fixed on other items; each is passed only if
a Clopper-Pearson bound on labelled items of its own holds, up to the first that is not
(fixed-sequence testing; Angelopoulos et al. 2021, Learn then Test, section 3; Clopper and Pearson
1934). Pure functions of arrays: this module does not know files, engines or how confidences come
about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "STEPS",
    "Gate",
    "choose",
    "choose_by_branch",
    "counts",
    "labels_needed",
    "lower_bound",
    "passed",
    "policy_counts",
    "sequence",
    "sequences",
    "start_of",
]

Array = np.ndarray[Any, Any]

LIKELY = 0.5
"""Deviations beyond the bound: a branch that is proved about seven times in ten gets a line."""
UNBELIEVED = 2.0
"""Deviations by which confidences may miss the share that is right, and still be believed."""
STEPS = 200
"""Thresholds in a sequence: each is half a point of coverage from the next."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A threshold on confidence: `inf` accepts nothing.

    `accepted` of `n` gating items lie at or above it, `right` of them are right, and `bound` is the
    lower bound on the precision.
    """

    threshold: float
    accepted: int
    right: int
    n: int
    bound: float
    precision: float
    risk: float

    @property
    def coverage(self) -> float:
        """The share of the gating items that is accepted."""
        return self.accepted / self.n if self.n else 0.0


def lower_bound(right: Array | int, accepted: Array | int, risk: float) -> Array:
    """Return the exact lower bound on a precision (Clopper and Pearson 1934); 0 for no items."""
    from scipy.stats import beta

    right, accepted = np.asarray(right), np.asarray(accepted)
    with np.errstate(invalid="ignore"):
        found = beta.ppf(risk, right, accepted - right + 1)
    return np.where((right > 0) & (accepted > 0), np.nan_to_num(found), 0.0)


def least_accepted(precision: float, risk: float) -> int:
    """Return how few items can prove a precision, if all of them are right."""
    return math.ceil(math.log(risk) / math.log(precision))


def sequence(
    confidence: Array, correct: Array, *, gating: int, precision: float, risk: float
) -> Array:
    """Return thresholds in the order in which they are to be tried.

    From items that gate nothing; or from the gating items' own confidences, with how likely each is
    right in the place of whether it is, which is not to be known here. Quantiles of their
    confidence. The first is the one that `gating` items will most likely prove, by what these items
    say of its precision; then the laxer ones. Empty where so few items can prove nothing.
    """
    return _planned(confidence, correct, gating, precision, risk)[0]


def sequences(
    confidence: Array,
    correct: Array,
    branch: Sequence[str],
    *,
    gating: Mapping[str, int],
    precision: float,
    risk: float,
) -> dict[str, Array]:
    """Return a sequence for each branch that is worth a share of the risk.

    The risk is shared by those that get one: as many of the clearest, by items that gate nothing,
    as will each likely be proved at their share, and at least one. `gating` has the number of
    gating items by branch.
    """
    from scipy.stats import norm

    names = np.array(branch, dtype=object)
    plans = {}
    for name in sorted(set(branch)):
        here, size = names == name, gating.get(name, 0)
        plans[name] = _planned(confidence[here], correct[here], size, precision, risk)
    order = sorted(plans, key=lambda name: -plans[name][1])
    most = 1
    for k, name in enumerate(order, 1):
        if plans[name][1] >= norm.ppf(1 - risk / k) + LIKELY:
            most = k
    share = risk / most
    found = {}
    for name in order[:most]:
        here, size = names == name, gating.get(name, 0)
        tried = _planned(confidence[here], correct[here], size, precision, share)[0]
        if len(tried):
            found[name] = tried
    return found


def _planned(
    confidence: Array, correct: Array, gating: int, precision: float, risk: float
) -> tuple[Array, float]:
    """Return a sequence, and by how many deviations its first line is expected to hold."""
    n = len(confidence)
    if not n or gating < least_accepted(precision, risk):
        return np.zeros(0), -math.inf
    levels = np.linspace(1.0, 0.0, STEPS + 1)[1:]
    found = np.unique(np.quantile(confidence, levels, method="higher"))[::-1]
    accepted, right = _counts(confidence, correct, found)
    start, clear = start_of(
        accepted, right, _expected(confidence, correct, accepted),
        share=gating / n, precision=precision, risk=risk,
    )  # fmt: skip
    return (np.asarray(found[start:]), clear) if start is not None else (np.zeros(0), -math.inf)


def _expected(confidence: Array, correct: Array, accepted: Array) -> Array:
    """Return how many of the surest items their confidences expect to be right.

    As many as there are right, where confidences promise clearly more or less than came true.
    """
    spread = math.sqrt(float((confidence * (1 - confidence)).sum()))
    believed = abs(float(confidence.sum()) - float(correct.sum())) <= UNBELIEVED * spread
    order = np.argsort(-confidence, kind="stable")
    said = (confidence if believed else correct)[order]
    return np.concatenate([[0.0], np.cumsum(said)])[accepted]


def start_of(
    accepted: Array, right: Array, said: Array, *, share: float, precision: float, risk: float
) -> tuple[int | None, float]:
    """Return which line `share` times as many other items will most likely prove, None for none.

    By what these items say of each line's precision: how many are `right` and how many their
    confidences expect to be (`said`), at even shares, since few items alone say little and one
    wrong among the surest would move the line far; one right and one wrong more than they are
    (Agresti and Coull 1998). Also by how many deviations it would hold. Chosen by simulation:
    docs/decisions/0012-lines.md.
    """
    likely = ((right + said) / 2 + 1) / (accepted + 2)
    expected = share * accepted
    clear = (likely - precision) * np.sqrt(expected / (likely * (1 - likely)))
    enough = expected >= least_accepted(precision, risk)
    if not enough.any():
        return None, -math.inf
    clear = np.where(enough, clear, -np.inf)
    at = int(np.argmax(clear))
    return at, float(clear[at])


def _counts(confidence: Array, correct: Array, thresholds: Array) -> tuple[Array, Array]:
    """Return how many items lie at or above each threshold, and how many of them are right."""
    order = np.argsort(-confidence, kind="stable")
    hits = np.concatenate([[0], np.cumsum(correct[order])])
    accepted = np.searchsorted(-confidence[order], -thresholds, side="right")
    return accepted, hits[accepted]


def policy_counts(
    chains: Sequence[Sequence[tuple[float, float]]], thresholds: Array
) -> tuple[Array, Array]:
    """Return the same for `answer the deepest category above the line`.

    A chain holds an item's categories, the deepest first: the probability of each, and whether it
    is the gold label or above it (or how likely that is: then `right` is what is expected).
    """
    accepted, right = np.zeros(len(thresholds), dtype=int), np.zeros(len(thresholds))
    for chain in chains:
        open_ = np.ones(len(thresholds), dtype=bool)
        for p, good in chain:
            here = open_ & (thresholds <= p)
            accepted += here
            right += here * good
            open_ &= ~here
    return accepted, right


def choose(
    confidence: Array, correct: Array, thresholds: Array, *, precision: float, risk: float
) -> Gate:
    """Return the laxest threshold that is passed before the first that is not.

    `thresholds` come from other items, in the order in which they are tried, each laxer than the
    one before.
    """
    accepted, right = _counts(confidence, correct, thresholds)
    n = len(confidence)
    return passed(thresholds, accepted, right, n, precision=precision, risk=risk)


def passed(
    thresholds: Array, accepted: Array, right: Array, n: int, *, precision: float, risk: float
) -> Gate:
    """Return the last line whose bound holds, before the first whose bound does not."""
    bounds = lower_bound(right, accepted, risk)
    failed = bounds < precision
    held = int(np.argmax(failed)) if failed.any() else len(thresholds)
    if not held:
        return Gate(math.inf, 0, 0, n, 0.0, precision, risk)
    at = held - 1
    found = float(thresholds[at]), int(accepted[at]), int(right[at]), n, float(bounds[at])
    return Gate(*found, precision, risk)


def choose_by_branch(
    confidence: Array,
    correct: Array,
    branch: Sequence[str],
    thresholds: Mapping[str, Array],
    *,
    precision: float,
    risk: float,
) -> dict[str, Gate]:
    """Return a gate for each branch, so that all of their promises hold together.

    The risk is shared equally (Bonferroni). `thresholds` has a sequence for each branch that is to
    have a gate; other branches accept nothing.
    """
    names = np.array(branch, dtype=object)
    share = risk / max(1, len(thresholds))
    found = {}
    for name, tried in thresholds.items():
        here = names == name
        found[name] = choose(
            confidence[here], correct[here], tried, precision=precision, risk=share
        )
    return found


def labels_needed(
    accepted: Array, right: Array, n: int, *, precision: float, risk: float
) -> int | None:
    """Return about how many gating items would let something through, None if none would.

    8 times in 10, if these `n` items are the truth: `accepted` and `right` count what lies above
    each of some lines; of those above which the precision is over what is asked for, the one that
    takes fewest.
    """
    from scipy.stats import norm

    z = float(norm.ppf(1 - risk) + norm.ppf(0.8))
    best = math.inf
    for taken, hits in zip(accepted.tolist(), right.tolist(), strict=True):
        found = hits / taken if taken else 0.0
        if found <= precision:
            continue
        spread = max(found * (1 - found), 0.25 * (1 - precision) * precision)
        needed = z * z * spread / (found - precision) ** 2
        best = min(best, max(least_accepted(precision, risk), needed) / (taken / n))
    return math.ceil(best) if math.isfinite(best) else None


def counts(confidence: Array, correct: Array) -> tuple[Array, Array]:
    """Return how many items lie above each of fifty lines, and how many of them are right."""
    if not len(confidence):
        return np.zeros(0, dtype=int), np.zeros(0, dtype=int)
    thresholds = np.unique(np.quantile(confidence, np.linspace(0, 1, 50)))
    return _counts(confidence, correct, thresholds)
