"""`llmcat tune`, and whether a model reads its menu at all."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from helpers import EXAMPLES, read_rows

from llmcat import config
from llmcat.checks import reading
from llmcat.checks.tune import Options, Tuned, labels_for_a_promise, tune
from llmcat.engines import in_batches
from llmcat.engines.fake import FakeEngine
from llmcat.evidence.gather import Gathered
from llmcat.items.readers import ItemReader
from llmcat.pipeline.duplicates import PlainMemory
from llmcat.pipeline.session import Session
from llmcat.pipeline.settings import with_gold
from llmcat.records import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from pathlib import Path

    from helpers import Ran

    from llmcat.engines import Engine
    from llmcat.records import Request

SHOP = ("--taxonomy", EXAMPLES / "taxonomy.yaml")
FAKE = ("--engine", "fake", "--sources", "lexical")


@dataclass
class Blind(FakeEngine):
    """Says the second code of every menu, whatever stands there."""

    name: str = "fake"

    async def answer(self, asks: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        async with aclosing(in_batches(asks, 8)) as batches:
            async for batch in batches:
                for ask in batch:
                    p = [0.9 if i == 1 else 0.1 / (len(ask.menu.codes) - 1)
                         for i in range(len(ask.menu.codes))]  # fmt: skip
                    yield Answer(request=ask, logprobs=tuple(map(math.log, p)))


def read_with(engine: Engine, prompt: str, sources: str) -> reading.Reading | None:
    """What the doctor would find out about an engine with the shipped examples."""

    async def look() -> reading.Reading | None:
        settings = config.load(
            taxonomy=str(EXAMPLES / "taxonomy.yaml"), engine="fake", prompt=prompt, sources=sources
        )
        kept = Gathered()
        session = (await Session.open(settings, engine=engine)).keeping(kept)
        items = [i for _, i in zip(range(64), ItemReader().read(str(EXAMPLES / "items.jsonl")),
                                   strict=False)]  # fmt: skip
        items = [with_gold(item, session.taxonomy) for item in items]
        found = session.classify(items, memory=PlainMemory())
        return await reading.read(session, items, [v async for v in found], kept)

    return asyncio.run(look())


@pytest.mark.parametrize(
    ("prompt", "sources"), [("zero-shot", "none"), ("zero-shot-item-first", "lexical")]
)
def test_a_model_that_says_one_code_does_not_read(prompt: str, sources: str) -> None:
    """The doctor's finding fails, with how often it is right and what to do."""
    found = read_with(Blind(), prompt, sources)
    assert found is not None
    assert found.fails
    assert found.right < 0.2 * found.n < found.alone
    assert found.top == found.n
    assert found.favourite == "B"
    assert "does not read the menu in this layout" in found.todo()
    assert f"right on {found.right} of {found.n}" in found.sentence()


def test_a_model_that_reads_is_left_alone() -> None:
    """Right often enough, the same in another order, and no advice."""
    found = read_with(FakeEngine(accuracy=0.9), "zero-shot-item-first", "lexical")
    assert found is not None
    assert not found.fails
    assert not found.todo()
    assert found.right > 0.7 * found.n
    assert found.same_order > 0.5 * found.again
    assert "the model adds" in found.sentence()


def test_nothing_is_said_of_what_reads_nothing() -> None:
    """Retrieval alone has no reader to be judged."""

    async def look() -> object:
        settings = config.load(labels="shoes,bags", engine="retriever", sources="lexical")
        session = await Session.open(settings)
        return await reading.read(session, [], [], None)

    assert asyncio.run(look()) is None


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "l.jsonl"
    path.write_bytes((EXAMPLES / "items.jsonl").read_bytes())
    return path


def test_tune_chooses_checks_and_learns(
    llmcat: Callable[..., Ran], labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of arms, a check on items held back, an artifact that classify takes."""
    monkeypatch.delenv("LLMCAT_PROMPT")
    flags = (*SHOP, *FAKE, "--engine-option", "accuracy=0.8")
    (tmp_path / "arms.toml").write_text(
        '[arms.retriever]\nengine = "retriever"\nengine_option = ""\n'
        '[arms.eight]\nprompt = "zero-shot-item-first"\n'
        '[arms.four]\nprompt = "zero-shot-item-first"\ncandidates = 4\n'
    )
    ran = llmcat("tune", "--file", labelled, *flags, "--arms", "arms.toml")
    assert ran.code == 0, ran.err
    assert "chosen: " in ran.out
    assert "held-back items" in ran.out
    assert "retriever" in ran.out
    made = json.loads((tmp_path / "artifact.json").read_text())
    assert {"pool", "reader"} <= set(made["parts"])
    assert made["settings"]["prompt"].startswith("zero-shot")
    used = llmcat("classify", "--file", labelled, "--out", "o.jsonl", *flags,
                  "--artifact", "artifact.json")  # fmt: skip
    assert used.code == 0, used.err
    rows = read_rows(tmp_path / "o.jsonl")
    assert sum(row["label"] == row["gold"] for row in rows) > 0.5 * len(rows)
    before = time.monotonic()
    again = llmcat("tune", "--file", labelled, *flags, "--arms", "arms.toml", "--out", "b.json")
    assert again.code == 0
    assert json.loads((tmp_path / "b.json").read_text())["parts"] == made["parts"]
    assert time.monotonic() - before < 60


def test_an_arms_tokens_are_those_of_an_item(labelled: Path, tmp_path: Path) -> None:
    """Fewer candidates take fewer; checking the winner on held-back items changes no figure."""

    async def run() -> Tuned:
        settings = config.load(
            file=str(labelled), taxonomy=str(EXAMPLES / "taxonomy.yaml"), engine="fake",
            sources="lexical", engine_option="accuracy=0.8", prompt="zero-shot-item-first",
            runs=str(tmp_path / "runs"),
        )  # fmt: skip
        arms = {"eight": {}, "four": {"candidates": 4}}
        return await tune(settings, Options(arms=arms), stop=asyncio.Event(), say=lambda _: None)

    found = asyncio.run(run())
    tokens = {one.name: one.tokens for one in found.tried}
    assert tokens["four"] < tokens["eight"] < 2 * tokens["four"]
    assert found.adds is not None
    assert found.adds["tokens_per_item"] == pytest.approx(found.winner.tokens, rel=0.2)


def test_tune_keeps_to_its_bounds(llmcat: Callable[..., Ran], labelled: Path) -> None:
    """It stops near the bound, compares what all arms answered, and says so."""
    ran = llmcat("tune", "--file", labelled, *SHOP, *FAKE, "--max-requests", "300")
    assert ran.code == 0, ran.err
    assert "stopped early: --max-requests 300" in ran.out
    few = llmcat("tune", "--file", labelled, *SHOP, *FAKE, "--limit", "60")
    assert few.code == 2
    assert "too few to choose by" in few.err


def test_an_interrupted_tune_shows_what_it_has(labelled: Path, tmp_path: Path) -> None:
    """Ctrl-C: the table so far, nothing chosen, nothing written; the command that goes on."""
    command = [sys.executable, "-m", "llmcat", "tune", "--file", str(labelled), *SHOP, *FAKE]
    command += ["--engine-option", "latency=0.05", "--concurrency", "4"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "after 32 items" in line:
            break
    process.send_signal(signal.SIGINT)
    table, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "accuracy" in table
    assert "item-first" in table
    assert "chosen" not in table
    assert "this goes on, and asks nothing twice" in said
    assert not (tmp_path / "artifact.json").exists()


def test_an_arm_that_says_the_same_of_everything_is_an_error(
    llmcat: Callable[..., Ran], labelled: Path, tmp_path: Path
) -> None:
    """It is named, and the exit code is 1; the others go on."""
    (tmp_path / "arms.toml").write_text(
        '[arms.retriever]\nengine = "retriever"\nsources = "lexical"\n'
        '[arms.a]\nsources = "none"\n'
        '[arms.deaf]\nengine_option = "sharpness=0,noise=0"\nsources = "none"\n'
    )
    ran = llmcat("tune", "--file", labelled, *SHOP, "--engine", "fake", "--arms", "arms.toml")
    assert ran.code == 1, ran.err
    assert "it says 'headphones' of everything" in " ".join(ran.out.replace("│", " ").split())
    assert "chosen: " in ran.out


def test_how_many_labels_a_promise_takes() -> None:
    """Surer answers take fewer; where nothing is sure enough none would do."""
    sharp = [0.99] * 150 + [0.3] * 50
    flat = [0.6] * 200
    few = labels_for_a_promise(sharp, supposed=0.8, precision=0.9, risk=0.05)
    assert few is not None
    assert 20 < few < 400
    assert labels_for_a_promise(flat, supposed=0.6, precision=0.9, risk=0.05) is None


def test_suppose_needs_no_label(llmcat: Callable[..., Ran], tmp_path: Path) -> None:
    """Unlabelled items, and an accuracy that is supposed."""
    rows = [{"id": r["id"], "title": r["title"]} for r in read_rows(EXAMPLES / "items.jsonl")]
    (tmp_path / "u.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = llmcat("tune", "--file", "u.jsonl", *SHOP, "--engine", "retriever", "--sources",
                 "lexical", "--suppose", "0.8", "--accept-precision", "0.9")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "if 80% of the answers are right" in ran.out
