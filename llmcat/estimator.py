"""What `Classifier` and `AsyncClassifier` share: parameters, what was learnt, an open engine.

This module knows scikit-learn's conventions; it does not know files, the command line or threads.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

import llmcat
from llmcat import config as configuration
from llmcat.errors import (
    BadConfig,
    EngineError,
    EngineUnsupported,
    InputError,
    LlmcatWarning,
    in_python,
)
from llmcat.items.readers import Columns, to_items, values_of
from llmcat.items.values import several_of
from llmcat.pipeline.decode import Plain
from llmcat.pipeline.duplicates import PlainMemory
from llmcat.pipeline.loop import Tally
from llmcat.pipeline.session import Session
from llmcat.pipeline.settings import with_gold
from llmcat.prompting.few_shot import Pool
from llmcat.records import NONE, each_of
from llmcat.taxonomy.load import taxonomy_from
from llmcat.taxonomy.tree import Taxonomy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

    import pandas as pd

    from llmcat.calibration.artifact import Calibration
    from llmcat.config import RunConfig
    from llmcat.engines import Engine
    from llmcat.records import Item, RowResult, Scores
    from llmcat.taxonomy.load import Labels

__all__ = ["Estimator", "Items"]

Array = np.ndarray[Any, Any]
Items: TypeAlias = "pd.DataFrame | pd.Series[str] | Iterable[str | Mapping[str, Any]]"

OURS = ("labels", "closed", "on_error", "progress", "trust_env")
"""Parameters that are no settings of a run."""


@dataclass(frozen=True)
class _Known:
    """What was learnt of `labels`: the categories, and `given`, their ids to labels of `fit`."""

    labels: Any
    taxonomy: Taxonomy
    given: Mapping[str, Any] = field(default_factory=dict)
    pool: Pool | None = None
    calibration: Calibration | None = None


@dataclass
class _Open:
    """An open engine, and what is known of its answers so far."""

    params: list[Any]
    session: Session
    tally: Tally = field(default_factory=Tally)
    memory: PlainMemory = field(default_factory=PlainMemory)
    warned: int = 0

    def warn(self) -> None:
        """Warn of what makes the answers so far worth little, of each thing once."""
        collapse, evidence = self.tally.watch.finding(), self.session.evidence
        said = [collapse.sentence()] if collapse is not None else []
        said += evidence.sight.remarks() if evidence is not None else []
        for text in said[self.warned :]:
            warnings.warn(text.removeprefix("WARNING: "), LlmcatWarning, stacklevel=6)
        self.warned = max(self.warned, len(said))


class Estimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Parameters and what was learnt, shared by `Classifier` and `AsyncClassifier`."""

    def __init__(
        self,
        labels: Labels | None = None,
        *,
        engine: Engine | str | None = None,
        engine_option: str | None = None,
        base_url: str | None = None,
        model: str | None = None,
        prompt: str | None = None,
        about: str | None = None,
        examples: str | None = None,
        select: Literal["fixed", "nearest"] | None = None,
        shots: int | None = None,
        candidates: int | None = None,
        sources: str | None = None,
        source_category: str | None = None,
        group: str | None = None,
        reference: str | None = None,
        skip_sure: bool | None = None,
        artifact: str | None = None,
        orders: str | None = None,
        menu_size: int | None = None,
        multi: Literal["menu", "each"] | None = None,
        constraint: Literal["outlines", "tokens"] | None = None,
        mass_sample: int | None = None,
        calibration: str | None = None,
        accept_precision: float | None = None,
        risk: float | None = None,
        by_branch: bool | None = None,
        back_off: bool | None = None,
        set_coverage: float | None = None,
        text: str | None = None,
        id: str | None = None,  # noqa: A002  the setting's name
        label: str | None = None,
        image: str | None = None,
        keep: str | None = None,
        redact: str | None = None,
        seed: int | None = None,
        concurrency: int | None = None,
        timeout: float | None = None,
        retry_seconds: float | None = None,
        closed: bool | None = None,
        on_error: Literal["raise", "row"] = "raise",
        progress: bool = False,
        trust_env: bool = True,
    ) -> None:
        """Keep the parameters as they are; they are checked when they are first used."""
        given = dict(locals())
        for name in self._get_param_names():
            setattr(self, name, given[name])

    @property
    def classes_(self) -> Array:
        """The labels an item can get, sorted as in scikit-learn.

        `none` too, unless `closed`, or with `multi`, where no label at all is said otherwise.
        """
        known = self._learnt()
        ids = [known.given.get(n.id, n.id) for n in known.taxonomy.leaves]
        closed = self._is_closed(known) or bool(self.settings.multi)
        return np.array(sorted(ids if closed else [*ids, NONE]))

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories. Raises `BadTaxonomy`, or `NotFittedError` where there are none yet."""
        return self._learnt().taxonomy

    def fit(self, X: Items, y: Iterable[Any]) -> Self:  # noqa: N803
        """Take labelled items as examples: evidence for retrieval, or shown by few-shot prompts.

        A prompt that reads the whole menu without examples has no use for them. Nothing is asked.
        Without `labels` those of `y` are the categories. With `multi` an element of `y` is a list
        of labels, or text with `|` between them. Items that are asked about later should
        not be among these: they would be their own evidence. Raises `InputError` with every label
        that is not a category.
        """
        settings = self.settings
        if settings.multi:
            y, given = self.joined_of(y), {}
            names = {name for labels in y for name in each_of(labels)}
            taxonomy = taxonomy_from(sorted(names) if self.labels is None else self.labels)
        elif self.labels is None:
            y = np.asarray(list(y))
            given = {str(label): label for label in np.unique(y)}
            taxonomy = Taxonomy.from_labels([name for name in given if name != NONE])
        else:
            y = np.asarray(list(y))
            taxonomy = taxonomy_from(self.labels)
            given = {found: label for label in np.unique(y) if (found := taxonomy.resolve(label))}
        values, columns = values_of(X, Columns.of(settings))
        if len(values) != len(y):
            raise InputError(f"{len(values)} items and {len(y)} labels")
        items = to_items(values, columns=columns)
        shown = (replace(item, gold=str(label)) for item, label in zip(items, y, strict=True))
        pool = Pool.build(
            shown, taxonomy, select=settings.select, shots=settings.shots, seed=settings.seed
        )
        self._known = _Known(self.labels, taxonomy, given, pool)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """Tell whether items can be asked about: with `labels` at once, zero-shot."""
        return self.labels is not None or hasattr(self, "_known")

    def __sklearn_tags__(self) -> Any:
        """Say that items are texts or mappings, one-dimensional."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        tags.requires_fit = self.labels is None
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Keep parameters and what was learnt; the engine opens again where it is needed."""
        state: dict[str, Any] = super().__getstate__()
        return {k: v for k, v in state.items() if k not in {"_open", "_thread"}}

    # -- shared by both ------------------------------------------------------------------------

    def _learnt(self) -> _Known:
        known: _Known | None = getattr(self, "_known", None)
        if known is None or known.labels is not self.labels:
            if self.labels is None:
                raise NotFittedError("no labels yet: Classifier(labels), or fit(X, y)")
            known = self._known = _Known(self.labels, taxonomy_from(self.labels))
        return known

    def joined_of(self, y: Iterable[Any]) -> list[str]:
        """Return each item's labels `joined`, with `multi`; a matrix is of `classes_`."""
        known = self.labels is not None or hasattr(self, "_known")
        return several_of(y, self.classes_.tolist() if known else None)

    def _is_closed(self, known: _Known) -> bool:
        if self.closed is not None:
            return bool(self.closed)
        return self.labels is None and NONE not in known.given

    @property
    def settings(self) -> RunConfig:
        """The settings of a run that the parameters make, over environment and file."""
        given = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in OURS and value is not None
        }
        if not isinstance(self.engine, str):
            given.pop("engine", None)
        with in_python():
            return configuration.load(trust_env=self.trust_env, **given)

    async def _ready(self, *, plain: bool = False) -> _Open:
        """Open the engine, or take the one that is open for the same parameters."""
        known = self._learnt()
        params = [*self.get_params(deep=False).values(), known.pool]
        now: _Open | None = getattr(self, "_open", None)
        if now is not None and all(map(is_, now.params, params)):
            return now
        await self._shut()
        settings = self.settings
        if plain:  # a calibration is yet to be fitted
            from llmcat.calibration.decider import UNCALIBRATED

            settings = settings.model_copy(update=UNCALIBRATED)
        engine = None if self.engine is None or isinstance(self.engine, str) else self.engine
        how: Any = {"engine": engine, "taxonomy": known.taxonomy, "pool": known.pool}
        with in_python():
            session = await Session.open(settings, **how)
        if known.calibration is not None and not plain:
            session = replace(session, decider=self._decider(known.calibration, session))
        self._open = _Open(params, session)
        return self._open

    def _decider(self, made: Calibration, session: Session) -> Any:
        from llmcat.calibration.decider import AcceptanceOptions, Calibrated

        made.check(session.identity())
        return Calibrated(made, session.taxonomy, AcceptanceOptions.of(self.settings))

    async def _each_result(
        self, items: Items, *, plain: bool = False
    ) -> AsyncGenerator[RowResult, None]:
        """Ask about items, in their order; where one failed the others' answers are kept."""
        values, columns = values_of(items, Columns.of(self.settings))
        if not values:
            return
        here = await self._ready(plain=plain)
        found: Iterable[Item] = [with_gold(i, here.session.taxonomy)
                                 for i in to_items(values, columns=columns)]  # fmt: skip
        decider = Plain() if plain else here.session.decider
        memory, failed = PlainMemory() if plain else here.memory, False
        done = here.session.classify(found, memory=memory, decider=decider, tally=here.tally)
        with _bar(len(values), shown=self.progress) as step:
            async for result in done:
                step()
                failed |= result.scores is None
                yield result
        if not failed:
            memory.clear()

    async def _all(self, items: Items, *, plain: bool = False) -> list[RowResult]:
        return [result async for result in self._each_result(items, plain=plain)]

    async def _whole(self, items: Items) -> list[RowResult]:
        """Ask about items where every label must have a probability."""
        if not (await self._ready()).session.task.plan.gives_all:
            raise EngineUnsupported(
                "predict_proba needs all labels on one menu; this engine holds "
                f"{self._open.session.task.plan.size}",
                hint="classify() gives the confidence of the chosen label",
            )
        return await self._all(items)

    def _warn(self) -> None:
        """Warn of what makes the answers so far worth little; nothing where none was asked."""
        now: _Open | None = getattr(self, "_open", None)
        if now is not None:
            now.warn()

    async def _shut(self) -> None:
        now: _Open | None = getattr(self, "_open", None)
        if now is not None:
            del self._open
            await now.session.engine.close()

    def id_of(self, label: Any) -> str | None:
        """Return the category's id, or `none`, of a label as `y` has it; None if there is none.

        With `multi` a list of labels becomes ids `joined`.
        """
        known = self._learnt()
        if self.settings.multi:
            (labels,) = self.joined_of([label])
            return known.taxonomy.resolve_all(labels)
        for id_, given in known.given.items():
            if given == label:
                return id_
        return known.taxonomy.resolve(str(label))

    def label_of(self, scores: Scores) -> str:
        """Return the id of the category that is answered, or `none`: the next one if `closed`.

        With `multi` ids `joined`.
        """
        if scores.several is not None:
            return scores.answer
        if scores.label != NONE or not self._is_closed(self._learnt()):
            return scores.label
        if not len(scores.p):
            raise EngineUnsupported(
                "an answer `none` without probabilities does not say which label comes next"
            )
        return max(scores.p, key=lambda id_: float(scores.p[id_]))

    def _labels_of(self, results: Sequence[RowResult]) -> Array:
        """Return labels as `classes_` has them, shape `(items,)`.

        With `multi` 1 where a class is given and 0 where not, shape `(items, classes)`.
        """
        if self.settings.multi:
            return self._given_of(results)
        given, out = self._learnt().given, list[Any]()
        for result in results:
            scores = self._scores(result)
            label = None if scores is None else self.label_of(scores)
            out.append(None if label is None else given.get(label, label))
        if None in out:
            return np.array(out, dtype=object)
        return np.array(out, dtype=None if given else str)

    def _given_of(self, results: Sequence[RowResult]) -> Array:
        """Return which classes each item is given, as scikit-learn's multi-label indicators.

        A row of -1 where there is no answer.
        """
        at = {label: i for i, label in enumerate(self.classes_.tolist())}
        out = np.zeros((len(results), len(at)), dtype=int)
        for row, result in zip(out, results, strict=True):
            scores = self._scores(result)
            row[[] if scores is None else [at[id_] for id_ in scores.several]] = 1
            if scores is None:
                row[:] = -1
        return out

    def _probabilities_of(self, results: Sequence[RowResult]) -> Array:
        """Return probabilities, one column per `classes_`; shape `(items, classes)`."""
        known, classes = self._learnt(), self.classes_
        at = {label: i for i, label in enumerate(classes.tolist())}
        column = {n.id: at[_plain(known.given.get(n.id, n.id))] for n in known.taxonomy.leaves}
        each = bool(self.settings.multi)
        closed, out = self._is_closed(known), np.zeros((len(results), len(classes)))
        for row, result in zip(out, results, strict=True):
            scores = self._scores(result)
            if scores is None:
                row[:] = np.nan
                continue
            if scores.kind not in {"full", "each"}:
                raise EngineUnsupported(f"this engine gives scores of kind {scores.kind!r} only")
            for id_, p in scores.p.items():
                row[column[id_]] = p
            if not closed and not each:
                row[at[NONE]] = scores.p_none
        return out / out.sum(axis=1, keepdims=True) if closed and not each else out

    def _scores(self, result: RowResult) -> Any:
        if result.scores is None and self.on_error == "raise":
            raise EngineError(f"item {result.item.row} ({result.item.id}): {result.reason}")
        return result.scores

    def _calibrated(
        self, results: Sequence[RowResult], y: Iterable[Any], *, path: str | Path, **how: Any
    ) -> Calibration:
        """Fit a calibration on what was answered, and use it from here on."""
        from llmcat.calibration.artifact import bound_of
        from llmcat.calibration.fit import fit_results

        known, session = self._learnt(), self._open.session
        taxonomy = known.taxonomy
        if self.settings.multi:
            hint = "`llmcat calibrate --multi` writes an artifact: Classifier(artifact=...)"
            raise BadConfig("a calibration is for items with one label", hint=hint)
        gold = [taxonomy.resolve(str(label)) or "" for label in y]
        if "" in gold:
            raise InputError("a label is not in the taxonomy")
        if len(results) != len(gold):
            raise InputError(f"{len(results)} items and {len(gold)} labels")
        pool = session.task.pool
        shown = frozenset(i.content for i in pool.items) if pool is not None else frozenset()
        made = fit_results(
            [(result, self._scores(result)) for result in results], gold, taxonomy, shown,
            bound=bound_of(session.identity()), version=llmcat.__version__, **how,
        )  # fmt: skip
        if path:
            made.save(Path(path))
        self._known = replace(known, calibration=made)
        self._open.session = replace(session, decider=self._decider(made, session))
        return made


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    """Show a bar in a terminal or a notebook; gives what moves it on by one."""
    if not shown:
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task("classifying", total=total)
        yield lambda: bar.advance(task)


def _plain(label: Any) -> Any:
    """Return a label as `tolist` gives it."""
    return label.item() if isinstance(label, np.generic) else label
