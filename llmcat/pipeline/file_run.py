"""A file classified: readers, loop and journal joined, with resume and a summary.

This module knows files and the loop; it does not know how a question is asked.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections import Counter
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import llmcat
from llmcat.annotations.answers import Answers, wanted
from llmcat.annotations.store import LabelStore
from llmcat.errors import InputError
from llmcat.files.formats import Reading
from llmcat.files.opened import bare
from llmcat.files.sources import expand, fingerprint, is_stream
from llmcat.items.readers import Columns, ItemReader
from llmcat.pipeline.budget import Budget
from llmcat.pipeline.duplicates import DiskMemory, Earlier
from llmcat.pipeline.journal import Journal, check_writable, is_folder
from llmcat.pipeline.read_back import keyed
from llmcat.pipeline.rules import Rules
from llmcat.pipeline.session import Session
from llmcat.pipeline.settings import prompt_of, with_gold
from llmcat.pipeline.summary import Summary
from llmcat.pipeline.tables_out import kept_of
from llmcat.pipeline.writers import check_format, decided_in, row_of, rows_in
from llmcat.records import each_of
from llmcat.taxonomy.load import taxonomy_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence

    from llmcat.config import RunConfig
    from llmcat.engines import Served
    from llmcat.pipeline.tables_out import Kept
    from llmcat.records import Item, RowResult
    from llmcat.taxonomy.tree import Taxonomy

__all__ = [
    "Opener",
    "Summary",
    "Watch",
    "classify_file",
    "classify_stream",
    "columns_of",
    "default_out",
    "items_of",
    "unless",
]

T = TypeVar("T")
Opener: TypeAlias = "Callable[[RunConfig], Coroutine[Any, Any, Session]]"
"""Makes a session of settings: `Session.open` is one."""
BATCH = 64
READ_BESIDES = ("rules", "examples", "artifact", "calibration", "reference", "since")
"""Settings that name files whose content shapes answers."""
PATIENCE = {"api_key", "concurrency", "timeout", "retry_seconds", "price_per_hour", "runs", "store",
            "keep_text"}  # fmt: skip
"""Settings that shape no answer."""
FLUSH_SECONDS = 0.2


class Watch(Protocol):
    """Told how a run goes; the terminal's progress bar is one."""

    def start(self, served: Served, total: int | None, done: int) -> None:
        """The engine is open; `done` rows of `total` (None: unknown) were there already."""

    def step(self, rows: int) -> None:
        """So many rows more are written."""


def default_out(file: str, what: str = "predictions") -> str:
    """Return where predictions go when nothing is said: beside you, by the input's name.

    `what`: commands do not write over one another.
    """
    if file == "-":
        return "-"
    files = expand(file, out=f"{what}.jsonl")
    if len(files) > 1:
        return f"{what}.jsonl"
    name = Path(files[0]).name
    return f"{Path(name[: len(bare(name))]).stem}.{what}.jsonl"


def parts_of(config: RunConfig, rows: Mapping[str, int]) -> dict[Path, int] | None:
    """Return the files of a predictions folder, as the input's lie in theirs, and their rows."""
    if not is_folder(config.out):
        return None
    place = {name: Path(os.path.abspath(name)) for name in expand(config.file)}  # noqa: PTH100
    above = Path(os.path.commonpath([path.parent for path in place.values()]))
    parts: dict[Path, int] = {}
    for name, path in place.items():
        inside, count = path.relative_to(above), rows.get(name, 0)
        stem = Path(inside.name[: len(bare(inside.name))]).stem
        part = Path(config.out) / inside.parent / f"{stem}.predictions.{config.out_format}"
        if part in parts:
            raise InputError(f"{name}: another input would have the output {part} too")
        parts[part] = count
    return parts


async def classify_file(
    config: RunConfig,
    *,
    restart: bool = False,
    watch: Watch | None = None,
    stop: asyncio.Event | None = None,
    opener: Opener | None = None,
) -> Summary:
    """Classify a file into a predictions file; go on where an earlier session stopped.

    `restart` starts over instead. `opener` makes a session of the settings. `stop`, once set,
    finishes what is in flight. Raises any `LlmcatError`; what was answered before stays in the
    file.
    """
    config, files, kept = _checked(config)
    stop = stop or asyncio.Event()
    sha, lines = await unless(stop, asyncio.to_thread(fingerprint, files))
    if opener is None and not restart and (was := _done_before(config, sha)) is not None:
        return was
    opener = opener or partial(Session.open, prior=None if restart else Journal.prior(config.out))
    session = await unless(stop, opener(config))
    try:
        journal = Journal.open(
            config.out, _identity(config, session, sha), _about(config, session),
            restart=restart, apart=kept is not None,
        )  # fmt: skip
        summary = Summary(
            out=config.out,
            price_per_hour=config.price_per_hour,
            resumable=not is_stream(config.file),
        )
        if journal.finished:
            last = journal.record["sessions"][-1]
            summary.decisions = Counter(last["decisions"])
            summary.already_done = True
            summary.collapse = last.get("collapse")
            return summary
        status = "failed"
        memory, answers = DiskMemory(), _answers(session)
        started = time.monotonic()
        try:
            if watch:
                watch.start(session.served, lines, journal.done)
            since = await unless(stop, asyncio.to_thread(_earlier, config, session, memory))
            await _fill(session, journal, since or memory, summary, watch, stop, answers)
            summary.copied = since.copied if since else 0
            status = "interrupted" if summary.interrupted else "done"
        finally:
            summary.seconds = time.monotonic() - started
            summary.conclude(session, answers)
            memory.close()
            parts = parts_of(config, summary.parts) if status == "done" else None
            journal.end_session(summary.record(), status=status, parts=parts, kept=kept)
        return summary
    finally:
        await session.engine.close()


def _identity(config: RunConfig, session: Session, sha: str) -> dict[str, str]:
    """Return what must stay the same for a run to go on: what is asked, and what is written."""
    identity = session.identity() | {"input": sha}
    if is_folder(config.out):
        identity["out_format"] = config.out_format
    if config.keep:
        identity["keep"] = config.keep
    return identity


def _done_before(config: RunConfig, sha: str) -> Summary | None:
    """Return the summary of a run that is done already, None where an engine must be asked.

    Only where nothing but settings, items, taxonomy and prompt shape it: files that are read
    besides may have changed.
    """
    if any(getattr(config, name) for name in READ_BESIDES):
        return None
    settings = config.model_dump(mode="json", exclude=PATIENCE)
    identity = {"input": sha, "taxonomy": taxonomy_of(config).digest}
    if config.prompt:
        found = prompt_of(config)
        identity["prompt"] = f"{found.ref} {found.digest}"
    if not Journal.done_as(config.out, settings, identity):
        return None
    last = Journal.last(config.out)
    return Summary(
        out=config.out, decisions=Counter(last["decisions"]), already_done=True,
        collapse=last.get("collapse"),
    )  # fmt: skip


def columns_of(config: RunConfig) -> Columns:
    """Return the columns of the settings, those that rules look at among them."""
    columns = Columns.of(config)
    if not config.rules:
        return columns
    looked = Rules.load(config.rules, taxonomy_of(config)).columns
    return replace(columns, keep=(*columns.keep, *looked))


def _earlier(config: RunConfig, session: Session, memory: DiskMemory) -> Earlier | None:
    """Return a memory that knows an earlier run's answers, None where none is named."""
    if not config.since:
        return None
    found = Earlier(memory)
    for key, row in keyed(config.since, Columns.of(config)):
        for name in ("alternatives", "labels"):  # a table shows them by their paths
            if name in row:
                row[name] = [
                    {**one, "label": id_} for one in row[name]
                    if (id_ := session.taxonomy.resolve(one["label"])) is not None
                ]  # fmt: skip
        labels = [row["label"], *(one["label"] for one in row.get("labels") or ())]
        known = all(label is None or label in session.taxonomy.nodes for label in labels)
        if known and (decided := decided_in(row)) is not None:
            found.remember(key, decided)
    return found


def _checked(config: RunConfig) -> tuple[RunConfig, list[str], Kept | None]:
    """Return the settings with their files listed, those, and what of them comes back.

    All that needs no engine is checked.

    Raises `InputError`, `BadConfig` or `JournalError`.
    """
    files = expand(config.file, out=config.out, apart=(config.taxonomy, config.examples))
    config = config.model_copy(update={"file": "\n".join(files)})  # from here on, these
    read = (
        *files,
        config.rules,
        config.since,
        config.taxonomy,
        config.examples,
        config.prompt,
        config.artifact,
    )
    check_writable(config.out, [name for name in read if name != "-"])
    parts_of(config, {})
    kept = kept_of(config, files, columns_of(config), stream=is_stream(config.file))
    if kept is not None:
        kept.check(config)
    if is_folder(config.out):
        check_format(f"x.{config.out_format}")
    if wanted(config) and Path(config.store).exists():
        LabelStore(Path(config.store)).close()
    if not is_stream(config.file):
        columns = columns_of(config)
        named = kept.names if kept is not None else ()
        ItemReader(columns=replace(columns, keep=(*columns.keep, *named))).check(
            *files, how=Reading.of(config)
        )
    return config, files, kept


async def _fill(
    session: Session,
    journal: Journal,
    memory: DiskMemory | Earlier,
    summary: Summary,
    watch: Watch | None,
    stop: asyncio.Event,
    answers: Answers | None,
) -> None:
    """Skip the rows that are there, remember their answers, then write the rest."""
    items = items_of(session.config, session.taxonomy, memory, summary)
    if journal.done:
        for row, item in zip(rows_in(journal.path), items, strict=False):
            summary.resumed += 1
            summary.decisions[row["decision"]] += 1
            rules = session.rules
            ruled = rules is not None and rules.fixed(item) is not None
            if not ruled and (decided := decided_in(row)) is not None:
                memory.put(rules.key(item) if rules else item.content, decided)
            if summary.resumed == journal.done:
                break
            if summary.resumed % BATCH == 0:
                await asyncio.sleep(0)  # lets a signal through
                if stop.is_set():
                    summary.interrupted = True
                    return
    looks_ahead = session.route is not None or session.evidence is not None
    results = session.classify(
        items, memory=memory, tally=summary.tally, stop=stop,
        slow=is_stream(session.config.file), budget=_budget(session),
    )  # fmt: skip
    batch: list[RowResult] = []
    flushed = time.monotonic()
    async with aclosing(results):
        try:
            async for result in results:
                summary.count(result)
                session.decider.watch(result)
                batch.append(result)
                if len(batch) >= BATCH or time.monotonic() - flushed > FLUSH_SECONDS:
                    _flush(session, journal, batch, summary, watch, answers)
                    flushed = time.monotonic()
        finally:
            _flush(session, journal, batch, summary, watch, answers)
    # A stop after the last item interrupts nothing. What a thread still reads cannot be asked for.
    ahead = is_stream(session.config.file) or looks_ahead
    left = summary.tally.unread if ahead else next(items, None) is not None
    summary.spent = summary.tally.spent
    summary.interrupted = (stop.is_set() or summary.spent) and left


def _answers(session: Session) -> Answers | None:
    """Return what puts answers into the label store, None where nobody named one."""
    if session.route is not None or not wanted(session.config):  # a route keeps its own
        return None
    served, config = session.served, session.config
    student = served.engine == "student"
    return Answers(
        LabelStore(Path(config.store)),
        source="primary" if student else "model",
        by=f"{served.model}@{served.facts['root'][:8]}" if student else served.model,
        prompt="" if student else session.task.prompt.ref,
        taxonomy=session.taxonomy.digest,
        keep_text=config.keep_text,
    )


def _tell(session: Session, answers: Answers | None, results: Sequence[RowResult]) -> None:
    """Tell of results before they are written, so that none is lost."""
    if session.route is not None:
        session.route.keep(results)
    if answers is not None:
        rules = session.rules
        answers.keep(r for r in results if rules is None or not rules.touch(r.item))


def _budget(session: Session) -> Budget | None:
    """Return the bounds of a session; the fallback labeler spends by a rule of its own."""
    return None if session.route is not None else Budget.of(session.config)


def _flush(
    session: Session,
    journal: Journal,
    results: list[RowResult],
    summary: Summary,
    watch: Watch | None,
    answers: Answers | None,
) -> None:
    batch = results[:]
    results.clear()  # first: rows that could not be written must not be written twice
    if batch:
        _tell(session, answers, batch)
        several = bool(session.config.multi)
        journal.append([row_of(v, session.taxonomy, several=several) for v in batch])
        summary.written += len(batch)
        if watch:
            watch.step(len(batch))


async def classify_stream(
    config: RunConfig,
    summary: Summary,
    *,
    stop: asyncio.Event | None = None,
    opener: Opener | None = None,
) -> AsyncIterator[tuple[Item, dict[str, Any]]]:
    """Classify without a file: yield each item with its row. Nothing can be resumed."""
    stop = stop or asyncio.Event()
    session = await unless(stop, (opener or Session.open)(config))
    memory, answers = DiskMemory(), _answers(session)
    items = items_of(config, session.taxonomy, memory, summary)
    started = time.monotonic()
    try:
        async for result in session.classify(
            items, memory=memory, tally=summary.tally, stop=stop, slow=is_stream(config.file),
            budget=_budget(session),
        ):  # fmt: skip
            summary.count(result)
            session.decider.watch(result)
            _tell(session, answers, [result])
            summary.written += 1
            several = bool(session.config.multi)
            yield result.item, row_of(result, session.taxonomy, several=several)
        summary.spent = summary.tally.spent
        summary.interrupted = stop.is_set() or summary.spent
    finally:
        summary.seconds = time.monotonic() - started
        summary.conclude(session, answers)
        memory.close()
        await session.engine.close()


def items_of(
    config: RunConfig, taxonomy: Taxonomy, memory: DiskMemory | Earlier, summary: Summary
) -> Iterator[Item]:
    """Yield the items to classify, with their gold labels resolved and their ids watched."""
    reader = ItemReader(columns=columns_of(config), counts=summary.cleaned, parts=summary.parts)
    items = reader.read_for(config)
    for item in islice(items, config.limit or None):
        if item.id_given and not memory.new_id(item.id):
            summary.double_ids += 1
            summary.double_id = summary.double_id or item.id
        placed = with_gold(item, taxonomy)
        summary.foreign_gold += any(g not in taxonomy.nodes for g in each_of(placed.gold))
        yield placed


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Await work, but give it up when `stop` is set meanwhile: raises `CancelledError`."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise asyncio.CancelledError
    finally:
        stopped.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _about(config: RunConfig, session: Session) -> dict[str, Any]:
    """Return what is recorded beside the identity: enough to repeat the run."""
    return {
        "llmcat": llmcat.__version__,
        "python": platform.python_version(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "served": session.served.record(),
        "settings": config.model_dump(mode="json"),
        "prompt_text": session.task.prompt.text,
        "plan": session.task.plan.kind,
        "menus": [menu.digest for menu in session.task.plan.first_menus()],
        "room_bytes": session.task.room,
        "evidence": session.evidence_record(),
    }
