"""Whether an item is of a category that a classifier never saw.

What can tell: the classifier is unsure, its training items are far away, and the name of a
category without examples is nearer than those of its own. How much each says is learnt without
any example of a new category: the known ones take turns at being new, as their items would look
to a classifier that never saw them. This module does not know engines, stores or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.calibration.scaling import logit
from llmcat.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.retrieval.vectors import Representation

__all__ = ["Looked", "Novelty", "fit"]

Array = np.ndarray[Any, Any]

NEAREST = 3
"""Training items an item is compared with; of their similarities the mean counts."""
TURNS = 8
"""Rounds in which a part of the categories is taken for new."""
MOST = 4000
"""Training items that are kept, at most: all pairs are looked at, and every item beside all."""
LEVELS = 101
LEAST_SHARE = 0.05
"""So much of the items is taken for new, where few of the categories are: not to overlook them."""
NAMES = 128
"""Cold categories that are named as near an item, at most."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen of items, each of shape `(n,)`.

    `chance`: that the item is of a cold category. `unlike`: the share of training items that are
    nearer to the others than this one. `nearest`, of shape `(n, m)`: the cold categories with the
    nearest names, the nearest first, as rows of the cold vectors.
    """

    chance: Array
    unlike: Array
    nearest: Array


@dataclass(frozen=True)
class Novelty:
    """Training items as vectors, and what distances and probabilities say.

    `levels`: quantiles of the training items' own distances, each from the others. `weights`: of
    1, the logit of the classifier's best probability, the distance, and how much nearer the name
    of a cold category is than that of any other; they hold where half of the items are new.
    """

    represent: Representation
    matrix: Any
    levels: Array
    weights: Array

    def look(self, texts: Sequence[str], sure: Array, cold: Any, warm: Any) -> Looked:
        """Look at items: `sure` is the classifier's best probability, shape `(n,)`.

        `cold` and `warm` are the vectors of the categories' names, by `represent`.
        """
        x = self.represent(texts)
        distance = 1.0 - _mean_of_best(_dense(x @ self.matrix.T))
        unlike = np.searchsorted(self.levels, distance, side="right") / len(self.levels)
        if not cold.shape[0]:
            none = np.zeros((len(texts), 0), dtype=int)
            return Looked(np.zeros(len(texts)), unlike, none)
        to_cold = _dense(x @ cold.T)
        margin = to_cold.max(axis=1) - _best(_dense(x @ warm.T))
        share = max(LEAST_SHARE, cold.shape[0] / (cold.shape[0] + warm.shape[0]))
        chance = _chance(self.weights, sure, distance, margin, float(logit(np.array(share))))
        return Looked(chance, unlike, np.argsort(-to_cold, axis=1, kind="stable")[:, :NAMES])


def fit(
    texts: Sequence[str],
    labels: Sequence[str],
    p: Array,
    classes: Sequence[str],
    names: Mapping[str, str],
    *,
    represent: Representation,
    share: float,
    seed: int = 0,
) -> Novelty:
    """Fit on a classifier's training items.

    `p` are its out-of-fold probabilities, shape `(n, classes)`; `names` has the text of each
    class's name; `share` is how much of the categories is new. Raises `InputError` for fewer than
    four classes with examples: then none can play a new one.
    """
    from sklearn.linear_model import LogisticRegression

    known = np.array(labels, dtype=str)
    order = np.array(classes, dtype=str)
    if len(set(labels)) < 4:  # noqa: PLR2004
        raise InputError("fewer than four categories have examples: what is new cannot be learnt")
    draw = np.random.default_rng(seed)
    rows = np.sort(draw.permutation(len(texts))[:MOST])
    x, known, p = represent([texts[i] for i in rows.tolist()]), known[rows], p[rows]
    alike = _dense(x @ x.T)
    np.fill_diagonal(alike, -np.inf)
    to_names = _dense(x @ represent([names[c] for c in classes]).T)
    count = min(max(2, round(share * len(order))), len(order) - 2)
    features, novel = [], []
    for _ in range(TURNS):
        new = np.zeros(len(order), dtype=bool)
        new[draw.permutation(len(order))[:count]] = True
        strange = np.isin(known, order[new])
        if strange.all() or not strange.any():
            continue
        distance = 1.0 - _mean_of_best(alike[:, ~strange])
        rest = p[:, ~new]
        sure = rest.max(axis=1) / np.maximum(rest.sum(axis=1), 1e-12)
        margin = to_names[:, new].max(axis=1) - to_names[:, ~new].max(axis=1)
        features.append(np.stack([logit(sure), distance, margin], axis=1))
        novel.append(strange)
    if not features:
        raise InputError("one category holds nearly all examples: what is new cannot be learnt")
    found = np.concatenate(features)
    middle, spread = found.mean(axis=0), np.maximum(found.std(axis=0), 1e-6)
    strange = np.concatenate(novel)
    model = LogisticRegression(C=1.0).fit((found - middle) / spread, strange)
    slopes = model.coef_[0] / spread
    even = model.intercept_[0] - slopes @ middle - logit(strange.mean())
    weights = np.concatenate([[even], slopes])
    levels = np.quantile(1.0 - _mean_of_best(alike), np.linspace(0, 1, LEVELS))
    return Novelty(represent, x, levels, weights)


def _chance(weights: Array, sure: Array, distance: Array, margin: Array, before: float) -> Array:
    """Return the chances, where the log-odds are `before` when nothing is seen of an item.

    Evidence that was learnt at one share of new items holds at another: Saerens et al. 2002,
    equation 2.4, for two classes.
    """
    z = before + weights[0] + weights[1] * logit(sure) + weights[2] * distance + weights[3] * margin
    return np.asarray(1 / (1 + np.exp(-z)))


def _mean_of_best(alike: Array) -> Array:
    """Return the mean of each row's `NEAREST` highest, shape `(n,)`."""
    k = min(NEAREST, alike.shape[1])
    best = np.partition(alike, -k, axis=1)[:, -k:]
    return np.asarray(np.where(np.isfinite(best), best, 0.0).mean(axis=1))


def _best(alike: Array) -> Array:
    return alike.max(axis=1) if alike.shape[1] else np.zeros(len(alike))


def _dense(product: Any) -> Array:
    found: Array = product.toarray() if hasattr(product, "toarray") else np.asarray(product)
    return found.astype(float)
