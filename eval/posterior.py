"""Do the two constraints, and batches, give one posterior? Ask a running server and compare.

    python eval/posterior.py http://127.0.0.1:8000 [--labels 30] [--items 40]

Prints, against single requests under the grammar: the largest and the mean difference of any
label's probability, and how many items changed their label.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from typing import TYPE_CHECKING

from llmcat import Taxonomy
from llmcat.candidates.plan import Plan
from llmcat.engines.vllm_http import VllmHttp
from llmcat.prompting import templates
from llmcat.prompting.builder import Task
from llmcat.records import Item

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmcat.records import Request

RUNS = (("outlines", 1), ("outlines", 1), ("tokens", 1), ("outlines", 64), ("tokens", 64))


async def posteriors(engine: VllmHttp, task: Task, count: int) -> list[list[float]]:
    """Return the distribution over the menu for each of some made-up items."""
    menu = task.plan.first_menus()[0]

    async def asks() -> AsyncIterator[Request]:
        for i in range(count):
            item = Item(row=i, id=str(i), fields={"title": f"thing {i} {'x' * (i % 7)}"})
            yield task.ask(*task.fit(item), menu)

    found: dict[int, list[float]] = {}
    async for answer in engine.answer(asks()):
        if answer.error:
            raise answer.error
        weights = [math.exp(x) for x in answer.logprobs]
        found[answer.request.item.row] = [w / math.fsum(weights) for w in weights]
    return [found[i] for i in range(count)]


async def compare(url: str, labels: int, count: int) -> None:
    """Print one line per constraint and number of requests in flight."""
    engine = VllmHttp(base_url=url)
    try:
        served = await engine.open()
        print(f"model {served.model}, vLLM {served.version}, {labels} labels, {count} items")
        taxonomy = Taxonomy.from_labels([f"label number {i}" for i in range(labels)])
        plan = Plan(taxonomy, served.alphabet)
        base: list[list[float]] = []
        for constraint, engine.concurrency in RUNS:
            task = Task(plan, templates.load("zero-shot"), constraint=constraint, mass_sample=0)
            got = await posteriors(engine, task, count)
            base = base or got
            gaps = [
                max(abs(a - b) for a, b in zip(x, y, strict=True))
                for x, y in zip(base, got, strict=True)
            ]
            flips = sum(x.index(max(x)) != y.index(max(y)) for x, y in zip(base, got, strict=True))
            print(
                f"{constraint:<9} {engine.concurrency:>3} in flight: largest {max(gaps):.5f}, "
                f"mean {sum(gaps) / count:.6f}, other label {flips}"
            )
    finally:
        await engine.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare posteriors on a running vLLM server.")
    parser.add_argument("url")
    parser.add_argument("--labels", type=int, default=30)
    parser.add_argument("--items", type=int, default=40)
    args = parser.parse_args()
    asyncio.run(compare(args.url, args.labels, args.items))


if __name__ == "__main__":
    main()
