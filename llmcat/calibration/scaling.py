"""Probabilities that mean what they say: priors taken off, temperature, and a map for the decision.

Pure functions of arrays. `log_p` has shape `(n, labels)`, natural logarithms, rows normalised;
`gold` has shape `(n,)`, column numbers. What is fitted is fitted once, on labelled items, and
frozen. This module does not know files, engines or thresholds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "ConfidenceMap",
    "Posterior",
    "Scaling",
    "batch_prior",
    "content_free_prior",
    "fit_confidence",
    "fit_posterior",
    "fit_scaling",
    "fit_temperature",
    "log_loss_of",
    "logit",
    "logs",
    "normalised",
    "position_prior",
    "without_prior",
]

Array = np.ndarray[Any, Any]

LEAST = 1e-12
"""A probability of 0 counts as this, so that its logarithm is a number."""
FOLDS = 5


def normalised(log_p: Array) -> Array:
    """Return rows that sum to 1 as probabilities."""
    top = log_p.max(axis=1, keepdims=True)
    return np.asarray(log_p - top - np.log(np.exp(log_p - top).sum(axis=1, keepdims=True)))


def logs(p: Array) -> Array:
    """Return normalised logarithms of probabilities, none of them infinite."""
    return normalised(np.log(np.maximum(p, LEAST)))


# -- priors -----------------------------------------------------------------------------------


def batch_prior(log_p: Array) -> Array:
    """Return the log of each label's mean probability (Zhou et al. 2023, section 3, equation 3).

    What the model prefers whatever the item, if the items are as mixed as those to come.
    """
    return np.asarray(np.log(np.maximum(np.exp(log_p).mean(axis=0), LEAST)))


def content_free_prior(log_p: Array) -> Array:
    """Return the log of the mean answer to items without content (Zhao et al. 2021, section 5)."""
    return batch_prior(log_p)


def position_prior(log_p: Array) -> Array:
    """Return the log-prior of each position (Zheng et al. 2024, PriDe, section 4, equation 5).

    `log_p` has shape `(items, orders, positions)`: each item asked in orders that put every label
    at every position equally often, columns by position. What the labels contribute averages out.
    """
    by_item = normalised(log_p.mean(axis=1))
    return np.asarray(np.log(np.maximum(np.exp(by_item).mean(axis=0), LEAST)))


def without_prior(log_p: Array, prior: Array) -> Array:
    """Return the posteriors with a prior divided out, shape as `log_p`."""
    return normalised(log_p - prior)


# -- temperature and vector scaling -------------------------------------------------------------


@dataclass(frozen=True)
class Scaling:
    """`weights * log_p + bias`, normalised; both of shape `(labels,)`, or a temperature alone.

    `kind` says how it was fitted: `none`, `temperature`, or `vector`.
    """

    kind: Literal["none", "temperature", "vector"]
    weights: Array
    bias: Array

    def __call__(self, log_p: Array) -> Array:
        """Return the scaled log-posteriors."""
        return normalised(self.weights * log_p + self.bias)

    @property
    def temperature(self) -> float:
        """The temperature, where all weights are one."""
        return float(1.0 / self.weights.flat[0])

    @classmethod
    def plain(cls) -> Scaling:
        """Return the one that changes nothing."""
        return cls("none", np.ones(1), np.zeros(1))


def log_loss_of(log_p: Array, gold: Array) -> float:
    """Return the mean negative log-probability of the gold labels."""
    return float(-log_p[np.arange(len(gold)), gold].mean())


def fit_temperature(log_p: Array, gold: Array) -> float:
    """Return the temperature with the least log-loss (Guo et al. 2017, section 4.2).

    Between 0.05 and 20; the loss is convex in its inverse.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_inverse: float) -> float:
        return log_loss_of(normalised(log_p * math.exp(log_inverse)), gold)

    most = math.log(20.0)
    found = minimize_scalar(loss, bounds=(-most, most), method="bounded", options={"xatol": 1e-8})
    return float(math.exp(-found.x))


def fit_vector(log_p: Array, gold: Array, *, penalty: float = 1.0) -> Scaling:
    """Return vector scaling (Guo et al. 2017, section 4.2): a weight and a bias for each label.

    Started at the temperature, and held to it by a ridge of `penalty / n`.
    """
    from scipy.optimize import minimize

    n, labels = log_p.shape
    start = 1.0 / fit_temperature(log_p, gold)
    hit = np.zeros_like(log_p)
    hit[np.arange(n), gold] = 1.0

    def loss(x: Array) -> tuple[float, Array]:
        weights, bias = x[:labels], x[labels:]
        q = normalised(weights * log_p + bias)
        off = (np.exp(q) - hit) / n
        ridge = penalty / n
        value = log_loss_of(q, gold) + ridge * (((weights - start) ** 2).sum() + (bias**2).sum())
        slope = np.concatenate([(off * log_p).sum(axis=0), off.sum(axis=0)])
        return value, slope + 2 * ridge * np.concatenate([weights - start, bias])

    first = np.concatenate([np.full(labels, start), np.zeros(labels)])
    found = minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return Scaling("vector", found.x[:labels], found.x[labels:])


def _temperature_scaling(log_p: Array, gold: Array) -> Scaling:
    inverse = 1.0 / fit_temperature(log_p, gold)
    return Scaling("temperature", np.full(1, inverse), np.zeros(1))


_KINDS: dict[str, Callable[[Array, Array], Scaling]] = {
    "none": lambda _p, _g: Scaling.plain(),
    "temperature": _temperature_scaling,
    "vector": fit_vector,
}
"""The simpler ones first."""


def fit_scaling(log_p: Array, gold: Array, *, seed: int = 0) -> tuple[Scaling, dict[str, float]]:
    """Return the scaling with the least cross-validated log-loss, and the loss of each kind.

    None, temperature, and vector scaling, `FOLDS` folds. The simpler one wins a tie within one
    standard error of the difference (Breiman et al. 1984, section 3.4.3).
    """
    losses = _held_out(log_p, gold, prior=False, seed=seed)
    chosen = _simplest(losses)
    means = {name: float(each.mean()) for name, each in losses.items()}
    return _KINDS[chosen](log_p, gold), means


@dataclass(frozen=True)
class Posterior:
    """How posteriors are made better: a prior divided out, None where it stays in; a scaling.

    `losses` has the cross-validated log-loss of each way that was tried.
    """

    prior: Array | None
    scaling: Scaling
    losses: dict[str, float]

    @property
    def changes(self) -> bool:
        """Whether posteriors are changed at all, which they are for less log-loss only."""
        return self.prior is not None or self.scaling.kind != "none"

    def __call__(self, log_p: Array) -> Array:
        """Return the better log-posteriors."""
        return self.scaling(log_p if self.prior is None else without_prior(log_p, self.prior))


def fit_posterior(log_p: Array, gold: Array, *, prior: bool = True, seed: int = 0) -> Posterior:
    """Choose scaling, and whether the prior is divided out, by cross-validated log-loss.

    As `fit_scaling`: leaving the prior in is simpler, and wins a tie. Dividing it out can hurt:
    where most items truly have one label, the mean posterior is what is to be expected of the next.
    """
    tried = {"prior left in": _held_out(log_p, gold, prior=False, seed=seed)}
    if prior:
        tried["prior off"] = _held_out(log_p, gold, prior=True, seed=seed)
    kinds = {name: _simplest(losses) for name, losses in tried.items()}
    how = _simplest({name: losses[kinds[name]] for name, losses in tried.items()})
    off = batch_prior(log_p) if how == "prior off" else None
    left = log_p if off is None else without_prior(log_p, off)
    means = {
        f"{name}, {kind}": float(each.mean())
        for name, losses in tried.items()
        for kind, each in losses.items()
    }
    return Posterior(off, _KINDS[kinds[how]](left, gold), means)


def _held_out(log_p: Array, gold: Array, *, prior: bool, seed: int) -> dict[str, Array]:
    """Return each item's log-loss under each kind of scaling, fitted (as the prior) on others."""
    part = np.random.default_rng(seed).permutation(len(gold)) % FOLDS
    losses = {name: np.zeros(len(gold)) for name in _KINDS}
    for fold in range(FOLDS):
        out = part == fold
        if not out.any() or out.all():
            continue
        left = without_prior(log_p, batch_prior(log_p[~out])) if prior else log_p
        for name, fit in _KINDS.items():
            q = fit(left[~out], gold[~out])(left[out])
            losses[name][out] = -q[np.arange(int(out.sum())), gold[out]]
    return losses


def _simplest(losses: dict[str, Array]) -> str:
    """Return the first way that no later one beats by more than a standard error."""
    chosen, *more = losses
    for name in more:
        gain = losses[chosen] - losses[name]
        error = gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
        if gain.mean() > error:
            chosen = name
    return chosen


# -- the decision's confidence ------------------------------------------------------------------


@dataclass(frozen=True)
class ConfidenceMap:
    """The chance that the decision is right: a logistic function of its confidence's logit."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, confidence: Array | Sequence[float]) -> Array:
        """Return calibrated confidences, shape `(n,)`."""
        return np.asarray(1 / (1 + np.exp(-(self.slope * logit(confidence) + self.intercept))))


def logit(p: Array | Sequence[float]) -> Array:
    """Return log p / (1 - p), finite."""
    clipped: Array = np.clip(np.asarray(p, float), 1e-6, 1 - 1e-6)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def fit_confidence(confidence: Array, correct: Array) -> ConfidenceMap:
    """Fit the map by Platt's method (Platt 1999, section 2.2: targets that are not quite 0 and 1).

    Never falling: where the surer decisions are the worse ones, all get the mean.
    """
    from scipy.optimize import minimize

    hits, n = int(correct.sum()), len(correct)
    target = np.where(correct, (hits + 1) / (hits + 2), 1 / (n - hits + 2))
    x = logit(confidence)

    def loss(ab: Array) -> tuple[float, Array]:
        z = ab[0] * x + ab[1]
        value = float(np.logaddexp(0, z).mean() - (target * z).mean())
        off = 1 / (1 + np.exp(-z)) - target
        return value, np.array([(off * x).mean(), off.mean()])

    bounds = [(0.0, 50.0), (-50.0, 50.0)]
    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds)
    return ConfidenceMap(float(found.x[0]), float(found.x[1]))
