"""The loop, and nothing else: items in, results out, in order.

    item -> walk -> menu -> task.ask -> engine -> answer -> decode.read -> walk ... -> result

A walk may end without any menu, and may have an answer to an error: the fallback labeler's do. It
holds at most `window` items at a time, asks an exact duplicate only once, and knows nothing
of files, HTTP or prompts.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from llmcat.candidates.walks import walk
from llmcat.errors import BadItem, EngineError, InputError, LlmcatError
from llmcat.pipeline import decode
from llmcat.pipeline.collapse import Watch
from llmcat.records import Answer, Decided, Item, Menu, Message, Request, RowResult, Scores, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable

    from llmcat.candidates.walks import Walk
    from llmcat.engines import Engine
    from llmcat.pipeline.budget import Budget
    from llmcat.pipeline.rules import Rules
    from llmcat.prompting.builder import Task

__all__ = ["LOW_MASS", "Memory", "Tally", "classify"]

LOW_MASS = 0.5
"""A label mass below which most of what a model would say is something else."""

UNHEARD = Scores("", {}, None)
"""Stands for an answer that has not come."""
HOPELESS = 50
"""So many requests in a row that could not be served, or none ever: it is not the items."""


class Memory(Protocol):
    """Remembers what was decided about texts already answered."""

    def get(self, content: str) -> Decided | None:
        """Return what was decided about this very text, if it was answered."""

    def put(self, content: str, decided: Decided) -> None:
        """Remember it."""


@dataclass(slots=True)
class Tally:
    """What a run used. `masses` holds the sampled label masses as a running sum and count.

    `again` counts items asked in several orders, `order_disagreement` those with not one answer in
    all.
    `unread`: it was stopped before its items had ended, `spent`: by its budget. `watch` looks at
    each answer of the model itself, before anything else is made of it.
    """

    asked: int = 0
    failed: int = 0
    duplicates: int = 0
    cut: int = 0
    again: int = 0
    order_disagreement: int = 0
    usage: Usage = Usage()
    mass_sum: float = 0.0
    mass_count: int = 0
    unread: bool = False
    spent: bool = False
    watch: Watch = field(default_factory=Watch, repr=False)

    @property
    def mass(self) -> float | None:
        """The mean label mass, None if it was never sampled."""
        return self.mass_sum / self.mass_count if self.mass_count else None

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        self.asked += 1
        self.failed += answer.error is not None
        self.usage = self.usage + answer.usage

    def record(self) -> dict[str, Any]:
        """Return the counts for a run's record."""
        counts = replace(self, watch=Watch())
        found = asdict(counts) | {"mass": self.mass}
        del found["watch"]
        return found


@dataclass(slots=True)
class _Slot:
    """An item on its way; slots leave in the order they came."""

    item: Item
    content: str = ""
    user: Message = field(default_factory=dict)
    walk: Walk | None = None
    notes: list[str] = field(default_factory=list)
    result: RowResult | None = None
    twins: list[_Slot] = field(default_factory=list)
    requests: int = 0
    waiting: int = 0
    heard: list[Scores] = field(default_factory=list)
    failed: EngineError | None = None


async def classify(
    items: Iterable[Item],
    task: Task,
    engine: Engine,
    *,
    memory: Memory,
    decider: decode.Decider | None = None,
    walks: Callable[[Item], Walk] | None = None,
    tally: Tally | None = None,
    window: int = 1024,
    stop: asyncio.Event | None = None,
    slow: bool = False,
    budget: Budget | None = None,
    rules: Rules | None = None,
) -> AsyncGenerator[RowResult, None]:
    """Yield one result per item, in the items' order.

    `decider` makes results of scores; without one they are believed as they are. `walks` gives an
    item's walk, without it that of the task's plan. `stop`, once set, lets what is in flight finish
    and takes no new items. `slow` items may keep their reader waiting (a pipe): they are read in a
    thread of their own. `budget` ends it before an item that would pass it, `rules` stand
    before it. Raises the engine's
    error when the run cannot go on; every result before the first unanswered item has been yielded
    by then.
    """
    tally = tally or Tally()
    wake = asyncio.Event()
    source = _Patient(items, wake) if slow else _Source(items)
    decider = decider or decode.Plain()
    walks = walks or (lambda _: walk(task.plan))
    loop = _Loop(source, wake, task, memory, decider, walks, tally, window, stop or asyncio.Event())
    loop.budget, loop.rules = budget, rules
    pump = asyncio.create_task(loop.pump(engine))
    waker = asyncio.create_task(loop.wake_on_stop())
    try:
        while (got := await loop.out.get()) is not None:
            if isinstance(got, BaseException):
                raise got
            loop.wake.set()
            yield got
    finally:
        pump.cancel()
        waker.cancel()
        await asyncio.gather(pump, waker, return_exceptions=True)


class _Source:
    """The items still to come. `broken` is why they ended, if not well.

    What is in flight when the input breaks off is finished before that error is raised.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self.items = iter(items)
        self.ended = False
        self.broken: LlmcatError | None = None

    def next(self) -> Item | None:
        """Return the next item; None at the end."""
        if self.ended:
            return None
        try:
            return next(self.items)
        except StopIteration:
            self.ended = True
        except LlmcatError as exc:
            self.ended, self.broken = True, exc
        return None

    def close(self) -> None:
        """Give no more items."""
        self.ended = True


class _Patient(_Source):
    """Reads items that may be long in coming, in a thread that can be left behind.

    `next` also returns None when no item has come yet; `wake` is set when one has.
    """

    def __init__(self, items: Iterable[Item], wake: asyncio.Event) -> None:
        super().__init__(())
        self.queue: queue.Queue[Item | LlmcatError | None] = queue.Queue(maxsize=256)
        loop = asyncio.get_running_loop()

        def put(got: Item | LlmcatError | None) -> None:
            self.queue.put(got)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(wake.set)

        def read() -> None:
            try:
                for item in items:
                    put(item)
                put(None)
            except LlmcatError as exc:
                put(exc)
            except Exception as exc:  # noqa: BLE001  nobody else would ever hear of it
                put(InputError(f"reading the items failed: {type(exc).__name__}: {exc}"))

        threading.Thread(target=read, name="llmcat-reader", daemon=True).start()

    def next(self) -> Item | None:
        """Return the next item if there is one now."""
        if self.ended or self.queue.empty():
            return None
        got = self.queue.get_nowait()
        if isinstance(got, Item):
            return got
        self.ended, self.broken = True, got
        return None


class _Loop:
    """The state of one run of the loop."""

    def __init__(
        self,
        source: _Source,
        wake: asyncio.Event,
        task: Task,
        memory: Memory,
        decider: decode.Decider,
        walks: Callable[[Item], Walk],
        tally: Tally,
        window: int,
        stop: asyncio.Event,
    ) -> None:
        self.source, self.wake, self.stop = source, wake, stop
        self.task, self.memory, self.decider, self.walks = task, memory, decider, walks
        self.tally, self.window = tally, window
        self.slots: deque[_Slot] = deque()  # in item order
        self.asked: dict[int, _Slot] = {}  # by row
        self.leaders: dict[str, _Slot] = {}  # by content
        self.budget: Budget | None = None
        self.rules: Rules | None = None
        self.flying = 0  # requests that are not answered
        self.ailing = 0  # requests in a row that the server could not serve
        self.follow: deque[Request] = deque()  # second and later requests of an item
        self.out: asyncio.Queue[RowResult | BaseException | None] = asyncio.Queue()

    async def pump(self, engine: Engine) -> None:
        """Run requests through the engine until none is left."""
        try:
            async with contextlib.aclosing(engine.answer(self.feed())) as answers:
                async for answer in answers:
                    self.take(answer)
            self.out.put_nowait(self.source.broken)
        except BaseException as exc:  # noqa: BLE001  raised again by the consumer
            self.out.put_nowait(exc)

    async def wake_on_stop(self) -> None:
        """Let the feed see that it is to stop, also while it waits."""
        await self.stop.wait()
        self.wake.set()

    async def feed(self) -> AsyncIterator[Request]:
        """Yield requests: what goes on before what begins, and no more than the window holds."""
        while True:
            self.wake.clear()
            if self.stop.is_set() and not self.source.ended:
                self.tally.unread = True
                self.source.close()
            if self.follow:
                yield self.follow.popleft()
                continue
            room = len(self.slots) + self.out.qsize() < self.window
            if room and self.may_begin():
                item = self.source.next()
                if item is not None:
                    self.begin(item)
                    continue
                if self.source.ended and not self.asked:
                    return
            await self.wake.wait()

    def may_begin(self) -> bool:
        """Tell whether another item may be taken in, by the budget; end it where none ever may."""
        tally = self.tally
        if self.budget is None or self.budget.allows(tally.asked, self.flying, tally.usage):
            return True
        if not self.flying and not self.source.ended:
            tally.unread = tally.spent = True
            self.source.close()
            return True  # what was read already is let go of
        return False

    def begin(self, item: Item) -> None:
        """Take in an item; its first requests follow, if it needs any."""
        slot = _Slot(item)
        self.slots.append(slot)
        if item.error is not None:
            self.finish(slot, RowResult(item, "error", reason=item.error))
            return
        if self.rules is not None and (decided := self.rules.fixed(item)) is not None:
            self.finish(slot, decode.result(item, decided))
            return
        try:
            slot.item, slot.user = self.task.fit(item)
        except BadItem as exc:
            self.finish(slot, RowResult(item, "error", reason=str(exc)))
            return
        self.tally.cut += slot.item is not item
        content = slot.content = self.rules.key(item) if self.rules else item.content
        leader = self.leaders.get(content)
        if leader is not None:
            self.tally.duplicates += 1
            leader.twins.append(slot)
            return
        decided = self.memory.get(content)
        if decided is not None:
            self.tally.duplicates += 1
            self.finish(slot, decode.result(slot.item, decided))
            return
        self.leaders[content] = slot
        slot.walk = self.walks(slot.item)
        if self.rules is not None:
            slot.walk = self.rules.walk(slot.item, slot.walk)
        self.step(slot, partial(next, slot.walk))

    def step(self, slot: _Slot, onward: Callable[[], tuple[Menu, ...]]) -> None:
        """Go on with a slot's walk: to its next questions, or to its end."""
        try:
            menus = onward()
        except StopIteration as end:
            scores: Scores = end.value
            if slot.notes:
                scores = replace(scores, note="; ".join(dict.fromkeys(slot.notes)))
            plan = self.task.plan
            self.tally.again += slot.requests > 1 and plan.gives_all and plan.orders > 1
            self.tally.order_disagreement += scores.order_disagreement
            decided = self.decider.decide(slot.item, scores)
            if plan.taxonomy.ordered:  # a memory keeps the best few probabilities only
                level = decode.level_of(decided.scores, plan.taxonomy)
                decided = replace(decided, scores=replace(decided.scores, level=level))
            self.memory.put(slot.content, decided)
            self.settle(slot, lambda item: decode.result(item, decided))
            return
        self.ask(slot, menus)

    def ask(self, slot: _Slot, menus: tuple[Menu, ...]) -> None:
        """Put questions about the slot's item; settle it if that cannot be done."""
        try:
            requests = [self.task.ask(slot.item, slot.user, menu) for menu in menus]
        except BadItem as exc:
            reason = str(exc)
            self.settle(slot, lambda item: RowResult(item, "error", reason=reason))
            return
        if len(requests) > 1:
            requests = [replace(one, place=place) for place, one in enumerate(requests)]
        self.asked[slot.item.row] = slot
        slot.requests += len(requests)
        self.flying += len(requests)
        slot.waiting, slot.failed = len(requests), None
        slot.heard = [UNHEARD] * len(requests)
        self.follow.extend(requests)

    def take(self, answer: Answer) -> None:
        """Read an answer and go on with its item."""
        self.tally.add(answer)
        if self.budget is not None:
            self.budget.note(answer)
        self.flying -= 1
        slot = self.asked[answer.request.item.row]
        if answer.error is not None:
            slot.failed = slot.failed or answer.error
        else:
            self.ailing = 0
            if answer.by:
                slot.notes.append(f"answered by {answer.by}")
            if answer.request.read == "reason":
                slot.notes.append(decode.rationale(answer.text))
                self.follow.append(self.task.after(answer))
                self.flying += 1
                self.wake.set()
                return
            slot.heard[answer.request.place] = self.read(answer)
        slot.waiting -= 1
        if not slot.waiting:
            del self.asked[slot.item.row]
            self.go_on(slot)
            self.wake.set()

    def read(self, answer: Answer) -> Scores:
        """Return an answer's scores, watched and weighed."""
        scores = decode.read(answer)
        self.tally.watch.add(scores, answer.request.menu)
        if scores.mass is not None:
            self.tally.mass_sum += scores.mass
            self.tally.mass_count += 1
        return scores

    def go_on(self, slot: _Slot) -> None:
        """Tell a slot's walk what came, once all of it has come."""
        walk_ = slot.walk
        assert walk_ is not None  # noqa: S101  what was asked about has one
        if slot.failed is None:
            self.step(slot, partial(walk_.send, slot.heard))
            return
        try:
            self.step(slot, partial(walk_.throw, slot.failed))
        except EngineError as error:  # the walk has no answer to it
            # Items that are refused come in any number; a server that cannot serve does not.
            self.ailing = self.ailing + 1 if error.retryable else 0
            if self.ailing >= HOPELESS or self.tally.failed == self.tally.asked >= HOPELESS:
                raise
            reason = str(error)
            self.settle(slot, lambda item: RowResult(item, "error", reason=reason))

    def settle(self, slot: _Slot, decide: Callable[[Item], RowResult]) -> None:
        """Finish a slot and its exact duplicates."""
        del self.leaders[slot.content]
        for each in (slot, *slot.twins):
            self.finish(each, decide(each.item))

    def finish(self, slot: _Slot, result: RowResult) -> None:
        """Settle a slot, and let go of all settled slots at the head."""
        slot.result = result
        while self.slots and self.slots[0].result is not None:
            settled = self.slots.popleft().result
            self.out.put_nowait(settled)
        self.wake.set()
