"""The library's front door: a synchronous classifier over the asynchronous loop.

    from llmcat import Classifier

    clf = Classifier(["shoes", "bags", "toys"], base_url="http://localhost:8000")
    clf.predict(["red running shoes"])          # array(['shoes'], dtype='<U5')

Works in a notebook: the loop runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import llmcat
from llmcat import config as configuration
from llmcat.classify import Tally
from llmcat.decode import Plain
from llmcat.errors import BadConfig, EngineError, EngineUnsupported, InputError, LlmcatWarning
from llmcat.memory import PlainMemory
from llmcat.readers import Columns, to_items
from llmcat.records import NONE
from llmcat.session import Session, columns_of, with_gold
from llmcat.taxonomy import Taxonomy
from llmcat.writers import COLUMNS, row_of

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    import numpy as np
    import pandas as pd

    from llmcat.engines import Engine
    from llmcat.records import Verdict

__all__ = ["Classifier"]

Items: TypeAlias = "pd.DataFrame | pd.Series[str] | Iterable[str | Mapping[str, Any]]"


class Classifier:
    """Puts items into categories, with scikit-learn's `predict`, `predict_proba` and `classes_`.

    `labels` is a `Taxonomy`, a list of names, or a path to a taxonomy file. `engine` is an
    engine of your own making; otherwise `settings` choose one (`base_url`, `model`, `engine`,
    `prompt`, `examples`, ...: every field of `RunConfig`). The engine is opened at the first
    question and stays open until `close`. An `LlmcatWarning` is given where the answers hardly
    depend on the items, or no category shares a word with them.
    """

    def __init__(
        self,
        labels: Taxonomy | Iterable[str] | str | Path,
        *,
        engine: Engine | str | None = None,
        **settings: Any,
    ) -> None:
        """Check labels and settings; nothing is connected yet. Raises `InputError`."""
        if isinstance(labels, Taxonomy):
            self.taxonomy = labels
        elif isinstance(labels, str | Path):
            self.taxonomy = Taxonomy.load(labels)
        else:
            self.taxonomy = Taxonomy.from_labels(labels)
        if isinstance(engine, str):
            settings["engine"], engine = engine, None
        self._settings = configuration.load(**settings)
        self._engine = engine
        self._session: Session | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._tally, self._warned = Tally(), 0

    @property
    def classes_(self) -> np.ndarray[Any, Any]:
        """The node ids an item can get, and `none`; sorted, as in scikit-learn. Shape `(k,)`."""
        import numpy as np

        return np.array(sorted([*(n.id for n in self.taxonomy.leaves), NONE]))

    def classify(self, items: Items) -> Any:
        """Return one prediction row per item, in order.

        Strings, mappings or a Series give a list of dicts; a DataFrame gives a DataFrame with
        the same index. A bad item gives a row whose decision is `error`.
        """
        import pandas as pd

        rows = [row_of(v, self.taxonomy) for v in self._verdicts(items)]
        if isinstance(items, pd.DataFrame):
            return pd.DataFrame(rows, index=items.index, columns=None if rows else COLUMNS)
        return rows

    def predict(self, items: Items) -> np.ndarray[Any, Any]:
        """Return node ids, `none` for the exit; shape `(n,)`.

        With more labels than one menu holds an inner node's id may be among them. Raises
        `EngineError` if any item could not be answered: an array has no place for a reason.
        """
        import numpy as np

        return np.array([_scores(v).label for v in self._verdicts(items)], dtype=str)

    def predict_proba(self, items: Items) -> np.ndarray[Any, Any]:
        """Return probabilities, one column per `classes_`; shape `(n, k)`, rows sum to 1.

        Raises `EngineUnsupported` if the labels do not fit one menu: then not all of them are
        looked at. Raises `EngineError` if any item could not be answered.
        """
        import numpy as np

        classes = self.classes_
        columns = {id_: i for i, id_ in enumerate(classes)}
        out = np.zeros((0, len(classes)))
        verdicts = self._verdicts(items, whole=True)
        if verdicts:
            out = np.zeros((len(verdicts), len(classes)))
        for row, verdict in zip(out, verdicts, strict=True):
            scores = _scores(verdict)
            if scores.kind != "full":
                raise EngineUnsupported(f"this engine gives scores of kind {scores.kind!r} only")
            row[columns[NONE]] = scores.p_none
            for id_, p in scores.p.items():
                row[columns[id_]] = p
        return out

    def fit_calibration(
        self,
        items: Items,
        labels: Iterable[str],
        *,
        path: str | Path = "",
        prior: bool = True,
        plain: bool = False,
        share: float = 0.5,
        seed: int = 0,
    ) -> Self:
        """Fit a calibration on labelled items and use it from here on (see `llmcat calibrate`).

        `labels` has one label per item: an id, a path, a unique name or `none`. `share` of the
        items fits, the others are kept to draw lines. `path` writes it down. Raises `InputError`
        for an unknown label, or where the items are too few to beat no calibration, `JournalError`
        if `path` cannot be written.
        """
        import numpy as np

        from llmcat.calibration import Calibrated, Wanted, bound_of, distinct, fit

        gold = [
            self.taxonomy.resolve(label) or (NONE if label == NONE else None) for label in labels
        ]
        if None in gold:
            raise InputError("a label is not in the taxonomy")
        verdicts = self._verdicts(items, plain=True)
        session = self._session
        if session is None or len(verdicts) != len(gold):
            raise InputError(f"{len(verdicts)} items and {len(gold)} labels")
        pool = session.task.pool
        shown = frozenset(i.content for i in pool.items) if pool is not None else frozenset()
        rows = distinct([v.item.content for v in verdicts], shown)
        verdicts, gold = [verdicts[i] for i in rows], [gold[i] for i in rows]
        found = [_scores(v) for v in verdicts]
        if any(s.kind == "label_only" for s in found):
            raise EngineUnsupported("a calibration needs probabilities, these answers have none")
        ids = [*(n.id for n in self.taxonomy.leaves), NONE]
        p = np.array([[*(s.p.get(i, 0.0) for i in ids[:-1]), s.p_none or 0.0] for s in found])
        made = fit(
            p,
            np.array([s.kind == "full" for s in found]),
            ids,
            [str(label) for label in gold],
            [(s.label, s.confidence or 0.0) for s in found],
            self.taxonomy,
            bound=bound_of(session.identity()),
            mass=None,
            version=llmcat.__version__,
            fields=sorted({name for v in verdicts for name in v.item.fields}),
            prior=prior,
            plain=plain,
            share=share,
            seed=seed,
        )
        if path:
            made.save(Path(path))
        judge = Calibrated(made, self.taxonomy, Wanted.of(self._settings))
        self._session = replace(session, judge=judge)
        return self

    # -- the loop's thread ------------------------------------------------------------------

    def _verdicts(self, items: Items, *, whole: bool = False, plain: bool = False) -> list[Verdict]:
        values, columns = _values(items, columns_of(self._settings))
        if not values:
            return []
        with self._lock:  # one engine, one conversation at a time
            found = self._run(self._ask_all(values, columns, whole, plain))
        self._warn()
        return found

    async def _ask_all(
        self, values: list[Any], columns: Columns, whole: bool, plain: bool
    ) -> list[Verdict]:
        if self._session is None:
            settings = self._settings
            if plain:  # a calibration is yet to be fitted
                from llmcat.calibration import UNCALIBRATED

                settings = settings.model_copy(update=UNCALIBRATED)
            session = await Session.open(settings, engine=self._engine, taxonomy=self.taxonomy)
            self._session = session
        if whole and not self._session.task.plan.gives_all:  # the engine holds fewer
            raise EngineUnsupported(
                "predict_proba needs all labels on one menu; this engine holds "
                f"{self._session.task.plan.size}",
                hint="classify() gives the confidence of the chosen label",
            )
        found = (with_gold(i, self.taxonomy) for i in to_items(values, columns=columns))
        judge = Plain() if plain else self._session.judge
        verdicts = self._session.classify(
            found, memory=PlainMemory(), judge=judge, tally=self._tally
        )
        return [verdict async for verdict in verdicts]

    def _warn(self) -> None:
        """Warn of what makes the answers so far worth little, of each thing once."""
        session, collapse = self._session, self._tally.watch.finding()
        said = [collapse.sentence()] if collapse is not None else []
        if session is not None and session.evidence is not None:
            said += session.evidence.sight.remarks()
        for text in said[self._warned :]:
            warnings.warn(text.removeprefix("WARNING: "), LlmcatWarning, stacklevel=4)
        self._warned = max(self._warned, len(said))

    def _run(self, work: Coroutine[Any, Any, list[Verdict]]) -> list[Verdict]:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="llmcat", daemon=True
            )
            self._thread.start()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def close(self) -> None:
        """Close the engine and the loop's thread. The classifier can be used again after it."""
        loop, thread, session = self._loop, self._thread, self._session
        self._loop = self._thread = self._session = None
        if loop is None or thread is None:
            return
        if session is not None:
            asyncio.run_coroutine_threadsafe(session.engine.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def __enter__(self) -> Self:
        """Use as a context manager to close the engine at the end."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the engine."""
        self.close()


def _values(items: Items, columns: Columns) -> tuple[list[Any], Columns]:
    """Return plain values: the rows of a DataFrame as mappings, the rest as it is."""
    import pandas as pd

    if isinstance(items, pd.DataFrame):
        return items.to_dict("records"), columns
    if isinstance(items, str | Mapping):
        raise BadConfig("items is a single one", hint="give a list: [item]")
    return list(items), columns


def _scores(verdict: Verdict) -> Any:
    if verdict.scores is None:
        raise EngineError(f"item {verdict.item.row} ({verdict.item.id}): {verdict.reason}")
    return verdict.scores
