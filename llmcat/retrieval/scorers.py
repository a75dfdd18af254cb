"""Item -> a score for every category, without a language model.

A source is a way to tell how well a category fits an item. Each encoder (lexical: tf-idf over
character n-grams, which needs no word boundaries and so reads Chinese; or an embedding model) gives
up to three:

    lexical              similarity to the category's own text and to the mean of its examples
    lexical.nearest      similarity to the nearest of its labelled examples
    minilm.probe         log-probability by a logistic regression on the examples' embeddings

and `supplied` is what the supplier's own category says. Similarities are in standard deviations
over the categories of one item, since what a cosine is worth differs from model to model; the rest
are natural logarithms.
This module does not know menus, language models, or how sources are weighed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.errors import BadConfig
from llmcat.records import NONE, digest
from llmcat.retrieval import vectors
from llmcat.retrieval.documents import document, in_latin, item_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from threadpoolctl import ThreadpoolController

    from llmcat.records import Item
    from llmcat.retrieval.vectors import Representation
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["DOCUMENT", "LEXICAL", "SUPPLIED", "Examples", "Retriever", "Signals", "encoders_of"]

Array = np.ndarray[Any, Any]

LEXICAL, SUPPLIED = "lexical", "supplied"
LEAST_SPREAD = {LEXICAL: 0.03}
"""No smaller standard deviation of cosines counts: among thousands of categories nearly all share
nothing with an item, and one shared run of characters would be worth a hundred of them."""
USUAL = {LEXICAL: (0.35, 0.12), vectors.MULTILINGUAL: (0.38, 0.11), vectors.MINILM: (0.49, 0.12)}
"""Mean and standard deviation of the best cosine of items that have a category: means over four
development sets (docs/decisions/0011-evidence.md)."""
PROBE_LABELS, PROBE_EXAMPLES = 1_000, 20
"""A probe is trained up to so many categories, and from so many examples on."""
DOCUMENT = 4.0
"""A category's own text counts as so many examples of it (docs/decisions/0018-names.md)."""
SMOOTHING = 2.0
"""Examples that the names' own match counts for, where a supplier's category has been seen."""


@dataclass(frozen=True)
class Examples:
    """Labelled texts: `columns[i]` is the column of `texts[i]`'s category, -1 for `none`.

    `supplied` are the supplier's categories of the same items, empty where unknown.
    """

    texts: tuple[str, ...] = ()
    columns: tuple[int, ...] = ()
    supplied: tuple[str, ...] = ()

    def only(self, keep: Sequence[bool] | Array) -> Examples:
        """Return some of them."""
        rows = [i for i, there in enumerate(keep) if there]
        return Examples(
            tuple(self.texts[i] for i in rows),
            tuple(self.columns[i] for i in rows),
            tuple(self.supplied[i] for i in rows),
        )


@dataclass(frozen=True)
class Signals:
    """What the sources say of some items: name -> array of shape `(items, categories)`.

    `similarity` tells how much an item is like anything at all: its best cosine with any category
    by each encoder, in standard deviations from what is usual for items that have a category. Shape
    `(items, encoders)`, NaN for an encoder that knows nothing of the item, or whose usual is not
    known.
    """

    scores: Mapping[str, Array]
    similarity: Array

    def some(self, rows: slice | Array) -> Signals:
        """Return what is said of some items, in the order of `rows`; a slice copies nothing."""
        part = {name: values[rows] for name, values in self.scores.items()}
        return Signals(part, self.similarity[rows])

    @classmethod
    def stacked(cls, every: Sequence[Signals]) -> Signals:
        """Put signals of several parts below each other; only sources that all parts have."""
        names = [k for k in every[0].scores if all(k in one.scores for one in every)]
        scores = {name: np.concatenate([one.scores[name] for one in every]) for name in names}
        return cls(scores, np.concatenate([one.similarity for one in every]))


def encoders_of(sources: str) -> tuple[str, ...]:
    """Return the encoders that a setting names; `auto`: lexical and every packaged model here.

    Raises `BadConfig` if one of them cannot be had.
    """
    names = [name.strip() for name in sources.split(",") if name.strip()]
    if names == ["auto"]:
        return (LEXICAL, *vectors.installed())
    for name in names:
        if name == LEXICAL:
            continue
        if name in {"auto", "reader", SUPPLIED, vectors.TFIDF}:
            raise BadConfig(
                f"--sources {name!r} is not a retriever",
                hint="auto alone, or a list of lexical, multilingual, minilm, and folders or "
                "addresses of embedding models",
            )
        vectors.representation(name).fit(())
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Retriever:
    """Scores every assignable category of a taxonomy for each item.

    `encoders` are names (see `llmcat.retrieval.vectors`). `supplied`: the column, kept with the
    item, that holds the supplier's category.
    """

    taxonomy: Taxonomy
    encoders: tuple[str, ...] = (LEXICAL,)
    examples: Examples = Examples()
    supplied: str = ""
    _spaces: dict[str, _Space] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The categories in the order of the columns."""
        return tuple(node.id for node in self.taxonomy.leaves)

    @cached_property
    def documents(self) -> list[str]:
        """Each category as a text."""
        return [document(node, self.taxonomy.nodes) for node in self.taxonomy.leaves]

    @property
    def named(self) -> str:
        """The encoders, and where there are examples what a text is worth beside them."""
        shown = any(column >= 0 for column in self.examples.columns)
        worth = f" (a category's text counts as {DOCUMENT:g} examples)" if shown else ""
        return " ".join(self.encoders) + worth

    @property
    def key(self) -> str:
        """What shapes the scores, as a hash."""
        texts = (
            f"{c} {t}" for t, c in zip(self.examples.texts, self.examples.columns, strict=True)
        )
        served = [getattr(space.encode, "model", "") for space in self._made().values()]
        names = " ".join([self.named, *filter(None, served)])
        return digest(names, self.supplied, *self.documents, *texts)

    @property
    def sources(self) -> list[str]:
        """The names of what it says, for any item."""
        from llmcat.records import Item

        return list(self([Item(row=0, id="", fields={"": "specimen"})]).scores)

    def with_examples(self, items: Sequence[Item], labels: Sequence[str]) -> Retriever:
        """Return the same with labelled items as examples; `labels` are ids or `none`."""
        at = {id_: i for i, id_ in enumerate(self.ids)} | {NONE: -1}
        made = Examples(
            tuple(map(item_text, items)),
            tuple(at[label] for label in labels),
            tuple(item.kept.get(self.supplied, "") for item in items),
        )
        return replace(self, examples=made, _spaces={})

    def without(self, held: Sequence[bool] | Array) -> Retriever:
        """Return the same without some examples: what is held out is nobody's evidence."""
        keep = ~np.asarray(held, dtype=bool)
        spaces = {name: space.only(keep) for name, space in self._made().items()}
        return replace(self, examples=self.examples.only(keep), _spaces=spaces)

    def prepare(self) -> None:
        """Load encoders and embed what there is, so that no item waits for it."""
        self._made()

    def _made(self) -> dict[str, _Space]:
        for name in self.encoders:
            if name not in self._spaces:
                self._spaces[name] = _Space.of(name, self.documents, self.examples)
        return self._spaces

    def __call__(self, items: Sequence[Item]) -> Signals:
        """Return what every source says of the items."""
        spaces = self._made()
        texts = [item_text(item) for item in items]
        found: dict[str, Array] = {}
        best = []
        for name in self.encoders:
            scores, similarity = spaces[name].score(texts)
            found |= scores
            best.append(similarity)
        if self.supplied:
            given = [item.kept.get(self.supplied, "") for item in items]
            found[SUPPLIED] = self._of_supplied(given)
        return Signals(found, np.stack(best, axis=1))

    def _of_supplied(self, given: Sequence[str]) -> Array:
        """Return log P(category | supplier's category); zeros where it says nothing.

        By the names' similarity, which counts for `SMOOTHING` examples, and by how often labelled
        items of the same supplier's category have each label.
        """
        size = len(self.ids)
        out = np.zeros((len(given), size), dtype=np.float32)
        values = sorted({value for value in given if value.strip()})
        if not values:
            return out
        spaces = self._made()
        log_p = sum(spaces[name].to_documents(values) for name in self.encoders)
        p = np.exp(log_p - np.max(log_p, axis=1, keepdims=True))
        p *= SMOOTHING / p.sum(axis=1, keepdims=True)
        at = {value: i for i, value in enumerate(values)}
        for value, column in zip(self.examples.supplied, self.examples.columns, strict=True):
            if value in at and column >= 0:
                p[at[value], column] += 1.0
        log_p = np.log(np.maximum(p / p.sum(axis=1, keepdims=True), 1e-4))
        for row, value in zip(out, given, strict=True):
            if value in at:
                row[:] = log_p[at[value]]
        return out


@dataclass(frozen=True)
class _Space:
    """Categories and examples as unit vectors of one encoder."""

    name: str
    encode: Representation
    documents: Any
    examples: Any
    columns: Array

    @classmethod
    def of(cls, name: str, documents: Sequence[str], examples: Examples) -> _Space:
        encode: Representation = Grams() if name == LEXICAL else vectors.representation(name)
        encode.fit([*documents, *examples.texts])
        shown = encode(examples.texts) if examples.texts else None
        return cls(name, encode, encode(documents), shown, np.array(examples.columns, dtype=int))

    def only(self, keep: Array) -> _Space:
        if self.examples is None:
            return self
        return replace(self, examples=self.examples[keep], columns=self.columns[keep])

    @cached_property
    def _prototypes(self) -> Any:
        """The mean of each category's text and examples, as unit vectors (Snell et al. 2017)."""
        known = self.columns >= 0
        if self.examples is None or not known.any():
            return self.documents
        from scipy import sparse

        size = self.documents.shape[0]
        rows, columns = np.flatnonzero(known), self.columns[known]
        one = np.ones(len(rows), dtype=np.float32)
        gather = sparse.csr_matrix((one, (columns, rows)), shape=(size, len(self.columns)))
        return _unit(DOCUMENT * self.documents + gather @ self.examples)

    @cached_property
    def _turned(self) -> Any:
        """The prototypes as columns, in the form that a product with rows wants."""
        turned = self._prototypes.T
        return turned.tocsr() if hasattr(turned, "tocsr") else turned

    def score(self, texts: Sequence[str]) -> tuple[dict[str, Array], Array]:
        """Return this encoder's sources, and how much each text is like anything."""
        x = self.encode(texts)
        torch_is_next = self.name not in {LEXICAL, vectors.MULTILINGUAL}
        with _blas().limit(limits=1 if torch_is_next else None, user_api="blas"):
            return self._scored(texts, x)

    def _scored(self, texts: Sequence[str], x: Any) -> tuple[dict[str, Array], Array]:
        cosine = _dense(x @ self._turned)
        mean, deviation = USUAL.get(self.name, (0.0, np.nan))
        best = (cosine.max(axis=1) - mean) / deviation
        deaf = self._deaf(texts, cosine)
        best[deaf] = np.nan
        found = {self.name: self._spread(cosine)}
        known = self.columns >= 0
        if self.examples is not None and known.any():
            found[f"{self.name}.nearest"] = self._nearest(x, known)
            if self.probe is not None:
                found[f"{self.name}.probe"] = self.probe(x)
        for scores in found.values():
            scores[deaf] = 0.0
        return found, best

    def _deaf(self, texts: Sequence[str], cosine: Array) -> Array:
        """Tell which texts this encoder knows nothing of: what it says of them is noise.

        One for English alone knows nothing of Chinese; character runs nothing of a text that
        shares none with any category.
        """
        if self.name == vectors.MINILM:
            return np.array([not in_latin(text) for text in texts], dtype=bool)
        if self.name == LEXICAL:
            return np.asarray(cosine.max(axis=1) <= 0)
        return np.zeros(len(texts), dtype=bool)

    def to_documents(self, texts: Sequence[str]) -> Array:
        """Return the similarity of texts to the categories' own texts."""
        return self._spread(_dense(self.encode(texts) @ self.documents.T))

    def _spread(self, cosine: Array) -> Array:
        spread = np.maximum(cosine.std(axis=1, keepdims=True), LEAST_SPREAD.get(self.name, 1e-3))
        return np.asarray((cosine - cosine.mean(axis=1, keepdims=True)) / spread)

    def _nearest(self, x: Any, known: Array) -> Array:
        """Return the similarity to each category's nearest example.

        A category without examples gets the mean of the others: it is not judged by what it lacks.
        """
        columns = self.columns[known]
        order = np.argsort(columns, kind="stable")
        cosine = _dense(x @ self.examples[known][order].T)
        there, starts = np.unique(columns[order], return_index=True)
        best = np.maximum.reduceat(cosine, starts, axis=1)
        out = np.zeros((x.shape[0], self.documents.shape[0]), dtype=np.float32)
        out[:] = best.mean(axis=1, keepdims=True)
        out[:, there] = best
        return self._spread(out)

    @cached_property
    def probe(self) -> Any:
        """A logistic regression over embeddings, None where it cannot be trained.

        Each category's own text is an example of it, `DOCUMENT` times, so that none is without.
        """
        size, known = self.documents.shape[0], self.columns >= 0
        if self.name == LEXICAL or size > PROBE_LABELS or known.sum() < PROBE_EXAMPLES:
            return None
        from sklearn.linear_model import LogisticRegression

        x = np.vstack([self.examples[known], self.documents])
        y = np.concatenate([self.columns[known], np.arange(size)])
        counts = np.concatenate([np.ones(known.sum()), np.full(size, DOCUMENT)])
        with warnings.catch_warnings():
            # One example of a category is no sign that its number were a quantity.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            model = LogisticRegression(C=10.0, max_iter=300).fit(x, y, counts)
        return lambda some: np.asarray(model.predict_log_proba(some), dtype=np.float32)


@dataclass
class Grams:
    """Two to four characters within words, tf-idf, unit length; a `Representation`."""

    name: str = LEXICAL
    vectorizer: Any = field(default=None, repr=False)

    def fit(self, texts: Sequence[str]) -> Grams:
        """Learn vocabulary and weights."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vectorizer = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, dtype=np.float32
        ).fit(texts)
        return self

    def __call__(self, texts: Sequence[str]) -> Any:
        """Return a sparse matrix; a text without a known run of characters is zero."""
        return self.vectorizer.transform(texts)


@cache
def _blas() -> ThreadpoolController:
    """Return what holds numpy's products to one thread.

    Its other threads would go on spinning for a while after each, and take their cores from torch:
    embedding takes 1.6 times as long on two cores (eval/results/retrieval.md).
    """
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _dense(matrix: Any) -> Array:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)


def _unit(matrix: Any) -> Any:
    from sklearn.preprocessing import normalize

    return normalize(matrix)
