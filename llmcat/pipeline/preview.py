"""What a run would do and take, learnt from asking a few of its items, drawn at random."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from llmcat.errors import EngineError, InputError
from llmcat.files import sources
from llmcat.files.formats import Reading
from llmcat.files.sources import count_rows, expand
from llmcat.pipeline import file_run
from llmcat.pipeline.duplicates import DiskMemory
from llmcat.pipeline.session import Session
from llmcat.pipeline.writers import row_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmcat.config import RunConfig
    from llmcat.engines import Served
    from llmcat.records import Item, Message, Usage

__all__ = ["AMONG", "Preview", "preview"]

AMONG = 200_000
"""Rows that the few are drawn from: a file's first, so that nobody waits for ten million."""


@dataclass(frozen=True)
class Preview:
    """`shown` pairs the items asked with their rows. The rest concerns the whole file.

    `among`: the rows that the items were drawn from, 0 where they are a stream's first.
    `usage` is in tokens, `seconds` at the pace of the items asked, `rate` in prompt tokens read
    (not cached) in a second, `cost` None without a price.
    """

    served: Served
    messages: list[Message]
    shown: list[tuple[Item, dict[str, Any]]]
    rows: int
    among: int
    requests: float
    usage: Usage
    scale: float
    seconds: float
    rate: float
    cost: float | None


async def preview(config: RunConfig, *, count: int) -> Preview:
    """Ask `count` items and scale up. Writes nothing. Raises any `LlmcatError`.

    Files are often sorted, so the items are drawn at random, by the settings' seed, among the first
    `AMONG` rows; of a stream they are the first.
    """
    rows, among, chosen = _drawn(config, count)
    config = config.model_copy(update={"limit": chosen[-1] + 1})
    session = await Session.open(config)
    memory = DiskMemory()
    summary = file_run.Summary(out="")
    try:
        items = list(_at(file_run.items_of(config, session.taxonomy, memory, summary), chosen))
        first = next((i for i in items if i.error is None), None)
        if first is None:
            raise InputError("none of the items drawn can be asked", hint=items[0].error or "")
        messages = _first_question(session, first)

        async def asked(some: list[Item]) -> list[tuple[Item, dict[str, Any]]]:
            results = session.classify(some, memory=memory, tally=summary.tally)
            return [
                (v.item, row_of(v, session.taxonomy, several=bool(config.multi)))
                async for v in results
            ]

        # The first one asked also waits for the grammar to compile and the cache to fill.
        warm = items.index(first) + 1
        started = time.monotonic()
        shown = await asked(items[:warm])
        took = time.monotonic() - started
        rate = summary.tally.usage.read / took
        if len(items) > warm:
            before, started = summary.tally.usage.read, time.monotonic()
            shown += await asked(items[warm:])
            took = time.monotonic() - started
            rate = (summary.tally.usage.read - before) / took
            took *= len(items) / (len(items) - warm)
    finally:
        memory.close()
        await session.engine.close()
    if summary.tally.failed:
        reasons = {str(row["reason"]) for _, row in shown if row["decision"] == "error"}
        raise EngineError(f"{summary.tally.failed} requests failed: {'; '.join(sorted(reasons))}")
    scale = max(rows, len(items)) / len(items)
    seconds = took * scale
    cost = config.price_per_hour * seconds / 3600 + summary.tally.usage.cost * scale
    return Preview(
        served=session.served,
        messages=messages,
        shown=shown,
        rows=max(rows, len(items)),
        among=among,
        requests=summary.tally.asked * scale,
        usage=summary.tally.usage,
        scale=scale,
        seconds=seconds,
        rate=rate,
        cost=cost or None,
    )


def _drawn(config: RunConfig, count: int) -> tuple[int, int, list[int]]:
    """Return how many rows there are, among how many the few are drawn, and these, ascending."""
    if sources.is_stream(config.file):
        return count, 0, list(range(count))
    rows = count_rows(*expand(config.file), how=Reading.of(config))
    among = min(rows, AMONG)
    drawn = random.Random(config.seed).sample(range(among), min(count, among))
    return rows, among, sorted(drawn) or [0]  # reading says that there are none


def _at(items: Iterator[Item], places: list[int]) -> Iterator[Item]:
    """Yield the items at these places, which ascend."""
    place = 0
    for wanted in places:
        yield from islice(items, wanted - place, wanted - place + 1)
        place = wanted + 1


def _first_question(session: Session, item: Item) -> list[Message]:
    """Return what would be asked first about an item; nothing where nobody is asked."""
    item, user = session.task.fit(item)
    menus = next(session.walks(item), None)
    return [] if menus is None else session.task.ask(item, user, menus[0]).messages
