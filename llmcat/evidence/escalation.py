"""Ask more only if unsure: one policy for the reader, for further orders, for whoever comes next.

A line is drawn on a probability that is there already. Above it the next, dearer question is not
asked. Lines for leaving the reader out are drawn on labelled items and never guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Escalation", "sure_line"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Escalation:
    """`skip`: the scorers' best probability from which on no reader is asked (inf: always asked).

    `orders`: in how many orders the reader is asked at most; `again`: only below this probability.
    """

    skip: float = math.inf
    orders: int = 1
    again: float = math.inf

    def needs_reader(self, sure: float) -> bool:
        """Tell whether the reader is to be asked, by the scorers' best probability."""
        return sure < self.skip

    def together(self, asked: int) -> int:
        """Return how many orders are asked at once: all, unless the next depends on the last."""
        return self.orders - asked if self.again == math.inf else 1

    def needs_more(self, sure: float, asked: int) -> bool:
        """Tell whether another order is to be asked, by the best probability so far."""
        return asked < self.orders and sure < self.again


def sure_line(
    sure: Array, scorers_right: Sequence[bool] | Array, both_right: Sequence[bool] | Array
) -> float:
    """Return the lowest line above which the scorers alone were no worse than with the reader.

    All arrays have shape `(items,)` and come from labelled items. Above the line the reader may
    mend no more items than it spoils, at every higher line as well by one item at most: a chance
    hit does not move it. Infinity where there is no such line.
    """
    order = np.argsort(-np.asarray(sure, float), kind="stable")
    gain = np.asarray(both_right, float)[order] - np.asarray(scorers_right, float)[order]
    lost = np.cumsum(gain)  # what leaving the reader out would lose, down to each item
    ok = lost <= 0
    ahead = np.maximum.accumulate(lost) <= 1
    usable = np.flatnonzero(ok & ahead)
    if not len(usable):
        return math.inf
    return float(np.asarray(sure, float)[order][usable[-1]])
