"""What llmcat costs on top of its requests: all of `llmcat classify` against two bare loops.

    python eval/bench/client.py [--items 20000] [--pairs 5] [--against FOLDER]
    python eval/bench/client.py --model serve/demo/llmcat_demo/model --items 2000

Against a stub that answers at once (the client is the bottleneck), or with --model against a real
vLLM server. Three clients do the same requests with 64 in flight: `llmcat classify` (read, clean,
render, ask, decode, write; its own process, start to end), a bare aiohttp loop that posts bodies
made beforehand, and openai's AsyncOpenAI (stub only, on a tenth of the items). --against runs
another checkout of llmcat in turn. Prints rates, ratios and the peak memory of llmcat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from common import ROOT, WHOLE_MENU, alternate, header, items, stub, table, taxonomy, vllm

from llmcat import config as configuration
from llmcat.engines.vllm_http import VllmHttp
from llmcat.engines.vllm_reply import tokenize
from llmcat.items.readers import ItemReader
from llmcat.pipeline.session import Session
from llmcat.records import Item

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

IN_FLIGHT = 64
LOOPS: list[float] = []
"""Rates of llmcat's runs from the first item to the last, without start-up and connecting."""
PEAKS: dict[Path, list[float]] = {}
"""Peak resident memory of each run in MiB, by checkout."""


def bodies(file: Path, url: str) -> list[bytes]:
    """Return the requests that llmcat sends for a file, in order."""
    settings = configuration.load(
        file=str(file), taxonomy=str(taxonomy()), base_url=url, prompt=WHOLE_MENU[1]
    )

    async def make() -> list[bytes]:
        session = await Session.open(settings)
        engine, task = session.engine, session.task
        assert isinstance(engine, VllmHttp)
        menu = task.plan.first_menus()[0]
        made = [
            engine._body(task.ask(*task.fit(item), menu))  # noqa: SLF001  the same bytes
            for item in ItemReader().read(file)
        ]
        await engine.close()
        return made

    return asyncio.run(make())


async def spread(work: Iterable[Any], one: Callable[[Any], Awaitable[None]]) -> float:
    """Do all the work with `IN_FLIGHT` workers; return seconds."""
    left = iter(work)

    async def worker() -> None:
        for each in left:
            await one(each)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return time.perf_counter() - started


def bare(url: str, requests: list[bytes]) -> float:
    """Post bodies with aiohttp and read what comes; return requests per second."""

    async def run() -> float:
        headers = {"Content-Type": "application/json"}
        connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:

            async def post(body: bytes) -> None:
                async with session.post(f"{url}/v1/chat/completions", data=body) as reply:
                    await reply.read()

            return await spread(requests, post)

    return len(requests) / asyncio.run(run())


def sdk(url: str, requests: list[bytes]) -> float:
    """Do the same with openai's AsyncOpenAI; return requests per second."""
    from openai import AsyncOpenAI

    known = {"messages", "model", "max_tokens", "temperature", "logprobs"}

    async def run() -> float:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

            async def ask(body: bytes) -> None:
                fields = json.loads(body)
                extra = {k: fields.pop(k) for k in list(fields) if k not in known}
                await client.chat.completions.create(**fields, extra_body=extra)

            return await spread(requests, ask)

    return len(requests) / asyncio.run(run())


def cached(url: str, file: Path) -> str:
    """Say what share of the prompts came from the server's cache, and what share could."""
    out = file.with_suffix(".predictions.jsonl.run.json")
    used = json.loads(out.read_text())["sessions"][-1]["asks"]
    settings = configuration.load(file=str(file), taxonomy=str(taxonomy()), base_url=url)

    async def shared() -> int:
        session = await Session.open(settings)
        assert isinstance(session.engine, VllmHttp)
        block = await session.engine.block_size() or 1
        task, found = session.task, []
        for title in ("xylophone", "0"):
            ask = task.ask(*task.fit(Item(0, "0", {"title": title})), task.plan.whole)
            engine, body = session.engine, {"messages": ask.messages}
            reply = await tokenize(engine.server, engine.model, body)
            found.append(reply["tokens"])
        await session.engine.close()
        same = next(i for i, (a, b) in enumerate(zip(*found, strict=False)) if a != b)
        return same // block * block

    prompt, hit = used["usage"]["prompt"], used["usage"]["cached"]
    can = asyncio.run(shared()) * (used["asked"] - 1)
    return (
        f"prefix cache: {hit / prompt:.1%} of {prompt:,} prompt tokens; whole shared blocks "
        f"are {can / prompt:.1%}: {hit / can:.3f} of what can be"
    )


def whole(url: str, file: Path, count: int, checkout: Path = ROOT) -> float:
    """Run `llmcat classify` on a file; return items per second, start and end included."""
    out = file.with_suffix(".predictions.jsonl")
    module = "llmcat.cli" if (checkout / "llmcat" / "cli.py").is_file() else "llmcat"
    command = [sys.executable, "-m", module, "classify", "--file", str(file)]
    command += ["--out", str(out), "--taxonomy", str(taxonomy()), "--base-url", url]
    command += ["--concurrency", str(IN_FLIGHT), *WHOLE_MENU]
    started = time.perf_counter()
    here = {**os.environ, "PYTHONPATH": f"{checkout}:{checkout / 'serve'}"}
    process = subprocess.Popen([*command, "--restart", "--quiet"], env=here, cwd=checkout)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = status  # reaped above
    assert status == 0
    seconds = time.perf_counter() - started
    PEAKS.setdefault(checkout, []).append(used.ru_maxrss / 1024)
    assert sum(1 for _ in out.open("rb")) == count
    record = json.loads(Path(f"{out}.run.json").read_text())
    if checkout == ROOT:
        LOOPS.append(count / record["sessions"][-1]["seconds"])
    return count / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--against", type=Path, help="another checkout of llmcat, run in turn")
    parser.add_argument("--model", help="a folder or name: a real vLLM server instead of the stub")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = items(folder, args.items)
        server = vllm(folder, args.model, "--max-model-len", "4096") if args.model else stub(folder)
        with server as url:
            requests = bodies(file, url)
            runs = {
                "llmcat": lambda: whole(url, file, args.items),
                "bare aiohttp": lambda: bare(url, requests),
            }
            if args.against:
                other = args.against.resolve()
                runs[other.name] = lambda: whole(url, file, args.items, other)
            if not args.model:
                runs["AsyncOpenAI"] = lambda: sdk(url, requests[: args.items // 10])
            bare(url, requests[:500])  # compiles the grammar, fills the cache
            rates = alternate(runs, pairs=args.pairs)
            found = ""
            if args.model:  # items the server has not seen
                fresh = items(folder, args.items, seed=1)
                whole(url, fresh, args.items)
                found = cached(url, fresh)
    size = len(requests[0])
    print(header(f"# {args.items:,} items of {size:,} bytes each, {IN_FLIGHT} in flight"))
    print(table(rates, of="llmcat"))
    pairs = zip(LOOPS, rates["bare aiohttp"], strict=False)
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    print(f"\nllmcat from the first item to the last: {statistics.median(LOOPS):,.0f}/s, ", end="")
    print(f"{ratio:.2f} of the bare loop")
    for checkout, peaks in PEAKS.items():
        print(f"peak memory of {checkout.name}: {statistics.median(peaks):,.0f} MiB")
    print(f"\n{found}" if found else "")


if __name__ == "__main__":
    main()
