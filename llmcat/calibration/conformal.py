"""Sets of labels that hold the right one as often as asked for.

Split conformal prediction on labelled items that fitted nothing: the sets of a new item hold its
label with the asked-for probability on average over items, whatever the model. Pure functions of
arrays: `p` has shape `(n, labels)`; `gold` has shape `(n,)`, column numbers, -1 where the label has
none: such an item can never be covered.
"""

from __future__ import annotations

import math
import random
from typing import Any, Literal

import numpy as np

__all__ = ["cut_off", "members", "scores_of", "uniform"]

Array = np.ndarray[Any, Any]
Method = Literal["aps", "lac"]


def scores_of(p: Array, gold: Array, u: Array, *, method: Method = "aps") -> Array:
    """Return how strange each gold label is, shape `(n,)`; infinite without a column.

    `aps`: the probability of all likelier labels and a share `u` of its own (Romano, Sesia and
    Candes 2020, section 2, randomised); `lac`: one minus its own (Sadinle, Lei and Wasserman 2019).
    """
    n = len(gold)
    own = p[np.arange(n), gold]
    if method == "lac":
        found = 1.0 - own
    else:
        found = np.where(p > own[:, None], p, 0.0).sum(axis=1) + u * own
    return np.where(gold < 0, np.inf, found)


def cut_off(scores: Array, coverage: float) -> float:
    """Return the score up to which labels are members (Vovk, Gammerman and Shafer 2005).

    The ceil((n + 1) coverage)-th smallest; infinite where so few items cannot promise it.
    """
    n = len(scores)
    rank = math.ceil((n + 1) * coverage)
    return math.inf if rank > n else float(np.sort(scores)[rank - 1])


def members(p: Array, u: Array, cut: float, *, method: Method = "aps") -> Array:
    """Return which labels belong to each item's set, shape `(n, labels)`."""
    if method == "lac":
        return np.asarray(1.0 - p <= cut)
    # As in `scores_of`: what is strictly likelier, so that ties count the same in both.
    before = np.array([np.where(row[None, :] > row[:, None], row, 0.0).sum(axis=1) for row in p])
    return np.asarray(before + u[:, None] * p <= cut)


def uniform(*parts: str) -> float:
    """Return a number in [0, 1) that depends on the parts only: the share `u` of an item."""
    return random.Random("\0".join(parts)).random()
