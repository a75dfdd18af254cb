"""The library's front door: scikit-learn's estimators over the asynchronous loop.

    from llmcat import Classifier

    clf = Classifier(["shoes", "bags", "toys"], base_url="http://localhost:8000")
    clf.predict(["red running shoes"])          # array(['shoes'], dtype='<U5')

`AsyncClassifier` is the same for asynchronous programs, and yields rows as they come. `Classifier`
works in a notebook: the loop runs in a thread of its own.
"""

from __future__ import annotations

import json
import queue
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from sklearn.base import ClassifierMixin

import llmcat
from llmcat.aio import LoopThread
from llmcat.errors import BadConfig, InputError
from llmcat.estimator import Estimator
from llmcat.pipeline.tables_out import prefix_for
from llmcat.pipeline.writers import COLUMNS, row_of
from llmcat.storage import whole

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Callable,
        Coroutine,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    from llmcat.estimator import Items
    from llmcat.records import RowResult
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["AsyncClassifier", "Classifier", "rows_for"]

Array = np.ndarray[Any, Any]
Row: TypeAlias = "dict[str, Any]"


class _Saved(Estimator):
    """An estimator that can be written down as a file that holds data and nothing to run."""

    def save(self, path: str | Path) -> None:
        """Write parameters and what was learnt as JSON, which `load` reads.

        An engine of your own making and a `Taxonomy` cannot be written: give a name, and the file.
        Raises `BadConfig` for these, `JournalError` if the file cannot be written.
        """
        known: Any = getattr(self, "_known", None)
        given = known.given if known is not None else {}
        pool = known.pool if known is not None else None
        made = known.calibration if known is not None else None
        state = {
            "llmcat": llmcat.__version__,
            "params": {k: v for k, v in self.get_params(deep=False).items() if v is not None},
            "examples": [] if pool is None else [
                [dict(item.fields), given.get(label, label)]
                for item, label in zip(pool.items, pool.labels, strict=True)
            ],
            "calibration": None if made is None else made.model_dump(mode="json"),
        }  # fmt: skip
        try:
            text = json.dumps(state, ensure_ascii=False, indent=1, default=_as_data)
        except TypeError as exc:
            raise BadConfig(
                f"cannot be saved: {exc}", hint="give the engine by name, the labels as a list"
            ) from exc
        with whole(Path(path)) as out:
            out.write(text.encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; the engine opens again where it is needed.

        Raises `BadConfig` if the file is none of these.
        """
        from llmcat.calibration.artifact import Calibration

        try:
            state = json.loads(Path(path).read_text("utf-8"))
            made = cls(**state["params"])
            if state["examples"]:
                items, labels = zip(*state["examples"], strict=True)
                made.fit(items, labels)
            if state["calibration"] is not None:
                fitted = Calibration.model_validate(state["calibration"])
                made._known = replace(made._learnt(), calibration=fitted)
        except (OSError, ValueError, TypeError, KeyError) as exc:
            raise BadConfig(
                f"{path} is not a saved classifier: {str(exc).splitlines()[0]}",
                hint="Classifier.save writes one",
            ) from exc
        return made


def _as_data(value: Any) -> Any:
    """Return what JSON has for a path or a scalar of numpy's. Raises `TypeError` for the rest."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not data")


class AsyncClassifier(_Saved):
    """Puts items into categories, for asynchronous programs; parameters are those of `Classifier`.

    Close it with `await aclose()`, or use it with `async with`.
    """

    async def classify(self, items: Items) -> AsyncGenerator[Row, None]:
        """Yield a prediction row per item, in order, as they come."""
        several = bool(self.settings.multi)
        async for result in self._each_result(items):
            yield row_of(result, self.taxonomy, several=several)
        self._warn()

    async def predict(self, X: Items) -> Array:  # noqa: N803
        """Return labels; shape `(n,)`. Raises `EngineError` as `Classifier.predict` does."""
        results = await self._all(X)
        self._warn()
        return self._labels_of(results)

    async def predict_proba(self, X: Items) -> Array:  # noqa: N803
        """Return probabilities, one column per `classes_`; shape `(n, k)`, rows sum to 1."""
        results = await self._whole(X)
        self._warn()
        return self._probabilities_of(results)

    async def calibrate(
        self, X: Items, y: Iterable[Any], *, path: str | Path = "", prior: bool = True,  # noqa: N803
        plain: bool = False, share: float = 0.5, seed: int = 0,
    ) -> Self:  # fmt: skip
        """Fit a calibration on labelled items; see `Classifier.calibrate`."""
        results = await self._all(X, plain=True)
        self._calibrated(results, y, path=path, prior=prior, plain=plain, share=share, seed=seed)
        return self

    async def aclose(self) -> None:
        """Close the engine. The classifier can be used again after it."""
        await self._shut()

    async def __aenter__(self) -> Self:
        """Use as a context manager to close the engine at the end."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the engine."""
        await self.aclose()


class Classifier(ClassifierMixin, _Saved):  # type: ignore[misc]
    """Puts items into categories: a scikit-learn classifier, zero-shot where it is given labels.

    `labels` is a list of names, a mapping of names to descriptions, a list of mappings with the
    keys of a taxonomy file (`id`, `path`, `description`, ...), a path to such a file, or a
    `Taxonomy`; without them `fit` takes the labels it is given. `engine` is a name, or an engine of
    your own making. `closed`: every item has one of the labels, `none` is never answered (default:
    where `fit` took its labels from `y`). `on_error`: an item that cannot be answered raises, or is
    a row without a label (`None`, or NaN probabilities). `progress` shows a bar. `trust_env`: take
    what is not given here from `LLMCAT_*` variables and `llmcat.toml`, as the command line does;
    a server's key stands in `LLMCAT_API_KEY` only. All other parameters are the settings of the
    same name (docs/cli.md), and None leaves each as it is by default.

    The engine is opened at the first question and stays open until `close`; another parameter
    (`set_params`) opens it anew. What was fitted stays. Copies, pickles included, have parameters
    and what was fitted. An `LlmcatWarning` is given where the answers hardly depend on the items,
    or no category shares a word with them.
    """

    def classify(self, items: Items) -> Any:
        """Return one prediction row per item, in order.

        Strings, mappings or a Series give a list of dicts; a DataFrame gives its own columns with
        ours beside (`keep`: which of them, or `none`), with a prefix where a name is taken. A bad
        item gives a row whose decision is `error`.
        """
        several = bool(self.settings.multi)
        return rows_for(
            items, self.results(items), self.taxonomy, several=several, keep=self.settings.keep
        )

    def results(self, items: Items) -> list[RowResult]:
        """Return what was decided of each item, in order: what rows and arrays are made of."""
        return self._answers(self._all, items)

    def stream(self, items: Items) -> Iterator[Row]:
        """Yield the rows of `classify` as they come."""
        came: queue.SimpleQueue[RowResult | BaseException | None] = queue.SimpleQueue()

        async def ask() -> None:
            try:
                async for result in self._each_result(items):
                    came.put(result)
                came.put(None)
            except BaseException as exc:
                came.put(exc)
                raise

        several = bool(self.settings.multi)
        with self._aio.lock:
            running = self._aio.submit(ask())
            try:
                while (got := came.get()) is not None:
                    if isinstance(got, BaseException):
                        raise got
                    yield row_of(got, self.taxonomy, several=several)
            finally:
                running.cancel()
        self._warn()

    def explain(self, item: str | Mapping[str, Any]) -> Row:
        """Return an item's row with `evidence`: what was offered, and what each source adds."""
        (result,) = self.results([item])
        return row_of(result, self.taxonomy)

    def predict(self, X: Items) -> Array:  # noqa: N803
        """Return labels, `none` for items that belong nowhere; shape `(n,)`.

        With `multi` 1 where a class is given and 0 where not, shape `(n, k)`, a column per class.
        With more labels than one menu holds an inner node's id may be among them. Raises
        `EngineError` if any item could not be answered (unless `on_error="row"`); what the others
        got is kept, and not asked again by the next call.
        """
        return self._labels_of(self.results(X))

    def score(self, X: Items, y: Iterable[Any], sample_weight: Any = None) -> float:  # noqa: N803
        """Return the accuracy; with `multi` the share of items of which all labels are right."""
        if not self.settings.multi:
            return float(super().score(X, y, sample_weight))
        gold = [self.taxonomy.resolve_all(labels) for labels in self.joined_of(y)]
        given = [
            None if scores is None else self.label_of(scores)
            for scores in map(self._scores, self.results(X))
        ]
        right = [a == b for a, b in zip(gold, given, strict=True)]
        return float(np.average(right, weights=sample_weight))

    def predict_proba(self, X: Items) -> Array:  # noqa: N803
        """Return probabilities, one column per `classes_`; shape `(n, k)`, rows sum to 1.

        With `multi` each is the chance that this label applies, whatever the others. Raises
        `EngineUnsupported` if the labels do not fit one menu: then not all of them are
        looked at. Raises `EngineError` as `predict` does.
        """
        return self._probabilities_of(self._answers(self._whole, X))

    def calibrate(
        self,
        X: Items,  # noqa: N803
        y: Iterable[Any],
        *,
        path: str | Path = "",
        prior: bool = True,
        plain: bool = False,
        share: float = 0.5,
        seed: int = 0,
    ) -> Self:
        """Fit a calibration on labelled items and use it from here on (see `llmcat calibrate`).

        `y` has one label per item: an id, a path, a unique name or `none`. `share` of the items
        fits, the others are kept to draw lines. `path` writes it down. Raises `InputError` for an
        unknown label, or where the items are too few to beat no calibration, `JournalError` if
        `path` cannot be written.
        """

        async def ask(items: Items) -> list[RowResult]:
            return await self._all(items, plain=True)

        results = self._answers(ask, X)
        self._calibrated(results, y, path=path, prior=prior, plain=plain, share=share, seed=seed)
        return self

    @property
    def _aio(self) -> LoopThread:
        thread: LoopThread = self.__dict__.setdefault("_thread", LoopThread())
        return thread

    def _answers(
        self, work: Callable[[Items], Coroutine[Any, Any, list[RowResult]]], items: Items
    ) -> list[RowResult]:
        found = self._aio.run(work(items))
        self._warn()
        return found

    def close(self) -> None:
        """Close the engine and the loop's thread. The classifier can be used again after it."""
        if hasattr(self, "_open"):
            self._aio.run(self._shut())
        self._aio.close()

    def __enter__(self) -> Self:
        """Use as a context manager to close the engine at the end."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the engine."""
        self.close()


def rows_for(
    items: Items,
    results: Sequence[RowResult],
    taxonomy: Taxonomy,
    *,
    several: bool = False,
    keep: str = "",
) -> Any:
    """Return prediction rows: a list, or the DataFrame that the items came in with these beside."""
    import pandas as pd

    rows = [row_of(result, taxonomy, several=several) for result in results]
    if not isinstance(items, pd.DataFrame):
        return rows
    found = pd.DataFrame(rows, index=items.index, columns=None if rows else COLUMNS)
    if keep == "none":
        return found
    names = [] if keep in {"", "all"} else [name.strip() for name in keep.split(",")]
    if missing := [name for name in names if name not in items]:
        raise InputError(f"keep: no column {missing[0]!r}")
    kept = items[names] if names else items
    there = set(map(str, kept.columns))
    found = found.drop(columns=[name for name in ("row", "id", "gold") if name in found])
    if there & set(found.columns):
        found = found.add_prefix(prefix_for(there, found.columns))
    return pd.concat([kept, found], axis=1)
