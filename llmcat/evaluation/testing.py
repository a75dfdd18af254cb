"""Tests of paired results: McNemar, several arms, several looks, power."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

from llmcat.evaluation.paired import ALPHA, POWER, Array, Difference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "holm",
    "items_needed",
    "power",
    "smallest_effect",
    "spend",
    "step_down",
]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for there being several (Holm 1979), in their order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = so_far
    return adjusted


def step_down(
    differences: Mapping[str, Difference],
    *,
    against: Mapping[str, float] | None = None,
    level: Callable[[float], float] = lambda a: a,
) -> dict[str, float]:
    """Return the level at which each difference's interval is to be read (Holm 1979).

    The clearest difference of m is read at alpha / m; if its interval leaves out what it is tested
    `against` (0 where nothing is said), the next at alpha / (m - 1), and so on; after the first
    that does not, all stay at its level. `level` turns what a comparison may err in all into what
    it may err at this look.
    """
    left = dict(differences)
    levels: dict[str, float] = {}
    while left:
        alpha = level(ALPHA / len(left))
        clear = {n: _clearness(d, alpha, (against or {}).get(n, 0.0)) for n, d in left.items()}
        best = max(clear, key=clear.__getitem__)
        if clear[best] <= 0:
            return levels | dict.fromkeys(left, alpha)
        levels[best] = alpha
        del left[best]
    return levels


def _clearness(difference: Difference, alpha: float, null: float) -> float:
    """Return how far from the null an interval ends, in its own widths; negative if it holds it."""
    low, high = difference.interval(alpha)
    away = max(low - null, null - high)
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
