"""Several students as one, by scikit-learn: voting, and stacking (Wolpert 1992)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression

from llmcat.errors import InputError
from llmcat.students import Estimator, archive
from llmcat.students.single import load, make

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["StackedStudent", "VotingStudent"]

Array = np.ndarray[Any, Any]
Member = tuple[str, dict[str, Any]]


class VotingStudent(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The mean of its members' probabilities; `members` are pairs of kind and settings."""

    def __init__(self, members: Sequence[Member] = ()) -> None:
        self.members = members

    def fit(
        self, texts: Sequence[str], y: Sequence[str], sample_weight: Sequence[float] | None = None
    ) -> Self:
        """Train every member on the same texts. Raises `InputError` for fewer than two members."""
        self._join(texts, y, sample_weight)
        return self

    def _join(self, texts: Sequence[str], y: Sequence[str], weight: Sequence[float] | None) -> None:
        joined = VotingClassifier(self._made(), voting="soft")
        joined.fit(list(texts), np.asarray(y, dtype=str), sample_weight=weight)
        self.estimators_: list[Estimator] = joined.estimators_
        self.classes_ = joined.classes_

    def _made(self) -> list[tuple[str, Estimator]]:
        if len(self.members) < 2:  # noqa: PLR2004
            raise InputError("several students are at least two")
        return [(f"{i}", make(kind, params)) for i, (kind, params) in enumerate(self.members)]

    def _each(self, texts: Sequence[str]) -> Array:
        """Return the members' probabilities, shape `(members, texts, classes)`.

        scikit-learn trains members on the numbers of the classes: all have one order.
        """
        return np.stack([one.predict_proba(texts) for one in self.estimators_])

    def predict_proba(self, texts: Sequence[str]) -> Array:
        """Return probabilities, shape `(texts, classes)`."""
        return np.asarray(self._each(texts).mean(axis=0))

    def predict(self, texts: Sequence[str]) -> Array:
        """Return the likeliest class of each text."""
        found: Array = self.classes_[self.predict_proba(texts).argmax(axis=1)]
        return found

    def save(self, folder: Path) -> None:
        """Write each member into a folder of its own."""
        for i, one in enumerate(self.estimators_):
            (folder / f"{i}").mkdir(exist_ok=True)
            one.save(folder / f"{i}")
        archive.write(folder / "ensemble.skops", self._last())

    def _last(self) -> dict[str, Any]:
        return {"classes": self.classes_}

    @classmethod
    def load(cls, folder: Path, params: Mapping[str, Any]) -> Self:
        """Read it again."""
        self = cls(**params)
        last = archive.read(folder / "ensemble.skops")
        self.classes_ = last["classes"]
        self.estimators_ = [
            load(kind, folder / f"{i}", settings) for i, (kind, settings) in enumerate(self.members)
        ]
        self._take(last)
        return self

    def _take(self, last: Mapping[str, Any]) -> None:
        """Take what else was written."""


class StackedStudent(VotingStudent):
    """A logistic regression over its members' out-of-fold probabilities."""

    def _join(self, texts: Sequence[str], y: Sequence[str], weight: Sequence[float] | None) -> None:
        least = min(np.unique(np.asarray(y, dtype=str), return_counts=True)[1])
        if least < 2:  # noqa: PLR2004
            raise InputError("stacking needs at least two examples of each category")
        joined = StackingClassifier(
            self._made(),
            LogisticRegression(max_iter=1000),
            cv=min(5, int(least)),
            stack_method="predict_proba",
        )
        joined.fit(list(texts), np.asarray(y, dtype=str), sample_weight=weight)
        self.estimators_ = joined.estimators_
        self.final_ = joined.final_estimator_
        self.classes_ = joined.classes_

    def predict_proba(self, texts: Sequence[str]) -> Array:
        """Return probabilities, shape `(texts, classes)`."""
        if not len(texts):
            return np.zeros((0, len(self.classes_)))
        stacked = np.concatenate(list(self._each(texts)), axis=1)
        found: Array = self.final_.predict_proba(stacked)
        return found

    def _last(self) -> dict[str, Any]:
        return {"classes": self.classes_, "final": self.final_}

    def _take(self, last: Mapping[str, Any]) -> None:
        self.final_ = last["final"]
