"""How a student is made: an estimator and its settings, trained, cross-validated, searched.

This module knows texts and labels, not where they come from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.errors import InputError
from llmcat.retrieval.scorers import DOCUMENT
from llmcat.students.augment import augment
from llmcat.students.registry import make

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.students import Kind

__all__ = ["Recipe", "bare", "folds", "out_of_fold", "search", "trained"]

Array = np.ndarray[Any, Any]

FOLDS = 5
_NOISE = re.compile(r"[\W\d_]+")


@dataclass(frozen=True)
class Recipe:
    """How a student is made. `params` are the estimator's settings (see `llmcat.students`).

    Categories with fewer than `least` examples are left out; those with fewer than `augment` are
    filled up with variants of their texts. `search`: `grid`, or `random` with so many `tries`.
    `names`: texts that say what a category is; each counts as `DOCUMENT` examples of it.
    """

    kind: Kind = "linear"
    params: Mapping[str, Any] = field(default_factory=dict)
    least: int = 3
    augment: int = 0
    search: str = ""
    tries: int = 10
    seed: int = 0
    names: Mapping[str, str] = field(default_factory=dict)


def bare(text: str) -> str:
    """Return a text without digits, marks and case: what variants of one product share."""
    return _NOISE.sub(" ", text.casefold()).strip()


def folds(labels: Sequence[str], count: int, seed: int, texts: Sequence[str]) -> Array:
    """Return a fold for each item, each category spread over all of them. Shape `(n,)`.

    Texts that differ in digits and marks only are in one fold.
    """
    draw = np.random.default_rng(seed)
    found = np.zeros(len(labels), dtype=int)
    names = np.array(labels)
    for label in sorted(set(labels)):
        start = int(draw.integers(count))
        groups: dict[str, int] = {}
        for row in draw.permutation(np.flatnonzero(names == label)).tolist():
            group = groups.setdefault(bare(texts[row]), len(groups))
            found[row] = (group + start) % count
    return found


def out_of_fold(
    recipe: Recipe, params: Mapping[str, Any], texts: Sequence[str], labels: Array, weight: Array
) -> Array:
    """Return what students say of the items that they were not trained on, shape `(n, classes)`.

    Probabilities of classes that a fold's students never saw are 0.
    """
    classes = sorted(set(labels.tolist()))
    part = folds(labels.tolist(), FOLDS, recipe.seed, texts)
    p = np.zeros((len(texts), len(classes)))
    for fold in range(FOLDS):
        out = part == fold
        inside = np.flatnonzero(~out)
        if not out.any() or len(set(labels[inside].tolist())) < 2:  # noqa: PLR2004
            p[out] = 1.0 / len(classes)
            continue
        model = trained(
            recipe, params, [texts[i] for i in inside.tolist()], labels[inside], weight[inside]
        )
        columns = np.searchsorted(classes, model.classes_)
        p[np.ix_(out, columns)] = model.predict_proba(
            [texts[i] for i in np.flatnonzero(out).tolist()]
        )
    return p


def trained(
    recipe: Recipe, params: Mapping[str, Any], texts: Sequence[str], labels: Array, weight: Array
) -> Any:
    """Return an estimator trained on items, small categories filled up if that is the recipe."""
    texts, given = list(texts), labels.tolist()
    if recipe.augment:
        made = augment(texts, given, at_least=recipe.augment, seed=recipe.seed)
        texts, given, weight = made.texts, made.labels, weight[np.array(made.origin)]
    there = sorted(recipe.names.keys() & set(given))
    texts, given = [*texts, *(recipe.names[c] for c in there)], [*given, *there]
    weight = np.append(weight, np.full(len(there), DOCUMENT))
    try:
        return make(recipe.kind, params).fit(texts, np.array(given), weight)
    except ValueError as exc:  # a setting out of its range, by scikit-learn
        raise InputError(f"the student cannot be trained: {str(exc).splitlines()[0]}") from exc


GRIDS: dict[str, dict[str, list[Any]]] = {
    "linear": {"C": [0.3, 1.0, 3.0, 10.0, 30.0, 100.0], "class_weight": [None, "balanced"]},
    "encoder": {
        "learning_rate": [1e-5, 2e-5, 5e-5, 1e-4],
        "dropout": [0.1, 0.2, 0.3],
        "epochs": [4, 8, 12],
    },
}
"""What is searched, by kind."""


def search(
    recipe: Recipe,
    params: dict[str, Any],
    texts: list[str],
    labels: Array,
    weight: Array,
    remarks: list[str],
) -> dict[str, Any]:
    """Return the settings with the best cross-validated accuracy, by scikit-learn."""
    from sklearn.model_selection import GridSearchCV, PredefinedSplit, RandomizedSearchCV

    if recipe.kind not in GRIDS:
        raise InputError(f"--search looks for settings of {' or '.join(GRIDS)} students")
    grid = {name: values for name, values in GRIDS[recipe.kind].items() if name not in params}
    estimator = make(recipe.kind, params)
    part = PredefinedSplit(folds(labels.tolist(), 3, recipe.seed, texts))
    usual: dict[str, Any] = {"cv": part, "scoring": "accuracy", "refit": False}
    if recipe.search == "grid":
        tried = GridSearchCV(estimator, grid, **usual)
    else:
        tried = RandomizedSearchCV(
            estimator, grid, n_iter=recipe.tries, random_state=recipe.seed, **usual
        )
    try:
        tried.fit(texts, labels, sample_weight=weight)
    except ValueError as exc:
        raise InputError(f"the search failed: {str(exc).splitlines()[0]}") from exc
    found = tried.cv_results_
    best = dict(found["params"][int(np.argmax(found["mean_test_score"]))])
    remarks.append(
        f"search: {len(found['params'])} settings, best {best}, cross-validated accuracy "
        f"{float(np.max(found['mean_test_score'])):.1%}"
    )
    return best
