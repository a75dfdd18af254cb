#!/usr/bin/env python3
"""What the systemone engine costs beside vllm_http and litellm, against a stub.

    python eval/bench/decisions.py [--items 5000] [--pairs 5]

The stub answers at once. The same items, 8 categories each, 64 in flight, from items to answers
(rendering included): the engine systemone, the engine vllm_http with the default prompt, and
litellm.asystemone (on a hundredth of the items). Prints rates and ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from common import alternate, header, stub, table

from llmcat.candidates.plan import Plan
from llmcat.engines.registry import open_engine
from llmcat.prompting import templates
from llmcat.prompting.builder import Task
from llmcat.records import Item
from llmcat.taxonomy.tree import Taxonomy

IN_FLIGHT = 64
LABELS = Taxonomy.from_labels([f"Category number {i}" for i in range(8)])


def engine_rate(name: str, url: str, count: int) -> float:
    """Ask through an engine of llmcat; return items per second."""

    async def run() -> float:
        engine = open_engine(name, base_url=url, concurrency=IN_FLIGHT)
        try:
            served = await engine.open()
            prompt = templates.DECIDE if name == "systemone" else templates.DEFAULT
            task = Task(Plan(LABELS, served.alphabet, 8), templates.load(prompt), mass_sample=0)

            async def requests() -> AsyncIterator[Any]:
                for i in range(count):
                    item = Item(i, str(i), {"title": f"red running shoes, size {i}"})
                    yield task.ask(*task.fit(item), task.plan.fresh_menu(LABELS.leaves))

            started, found = time.perf_counter(), 0
            async for answer in engine.answer(requests()):
                assert answer.error is None, answer.error
                found += 1
            assert found == count
            return count / (time.perf_counter() - started)
        finally:
            await engine.close()

    return asyncio.run(run())


def litellm_rate(url: str, count: int) -> float:
    """Ask through litellm's own call; return items per second."""
    from llmcat.engines.litellm import imported

    litellm = imported()
    criteria = {node.name: None for node in LABELS.leaves}

    async def run() -> float:
        left = iter(range(count))

        async def worker() -> None:
            for i in left:
                question = {"type": "choice", "instructions": "Which?", "criteria": criteria}
                await litellm.asystemone(
                    model="hosted_vllm/stub", state=f"red running shoes, size {i}",
                    questions={"q": question}, api_base=url, api_key="none",
                )  # fmt: skip

        await worker_once()
        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
        return count / (time.perf_counter() - started)

    async def worker_once() -> None:
        question = {"type": "choice", "instructions": "Which?", "criteria": criteria}
        await litellm.asystemone(
            model="hosted_vllm/stub", state="x", questions={"q": question}, api_base=url,
            api_key="none",
        )  # fmt: skip

    return asyncio.run(run())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, stub(Path(name)) as url:
        runs = {
            "systemone": lambda: engine_rate("systemone", url, args.items),
            "vllm_http": lambda: engine_rate("vllm_http", url, args.items),
            "litellm.asystemone": lambda: litellm_rate(url, max(64, args.items // 100)),
        }
        rates = alternate(runs, pairs=args.pairs)
    print(header(f"# {args.items:,} items of 8 categories, {IN_FLIGHT} in flight"))
    print(table(rates, of="systemone"))


if __name__ == "__main__":
    main()
