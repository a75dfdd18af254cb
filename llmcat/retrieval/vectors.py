"""Texts as vectors of unit length: tf-idf of words and characters, or sentence embeddings.

What students learn from, and where an item's nearest neighbours are looked up. This module does
not know labels, items or files of items.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cache
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from llmcat.errors import BadConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TFIDF", "Embedding", "Representation", "Tfidf", "representation"]

Matrix = Any
"""A dense array or a sparse matrix, shape `(texts, features)`, rows of unit length."""

TFIDF = "tfidf"
KEPT = 1 << 15
"""Embeddings that are kept: training asks for the same texts several times."""


class Representation(Protocol):
    """Makes vectors of texts, after `fit` has seen those of the training."""

    name: str

    def fit(self, texts: Sequence[str]) -> Self:
        """Learn what there is to learn from texts."""

    def __call__(self, texts: Sequence[str]) -> Matrix:
        """Return unit vectors, shape `(texts, features)`."""


def representation(name: str) -> Representation:
    """Return the one of a name: `tfidf`, or a sentence-transformers model by name or folder."""
    return Tfidf() if name == TFIDF else _embedding(name)


@dataclass
class Tfidf:
    """Words and pairs of words, and 2 to 4 characters within words (Chinese has no spaces)."""

    name: str = TFIDF
    vectorizer: Any = field(default=None, repr=False)

    def fit(self, texts: Sequence[str]) -> Self:
        """Learn vocabulary and weights."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import FeatureUnion

        plain: dict[str, Any] = {"sublinear_tf": True, "dtype": np.float32}
        usual = {**plain, "token_pattern": r"\w+"}
        self.vectorizer = FeatureUnion(
            [
                ("words", TfidfVectorizer(ngram_range=(1, 2), **usual)),
                ("chars", TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), **plain)),
            ]
        ).fit(texts)
        return self

    def __call__(self, texts: Sequence[str]) -> Matrix:
        """Return a sparse matrix; a text without a known word or character is zero."""
        from sklearn.preprocessing import normalize

        return normalize(self.vectorizer.transform(texts))


@dataclass
class Embedding:
    """A sentence-transformers model, by name or folder."""

    name: str
    _model: Any = field(default=None, repr=False)
    _kept: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict, repr=False)

    def fit(self, texts: Sequence[str]) -> Self:  # noqa: ARG002
        """Load the model; nothing is learnt. Raises `BadConfig` if it cannot be had."""
        if self._model is None:
            self._model = _load(self.name)
        return self

    def __call__(self, texts: Sequence[str]) -> Matrix:
        """Return an array of float32."""
        self.fit(())
        new = list(dict.fromkeys(text for text in texts if text not in self._kept))
        if len(self._kept) + len(new) > KEPT:
            self._kept.clear()
            new = list(dict.fromkeys(texts))
        if new:
            made = self._model.encode(
                new, batch_size=64, normalize_embeddings=True, show_progress_bar=False
            )
            self._kept.update(zip(new, made, strict=True))
        size = self._model.get_embedding_dimension()
        return np.array([self._kept[text] for text in texts], dtype=np.float32).reshape(-1, size)


@cache
def _embedding(name: str) -> Embedding:
    """Return the model of a name; a student and its eye for what is new use the same one."""
    return Embedding(name)


def _load(name: str) -> Any:
    if util.find_spec("sentence_transformers") is None:
        raise BadConfig(
            "sentence embeddings need sentence-transformers",
            hint='pip install "llmcat[embeddings]", or --features tfidf',
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between the packages below it
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = Path(name)
        missing = BadConfig(
            f"no embedding model {name!r} here, and none by this name could be fetched",
            hint="--features FOLDER with a sentence-transformers model, a name on the model hub "
            "while it can be reached, or --features tfidf",
        )
        if folder.exists() and not (folder / "config.json").is_file():
            raise missing
        try:
            return SentenceTransformer(name, device=None)
        except (OSError, ValueError, RuntimeError) as exc:
            raise missing from exc
