"""Two spellings of one constraint on a real vLLM server: a grammar and a list of tokens.

    python eval/bench/spellings.py [--model FOLDER] [--items 400] [--pairs 5]

For menus of 2, 30 and 127 labels: the time of the very first answer (a grammar is compiled then)
and of the second, and the rates of both in turn. Last, how many different grammars runs of 10
and of 1,000 items send: each is compiled once.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from common import DEMO, alternate, header, table, titles, vllm

from llmcat import Taxonomy
from llmcat.candidates.plan import Plan
from llmcat.engines.vllm_http import VllmHttp
from llmcat.pipeline.duplicates import PlainMemory
from llmcat.pipeline.loop import classify
from llmcat.prompting import templates
from llmcat.prompting.builder import Task
from llmcat.records import Item

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmcat.records import Request

SIZES = (2, 30, 127)


def task_for(alphabet: tuple[str, ...], labels: int, constraint: str) -> Task:
    """A flat menu under a constraint."""
    taxonomy = Taxonomy.from_labels([f"category number {i}" for i in range(labels)])
    prompt = templates.load("zero-shot")
    return Task(Plan(taxonomy, alphabet), prompt, constraint=constraint, mass_sample=0)  # type: ignore[arg-type]


def asks(task: Task, count: int) -> list[Request]:
    """Ask about so many made-up items."""
    items = [Item(i, str(i), {"title": t}) for i, t in enumerate(titles(count))]
    return [task.ask(*task.fit(item), task.plan.whole) for item in items]


async def seconds(engine: VllmHttp, wanted: list[Request]) -> float:
    """Answer all; return the time."""

    async def feed() -> AsyncIterator[Request]:
        for ask in wanted:
            yield ask

    started = time.perf_counter()
    async for answer in engine.answer(feed()):
        if answer.error:
            raise answer.error
    return time.perf_counter() - started


def once(url: str, alphabet: tuple[str, ...], labels: int, constraint: str, count: int) -> float:
    """Connect, answer so many asks, return the time (without connecting)."""

    async def run() -> float:
        engine = VllmHttp(url)
        try:
            await engine._find_model()  # noqa: SLF001  no canary: it would compile a grammar
            engine._token_of = tokens  # noqa: SLF001
            return await seconds(engine, asks(task_for(alphabet, labels, constraint), count))
        finally:
            await engine.close()

    return asyncio.run(run())


tokens: dict[str, int] = {}


def codes(url: str) -> tuple[str, ...]:
    """Find the codes, once for all."""

    async def run() -> tuple[str, ...]:
        engine = VllmHttp(url)
        try:
            await engine._find_model()  # noqa: SLF001
            found = await engine._find_codes()  # noqa: SLF001
            tokens.update(engine._token_of)  # noqa: SLF001
            return found
        finally:
            await engine.close()

    return asyncio.run(run())


def grammars(url: str, count: int) -> int:
    """Run a tournament over 300 labels; return how many different grammars it sent."""

    async def run() -> int:
        engine = VllmHttp(url)
        served = await engine.open()
        engine._tails.clear()  # noqa: SLF001  what the canary sent
        taxonomy = Taxonomy.from_labels([f"category number {i}" for i in range(300)])
        task = Task(Plan(taxonomy, served.alphabet, 40), templates.load("zero-shot"), mass_sample=0)
        items = [Item(i, str(i), {"title": t}) for i, t in enumerate(titles(count))]
        async for _ in classify(items, task, engine, memory=PlainMemory()):
            pass
        sent = len(engine._tails)  # noqa: SLF001
        await engine.close()
        return sent

    return asyncio.run(run())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(DEMO))
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        vllm(Path(name), args.model, "--max-model-len", "8192") as url,
    ):
        alphabet = codes(url)
        once(url, alphabet, 5, "tokens", 3)  # the model's own first request
        print(header("# A grammar and a list of tokens"))
        print("| labels | first answer: grammar | tokens | second: grammar | tokens |")
        print("|---|---|---|---|---|", flush=True)
        for labels in SIZES:
            times = [
                once(url, alphabet, labels, constraint, 1)
                for _ in range(2)
                for constraint in ("outlines", "tokens")
            ]
            print(f"| {labels} | " + " | ".join(f"{t:.3f} s" for t in times) + " |", flush=True)
        for labels in SIZES:
            rates = alternate(
                {
                    spelling: lambda spelling=spelling, labels=labels: (
                        args.items / once(url, alphabet, labels, spelling, args.items)
                    )
                    for spelling in ("outlines", "tokens")
                },
                pairs=args.pairs,
            )
            print(f"\n{labels} labels:\n\n{table(rates, of='outlines')}", flush=True)
        counts = [grammars(url, n) for n in (10, 1000)]
    print(
        f"\ngrammars sent by a tournament over 300 labels: 10 items {counts[0]}, 1,000 {counts[1]}"
    )


if __name__ == "__main__":
    main()
