"""The classifiers that learn from labels: scikit-learn's interface over plain texts.

    linear    logistic regression over tf-idf or sentence embeddings
    encoder   a fine-tuned encoder of the BERT family
    vote      the mean of several students' probabilities
    stack     a logistic regression over several students' probabilities

Each saves itself without pickle. This module does not know items, labels' sources or files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

__all__ = ["KINDS", "Estimator", "Kind"]

Kind = Literal["linear", "encoder", "vote", "stack"]
KINDS: tuple[Kind, ...] = ("linear", "encoder", "vote", "stack")


class Estimator(Protocol):
    """What every kind is: an estimator in scikit-learn's sense, of texts."""

    classes_: np.ndarray[Any, Any]

    def fit(self, texts: Sequence[str], y: Any, sample_weight: Any = None) -> Self:
        """Learn from texts and their labels."""

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Return probabilities, shape `(texts, classes)`, columns as `classes_`."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the settings."""

    def set_params(self, **params: Any) -> Self:
        """Change settings."""

    def save(self, folder: Path) -> None:
        """Write all that was learnt into a folder."""
