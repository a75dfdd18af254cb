"""What a classifier and a language model say of one item, as one distribution.

    novelty gate    P(new): the item is of a category that the classifier cannot name
    new             the model's probabilities of these categories, and of `none`
    known           p(y)^a q(y)^b, normalised: the classifier's p and the model's q of the others

P(y) = P(new) P(y | new) + (1 - P(new)) P(y | known). A product alone would give a category that
the classifier never saw the probability 0. Gate and pool are fitted on checked items (a mixture
of experts with a fitted gate, Jacobs et al. 1991; a logarithmic opinion pool, Genest and Zidek
1986, section 3), held to what is used before there are any. Pure functions: this module does not
know engines, items or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.records import NONE, digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MIN_STORED_P", "Mixture", "ModelOutputs", "fit"]

Array = np.ndarray[Any, Any]

GATE = (0.0, 0.5, 1.0)
"""Before anything is checked: of 1, and of novelty's and the model's log-odds beyond an even share.

What is new was learnt without a new item, hence the half; the model has read the new names.
"""
GATE_SPREAD = (1.0, 0.5, 0.5)
POOL = (0.5, 0.5)
"""Likewise the powers of classifier and model: an even share each, which sum to 1."""
POOL_SPREAD = 0.5
RIGHT, SPOILS = 0.6, 0.05
"""How often asking mends what the classifier has wrong, and spoils what it has right, by guess."""
MIN_STORED_P = 1e-3
"""What is less is not written down."""
LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """What both said of an item.

    `novelty`: the chance that it is new, before the model was asked. `p`: the classifier's
    probabilities of the known categories, summing to 1. `q`: the model's, `none` included, summing
    to 1. `offered`: how many categories the model could choose from, `cold` how many of them the
    classifier cannot name.
    """

    novelty: float
    p: Mapping[str, float]
    q: Mapping[str, float]
    offered: int
    cold: int

    def record(self) -> dict[str, Any]:
        """Return it for the store: what is under a thousandth is left out."""
        return {
            "novelty": round(self.novelty, 6),
            "p": {label: round(x, 6) for label, x in self.p.items() if x >= MIN_STORED_P},
            "q": {label: round(x, 6) for label, x in self.q.items() if x >= MIN_STORED_P},
            "offered": self.offered,
            "cold": self.cold,
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ModelOutputs:
        """Return what was recorded."""
        return cls(**record)

    def among(self, named: frozenset[str]) -> ModelOutputs:
        """Return what it would have been if the classifier could name only these."""
        lost = set(self.p) - named
        if not lost:
            return self
        left = math.fsum(x for label, x in self.p.items() if label in named)
        p = {label: x / left for label, x in self.p.items() if label in named} if left > 0 else {}
        cold = min(self.offered, self.cold + len(lost & set(self.q)))
        return ModelOutputs(1.0 - (1.0 - self.novelty) * left, p, self.q, self.offered, cold)

    @property
    def q_new(self) -> float:
        """What the model gives to what the classifier cannot name, `none` included."""
        return math.fsum(x for label, x in self.q.items() if label not in self.p)

    @property
    def even(self) -> float:
        """Log-odds that the item is new by the menu alone: every place on it counts the same."""
        return _logit((self.cold + 1) / (self.offered + 1))

    @property
    def features(self) -> tuple[float, float, float]:
        """Of the gate: 1, and how far the log-odds of novelty and of the model are above even."""
        return 1.0, _logit(self.novelty) - self.even, _logit(self.q_new) - self.even


@dataclass(frozen=True, slots=True)
class Mixture:
    """The gate's weights, the pool's powers, and what asking has done so far.

    `right_new`: how often the mixture is right on new items; `mends`, on known ones that the
    classifier has wrong; `spoils`: how often it is wrong where the classifier is right. `n` checked
    items were fitted on.
    """

    gate: tuple[float, float, float] = GATE
    pool: tuple[float, float] = POOL
    right_new: float = RIGHT
    mends: float = RIGHT
    spoils: float = SPOILS
    n: int = 0

    @property
    def digest(self) -> str:
        """A hash of everything in it."""
        return digest(repr(self))

    def new(self, said: ModelOutputs) -> float:
        """Return P(new)."""
        z = math.fsum(w * x for w, x in zip(self.gate, said.features, strict=True))
        return _sigmoid(said.even + z)

    def __call__(self, said: ModelOutputs) -> dict[str, float]:
        """Return the mixture's probabilities, `none` included; they sum to 1."""
        new = self.new(said)
        known = _pool(said, self.pool)
        others = {label: x for label, x in said.q.items() if label not in said.p}
        total = math.fsum(others.values())
        if total <= 0:
            others, total = {NONE: 1.0}, 1.0
        found = {label: (1 - new) * x for label, x in known.items()}
        for label, x in others.items():
            found[label] = new * x / total
        return found

    def gain(self, novelty: float, sure: float) -> float:
        """Return the expected gain in right answers from asking the model about an item.

        `sure` is the classifier's best probability.
        """
        known = (1 - sure) * self.mends - sure * self.spoils
        return novelty * self.right_new + (1 - novelty) * known


def fit(pairs: Sequence[tuple[ModelOutputs, str]]) -> Mixture:
    """Fit on what was said of items and the label that holds, by maximum a posteriori.

    Few items change little: gate and pool are held to what is used without any, by normal priors.
    """
    from scipy.optimize import minimize

    if not pairs:
        return Mixture()
    new = np.array([gold not in said.p for said, gold in pairs])
    x = np.array([said.features for said, _ in pairs])
    even = np.array([said.even for said, _ in pairs])
    start, spread = np.array(GATE), np.array(GATE_SPREAD)

    def gate_loss(w: Array) -> tuple[float, Array]:
        z = even + x @ w
        off = (w - start) / spread
        value = float((np.logaddexp(0, z) - new * z).sum() + 0.5 * (off**2).sum())
        return value, x.T @ (1 / (1 + np.exp(-z)) - new) + off / spread

    gate = minimize(gate_loss, start, jac=True, method="L-BFGS-B").x
    known = [(said, gold) for said, gold in pairs if gold in said.p]
    pool = np.array(POOL)
    if known:
        tables = [_logs(said) for said, _ in known]
        hits = [list(said.p).index(gold) for said, gold in known]

        def pool_loss(ab: Array) -> float:
            loss = 0.0
            for table, hit in zip(tables, hits, strict=True):
                z = table @ ab
                loss += float(np.logaddexp.reduce(z) - z[hit])
            return loss + float((((ab - np.array(POOL)) / POOL_SPREAD) ** 2).sum() / 2)

        bounds = [(0.0, 5.0), (0.0, 5.0)]
        pool = minimize(pool_loss, pool, method="L-BFGS-B", bounds=bounds).x
    made = Mixture(tuple(gate.tolist()), tuple(pool.tolist()), n=len(pairs))
    right_new, mends, spoils = [], [], []
    for said, gold in pairs:
        found = made(said)
        right = max(found, key=found.__getitem__) == gold
        if gold not in said.p:
            right_new.append(right)
        elif max(said.p, key=said.p.__getitem__) == gold:
            spoils.append(not right)
        else:
            mends.append(right)
    return Mixture(
        made.gate,
        made.pool,
        right_new=_rate(right_new, RIGHT),
        mends=_rate(mends, RIGHT),
        spoils=_rate(spoils, SPOILS),
        n=len(pairs),
    )


def _rate(hits: Sequence[bool], before: float) -> float:
    """Return a rate that ten items of what was taken before hold back."""
    return (sum(hits) + 10 * before) / (len(hits) + 10)


def _logs(said: ModelOutputs) -> Array:
    """Return the log-probabilities of the known categories by both, shape `(known, 2)`.

    One that was not offered has a share of the model's `none of these`, by the classifier's word.
    """
    none = said.q.get(NONE, 0.0)
    p = np.array(list(said.p.values()))
    q = np.array([said.q.get(label, none * x) for label, x in said.p.items()])
    return np.asarray(np.log(np.maximum(np.stack([p, q], axis=1), LEAST)))


def _pool(said: ModelOutputs, pool: tuple[float, float]) -> dict[str, float]:
    if not said.p:
        return {}
    z = _logs(said) @ np.array(pool)
    weights = np.exp(z - z.max())
    return dict(zip(said.p, (weights / weights.sum()).tolist(), strict=True))


def _logit(p: float) -> float:
    p = min(max(p, LEAST), 1 - LEAST)
    return math.log(p) - math.log1p(-p)


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))
