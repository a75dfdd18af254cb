"""The fallback labeler put together: settings to a session whose items are routed.

    FallbackLabeler(primary, labels, ...)      from Python
    fallback_file(config), redo(config)        a file, and its degraded rows again
    status(config)                             where each category stands

This module knows files, stores and settings; what decides is in `llmcat.fallback.router`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from llmcat import config as configuration
from llmcat.aio import LoopThread
from llmcat.annotations.store import LabelStore
from llmcat.classifier import rows_for
from llmcat.engines.circuit_breaker import Tolerant
from llmcat.errors import EngineError
from llmcat.fallback.assemble import background, open_route, open_session
from llmcat.fallback.file_run import routed
from llmcat.fallback.primary import Placed, open_primary
from llmcat.items.readers import Columns, to_items, values_of
from llmcat.pipeline.duplicates import PlainMemory
from llmcat.pipeline.session import Session
from llmcat.pipeline.settings import engine_for, with_gold
from llmcat.records import NONE
from llmcat.taxonomy.load import taxonomy_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.engines import Engine
    from llmcat.estimator import Items
    from llmcat.fallback.primary import Primary
    from llmcat.records import RowResult
    from llmcat.taxonomy.load import Labels

__all__ = ["FallbackLabeler"]


# -- from Python --------------------------------------------------------------------------------


class FallbackLabeler:
    """Labels items by a trained classifier where it knows them, by the language model elsewhere.

    `primary` has scikit-learn's `predict_proba` of texts and `classes_`: a pipeline, a `Student`,
    or a student's folder or a server's address as a string. `known` are labelled items (texts,
    labels) for a primary that is not a student, best those it was not trained on: by these the line
    is drawn and what is new is recognised. `store` is a file of labels; without one none is kept.
    `labels` are as in `Classifier`, `settings` those of a run (docs/cli.md). Does not raise because
    the model is away: what the primary answers then is marked `degraded`.
    """

    def __init__(
        self,
        primary: Primary | str | Path,
        labels: Labels,
        *,
        known: tuple[Sequence[str], Sequence[str]] | None = None,
        store: str | Path = "",
        engine: Engine | str | None = None,
        **settings: Any,
    ) -> None:
        """Open primary and store; the model is not connected yet. Raises `InputError`."""
        if isinstance(engine, str):
            settings["engine"], engine = engine, None
        config = self._settings = configuration.load(**settings)
        self.taxonomy = taxonomy_from(labels)
        self._engine = engine
        self._session: Session | None = None
        self._aio = LoopThread()
        if isinstance(primary, str | Path):
            primary = open_primary(str(primary), url=config.primary_url)
        placed = Placed.of(primary, self.taxonomy)
        background_ = None
        if known is not None:
            texts, given = known
            gold = [self.taxonomy.resolve(label) or "" for label in given]
            rows = [i for i, label in enumerate(gold) if label in placed.labels]
            background_ = background(
                [texts[i] for i in rows], [gold[i] for i in rows], placed, self.taxonomy,
                features=config.features, seed=config.seed,
            )  # fmt: skip
        self.store = LabelStore(Path(store)) if store else None
        self._primary, self._known = primary, background_
        self._opened = open_route(
            config, self.taxonomy, primary=primary, store=self.store, known=background_
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is worth knowing of primary, line and categories."""
        return self._opened.remarks

    def predict_proba(self, items: Items) -> np.ndarray[Any, Any]:
        """Return probabilities, one column per `classes_`; shape `(n, k)`, rows sum to 1.

        What the primary leaves over, for categories that it cannot name, is in the column `none`.
        """
        classes = self.classes_
        column = {id_: i for i, id_ in enumerate(classes.tolist())}
        results = self._each_result(items)
        p = np.zeros((len(results), len(classes)))
        for row, result in zip(p, results, strict=True):
            for id_, value in _scores(result).p.items():
                row[column[id_]] = value
            row[column[NONE]] += max(0.0, 1.0 - row.sum())
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def refresh(self) -> None:
        """Take in what was checked since: standings, line and mixture are made anew."""
        self._opened = open_route(
            self._settings, self.taxonomy, primary=self._primary, store=self.store,
            known=self._known,
        )  # fmt: skip
        if self._session is not None:
            route = replace(self._opened.route, origin=routed(self._session).origin)
            self._session = replace(self._session, route=route, decider=self._opened.decider)

    @property
    def classes_(self) -> np.ndarray[Any, Any]:
        """The node ids an item can get, and `none`; sorted, as in scikit-learn. Shape `(k,)`."""
        return np.array(sorted([*(n.id for n in self.taxonomy.leaves), NONE]))

    def classify(self, items: Items) -> Any:
        """Return one prediction row per item, in order, as `Classifier.classify` does."""
        return rows_for(items, self._each_result(items), self.taxonomy)

    def predict(self, items: Items) -> np.ndarray[Any, Any]:
        """Return node ids, `none` for the exit; shape `(n,)`. Raises `EngineError`."""
        return np.array([_scores(v).label for v in self._each_result(items)], dtype=str)

    def _each_result(self, items: Items) -> list[RowResult]:
        values, columns = values_of(items, Columns.of(self._settings))
        return self._aio.run(self._ask_all(values, columns)) if values else []

    async def _ask_all(self, values: list[Any], columns: Columns) -> list[RowResult]:
        session = self._session
        engine = session.engine if session else None
        if isinstance(engine, Tolerant) and not engine.opened and not engine.away:
            session = None  # it was away when it was opened: try again
        if session is None:
            tolerant = Tolerant(self._engine or await engine_for(self._settings))
            session = await open_session(self._settings, self._opened, self.taxonomy, tolerant)
            self._session = session
        found = [with_gold(i, self.taxonomy) for i in to_items(values, columns=columns)]
        route = routed(session)
        if route.most is not None:
            route = route.choosing([item for item in found if item.error is None])
        here = replace(session, route=route)
        results = [result async for result in here.classify(found, memory=PlainMemory())]
        route.keep(results)
        return results

    def close(self) -> None:
        """Close engine and store."""
        if self._session is not None:
            self._aio.run(self._session.engine.close())
            self._session = None
        self._aio.close()
        if self.store is not None:
            self.store.close()

    def __enter__(self) -> Self:
        """Use as a context manager to close engine and store at the end."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close engine and store."""
        self.close()


def _scores(result: RowResult) -> Any:
    if result.scores is None:
        raise EngineError(f"item {result.item.row} ({result.item.id}): {result.reason}")
    return result.scores
