"""vLLM in this process: llmcat's loop over `vllm_local` beside a bare `LLM.chat`.

    python eval/bench/local.py [--model FOLDER] [--items 1000] [--pairs 5]

One loaded model answers the same conversations for both, in turn, each time with an empty prefix
cache. llmcat reads and writes nothing here: items to verdicts. Prints rates and their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from dataclasses import dataclass

from common import DEMO, alternate, header, table, titles

from llmcat import Taxonomy
from llmcat.candidates.plan import Plan
from llmcat.engines.vllm_local import VllmLocal
from llmcat.pipeline.duplicates import PlainMemory
from llmcat.pipeline.loop import classify
from llmcat.prompting import templates
from llmcat.prompting.builder import Task
from llmcat.records import Item


@dataclass
class Bench:
    """A loaded model, a task, and the same items for both."""

    engine: VllmLocal
    task: Task
    items: list[Item]

    def llmcat(self) -> float:
        """Items to verdicts through the loop; items per second."""

        async def run() -> None:
            found = classify(
                self.items, self.task, self.engine, memory=PlainMemory(), window=4 * 1024
            )
            async for result in found:
                assert result.decision != "error", result.reason

        return self._timed(lambda: asyncio.run(run()))

    def bare(self) -> float:
        """`LLM.chat` over the same conversations and parameters; items per second."""
        menu = self.task.plan.whole
        asks = [self.task.ask(*self.task.fit(item), menu) for item in self.items]
        conversations = [ask.messages for ask in asks]
        params = [self.engine._sampling(ask) for ask in asks]  # noqa: SLF001  the same
        llm = self.engine._llm  # noqa: SLF001
        return self._timed(
            lambda: llm.chat(
                conversations, params, use_tqdm=False,
                chat_template_kwargs={"enable_thinking": False},
            )
        )  # fmt: skip

    def _timed(self, work: object) -> float:
        self.engine._llm.reset_prefix_cache()  # noqa: SLF001
        self.engine._primed.clear()  # noqa: SLF001
        started = time.perf_counter()
        work()  # type: ignore[operator]
        return len(self.items) / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(DEMO))
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--max-model-len", type=int, default=4096)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    engine = VllmLocal(args.model, max_model_len=args.max_model_len)
    served = asyncio.run(engine.open())
    labels = Taxonomy.from_labels([f"category number {i}" for i in range(30)])
    task = Task(Plan(labels, served.alphabet), templates.load("zero-shot"))
    items = [Item(i, str(i), {"title": t}) for i, t in enumerate(titles(args.items))]
    bench = Bench(engine, task, items)
    bench.bare()  # compiles the grammar
    rates = alternate({"llmcat": bench.llmcat, "LLM.chat": bench.bare}, pairs=args.pairs)
    asyncio.run(engine.close())
    print(header(f"# {args.items:,} items, 30 labels, {served.version}"))
    print(table(rates, of="llmcat"))


if __name__ == "__main__":
    main()
