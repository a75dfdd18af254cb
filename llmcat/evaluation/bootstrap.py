"""Bootstrap intervals (BCa) of statistics over items, without a Python loop over draws.

Items that look the same to a statistic are one cell, and a draw of the bootstrap is a draw of the
cells' counts. A statistic is a function from such weights, shape `(draws, cells)`, to one value
per draw, shape `(draws,)`. This module does not know what the statistics are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BIASED", "DRAWS", "Bootstrap", "cells", "resample", "resample_all"]

Array = np.ndarray[Any, Any]

DRAWS = 4000
BIASED = 0.5
"""A normal quantile: with a larger bias BCa is not used."""
_CHUNK = 1 << 22
"""Numbers held at once."""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """An estimate and what its interval is made of, at any level.

    `drawn` is sorted, shape `(draws,)`; `bias` is a normal quantile, `acceleration` a number.
    """

    value: float
    drawn: Array = field(repr=False)
    bias: float = 0.0
    acceleration: float = 0.0

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Return the BCa interval at level 1 - alpha (Efron 1987).

        Where most draws lie on one side of the estimate (an average over very many classes), the
        percentiles that BCa would take run out: then the normal interval of the draws, their bias
        taken off (Efron and Tibshirani 1993, chapter 10 on the bias).
        """
        if not len(self.drawn):
            return self.value, self.value
        z = norm.ppf([alpha / 2, 1 - alpha / 2])
        if abs(self.bias) > BIASED:
            low, high = 2 * self.value - self.drawn.mean() + z * self.drawn.std()
            return float(low), float(high)
        levels = norm.cdf(self.bias + (self.bias + z) / (1 - self.acceleration * (self.bias + z)))
        low, high = np.quantile(self.drawn, levels)
        return float(low), float(high)

    @property
    def turned(self) -> Bootstrap:
        """The same of the negative."""
        return Bootstrap(-self.value, -self.drawn[::-1], -self.bias, -self.acceleration)


def cells(*columns: Array) -> tuple[list[Array], Array]:
    """Return the distinct rows of some columns, and how often each occurs."""
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, code = np.unique(column, return_inverse=True)
        codes = np.unique(codes * len(values) + code, return_inverse=True)[1]
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    return [column[first] for column in columns], counts


def resample(
    statistic: Callable[[Array], Array],
    counts: Array,
    influence: Array,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Bootstrap:
    """Bootstrap a statistic of cells; `counts` has shape `(cells,)`.

    `influence` is what one item of each cell adds to the statistic, up to a constant and a factor
    (its derivative by the cell's weight): its skewness is the acceleration (Efron 1987, equation
    7.1; Efron and Tibshirani 1993, equation 14.15, for the jackknife's form).
    """
    return resample_all([(statistic, influence)], counts, draws=draws, seed=seed)[0]


def resample_all(
    statistics: Sequence[tuple[Callable[[Array], Array], Array]],
    counts: Array,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Bootstrap]:
    """Bootstrap several statistics of the same cells on the same draws, each with its influence."""
    n, draw = int(counts.sum()), np.random.default_rng(seed)
    at_once = max(1, _CHUNK // max(len(counts), n if _sparse(counts, n) else 0, 1))
    parts: list[list[Array]] = [[] for _ in statistics]
    for start in range(0, draws, at_once):
        weights = _weights(draw, counts, n, min(at_once, draws - start))
        for part, (statistic, _) in zip(parts, statistics, strict=True):
            part.append(statistic(weights))
    whole = counts[None].astype(float)
    return [
        _accelerated(float(statistic(whole)[0]), np.concatenate(part), counts, influence)
        for part, (statistic, influence) in zip(parts, statistics, strict=True)
    ]


def _accelerated(value: float, drawn: Array, counts: Array, influence: Array) -> Bootstrap:
    n, draws = int(counts.sum()), len(drawn)
    influence = influence - counts @ influence / n
    spread = float(counts @ influence**2)
    if spread <= 1e-24 * n or np.ptp(drawn) == 0:  # nothing differs: all draws are the same
        return Bootstrap(value, np.zeros(0))
    # Ties count half: with few different values the median is a heavy one.
    close = np.isclose(drawn, value, rtol=0, atol=1e-12)
    below = (np.count_nonzero((drawn < value) & ~close) + 0.5 * np.count_nonzero(close)) / draws
    bias = float(norm.ppf(np.clip(below, 0.5 / draws, 1 - 0.5 / draws)))
    acceleration = float(counts @ influence**3) / (6 * spread**1.5)
    return Bootstrap(value, np.sort(drawn), bias, acceleration)


def _sparse(counts: Array, n: int) -> bool:
    """Tell whether there are so many cells that items are drawn rather than cells' counts."""
    return len(counts) > math.isqrt(n) * 8


def _weights(draw: np.random.Generator, counts: Array, n: int, size: int) -> Array:
    """Return so many draws of the cells' counts, shape `(size, cells)`."""
    if not _sparse(counts, n):
        return draw.multinomial(n, counts / n, size=size).astype(float)
    of_item = np.repeat(np.arange(len(counts)), counts)
    taken = of_item[draw.integers(n, size=(size, n))]
    taken += (np.arange(size) * len(counts))[:, None]
    found = np.bincount(taken.ravel(), minlength=size * len(counts))
    return found.reshape(size, len(counts)).astype(float)
