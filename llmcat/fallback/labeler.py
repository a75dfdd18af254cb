"""The fallback labeler put together: settings to a session whose items are routed.

    FallbackLabeler(primary, labels, ...)      from Python
    fallback_file(config), redo(config)        a file, and its degraded rows again
    status(config)                             where each category stands

This module knows files, stores and settings; what decides is in `llmcat.fallback.router`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import orjson

from llmcat import config as configuration
from llmcat.aio import LoopThread
from llmcat.annotations.labelled import read_labelled
from llmcat.annotations.store import LabelStore
from llmcat.classifier import rows_for
from llmcat.engines.circuit_breaker import Tolerant
from llmcat.errors import BadConfig, EngineError, InputError, JournalError
from llmcat.estimator import taxonomy_of as labels_of
from llmcat.estimator import values_of
from llmcat.fallback.primary import Placed, open_primary
from llmcat.fallback.router import (
    PLENTY,
    PRECISION,
    Background,
    FallbackJudge,
    Policy,
    Router,
    fitted,
    line_of,
    standings,
)
from llmcat.items.readers import Columns, ItemReader, expand, to_items
from llmcat.pipeline import file_run
from llmcat.pipeline.decode import Plain
from llmcat.pipeline.duplicates import DiskMemory, PlainMemory
from llmcat.pipeline.journal import check_writable, hold, locked, refuse_other, write_record
from llmcat.pipeline.loop import Tally
from llmcat.pipeline.session import Session, engine_of, taxonomy_of, with_gold
from llmcat.pipeline.writers import row_of
from llmcat.records import NONE
from llmcat.retrieval.vectors import representation
from llmcat.storage import whole
from llmcat.students import novelty
from llmcat.students.model import Held, Student, text_of
from llmcat.students.training import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llmcat.config import RunConfig
    from llmcat.engines import Engine
    from llmcat.estimator import Items, Labels
    from llmcat.fallback.primary import Primary
    from llmcat.fallback.promotion import Standing
    from llmcat.pipeline.file_run import Summary, Watch
    from llmcat.records import Item, Verdict
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["FallbackLabeler", "Status", "fallback_file", "open_route", "redo", "status"]

PATIENCE = 5.0
"""Seconds that a model server is waited for, where the settings do not say: there is an answer."""
PILOT = 16
"""Texts that tell what an ask costs."""


# -- opening ------------------------------------------------------------------------------------


def background_of(primary: Primary, placed: Placed, config: RunConfig) -> Background:
    """Return what is known of a primary: from a student itself, else from labelled items."""
    student = getattr(primary, "student", primary)
    if isinstance(student, Student):
        return Background.of_student(student)
    if not config.known:
        return Background()
    taxonomy = taxonomy_of(config)
    labelled = read_labelled(config.model_copy(update={"file": config.known, "limit": 0}), taxonomy)
    items = [item for item in labelled.items if item.error is None and item.gold in placed.labels]
    texts, gold = [text_of(i) for i in items], [str(i.gold) for i in items]
    return background(texts, gold, placed, taxonomy, features=config.features, seed=config.seed)


def background(
    texts: Sequence[str],
    gold: Sequence[str],
    placed: Placed,
    taxonomy: Taxonomy,
    *,
    features: str,
    seed: int,
) -> Background:
    """Return what labelled items say of a primary. Raises `InputError` where they are too few."""
    if not texts:
        raise InputError("none of the known items is of a category that the primary can name")
    p = placed.probabilities(texts)
    best = p.argmax(axis=1)
    held = Held(
        label=[placed.labels[i] for i in best.tolist()],
        gold=list(gold),
        confidence=p.max(axis=1).tolist(),
    )
    names = {label: name_of(label, taxonomy) for label in placed.labels}
    cold = sum(n.id not in placed.labels for n in taxonomy.leaves)
    try:
        seen = novelty.fit(
            texts,
            gold,
            p,
            placed.labels,
            names,
            represent=representation(features).fit([*texts, *names.values()]),
            share=min(0.5, max(0.2, cold / (cold + len(placed.labels)))),
            seed=seed,
        )
    except InputError:  # too few categories to learn from what is new
        seen = None
    return Background(held, seen, None)


@dataclass(frozen=True)
class Opened:
    """A router, and what it rests on."""

    route: Router
    judge: FallbackJudge
    standings: dict[str, Standing]
    remarks: tuple[str, ...]


def policy_of(config: RunConfig) -> Policy:
    """Return when the model is asked, by the settings."""
    precision = config.accept_precision or PRECISION
    return Policy(precision, config.risk, config.unlike, config.near)


def open_route(
    config: RunConfig,
    taxonomy: Taxonomy,
    *,
    primary: Primary | None = None,
    store: LabelStore | None = None,
    known: Background | None = None,
) -> Opened:
    """Put a router together from primary, store and settings. Raises `InputError`."""
    if primary is None:
        if not config.primary:
            raise BadConfig(
                "no primary", hint="--primary FOLDER of a student (llmcat student train), or URL"
            )
        primary = open_primary(config.primary, url=config.primary_url)
    if config.calibration or config.by_branch or config.back_off or config.sets:
        raise BadConfig("the fallback labeler calibrates by its own checks", hint="see docs")
    placed = Placed.of(primary, taxonomy)
    policy = policy_of(config)
    known = known or background_of(primary, placed, config)
    by = f"{placed.name}@{placed.key[:8]}"
    stands = standings(placed.labels, known.checked, taxonomy, store, policy, by)
    if store:
        store.name_primary(placed.key, placed.labels)
    warm = frozenset(id_ for id_, one in stands.items() if one.decides)
    line = line_of(known.held, policy)
    opinions = store.opinions() if store else []
    judge, lined = FallbackJudge(), None
    if config.accept_precision:
        named = [label for label in placed.labels if label != NONE]
        judge, lined = FallbackJudge.of(
            named, line, opinions, precision=policy.precision, risk=policy.risk
        )
    router = Router(
        taxonomy,
        placed,
        warm,
        line.threshold,
        mixture=lined or fitted(opinions, placed.labels),
        policy=policy,
        novelty=known.novelty,
        most=config.max_asks or None,
        bound=f"{config.max_asks} {config.max_cost}" if config.max_asks or config.max_cost else "",
        store=store,
        keep_text=config.keep_text,
    )
    states = Counter(one.state for one in stands.values())
    remarks = [
        "categories: " + ", ".join(f"{n} {state}" for state, n in states.most_common()),
        line.promise,
        f"the mixture is fitted on {router.mixture.n:,} checked opinions",
    ]
    if not warm:
        remarks.append(
            "WARNING: the primary decides nothing yet, the model is asked about all: no category "
            "is warm (llmcat fallback status says what is missing)"
        )
    if known.novelty is None:
        remarks.append(
            "WARNING: nothing tells items of cold categories apart: give --known labelled items"
        )
    return Opened(router, judge, stands, tuple(remarks))


async def open_session(
    config: RunConfig, opened: Opened, taxonomy: Taxonomy, engine: Engine | None = None
) -> Session:
    """Open a session whose items are routed; the model may be away."""
    if "retry_seconds" not in config.model_fields_set:
        config = config.model_copy(update={"retry_seconds": PATIENCE})
    session = await Session.open(
        config,
        engine=engine or Tolerant(engine_of(config)),
        taxonomy=taxonomy,
        route=opened.route,
        judge=opened.judge,
    )
    origin = {
        "model": session.served.model,
        "prompt": session.task.prompt.ref,
        "taxonomy": taxonomy.digest,
    }
    return replace(session, route=replace(opened.route, origin=origin))


# -- files --------------------------------------------------------------------------------------


async def fallback_file(
    config: RunConfig,
    *,
    opened: Opened,
    restart: bool = False,
    watch: Watch | None = None,
    stop: asyncio.Event | None = None,
) -> Summary:
    """Label a file, as `llmcat.pipeline.file_run.classify_file` does; items are routed.

    With a bound on asks the items are read twice: first to find where asking brings most.
    """
    _check_twice(config)
    return await file_run.classify_file(
        config, restart=restart, watch=watch, stop=stop, opener=opener(opened)
    )


def _check_twice(config: RunConfig) -> None:
    """Raise `BadConfig` if items must be read twice and cannot."""
    if (config.max_asks or config.max_cost) and file_run.is_stream("\n".join(expand(config.file))):
        raise BadConfig("--max-asks and --max-cost read the items twice", hint="use --file FILE")


def opener(opened: Opened) -> file_run.Opener:
    """Return what opens a session whose items are routed, and chooses what to ask about."""

    async def open_(config: RunConfig) -> Session:
        _check_twice(config)
        session = await open_session(config, opened, opened.route.taxonomy)
        route = routed(session)
        if config.max_cost:
            route = replace(route, most=await _affordable(config, session))
        if route.most is not None:
            route = await asyncio.to_thread(route.choosing, _items(config))
        return replace(session, route=route)

    return open_


def routed(session: Session) -> Router:
    """Return a session's router."""
    assert isinstance(session.route, Router)  # noqa: S101  it was opened here
    return session.route


def _items(config: RunConfig) -> Iterable[Item]:
    reader = ItemReader(columns=Columns.of(config))
    items = reader.read(*expand(config.file), fmt=config.input_format or None)
    usable = (item for item in items if item.error is None)
    return islice(usable, config.limit or None)


async def _affordable(config: RunConfig, session: Session) -> int:
    """Return how many texts can be asked about for the money, by what the first few cost."""
    if not (config.price_per_hour or session.engine.capabilities.cost):
        raise BadConfig("--max-cost needs a price", hint="--price-per-hour of the server")
    bound = routed(session).most
    pilot = replace(routed(session), most=min(PILOT, bound or PILOT))
    pilot = await asyncio.to_thread(pilot.choosing, _items(config))
    few = list(islice((item for item in _items(config) if pilot.would_ask(item)), pilot.most))
    if not few:
        return bound or 0
    tally = Tally()
    began = asyncio.get_running_loop().time()
    trial = replace(session, route=pilot, judge=Plain())
    async for _ in trial.classify(few, memory=PlainMemory(), tally=tally):
        pass
    seconds = asyncio.get_running_loop().time() - began
    spent = config.price_per_hour * seconds / 3600 + tally.usage.cost
    answered = tally.asked - tally.failed
    if not answered:  # the model is away: nothing is spent
        return bound or PILOT
    affordable = int(max(0.0, config.max_cost - spent) / (spent / answered)) if spent else 10**9
    return min(affordable, bound) if bound else affordable


async def redo(
    config: RunConfig,
    *,
    opened: Opened,
    stop: asyncio.Event | None = None,
) -> tuple[int, int]:
    """Ask again about the degraded rows of a finished file; return how many, how many still are so.

    All other rows stay as they are, byte for byte. The file is replaced as a whole, at the end.
    """
    out = Path(config.out or file_run.default_out(config.file))
    check_writable(str(out), expand(config.file))
    if out.suffix != ".jsonl":
        raise BadConfig("--redo needs predictions in a .jsonl file")
    with hold(out, make=False):
        return await _redo(config, out, opened, stop)


async def _redo(
    config: RunConfig, out: Path, opened: Opened, stop: asyncio.Event | None
) -> tuple[int, int]:
    taxonomy = taxonomy_of(config)
    again = _degraded(out, config, taxonomy)
    if not again:
        return 0, 0
    session = await open_session(config, opened, taxonomy)
    memory, summary = DiskMemory(), file_run.Summary(out=str(out))
    fresh: dict[int, dict[str, Any]] = {}
    try:
        every = file_run.items_of(config, taxonomy, memory, summary)
        items = (item for item in every if item.row in again)
        async for verdict in session.classify(items, memory=memory, stop=stop):
            routed(session).keep([verdict])
            fresh[verdict.item.row] = row_of(verdict, taxonomy)
    finally:
        memory.close()
        await session.engine.close()
        _put_in(out, fresh)
    left = sum(bool(row.get("degraded")) for row in fresh.values())
    return len(fresh), left + len(again) - len(fresh)


def _degraded(out: Path, config: RunConfig, taxonomy: Taxonomy) -> set[int]:
    """Return the degraded rows of a finished file. Raises `JournalError` for any other file.

    Also for the predictions of other items, or for other categories. Where the last one to ask
    again was killed the record is settled.
    """
    path = out.with_name(f"{out.name}.run.json")
    try:
        record = orjson.loads(path.read_bytes())
        with out.open("rb") as lines:
            rows = [(row["row"], row.get("degraded")) for row in map(orjson.loads, lines)]
        if record.pop("becomes", None) is not None:
            record["bytes"] = out.stat().st_size
            write_record(path, record)
    except (OSError, ValueError, KeyError) as exc:
        raise JournalError(f"{out}: not the predictions of a fallback run: {exc}") from exc
    if record.get("status") != "done":
        raise JournalError(f"{out} is not finished", hint="run it to its end first")
    now = {"input": file_run.fingerprint(expand(config.file))[0], "taxonomy": taxonomy.digest,
           "limit": str(config.limit)}  # fmt: skip
    refuse_other(
        str(out),
        {name: record["identity"].get(name, "") for name in now},
        now,
        hint="give the items and categories of that run",
    )
    return {number for number, degraded in rows if degraded}


def _put_in(out: Path, fresh: Mapping[int, dict[str, Any]]) -> None:
    """Replace rows of a finished file, and note it in the run's record.

    The record holds the file's size before and after while the one takes the place of the other:
    killed at any moment, the run is a finished one.
    """
    if not fresh:
        return
    path = out.with_name(f"{out.name}.run.json")
    decisions: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        with whole(out) as new:
            locked(new)  # nobody else has it before its record is written
            stack.enter_context(os.fdopen(os.dup(new.fileno())))
            record = orjson.loads(path.read_bytes())
            with out.open("rb") as old:
                for number, line in enumerate(old):
                    row = fresh.get(number) or orjson.loads(line)
                    decisions[row["decision"]] += 1
                    new.write(orjson.dumps(row) + b"\n" if number in fresh else line)
            write_record(path, record | {"becomes": new.tell()})
            record["bytes"] = new.tell()
        last = record["sessions"][-1]
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        redone = {"ended": ended, "redone": len(fresh), "decisions": dict(decisions)}
        record["sessions"].append({**last, **redone})
        write_record(path, record)


# -- status -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Status:
    """Where a category stands. Labels by source; agreement of primary and model, of how many.

    `examples` are the checked ones that a student can learn from; `missing` how many of them, or
    right checks, it takes until the primary decides.
    """

    label: str
    standing: Standing
    labels: dict[str, int]
    agree: int
    both: int
    examples: int
    missing: int


def status(
    config: RunConfig, taxonomy: Taxonomy, opened: Opened, store: LabelStore
) -> list[Status]:
    """Return where each category stands."""
    from llmcat.fallback.promotion import still_needed

    policy = policy_of(config)
    counts = store.counts()
    agreement = store.agreement()
    checked = Counter(label.label for label in store.holding("person", "gold"))
    found = []
    for node in taxonomy.leaves:
        one = opened.standings[node.id]
        agree, both = agreement.get(node.id, (0, 0))
        missing = 0
        if one.state == "cold":
            missing = max(0, PLENTY - checked[node.id])
        elif not one.decides:
            by_checks = still_needed(one.checks, one.right, gate=policy.precision, risk=policy.risk)
            by_examples = max(0, PLENTY - checked[node.id])
            missing = min(by_checks, by_examples) if one.state == "on trial" else by_checks
        found.append(
            Status(
                node.id,
                one,
                {source: n for source, n in counts.get(node.id, {}).items() if n},
                agree,
                both,
                checked[node.id],
                missing,
            )
        )
    return found


# -- from Python --------------------------------------------------------------------------------


class FallbackLabeler:
    """Labels items by a trained classifier where it knows them, by the language model elsewhere.

    `primary` has scikit-learn's `predict_proba` of texts and `classes_`: a pipeline, a `Student`,
    or a student's folder or a server's address as a string. `known` are labelled items (texts,
    labels) of a primary that is no student, best those it was not trained on: by these the line is
    drawn and what is new is recognised. `store` is a file of labels; without one nothing is kept.
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
        self.taxonomy = labels_of(labels)
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
        verdicts = self._verdicts(items)
        p = np.zeros((len(verdicts), len(classes)))
        for row, verdict in zip(p, verdicts, strict=True):
            for id_, value in _scores(verdict).p.items():
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
            self._session = replace(self._session, route=route, judge=self._opened.judge)

    @property
    def classes_(self) -> np.ndarray[Any, Any]:
        """The node ids an item can get, and `none`; sorted, as in scikit-learn. Shape `(k,)`."""
        return np.array(sorted([*(n.id for n in self.taxonomy.leaves), NONE]))

    def classify(self, items: Items) -> Any:
        """Return one prediction row per item, in order, as `Classifier.classify` does."""
        return rows_for(items, self._verdicts(items), self.taxonomy)

    def predict(self, items: Items) -> np.ndarray[Any, Any]:
        """Return node ids, `none` for the exit; shape `(n,)`. Raises `EngineError`."""
        return np.array([_scores(v).label for v in self._verdicts(items)], dtype=str)

    def _verdicts(self, items: Items) -> list[Verdict]:
        values, columns = values_of(items, Columns.of(self._settings))
        return self._aio.run(self._ask_all(values, columns)) if values else []

    async def _ask_all(self, values: list[Any], columns: Columns) -> list[Verdict]:
        session = self._session
        engine = session.engine if session else None
        if isinstance(engine, Tolerant) and not engine.opened and not engine.away:
            session = None  # it was away when it was opened: try again
        if session is None:
            tolerant = Tolerant(self._engine or engine_of(self._settings))
            session = await open_session(self._settings, self._opened, self.taxonomy, tolerant)
            self._session = session
        found = [with_gold(i, self.taxonomy) for i in to_items(values, columns=columns)]
        route = routed(session)
        if route.most is not None:
            route = route.choosing([item for item in found if item.error is None])
        here = replace(session, route=route)
        verdicts = [verdict async for verdict in here.classify(found, memory=PlainMemory())]
        route.keep(verdicts)
        return verdicts

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


def _scores(verdict: Verdict) -> Any:
    if verdict.scores is None:
        raise EngineError(f"item {verdict.item.row} ({verdict.item.id}): {verdict.reason}")
    return verdict.scores
