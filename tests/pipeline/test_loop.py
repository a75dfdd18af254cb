"""The loop: order, duplicates, errors, windows and stopping, over the fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import islice

import pytest

from llmcat import Taxonomy
from llmcat.candidates.codes import CANDIDATES
from llmcat.candidates.plan import Plan
from llmcat.engines import in_batches
from llmcat.engines.fake import FakeEngine
from llmcat.errors import EngineBusy, InputError
from llmcat.pipeline.duplicates import BATCH, DiskMemory, PlainMemory
from llmcat.pipeline.loop import HOPELESS, Tally, classify
from llmcat.pipeline.writers import decided_in, row_of
from llmcat.prompting import templates
from llmcat.prompting.builder import Task
from llmcat.records import Answer, Decided, Item, Request, RowResult, Scores

TAXONOMY = Taxonomy.from_labels(["shoes", "bags", "toys"])
TASK = Task(Plan(TAXONOMY, CANDIDATES[:128]), templates.load("zero-shot"))


def item(row: int, title: str) -> Item:
    return Item(row=row, id=str(row), fields={"title": title})


class Unruly(FakeEngine):
    """Answers in an order of its own; fails what says `fail`."""

    async def _later(self, ask: Request) -> Answer:
        await asyncio.sleep(0.001 * (ask.item.row * 7919 % 13))
        answer = self._one(ask)
        failed = "fail" in ask.item.content
        return replace(answer, logprobs=(), error=EngineBusy("no")) if failed else answer


def run(items: list[Item], engine: FakeEngine | None = None, **options: object) -> list[RowResult]:
    async def collect() -> list[RowResult]:
        options.setdefault("memory", PlainMemory())
        got = classify(items, TASK, engine or FakeEngine(), **options)  # type: ignore[arg-type]
        return [v async for v in got]

    return asyncio.run(collect())


def test_verdicts_come_in_item_order() -> None:
    """Whatever order the engine answers in, and whatever fails in between."""
    items = [item(i, f"{'fail ' * (i % 7 == 0)}shoes {i}") for i in range(1, 200)]
    items[10] = replace(items[10], fields={}, error="bad row")
    results = run(items, Unruly(), window=50)
    assert [v.item.row for v in results] == [i.row for i in items]
    decisions = [v.decision for v in results]
    assert decisions[10] == "error"
    assert [d == "error" for d in decisions] == [i.row % 7 == 0 or i.row == 11 for i in items]


def test_reasons_stand_in_the_verdict() -> None:
    """Two asks an item; duplicates, near and far, have the reasons too."""
    plan = Plan(TAXONOMY, CANDIDATES[:128])
    task = Task(plan, templates.load("reason"), mass_sample=2)
    items = [item(i, f"shoes {i % 10}") for i in range(60)]
    tally, disk = Tally(), DiskMemory()

    async def collect() -> list[RowResult]:
        got = classify(items, task, FakeEngine(), memory=disk, tally=tally, window=20)
        return [v async for v in got]

    results = asyncio.run(collect())
    disk.close()
    assert tally.asked == 20
    assert tally.mass_count == 5
    assert {v.reason for v in results} == {"its words are those of A"}
    assert all(v.scores.label == "shoes" and v.scores.kind == "full" for v in results)  # type: ignore[union-attr]


def test_an_exact_duplicate_is_asked_once() -> None:
    """In flight or long answered, near or far; each keeps its own row and id."""
    items = [item(i, f"shoes {i % 10}") for i in range(500)]
    disk = DiskMemory()
    for memory in (PlainMemory(), disk):
        tally = Tally()
        results = run(items, FakeEngine(latency=0.001), memory=memory, tally=tally, window=100)
        assert tally.asked == 10
        assert tally.duplicates == 490
        assert [v.item.id for v in results] == [str(i) for i in range(500)]
        assert all(v.scores.label == results[v.item.row % 10].scores.label for v in results)  # type: ignore[union-attr]
    disk.close()


@pytest.mark.parametrize("ordered", [True, False])
def test_a_far_duplicate_has_the_row_of_the_first(ordered: bool) -> None:
    """All of it, also what is reckoned from more probabilities than a memory keeps."""
    names = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    taxonomy = replace(Taxonomy.from_labels(names), ordered=ordered)
    task = Task(Plan(taxonomy, CANDIDATES[:128]), templates.load("zero-shot"))
    items = [item(i, f"thing {i % 40} {names[i % 8]}") for i in range(160)]

    async def collect() -> list[RowResult]:
        disk = DiskMemory()
        got = classify(items, task, FakeEngine(noise=1.0), memory=disk, window=10)
        found = [v async for v in got]
        disk.close()
        return found

    rows = [row_of(result, taxonomy) for result in asyncio.run(collect())]
    for row in rows:
        first = rows[row["row"] % 40]
        assert row | {"row": 0, "id": ""} == first | {"row": 0, "id": ""}
        assert ("level" in row) == ordered
        if ordered and row["label"]:
            kept = decided_in(row)
            assert kept is not None
            assert kept.scores.level == row["level"]


def test_duplicates_of_a_failed_item_fail_with_it() -> None:
    """They are not asked again in the same breath, but a later one is."""
    items = [item(0, "shoes"), *(item(i, "fail") for i in range(1, 6))]
    tally = Tally()
    results = run(items, Unruly(), tally=tally)
    assert [v.decision for v in results] == ["labelled", *["error"] * 5]
    assert tally.asked == 2


def test_a_window_full_of_rows_that_need_no_ask() -> None:
    """Bad rows and known duplicates flow through without an answer to carry them."""
    bad = [Item(row=i, id=str(i), fields={}, error="bad") for i in range(100)]
    assert len(run(bad, window=8)) == 100
    same = [item(i, "shoes") for i in range(100)]
    assert len(run(same, window=8)) == 100


def test_the_window_bounds_what_is_held() -> None:
    """No more items are read ahead than the window allows, however slow the reader is."""
    taken = 0

    def source() -> object:
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield item(i, f"shoes {i}")

    async def look() -> None:
        results = classify(source(), TASK, FakeEngine(), memory=PlainMemory(), window=16)  # type: ignore[arg-type]
        for _ in range(5):
            await anext(results)
        await asyncio.sleep(0.05)
        assert taken <= 16 + 5 + 1
        await results.aclose()  # type: ignore[attr-defined]

    asyncio.run(look())


def test_stop_finishes_what_is_in_flight() -> None:
    """Everything asked is answered and yielded; nothing new is taken."""

    async def look() -> tuple[list[int], int]:
        stop, tally = asyncio.Event(), Tally()
        items = (item(i, f"shoes {i}") for i in range(10_000))
        engine = FakeEngine(latency=0.001)
        results = classify(
            items, TASK, engine, memory=PlainMemory(), tally=tally, stop=stop, window=64
        )
        rows = []
        async for result in results:
            rows.append(result.item.row)
            if len(rows) == 100:
                stop.set()
        return rows, tally.asked

    rows, asked = asyncio.run(look())
    assert rows == list(range(asked))
    assert 100 <= asked <= 100 + 64


def test_an_error_of_the_input_ends_the_run_after_what_was_settled() -> None:
    """A file that breaks off is not a short file."""

    def source() -> object:
        yield item(0, "shoes")
        raise InputError("breaks off")

    async def look() -> list[RowResult]:
        got = []
        with pytest.raises(InputError, match="breaks off"):
            async for v in classify(source(), TASK, FakeEngine(), memory=PlainMemory()):  # type: ignore[arg-type]
                got.append(v)  # noqa: PERF401
        return got

    assert len(asyncio.run(look())) == 1


def test_when_nothing_works_it_is_not_the_items() -> None:
    """A run of nothing but failures stops instead of writing a file of errors."""
    with pytest.raises(EngineBusy):
        run([item(i, f"fail {i}") for i in range(HOPELESS + 20)], Unruly())


def test_a_server_that_stops_serving_stops_the_run() -> None:
    """After good answers too: what was answered is kept, the rest is not written as errors."""
    items = [item(i, f"{'fail' if i >= 100 else 'shoes'} {i}") for i in range(400)]
    with pytest.raises(EngineBusy):
        run(items, Unruly())


def test_a_crash_of_the_engine_reaches_the_caller() -> None:
    """With its own error, not a hang."""

    class Broken(FakeEngine):
        async def answer(self, asks: AsyncIterator[Request]) -> AsyncIterator[Answer]:
            async for ask in asks:
                if ask.item.row == 3:
                    raise RuntimeError("boom")
                yield self._one(ask)

    with pytest.raises(RuntimeError, match="boom"):
        run([item(i, f"shoes {i}") for i in range(10)], Broken())


def test_disk_memory_keeps_what_a_row_shows() -> None:
    """Label, alternatives, exit, kind and mass survive; ids are told apart."""
    memory = DiskMemory()
    (result,) = run([item(0, "red shoes")])
    assert result.scores is not None
    decided = Decided("accept", replace(result.scores, chance=0.7), ("shoes", "none"))
    memory.put("a", decided)
    assert memory.get("a") == decided
    assert memory.get("b") is None
    assert [memory.new_id(i) for i in ("x", "y", "x")] == [True, True, False]
    memory.close()


def test_disk_memory_finds_what_it_wrote_to_its_file() -> None:
    """Past the first batches, too; what never came is not found."""
    disk, count = DiskMemory(), 2 * BATCH + 10
    for i in range(count):
        assert disk.new_id(str(i))
        disk.put(str(i), Decided("labelled", Scores("a", {"a": i / count}, 0.0)))
    for i in range(0, count, 37):
        assert not disk.new_id(str(i))
        found = disk.get(str(i))
        assert found is not None
        assert found.scores.p == {"a": i / count}
    assert disk.get(str(count)) is None
    disk.close()


def test_the_fake_engine_tells_the_truth_as_often_as_asked() -> None:
    """Accuracy is what was set, within what chance allows (a 6-sigma band), and repeats."""
    items = [item(i, f"thing {i}") for i in range(2000)]
    truth = {str(i): ("shoes", "bags", "toys", "none")[i % 4] for i in range(2000)}
    engine = FakeEngine(truth=truth, accuracy=0.8)
    results = run(items, engine)
    right = sum(v.scores.label == truth[v.item.id] for v in results if v.scores)
    assert abs(right / 2000 - 0.8) < 6 * (0.8 * 0.2 / 2000) ** 0.5 + 0.01
    again = run(list(islice(reversed(items), 100)), engine)
    assert [v.scores for v in again] == [v.scores for v in reversed(results[-100:])]


def test_batches_can_be_left_while_more_wait() -> None:
    """Leaving a stream of batches ends its feeder, also when that has just put or waits to."""

    async def feed() -> AsyncIterator[Request]:
        n = 0
        while True:
            (asked,) = [item(n, "x")]
            yield Request(asked, TASK.plan.whole, TASK._prefix(TASK.plan.whole), ())
            n += 1
            if n % 7 == 0:
                await asyncio.sleep(0)

    async def leave(after: int) -> None:
        batches = in_batches(feed(), 4)
        for _ in range(after):
            assert 1 <= len(await anext(batches)) <= 4
            await asyncio.sleep(0)
        await asyncio.wait_for(batches.aclose(), 5)

    for after in range(1, 12):
        asyncio.run(leave(after))


def test_what_breaks_a_stream_of_asks_breaks_its_batches() -> None:
    """After the asks that came before it."""

    async def feed() -> AsyncIterator[Request]:
        for n in range(6):
            yield Request(item(n, "x"), TASK.plan.whole, TASK._prefix(TASK.plan.whole), ())
        raise InputError("broken")

    async def collect() -> int:
        seen = 0
        with pytest.raises(InputError, match="broken"):
            async for batch in in_batches(feed(), 4):
                seen += len(batch)
        return seen

    assert asyncio.run(collect()) == 6
