"""Whether an item belongs to none of the categories: decided once, after everything was heard.

The log-odds of `none` are a linear function of three things: how much the item is like anything
at all (its best similarity, the mean over the encoders), how much the likeliest category stands out
(the logit of its probability among the categories), and the reader's own log-odds for its exit,
with its place prior removed. A stock model hardly ever takes an exit on a short list, so its argmax
decides nothing. For everything after this, `none` is one label more. Pure functions of arrays.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT", "NoneRule", "fit", "inputs"]

Array = np.ndarray[Any, Any]

LEAST_EACH = 5
"""Items of either kind that a rule is fitted on, or the default stays."""


@dataclass(frozen=True, slots=True)
class NoneRule:
    """Log-odds of `none`: `bias + similarity * s + margin * m + exit * e`.

    `s` is in standard deviations of what is usual (see `Signals.similarity`), 0 where nothing is
    known; `m` and `e` are in nats, `e` is 0 where no reader was asked.
    """

    bias: float
    similarity: float
    margin: float
    exit: float

    def __call__(self, x: Array) -> Array:
        """Return log-odds, shape `(items,)`, of inputs of shape `(items, 3)`."""
        weights = np.array([self.similarity, self.margin, self.exit])
        return np.asarray(self.bias + x @ weights)

    def record(self) -> dict[str, float]:
        """Return it for a file."""
        return {name: round(value, 6) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, record: Mapping[str, float]) -> NoneRule:
        """Return what was recorded."""
        return cls(**record)


DEFAULT = NoneRule(bias=-5.5, similarity=-1.7, margin=-0.5, exit=0.2)
"""Without labels. Fitted on development items with known outsiders, the share of outsiders taken as
one in ten (docs/decisions/0011-evidence.md)."""


def inputs(similarity: Array, log_p: Array, exit_odds: Array) -> Array:
    """Return the rule's inputs, shape `(items, 3)`.

    `similarity` has shape `(items, encoders)`, `log_p` `(items, categories)`, `exit_odds`
    `(items,)`.
    """
    top = np.clip(np.exp(log_p.max(axis=1)), 1e-6, 1 - 1e-6)
    margin = np.log(top) - np.log1p(-top)
    known = np.isfinite(similarity)
    some = np.maximum(known.sum(axis=1), 1)
    like = np.where(known, similarity, 0.0).sum(axis=1) / some
    return np.stack([like, margin, exit_odds], axis=1)


def fit(x: Array, none: Array, *, start: NoneRule = DEFAULT) -> NoneRule:
    """Fit by maximum a posteriori: normal priors hold the weights to the default's.

    `x` from `inputs`, `none` tells which items belong nowhere. With fewer than `LEAST_EACH` of
    either kind the weights stay and, where there are any items, only the bias moves.
    """
    from scipy.optimize import minimize

    n = len(none)
    if not n:
        return start
    first = np.array([start.bias, start.similarity, start.margin, start.exit])
    free = LEAST_EACH <= none.sum() <= n - LEAST_EACH
    spread = np.array([3.0, 1.0, 0.5, 0.5]) if free else np.array([3.0, 1e-3, 1e-3, 1e-3])
    design = np.column_stack([np.ones(n), x])

    def loss(w: Array) -> tuple[float, Array]:
        z, off = design @ w, (w - first) / spread
        value = float((np.logaddexp(0, z) - none * z).sum() + 0.5 * (off**2).sum())
        chance = 0.5 * (1 + np.tanh(0.5 * z))
        return value, design.T @ (chance - none) + off / spread

    found = minimize(loss, first, jac=True, method="L-BFGS-B")
    return NoneRule(*(float(value) for value in found.x))
