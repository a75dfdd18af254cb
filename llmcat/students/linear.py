"""Logistic regression over tf-idf features or sentence embeddings: seconds on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from llmcat.errors import InputError
from llmcat.retrieval.vectors import TFIDF, Tfidf, representation
from llmcat.students import archive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["LinearStudent"]

Array = np.ndarray[Any, Any]


class LinearStudent(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Multinomial logistic regression, held to small weights by a ridge of `1 / C`.

    `features`: `tfidf`, or a sentence-transformers model by name or folder. `class_weight`:
    `balanced` gives small classes as much weight as large ones; None for as they come.
    """

    def __init__(
        self,
        features: str = TFIDF,
        *,
        C: float = 10.0,  # noqa: N803  scikit-learn's name
        class_weight: str | None = None,
        max_iter: int = 1000,
    ) -> None:
        self.features = features
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter

    def fit(
        self, texts: Sequence[str], y: Sequence[str], sample_weight: Sequence[float] | None = None
    ) -> Self:
        """Learn. Raises `InputError` where there is only one class, `BadConfig` for no model."""
        if len(set(y)) < 2:  # noqa: PLR2004
            raise InputError("a student needs at least two categories with examples")
        self.represent_ = representation(self.features).fit(texts)
        self.model_ = LogisticRegression(
            C=self.C, class_weight=self.class_weight, max_iter=self.max_iter
        ).fit(self.represent_(texts), np.asarray(y), sample_weight)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, texts: Sequence[str]) -> Array:
        """Return probabilities, shape `(texts, classes)`."""
        if not len(texts):
            return np.zeros((0, len(self.classes_)))
        found: Array = self.model_.predict_proba(self.represent_(texts))
        return found

    def predict(self, texts: Sequence[str]) -> Array:
        """Return the likeliest class of each text."""
        found: Array = self.classes_[self.predict_proba(texts).argmax(axis=1)]
        return found

    def save(self, folder: Path) -> None:
        """Write the regression, and with tf-idf its vocabulary."""
        kept = {"model": self.model_}
        if isinstance(self.represent_, Tfidf):
            kept["vectorizer"] = self.represent_.vectorizer
        archive.write(folder / "linear.skops", kept)

    @classmethod
    def load(cls, folder: Path, params: Mapping[str, Any]) -> Self:
        """Read it again. An embedding model is looked for when the first text comes."""
        self = cls(**params)
        kept = archive.read(folder / "linear.skops")
        self.model_ = kept["model"]
        self.classes_ = self.model_.classes_
        self.represent_ = representation(self.features)
        if isinstance(self.represent_, Tfidf):
            self.represent_.vectorizer = kept["vectorizer"]
        return self
