"""Is arm B better than arm A? Paired comparisons over the same items, and the decision.

Pure functions from arrays of shape `(n,)` to intervals, p-values and a verdict; a difference is
B - A. This module does not know files, prompts or engines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy.stats import binomtest, norm

from llmcat.bootstrap import DRAWS, Bootstrap, cells, resample, resample_all
from llmcat.metrics import F1, How, Ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "Decision",
    "Difference",
    "McNemar",
    "Rule",
    "decide",
    "difference_of_means",
    "difference_of_proportions",
    "difference_of_ratios",
    "differences_of_f1",
    "holm",
    "items_needed",
    "mcnemar",
    "power",
    "smallest_effect",
    "spend",
    "step_down",
]

Array = np.ndarray[Any, Any]

ALPHA, POWER = 0.05, 0.8
MANY = 10_000_000
"""More items than this nobody labels: then the answer is that the arms are alike."""


# -- differences ------------------------------------------------------------------------------


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
    """A difference B - A over `n` items with its 95 % interval; `why` it is NaN."""

    value: float
    low: float
    high: float
    n: int
    why: str = ""
    bootstrap: Bootstrap | None = field(default=None, repr=False, compare=False)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the interval at another level."""
        if self.bootstrap is None:
            return self.low, self.high
        return self.bootstrap.interval(alpha)

    @property
    def turned(self) -> Difference:
        """The same as a gain, where less is better: A - B."""
        strap = self.bootstrap
        if strap is not None:
            drawn = -strap.drawn[::-1]
            strap = Bootstrap(-strap.value, drawn, -strap.bias, -strap.acceleration)
        return Difference(-self.value, -self.high, -self.low, self.n, self.why, strap)


def _nothing(why: str, n: int = 0) -> Difference:
    return Difference(math.nan, math.nan, math.nan, n, why)


def _difference(strap: Bootstrap, n: int) -> Difference:
    return Difference(strap.value, *strap.interval(), n, bootstrap=strap)


def difference_of_means(a: Array, b: Array, *, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Compare means of something each item has in both arms: right or wrong, a loss.

    Paired bootstrap with BCa intervals.
    """
    if not len(a):
        return _nothing("no items")
    values, counts = np.unique(b.astype(float) - a.astype(float), return_counts=True)
    n = int(counts.sum())
    strap = resample(lambda w: np.asarray(w @ values / n), counts, values, draws=draws, seed=seed)
    return _difference(strap, n)


def difference_of_proportions(a: Array, b: Array, *, alpha: float = ALPHA) -> Difference:
    """Compare shares of true values of few items, in closed form.

    Adjusted Wald interval for paired proportions (Bonett and Price 2012, equation 2): it stays
    sound where hardly any items differ, which a bootstrap does not.
    """
    n = len(a)
    if not n:
        return _nothing("no items")
    found = mcnemar(a, b)
    one, other = (found.only_a + 1) / (n + 2), (found.only_b + 1) / (n + 2)
    half = norm.ppf(1 - alpha / 2) * math.sqrt((one + other - (other - one) ** 2) / (n + 2))
    low, high = max(-1.0, other - one - half), min(1.0, other - one + half)
    return Difference((found.only_b - found.only_a) / n, float(low), float(high), n)


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
    n = int(counts.sum())
    return {
        how: _difference(strap, n) if of[0].labels else _nothing(f"no class has {least} items", n)
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
    return _difference(strap, int(counts.sum()))


# -- several comparisons, several looks -------------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for there being several (Holm 1979), in their order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = so_far
    return adjusted


def step_down(
    differences: Mapping[str, Difference], *, level: Callable[[float], float] = lambda a: a
) -> dict[str, float]:
    """Return the level at which each difference's interval is to be read (Holm 1979).

    The clearest difference of m is read at alpha / m; if its interval leaves 0 out, the next
    at alpha / (m - 1), and so on; after the first that does not, all stay at its level. `level`
    turns what a comparison may err in all into what it may err at this look.
    """
    left = dict(differences)
    levels: dict[str, float] = {}
    while left:
        alpha = level(ALPHA / len(left))
        clear = {n: _clearness(d, alpha) for n, d in left.items()}
        best = max(clear, key=clear.__getitem__)
        if clear[best] <= 0:
            return levels | dict.fromkeys(left, alpha)
        levels[best] = alpha
        del left[best]
    return levels


def _clearness(difference: Difference, alpha: float) -> float:
    """Return how far from 0 an interval ends, in its own widths; negative if it holds 0."""
    low, high = difference.interval(alpha)
    away = max(low, -high)
    return away / (high - low) if high > low else (math.inf if away > 0 else -1.0)


def spend(sizes: Sequence[int], looks: int, alpha: float = ALPHA) -> float:
    """Return the two-sided level of the latest of `looks` planned looks at growing data.

    `sizes` holds the items at each look so far. Each look may spend `alpha / looks`: a spending
    function fixed beforehand, so that the sizes need not be (Lan and DeMets 1983; Fleming,
    Harrington and O'Brien 1984 for fixed shares). The boundaries come from the joint distribution
    of the successive statistics, a Brownian motion, by numerical integration (Armitage, McPherson
    and Rowe 1969, section 3). Sizes must grow; `ValueError` else, or at more looks than planned.
    """
    if not 1 <= len(sizes) <= looks or any(b <= a for a, b in pairwise(sizes)):
        raise ValueError("looks need growing sizes, and no more of them than planned")
    from scipy.optimize import brentq

    share = alpha / looks
    bound = float(norm.ppf(1 - share / 2))  # of the first look
    root = math.sqrt(sizes[0])
    grid = np.linspace(-bound, bound, 1001) * root
    density = norm.pdf(grid / root) / root
    for before, size in pairwise(sizes):
        step, root = math.sqrt(size - before), math.sqrt(size)
        weights = density * np.gradient(grid)
        weights[[0, -1]] /= 2

        def crossing(
            bound: float,
            grid: Array = grid,
            weights: Array = weights,
            step: float = step,
            root: float = root,
        ) -> float:
            outside = norm.sf((bound * root - grid) / step) + norm.cdf(
                (-bound * root - grid) / step
            )
            return float(weights @ outside) - share

        bound = float(brentq(crossing, 0.5, 12.0))
        after = np.linspace(-bound, bound, 1001) * root
        density = norm.pdf((after[:, None] - grid) / step) @ weights / step
        grid = after
    return 2 * float(norm.sf(bound))


# -- planning ---------------------------------------------------------------------------------


def power(n: int, effect: float, *, differing: float, alpha: float = ALPHA) -> float:
    """Return the probability that n items show a difference in accuracy (Connor 1987).

    `differing` is the share of items that only one arm gets right, at least `effect`.
    """
    effect = abs(effect)
    differing = max(differing, effect)
    sure = norm.ppf(1 - alpha / 2)
    spread = math.sqrt(max(differing - effect**2, 1e-12))
    return float(norm.cdf((effect * math.sqrt(n) - sure * math.sqrt(differing)) / spread))


def items_needed(effect: float, *, differing: float, alpha: float = ALPHA) -> float:
    """Return how many items show a difference in accuracy with power 0.8.

    `differing` is the share of items that only one arm gets right, at least `effect`
    (Connor 1987, formula for McNemar's test). Infinite for an effect of 0.
    """
    effect = abs(effect)
    if not effect:
        return math.inf
    differing = max(differing, effect)
    sure, able = norm.ppf(1 - alpha / 2), norm.ppf(POWER)
    root = sure * math.sqrt(differing) + able * math.sqrt(differing - effect**2)
    return float((root / effect) ** 2)


def smallest_effect(n: int, *, differing: float, alpha: float = ALPHA) -> float:
    """Return the smallest difference in accuracy that n items show with power 0.8, or NaN.

    The inverse of `items_needed`; NaN where not even `differing` itself would be shown.
    """
    from scipy.optimize import brentq

    def over(effect: float) -> float:
        return items_needed(effect, differing=differing, alpha=alpha) - n

    if n < 1 or over(differing) > 0:
        return math.nan
    return float(brentq(over, 1e-9, differing))


# -- the decision -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """When B is shipped: as differences of the primary metric, 0.01 being one point.

    Without `non_inferior`: the interval's lower bound is above 0 and the estimate at least
    `min_effect`. With it, B being the cheaper arm: the lower bound is above `-non_inferior`.
    """

    min_effect: float = 0.01
    non_inferior: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """`ship`, `don't` or `more` items; `why` in words, `more` about how many more."""

    verdict: Literal["ship", "don't", "more"]
    why: str
    low: float
    high: float
    alpha: float
    more: int | None = None
    worse: bool = False


def decide(  # noqa: PLR0911  one return per way it can go
    gain: Difference, rule: Rule, *, alpha: float = ALPHA, cheaper: bool
) -> Decision:
    """Apply the rule to a gain (a difference where more is better) at its level.

    `worse` is set when the whole interval lies below 0, or, where not being inferior is asked for,
    below what may be lost.
    """
    low, high = gain.interval(alpha)
    found = gain.value

    def verdict(
        what: Literal["ship", "don't", "more"], why: str, more: int | None = None
    ) -> Decision:
        worse = high < -(rule.non_inferior or 0.0)
        return Decision(what, why, low, high, alpha, more, worse)

    if math.isnan(found):
        return verdict("don't", f"there is nothing to compare: {gain.why}")
    margin = rule.non_inferior
    if margin is not None:
        if not cheaper:
            return verdict("don't", "it is not the cheaper arm, so not being worse is not enough")
        if low > -margin:
            return verdict("ship", "it is cheaper, and the loss is within the margin")
        if high < -margin:
            return verdict("don't", "the loss is beyond the margin")
        # Which of the two it is shows when the interval leaves the margin out.
        return _more(verdict, gain, low, high, found + margin, margin, "the margin")
    if low > 0 and found >= rule.min_effect:
        return verdict("ship", "the gain is there, and at least as large as asked for")
    if high < 0:
        return verdict("don't", "it is worse")
    if high < rule.min_effect:
        return verdict("don't", "if there is a gain, it is smaller than asked for")
    return _more(verdict, gain, low, high, found, rule.min_effect, "0")


def _more(
    verdict: Callable[..., Decision],
    gain: Difference,
    low: float,
    high: float,
    distance: float,
    least: float,
    what: str,
) -> Decision:
    """Say how many more items would settle it with power 0.8, if what was found is the truth."""
    sure = float(norm.ppf(1 - ALPHA / 2))
    half = (high - low) / 2
    target = max(abs(distance), least)
    if not half or not target:
        return verdict("don't", "the arms answer alike")
    wanted = gain.n * (half * (sure + float(norm.ppf(POWER))) / sure / target) ** 2
    why = f"the interval holds {what} and more than that"
    if wanted <= gain.n:  # clear of one bound, not of the other
        wanted = gain.n * (half / max(abs(least - distance), half / 5)) ** 2
        why = "whether the gain is as large as asked for is open"
    more = math.ceil(wanted - gain.n)
    if not 0 < wanted < MANY:
        return verdict("don't", "the arms are alike: no number of items that one labels tells them")
    return verdict("more", why, max(more, 1))
