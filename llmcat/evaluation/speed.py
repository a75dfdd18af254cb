"""How fast one arm is alone: rate, latency, tokens, energy; and how long something takes, in words.

Arms that share a server's batches cannot be told apart in its figures, so each has a pass of its
own. This module does not know labels, files or decisions.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from yarl import URL

from llmcat.pipeline.duplicates import Forgetful
from llmcat.pipeline.loop import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmcat.config import RunConfig
    from llmcat.engines.cache import Remembering
    from llmcat.pipeline.session import Session
    from llmcat.records import Answer, Item

__all__ = ["LOCAL", "alone", "duration", "here"]

LOCAL = {"vllm_local", "transformers_local", "demo"}
"""Engines that compute in this process."""
SPEED_ITEMS = 1000
WARM = 64


async def alone(session: Session, engine: Remembering, items: Sequence[Item]) -> dict[str, Any]:
    """Ask about items with the server to oneself, nothing from the store, after a few to warm up.

    Returns JSON: rates in items per second, latencies in seconds from sending to reading, summed
    over the requests of an item, tokens as the server counted them, joules where NVML says.
    """
    warm = items[:WARM] if len(items) > 2 * WARM else []
    timed = items[len(warm) : len(warm) + SPEED_ITEMS]
    seconds: dict[int, float] = {}
    tally = Tally()

    def came(answer: Answer) -> None:
        row = answer.request.item.row
        seconds[row] = seconds.get(row, 0.0) + answer.seconds

    async def run(items: Sequence[Item]) -> float:
        began = time.monotonic()
        results = session.classify(items, engine=engine, memory=Forgetful(), tally=tally)
        async with aclosing(results):
            async for _ in results:
                pass
        return time.monotonic() - began

    engine.fresh = True
    try:
        if warm:
            await run(warm)
        tally = Tally()
        engine.came = came
        energy = _energy(session.config)
        before = energy() if energy else 0.0
        wall = await run(timed)
        joules = energy() - before if energy else None
    finally:
        engine.fresh, engine.came = False, None
    n, sorted_ = len(timed), sorted(seconds.values())

    def quantile(q: float) -> float | None:
        return sorted_[min(int(q * len(sorted_)), len(sorted_) - 1)] if sorted_ else None

    return {
        "items": n,
        "warmed_with": len(warm),
        "concurrency": session.config.concurrency,
        "seconds": wall,
        "items_per_second": n / wall if wall else None,
        "latency_seconds": {"p50": quantile(0.5), "p95": quantile(0.95), "p99": quantile(0.99)},
        "usage": asdict(tally.usage),
        "server_seconds_per_1000": 1000 * wall / n if n else None,
        "joules_per_1000": None if joules is None or not n else 1000 * joules / n,
    }


def here(config: RunConfig) -> bool:
    """Tell whether this machine computes, as far as the settings say."""
    at_home = URL(config.base_url).host in {"localhost", "127.0.0.1", "::1"}
    return config.engine in LOCAL or at_home


def duration(seconds: float) -> str:
    """Return a time as people say it: `14 days 3 h`, `2 h 5 min`, `1 min 20 s`."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days:,} {'day' if days == 1 else 'days'} {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds:.0f} s"


def _energy(config: RunConfig) -> Callable[[], float] | None:
    """Return what reads the joules this machine's GPUs have used (NVML), None if nothing does.

    A server elsewhere is not measured.
    """
    if not here(config):
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        if not gpus:
            return None
        sum(map(pynvml.nvmlDeviceGetTotalEnergyConsumption, gpus))
    except Exception:  # noqa: BLE001  no package, no driver, no GPU, an old GPU: not measured
        return None
    return lambda: sum(map(pynvml.nvmlDeviceGetTotalEnergyConsumption, gpus)) / 1000
