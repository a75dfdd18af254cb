"""Items with several labels: the chance of each category by itself, and which of them are given.

    logit P(category applies) = bias + sum of weight * input + offset(category)

An offset is a threshold of the category's own: p >= line is `sum of weight * input >= logit(line)
- bias - offset`. Offsets are held to 0, so that a rare category borrows from all (a normal prior on
them: Gelman and Hill 2006, chapter 12). The reader is asked in one of two ways: one menu, where
what applies shares a probability, or each candidate by itself beside "none of these". Without
labels the weights are those of development items (docs/decisions/0015-several-labels.md). Pure
functions of arrays: no items, engines or files.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmcat.errors import InputError
from llmcat.evidence.pool import folds_of
from llmcat.evidence.posterior import best_of
from llmcat.records import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LEAST", "Several", "Way", "default", "fit", "inputs"]

Array = np.ndarray[Any, Any]
Way = Literal["menu", "each"]
"""How a reader is asked for several labels."""

INPUTS = ("retrieval", "reader", "unread")
"""Of a category, in nats: log P by retrieval; what the reader gives it (`Asked` in
`llmcat.evidence.gather`); 1 where the reader was not asked about it, though about others."""
FAR = 8.0
"""Nats: an input further out says no more."""
LEAST = 30
"""Items that weights are fitted on; with fewer the defaults stay."""
LOOKED_AT = 64
"""Categories of an item, the likeliest by retrieval, that weights are fitted on."""
HELD, OFFSET, BIAS = 0.5, 1.0, 2.0
"""Spreads of the normal priors that hold weights and bias to their defaults, and offsets to 0."""
LINES = np.linspace(0.1, 0.7, 25)


@dataclass(frozen=True)
class Several:
    """Weights by input, a bias, offsets by category id, and the line above which one is given.

    `n`: how many labelled items it was fitted on.
    """

    weights: Mapping[str, float]
    bias: float
    line: float = 0.5
    offsets: Mapping[str, float] = field(default_factory=dict)
    n: int = 0

    def __call__(self, x: Array, ids: Sequence[str]) -> Array:
        """Return P(applies), shape `(items, categories)`, from what `inputs` gives."""
        w = np.array([self.weights[name] for name in INPUTS])
        offsets = np.array([self.offsets.get(id_, 0.0) for id_ in ids])
        return _sigmoid(x @ w + self.bias + offsets)

    def parts(self, x: Array, ids: Sequence[str]) -> dict[str, Array]:
        """Return what each input adds for one item's categories, in nats: name -> `(categories,)`.

        `x` has shape `(categories, inputs)`; the bias is part of `label`, what the category brings.
        """
        w = np.array([self.weights[name] for name in INPUTS])
        label = np.array([self.bias + self.offsets.get(id_, 0.0) for id_ in ids]) + x[:, 2] * w[2]
        return {"retrieval": x[:, 0] * w[0], "reader": x[:, 1] * w[1], "label": label}

    def given(self, p: Array) -> list[int]:
        """Return the columns of one item's labels, likeliest first; `p` is `(categories,)`."""
        over = int((p >= self.line).sum())
        return best_of(p, over) if over else []

    def record(self) -> dict[str, Any]:
        """Return it for a file."""
        return {
            "weights": {name: round(self.weights[name], 6) for name in INPUTS},
            "bias": round(self.bias, 6),
            "line": round(self.line, 6),
            "offsets": {id_: round(x, 6) for id_, x in sorted(self.offsets.items())},
            "n": self.n,
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Several:
        """Return what was recorded."""
        return cls(**record)

    @property
    def digest(self) -> str:
        """A hash of everything in it."""
        return digest(repr(self.record()))


def default(way: Way | None) -> Several:
    """Return what holds without labels: of a menu, of each by itself, of retrieval alone (None)."""
    weights, bias, line = DEFAULTS[way]
    return Several(dict(zip(INPUTS, weights, strict=True)), bias, line)


def inputs(log_s: Array, read: Sequence[tuple[Array, Array] | None]) -> Array:
    """Return the inputs of some items, shape `(items, categories, inputs)`.

    `log_s`: log P(category) by retrieval, rows normalised. `read`: of each item the columns that
    the reader was asked about and what it gave each, None where it was not asked.
    """
    x = np.zeros((*log_s.shape, len(INPUTS)))
    x[:, :, 0] = np.maximum(log_s, -FAR)
    for i, one in enumerate(read):
        if one is not None:
            columns, said = one
            x[i, columns, 1] = np.clip(said, -FAR, FAR)
            x[i, :, 2] = 1.0
            x[i, columns, 2] = 0.0
    return x


@dataclass(frozen=True)
class Fitted:
    """A fit, and what fits on the other folds make of each item.

    `given` has the shape `(items, categories)`; each fold's line, too, is of the others.
    """

    model: Several
    given: Array


def fit(
    x: Array,
    applies: Array,
    ids: Sequence[str],
    groups: Sequence[int],
    *,
    start: Several,
    seed: int,
) -> Fitted:
    """Fit weights, bias, offsets and line by penalised log loss, held to `start`.

    `x` as `inputs` gives it; `applies` says which categories each item has, shape `(items,
    categories)`; `groups` what may not be parted. The line is the one of the highest mean F1 of
    items out of fold. Raises `InputError` for fewer than `LEAST` items.
    """
    if len(x) < LEAST:
        raise InputError(f"{len(x)} labelled items: {LEAST} at least teach what the answers mean")
    looked = _likeliest(x)
    part = folds_of(groups, seed)
    p, given = np.zeros(applies.shape), np.zeros(applies.shape, dtype=bool)
    for k in np.unique(part).tolist():
        out = part == k
        p[out] = _fitted(x[~out], applies[~out], looked[~out], ids, start)(x[out], ids)
    for k in np.unique(part).tolist():
        out = part == k
        given[out] = p[out] >= _line(p[~out], applies[~out])
    made = _fitted(x, applies, looked, ids, start)
    return Fitted(replace(made, line=_line(p, applies)), given)


def _line(p: Array, applies: Array) -> float:
    """Return the line of the highest mean F1 of items; the middle one of several as good."""
    scores = np.array([_mean_f1(p >= line, applies) for line in LINES])
    best = np.flatnonzero(scores >= scores.max() - 1e-12)
    return float(LINES[best[len(best) // 2]])


def _fitted(x: Array, applies: Array, looked: Array, ids: Sequence[str], start: Several) -> Several:
    """Return what has the least penalised log loss; no weight of a source is below 0."""
    from scipy.optimize import minimize

    rows, columns = np.nonzero(looked)
    z, y = x[rows, columns], applies[rows, columns].astype(float)
    first = np.array([*(start.weights[name] for name in INPUTS), start.bias])
    held = np.array([HELD] * len(INPUTS) + [BIAS])
    size, inner = len(ids), len(first)

    def loss(theta: Array) -> tuple[float, Array]:
        logits = z @ theta[: inner - 1] + theta[inner - 1] + theta[inner:][columns]
        off = np.append((theta[:inner] - first) / held, theta[inner:] / OFFSET)
        value = float((np.logaddexp(0.0, logits) - y * logits).sum() + 0.5 * (off**2).sum())
        wrong = _sigmoid(logits) - y
        each = np.bincount(columns, weights=wrong, minlength=size)
        slope = np.concatenate([wrong @ z, [wrong.sum()], each])
        return value, slope + off / np.append(held, np.full(size, OFFSET))

    bounds = [(0.0, 20.0)] * 2 + [(None, None)] * (2 + size)
    begin = np.append(first, np.zeros(size))
    theta = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds).x
    weights = dict(zip(INPUTS, theta[: inner - 1].tolist(), strict=True))
    offsets = {id_: float(v) for id_, v in zip(ids, theta[inner:], strict=True) if abs(v) > 1e-6}  # noqa: PLR2004
    return Several(weights, float(theta[inner - 1]), start.line, offsets, len(x))


def _likeliest(x: Array) -> Array:
    """Return which categories of each item are looked at: the likeliest, and those asked about."""
    size = x.shape[1]
    if size <= LOOKED_AT:
        return np.ones(x.shape[:2], dtype=bool)
    least = np.partition(x[:, :, 0], size - LOOKED_AT, axis=1)[:, size - LOOKED_AT, None]
    read = (x[:, :, 2] == 0) & (x[:, :, 2].max(axis=1, keepdims=True) > 0)
    return np.asarray((x[:, :, 0] >= least) | read)


def _mean_f1(given: Array, applies: Array) -> float:
    """Return the mean over items of the F1 of their labels; 1 where there are and were none."""
    both = (given & applies).sum(axis=1)
    sizes = given.sum(axis=1) + applies.sum(axis=1)
    return float(np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0).mean())


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


DEFAULTS: dict[Way | None, tuple[tuple[float, ...], float, float]] = {
    None: ((1.35, 0.0, 0.0), 2.1, 0.33),
    "menu": ((1.2, 0.93, -2.55), 3.8, 0.3),
    "each": ((1.2, 0.6, -0.65), 1.7, 0.3),
}
"""Weights by input, bias and line without labels: the mean of what 150 development items made of
banking77 and as many of shop32 taught, read by Qwen2.5-Coder-1.5B (`each`: its reader by 120)."""
