"""Label a file with the fallback labeler, and ask again what came in its model's absence."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcat.errors import BadConfig, JournalError
from llmcat.fallback.assemble import Opened, open_session
from llmcat.fallback.router import Router
from llmcat.files import sources
from llmcat.files.sources import expand
from llmcat.items.readers import Columns, ItemReader
from llmcat.pipeline import file_run
from llmcat.pipeline.decode import Plain
from llmcat.pipeline.duplicates import DiskMemory, PlainMemory
from llmcat.pipeline.finished import finished, replace_rows
from llmcat.pipeline.journal import (
    check_writable,
    hold,
    refuse_other,
)
from llmcat.pipeline.loop import Tally
from llmcat.pipeline.session import Session
from llmcat.pipeline.writers import row_of, rows_in
from llmcat.taxonomy.load import taxonomy_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmcat.config import RunConfig
    from llmcat.pipeline.file_run import Summary, Watch
    from llmcat.records import Item
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["fallback_file", "opener", "redo", "routed"]


PILOT = 16
"""Texts that tell what a request costs."""


async def fallback_file(
    config: RunConfig,
    *,
    opened: Opened,
    restart: bool = False,
    watch: Watch | None = None,
    stop: asyncio.Event | None = None,
) -> Summary:
    """Label a file, as `llmcat.pipeline.file_run.classify_file` does; items are routed.

    With a bound on items the items are read twice: first to find where asking brings most.
    """
    _check_twice(config)
    return await file_run.classify_file(
        config, restart=restart, watch=watch, stop=stop, opener=opener(opened)
    )


def _check_twice(config: RunConfig) -> None:
    """Raise `BadConfig` if items must be read twice and cannot."""
    if (config.max_items or config.max_cost) and sources.is_stream("\n".join(expand(config.file))):
        raise BadConfig("--max-items and --max-cost read the items twice", hint="use --file FILE")


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
    items = reader.read_for(config)
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
    trial = replace(session, route=pilot, decider=Plain())
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
    out = Path(config.out or file_run.default_out(config.file, "fallback"))
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
        async for result in session.classify(items, memory=memory, stop=stop):
            routed(session).keep([result])
            fresh[result.item.row] = row_of(result, taxonomy)
    finally:
        memory.close()
        await session.engine.close()
        replace_rows(out, fresh)
    left = sum(bool(row.get("degraded")) for row in fresh.values())
    return len(fresh), left + len(again) - len(fresh)


def _degraded(out: Path, config: RunConfig, taxonomy: Taxonomy) -> set[int]:
    """Return the degraded rows of a finished file. Raises `JournalError` for any other file.

    Also for the predictions of other items, or for other categories.
    """
    record = finished(out)
    if record.get("about", {}).get("settings", {}).get("keep") not in {None, "", "none"}:
        raise BadConfig("--redo needs predictions that were written without --keep")
    now = {"input": sources.fingerprint(expand(config.file))[0], "taxonomy": taxonomy.digest,
           "limit": str(config.limit)}  # fmt: skip
    refuse_other(
        str(out),
        {name: record["identity"].get(name, "") for name in now},
        now,
        hint="give the items and categories of that run",
    )
    try:
        return {int(row["row"]) for row in rows_in(out) if row.get("degraded")}
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise JournalError(f"{out}: not the predictions of a fallback run: {exc}") from exc
