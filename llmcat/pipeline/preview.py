"""What a run would do and take, learnt from asking its first few items."""

from __future__ import annotations

import time
from dataclasses import dataclass
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
    from llmcat.config import RunConfig
    from llmcat.engines import Served
    from llmcat.records import Item, Message, Usage

__all__ = ["Preview", "preview"]


@dataclass(frozen=True)
class Preview:
    """`shown` pairs the items asked with their rows. The rest concerns the whole file.

    `usage` is in tokens, `seconds` at the pace of the items asked, `rate` in prompt tokens read
    (not cached) in a second, `cost` None without a price.
    """

    served: Served
    messages: list[Message]
    shown: list[tuple[Item, dict[str, Any]]]
    rows: int
    requests: float
    usage: Usage
    scale: float
    seconds: float
    rate: float
    cost: float | None


async def preview(config: RunConfig, *, count: int) -> Preview:
    """Ask the first `count` items and scale up. Writes nothing. Raises any `LlmcatError`."""
    rows = (
        count
        if sources.is_stream(config.file)
        else count_rows(*expand(config.file), how=Reading.of(config))
    )
    config = config.model_copy(update={"limit": count})
    session = await Session.open(config)
    memory = DiskMemory()
    summary = file_run.Summary(out="")
    try:
        items = list(file_run.items_of(config, session.taxonomy, memory, summary))
        first = next((i for i in items if i.error is None), None)
        if first is None:
            raise InputError("none of the first items can be asked", hint=items[0].error or "")
        messages = _first_question(session, first)

        async def asked(some: list[Item]) -> list[tuple[Item, dict[str, Any]]]:
            results = session.classify(some, memory=memory, tally=summary.tally)
            return [
                (v.item, row_of(v, session.taxonomy, several=bool(config.multi)))
                async for v in results
            ]

        # The first item also waits for the grammar to compile and the cache to fill.
        started = time.monotonic()
        shown = await asked(items[:1])
        took = time.monotonic() - started
        rate = summary.tally.usage.read / took
        if len(items) > 1:
            before, started = summary.tally.usage.read, time.monotonic()
            shown += await asked(items[1:])
            took = time.monotonic() - started
            rate = (summary.tally.usage.read - before) / took
            took *= len(items) / (len(items) - 1)
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
        requests=summary.tally.asked * scale,
        usage=summary.tally.usage,
        scale=scale,
        seconds=seconds,
        rate=rate,
        cost=cost or None,
    )


def _first_question(session: Session, item: Item) -> list[Message]:
    """Return what would be asked first about an item; nothing where nobody is asked."""
    item, user = session.task.fit(item)
    menus = next(session.walks(item), None)
    return [] if menus is None else session.task.ask(item, user, menus[0]).messages
