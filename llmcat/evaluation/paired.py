"""Is arm B better than arm A? Paired comparisons over the same items, and the decision.

Pure functions from arrays of shape `(n,)` to intervals, p-values and a verdict; a difference is
B - A. This module does not know files, prompts or engines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy.stats import binomtest, norm

from llmcat.evaluation.bootstrap import DRAWS, Bootstrap, cells, resample, resample_all
from llmcat.evaluation.f1 import F1, How
from llmcat.evaluation.metrics import Ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ALPHA",
    "POWER",
    "ArmDecision",
    "Array",
    "Difference",
    "Paired",
    "Rule",
    "decide",
    "difference_of_accuracy",
    "difference_of_means",
    "difference_of_proportions",
    "difference_of_ratios",
    "differences_of_f1",
    "mcnemar",
]

Array = np.ndarray[Any, Any]

Outcome = Literal["ship", "don't", "more"]
ALPHA, POWER = 0.05, 0.8
FEW = 30
"""With fewer items that differ, accuracy is compared in closed form."""
MANY = 10_000_000
"""More items than this nobody labels: then the answer is that the arms are alike."""


# -- differences ------------------------------------------------------------------------------


LEAST_DIFFERING = 10
"""With fewer items that differ, a bootstrap decides nothing."""


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
    """A difference B - A over `n` items with its 95 % interval; `why` it is NaN.

    `differing` is on how many items the arms differ in what is compared. `classes` is over how many
    an average over classes runs, 0 for none. `source` gives the interval at other levels.
    """

    value: float
    low: float
    high: float
    n: int
    why: str = ""
    differing: int = 0
    classes: int = 0
    source: Bootstrap | Paired | None = field(default=None, repr=False, compare=False)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the interval at another level."""
        if self.source is None:
            return self.low, self.high
        return self.source.interval(alpha)

    @property
    def turned(self) -> Difference:
        """The same as a gain, where less is better: A - B."""
        return replace(
            self,
            value=-self.value,
            low=-self.high,
            high=-self.low,
            source=self.source and self.source.turned,
        )


@dataclass(frozen=True, slots=True)
class Paired:
    """Shares of true values in two arms, by the items that only one has right."""

    only_a: int
    only_b: int
    n: int

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the adjusted Wald interval for paired proportions (Bonett and Price 2012).

        It stays sound where hardly any items differ, which a bootstrap does not: draws never show
        a sign that no item has.
        """
        one, other = (self.only_a + 1) / (self.n + 2), (self.only_b + 1) / (self.n + 2)
        spread = (one + other - (other - one) ** 2) / (self.n + 2)
        half = float(norm.ppf(1 - alpha / 2)) * math.sqrt(spread)
        return max(-1.0, other - one - half), min(1.0, other - one + half)

    @property
    def turned(self) -> Paired:
        """The same with the arms exchanged."""
        return Paired(self.only_b, self.only_a, self.n)


def _nothing(why: str, n: int = 0) -> Difference:
    return Difference(math.nan, math.nan, math.nan, n, why)


def _difference(strap: Bootstrap, n: int, differing: int, classes: int = 0) -> Difference:
    low, high = strap.interval()
    return Difference(strap.value, low, high, n, "", differing, classes, strap)


def difference_of_accuracy(a: Array, b: Array, *, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Compare two columns of right and wrong.

    Paired bootstrap (BCa); where fewer than `FEW` items differ, the closed form of `Paired`.
    """
    found = mcnemar(a, b)
    if len(a) and found.only_a + found.only_b < FEW:
        return difference_of_proportions(a, b)
    return difference_of_means(a, b, draws=draws, seed=seed)


def difference_of_means(a: Array, b: Array, *, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Compare means of something each item has in both arms: right or wrong, a loss.

    Paired bootstrap with BCa intervals.
    """
    if not len(a):
        return _nothing("no items")
    values, counts = np.unique(b.astype(float) - a.astype(float), return_counts=True)
    n = int(counts.sum())
    strap = resample(lambda w: np.asarray(w @ values / n), counts, values, draws=draws, seed=seed)
    return _difference(strap, n, int(counts[values != 0].sum()))


def difference_of_proportions(a: Array, b: Array) -> Difference:
    """Compare two columns of right and wrong in closed form, as `Paired` says."""
    n = len(a)
    if not n:
        return _nothing("no items")
    found = mcnemar(a, b)
    pair = Paired(found.only_a, found.only_b, n)
    value = (found.only_b - found.only_a) / n
    return Difference(value, *pair.interval(ALPHA), n, "", found.only_a + found.only_b, 0, pair)


def differences_of_f1(
    gold: Array,
    a: Array,
    b: Array,
    labels: Sequence[str],
    *,
    least: int = 10,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[How, Difference]:
    """Compare micro, macro and weighted F1 over `labels` (without `none`, say).

    Macro and weighted F1 take classes with at least `least` items in the data at hand, the same
    ones in each draw.
    """
    hows: tuple[How, ...] = get_args(How)
    if not len(gold):
        return dict.fromkeys(hows, _nothing("no items"))
    (g, one, other), counts = cells(gold, a, b)
    pairs = [
        tuple(F1(g, arm, counts, labels, how=how, least=least) for arm in (one, other))
        for how in hows
    ]
    statistics = [(lambda w, a=a, b=b: b(w) - a(w), b.influence - a.influence) for a, b in pairs]
    straps = resample_all(statistics, counts, draws=draws, seed=seed)
    n, differing = int(counts.sum()), int(counts[one != other].sum())
    return {
        how: _difference(strap, n, differing, 0 if how == "micro" else len(of[0].labels))
        if of[0].labels
        else _nothing(f"no class has {least} items", n)
        for how, of, strap in zip(hows, pairs, straps, strict=True)
    }


def difference_of_ratios(a: Ratio, b: Ratio, *, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Compare ratios of sums over items: hierarchical precision, recall and F1."""
    if not len(a.above):
        return _nothing("no items")
    columns, counts = cells(a.above, a.below, b.above, b.below)
    one, other = Ratio(columns[0], columns[1]), Ratio(columns[2], columns[3])
    if not counts @ one.below or not counts @ other.below:
        return _nothing("no labels", int(counts.sum()))
    strap = resample(
        lambda w: other(w) - one(w),
        counts,
        other.influence(counts) - one.influence(counts),
        draws=draws,
        seed=seed,
    )
    same = (one.above == other.above) & (one.below == other.below)
    return _difference(strap, int(counts.sum()), int(counts[~same].sum()))


# -- the decision -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """When B is shipped: as differences of the primary metric, 0.01 being one point.

    Without `non_inferior`: the interval's lower bound is above 0 and the estimate at least
    `min_effect`. With it, if B is the cheaper arm: the lower bound is above `-non_inferior`.
    """

    min_effect: float = 0.01
    non_inferior: float | None = None


@dataclass(frozen=True, slots=True)
class ArmDecision:
    """`ship`, `don't` or `more` items; `why` in words, `more` about how many more."""

    verdict: Outcome
    why: str
    low: float
    high: float
    alpha: float
    more: int | None = None
    worse: bool = False


def decide(  # noqa: PLR0911  one return per way it can go
    gain: Difference, rule: Rule, *, alpha: float = ALPHA, cheaper: bool
) -> ArmDecision:
    """Apply the rule to a gain (a difference where more is better) at its level.

    Where not being inferior is asked for, that is the rule of a cheaper arm; any other has to gain.
    `worse` is set when the whole interval lies below 0, or below what may be lost.
    """
    low, high = gain.interval(alpha)
    margin = rule.non_inferior if cheaper else None
    worse = high < -(margin or 0.0)

    def verdict(what: Outcome, why: str, more: int | None = None) -> ArmDecision:
        return ArmDecision(what, why, low, high, alpha, more, worse)

    if math.isnan(gain.value):
        return verdict("don't", f"there is nothing to compare: {gain.why}")
    if isinstance(gain.source, Bootstrap) and gain.differing < LEAST_DIFFERING:
        if not gain.differing and margin is None:
            return verdict("don't", "the arms answer alike")
        more = math.ceil(gain.n * (LEAST_DIFFERING / max(gain.differing, 1) - 1))
        why = f"the arms differ on {gain.differing} items only, too few for this metric"
        return verdict("more", why, max(more, 1))
    if margin is not None:
        if low > -margin:
            return verdict("ship", "it is cheaper, and the loss is within the margin")
        if high < -margin:
            return verdict("don't", "the loss is beyond the margin")
        wanted = _wanted(gain, alpha, gain.value + margin)
        why = "whether the loss is within the margin is open"
    elif low > 0 and gain.value >= rule.min_effect:
        return verdict("ship", "the gain is there, and at least as large as asked for")
    elif high < 0:
        return verdict("don't", "it is worse")
    elif high < rule.min_effect:
        return verdict("don't", "if there is a gain, it is smaller than asked for")
    else:
        over = gain.value - rule.min_effect
        # To ship: the interval leaves 0 out, and the estimate stays above what was asked for.
        ship = max(_wanted(gain, alpha, gain.value), _wanted(gain, alpha, over, sure=False))
        wanted = ship if over > 0 else _wanted(gain, alpha, over)
        why = "the interval holds both a gain that is worth it and none"
    if not wanted < MANY:
        return verdict("don't", "the arms are too close: no number of items that one labels tells")
    return verdict("more", why, max(1, math.ceil(wanted - gain.n)))


def _wanted(gain: Difference, alpha: float, gap: float, *, sure: bool = True) -> float:
    """Return how many items show a gap with power 0.8, if what was found is the truth.

    `sure`: at the level of the interval; else only that the estimate is on its side.
    """
    low, high = gain.interval(alpha)
    z = float(norm.ppf(1 - alpha / 2))
    deviation = (high - low) / 2 / z
    needed = (z if sure else 0.0) + float(norm.ppf(POWER))
    return gain.n * (needed * deviation / gap) ** 2 if gap else math.inf
