"""Arms over labelled items: each asked about the same items, in blocks that take turns.

    items ─ block 1 ─▶ A, B ─ block 2 ─▶ B, A ─ block 3 ─▶ A, B ...

So that neither profits from the hour, and each keeps its prefix warm for a block. What comes out is
a folder from which everything else is computed:

    run.json              what ran: settings, identity, versions, tokens, times
    labels.json           the taxonomy: id -> path, parent, names in other languages
    items.jsonl           row, id, gold, text, columns kept
    inputs/               copies of taxonomy, prompt and examples
    ARM.predictions.jsonl rows as `classify` writes them, with p_gold, p_squares and rank
    ARM.asks.jsonl        the messages of each ask after the shared ones; those in
                          ARM.prefixes.jsonl

An interrupted trial is run again: answers come from the store, nothing is asked twice. This module
does not know metrics or decisions.
"""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from contextlib import ExitStack, aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import llmcat
from llmcat.engines.cache import AnswerStore
from llmcat.errors import InputError
from llmcat.evaluation.kept import Sink, keep_inputs, write_items
from llmcat.evaluation.opening import Opened
from llmcat.evaluation.run_folder import Folder, stem_of
from llmcat.evaluation.speed import alone
from llmcat.pipeline.duplicates import Forgetful
from llmcat.pipeline.file_run import unless
from llmcat.records import digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.evaluation.schema import RunRecord
    from llmcat.pipeline.file_run import Watch
    from llmcat.records import Item

__all__ = ["BLOCK", "LEAST_BLOCK", "collect", "name_of", "record_of"]

BLOCK = 256
HOPELESS = 20
"""So many items in a row that all fail: it is not the items."""
LEAST_BLOCK = 64


# -- the record ----------------------------------------------------------------------------------


def record_of(opened: Sequence[Opened], *, kind: str, command: Sequence[str]) -> RunRecord:
    """Return the record of a run that begins now."""
    labelled, config = opened[0].labelled, opened[0].arm.config
    identity = {"items": labelled.digest}
    for one in opened:
        identity |= {f"{one.arm.name}.{key}": value for key, value in one.identity().items()}
    return {
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "llmcat": llmcat.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "command": list(command),
        "identity": identity,
        "items": {
            "file": config.file,
            "rows": labelled.rows,
            "unlabelled": labelled.unlabelled,
            "n": len(labelled.items),
            "limit": config.limit,
            "seed": config.seed,
        },
        "remarks": list(labelled.remarks) + _remarks(opened),
        "arms": {one.arm.name: one.record() for one in opened},
    }


def name_of(opened: Sequence[Opened]) -> str:
    """Return the name of a run's folder: the file's, and a hash of its identity."""
    config = opened[0].arm.config
    parts = [opened[0].labelled.digest]
    for one in opened:
        parts += [one.arm.name, *(f"{k}={v}" for k, v in sorted(one.identity().items()))]
    return f"{stem_of(config.file)}-{digest(*parts)[:8]}"


def _remarks(opened: Sequence[Opened]) -> list[str]:
    """Say where examples are items that are judged."""
    return [
        f"WARNING: {leaks:,} items are among the examples of arm {one.arm.name}: it is shown their "
        "labels"
        for one in opened
        if (leaks := len(one.leaked()))
    ]


# -- collecting -------------------------------------------------------------------------------


async def collect(
    opened: Sequence[Opened],
    folder: Folder,
    store: AnswerStore,
    *,
    block: int = BLOCK,
    speed: bool = False,
    posteriors: bool = False,
    watch: Watch | None = None,
    stop: asyncio.Event,
) -> bool:
    """Ask every arm about every item and fill the folder. False if `stop` was set before the end.

    With `speed`, each arm first has the server to itself, and nothing comes from the store. With
    `posteriors`, ARM.posteriors.npz holds every probability: `labels`, `p` of shape
    `(items, labels)`, and `seen`, whether an answer gave all of them.
    """
    first = opened[0]
    write_items(folder, first.labelled.items, first.session.taxonomy)
    keep_inputs(opened, folder)
    if watch:
        watch.start(first.session.served, len(first.labelled.items) * len(opened), 0)
    try:
        if speed:
            for one in opened:
                before = one.engine.asked
                try:
                    work = alone(one.session, one.engine, one.labelled.items)
                    one.speed = await unless(stop, work)
                except asyncio.CancelledError:
                    if stop.is_set():
                        return False
                    raise
                finally:
                    one.asked += one.engine.asked - before
        with ExitStack() as stack:
            sinks = [Sink(folder, one, stack, posteriors=posteriors) for one in opened]
            for turn, begin in enumerate(range(0, len(first.labelled.items), block)):
                for one, sink in list(zip(opened, sinks, strict=True))[:: -1 if turn % 2 else 1]:
                    part = one.labelled.items[begin : begin + block]
                    await _block(one, part, sink, watch, stop)
                    if stop.is_set():
                        return False
            for sink in sinks:
                sink.finish()
    finally:
        store.flush()
        for one in opened:
            inputs = folder.record["arms"][one.arm.name]["inputs"]
            folder.record["arms"][one.arm.name] = one.record() | {"inputs": inputs}
    return True


async def _block(
    one: Opened,
    items: Sequence[Item],
    sink: Sink,
    watch: Watch | None,
    stop: asyncio.Event,
) -> None:
    before, failed = one.engine.asked, Counter[str]()
    one.engine.seen, one.engine.fresh = sink.ask, False
    results = one.session.classify(
        items, engine=one.engine, memory=Forgetful(), tally=one.tally, stop=stop
    )
    try:
        async with aclosing(results):
            async for result in results:
                sink.row(result)
                if result.decision == "error":
                    failed[result.reason or "?"] += 1
                one.session.decider.watch(result)
                if watch:
                    watch.step(1)
    finally:
        one.engine.seen = None
        one.asked += one.engine.asked - before
    if len(items) >= HOPELESS and failed.total() == len(items):
        ((reason, count),) = failed.most_common(1)
        raise InputError(
            f"arm {one.arm.name} failed on all of {len(items):,} items one after the other, "
            f"{count:,} times: {reason}",
            hint="nothing is compared; what the other arms were asked is kept",
        )
