"""How a run has moved away from what its calibration was fitted on.

Counts of confidences in the calibration's tenths: small, whatever the size of the run. This module
does not know items or engines.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Drift", "Reference", "psi"]

Array = np.ndarray[Any, Any]

MOVED = 0.2
"""A population stability index from here on is called a shift (Siddiqi 2006, chapter 8)."""
LEVEL = 0.001
"""Runs are large and many: a test that errs once in a thousand."""
LEAST = 50


@dataclass(frozen=True, slots=True)
class Reference:
    """What the labelled items looked like: inner bounds of tenths, counts in each, `none`s."""

    bounds: Sequence[float]
    counts: Sequence[int]
    none: int
    mass: float | None = None

    @classmethod
    def of(cls, confidence: Array, none: int, mass: float | None) -> Reference:
        """Take it from confidences, shape `(n,)`."""
        bounds = np.unique(np.quantile(confidence, np.linspace(0.1, 0.9, 9)))
        counts = np.bincount(np.searchsorted(bounds, confidence, side="right"))
        full = np.zeros(len(bounds) + 1, dtype=int)
        full[: len(counts)] = counts
        return cls(bounds.tolist(), full.tolist(), none, mass)


def psi(expected: Array, found: Array) -> float:
    """Return the population stability index of two sets of counts (Siddiqi 2006, chapter 8).

    Half an item is added to each bin, so that an empty one has a logarithm.
    """
    a = (expected + 0.5) / (expected + 0.5).sum()
    b = (found + 0.5) / (found + 0.5).sum()
    return float(((b - a) * np.log(b / a)).sum())


@dataclass(slots=True)
class Drift:
    """Counts of a run beside its reference."""

    reference: Reference
    counts: list[int] = field(default_factory=list)
    none: int = 0

    def __post_init__(self) -> None:
        """Begin with nothing counted."""
        self.counts = [0] * len(self.reference.counts)

    def add(self, confidence: float | None, *, none: bool) -> None:
        """Count one decision."""
        if confidence is not None:
            self.counts[bisect_right(self.reference.bounds, confidence)] += 1
            self.none += none

    def remarks(self, mass: float | None = None) -> list[str]:
        """Say what has moved: confidences, `none`s, label mass. Nothing for a handful of items."""
        from scipy.stats import chi2_contingency

        n, before = sum(self.counts), sum(self.reference.counts)
        if n < LEAST:
            return []
        said = []
        expected, found = np.array(self.reference.counts), np.array(self.counts)
        index = psi(expected, found)
        there = expected + found > 0
        p = float(chi2_contingency(np.stack([expected, found])[:, there]).pvalue)
        if index >= MOVED and p < LEVEL:
            said.append(
                f"confidences have moved since the calibration (PSI {index:.2f}, from {MOVED} on a "
                f"shift; p = {p:.2g}): its promises may not hold, label some of these items"
            )
        nones = [[self.reference.none, before - self.reference.none], [self.none, n - self.none]]
        some = 0 < self.none + self.reference.none < n + before
        if some and chi2_contingency(nones).pvalue < LEVEL:
            said.append(
                f"the share of items called none has moved since the calibration: "
                f"{self.none / n:.1%}, {self.reference.none / before:.1%} then"
            )
        then = self.reference.mass
        if mass is not None and then is not None and abs(mass - then) > 0.2 * max(then, 0.05):
            said.append(f"label mass has moved since the calibration: {mass:.3g}, {then:.3g} then")
        return said
