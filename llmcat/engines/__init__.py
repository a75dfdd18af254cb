"""What an engine is: it declares what it can do, opens, and turns requests into answers.

One verb. Answers come in any order, one per request, each carrying it. What concerns one request
(refused, timed out, too long) is an `Answer` with an error; what concerns the run (the server
is gone, the constraint is ignored) is raised. What an engine cannot do it refuses aloud. An
engine that collects requests must go on with what it has when no more come: the loop holds only so
many items.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from yarl import URL

from llmcat.errors import BadConfig
from llmcat.records import digest

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Mapping,
        Sequence,
    )

    from llmcat.records import Answer, Kind, Message, Read, Request

__all__ = [
    "Capabilities",
    "Engine",
    "Served",
    "check_reachable",
    "generated",
    "in_batches",
    "in_flight",
    "spare",
]


Sent = TypeVar("Sent")
Got = TypeVar("Got")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can give: kinds of scores, constraints, labels per menu, read modes, images.

    `cost`: it knows what a provider takes for the tokens. `whole_menus`: it is made to read the
    whole menu, first (the demo model was trained on that; a student reads no prompt), so retrieval
    goes before it only where the settings say so.
    """

    scores: tuple[Kind, ...]
    constraints: tuple[Literal["outlines", "tokens"], ...]
    labels: int
    reads: tuple[Read, ...] = ("code", "text", "reason")
    images: bool = False
    cost: bool = False
    whole_menus: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """What `open` found. `context` is the most tokens of prompt and answer together.

    `alphabet` holds the codes that are one token each in this model, in order of preference.
    `mass` is the canary's label mass. `facts` is what else is worth recording. `any_order`: it was
    found that the order of what is offered does not matter.
    """

    engine: str
    model: str
    version: str
    context: int
    alphabet: tuple[str, ...]
    mass: float | None = None
    facts: dict[str, str] = field(default_factory=dict)
    any_order: bool = False

    def identity(self) -> dict[str, str]:
        """What must be the same for a run to go on."""
        codes = f"{len(self.alphabet)} {digest(*self.alphabet)}"
        model = " ".join(filter(None, (self.model, self.facts.get("root"))))
        return {"engine": self.engine, "model": model, "codes": codes}

    def record(self) -> dict[str, object]:
        """Everything, for the run's record; the alphabet as one string."""
        return asdict(self) | {"alphabet": " ".join(self.alphabet)}


class Engine(Protocol):
    """The contract. `tests/engines/test_engines.py` holds the suite that every engine passes."""

    name: str
    capabilities: Capabilities

    async def open(self) -> Served:
        """Connect and prove, with a canary, that constraint and log-probabilities work."""

    def answer(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        """Answer a stream of requests, each exactly once, in any order."""

    async def count_tokens(self, messages: list[Message]) -> int:
        """Return the number of prompt tokens of a conversation, template included."""

    async def close(self) -> None:
        """Let go of connections and memory."""


async def in_flight(
    requests: AsyncIterator[Sent], one: Callable[[Sent], Awaitable[Got]], concurrency: int
) -> AsyncGenerator[Got, None]:
    """Answer a stream one by one, `concurrency` of them at a time, as they come back.

    What flows is requests, or lists of them. Never waits for a further one while an answer is there
    to give. As many again wait ready: a
    server that batches answers many at once, and wants as many new ones at once. What `one` or
    the stream raises is raised here; closing this generator cancels what is in flight.
    """
    todo: asyncio.Queue[Sent | None] = asyncio.Queue(maxsize=concurrency)
    done: asyncio.Queue[Got | BaseException | None] = asyncio.Queue()
    at_work = concurrency

    async def work() -> None:
        nonlocal at_work
        try:
            while (request := await todo.get()) is not None:
                done.put_nowait(await one(request))
            todo.put_nowait(None)  # for the next worker
            at_work -= 1
            if not at_work:
                done.put_nowait(None)
        except BaseException as exc:  # noqa: BLE001  raised again by the consumer
            done.put_nowait(exc)

    async def feed() -> None:
        try:
            async for request in requests:
                await todo.put(request)
            await todo.put(None)
        except BaseException as exc:  # noqa: BLE001
            done.put_nowait(exc)

    tasks = [
        asyncio.create_task(feed()),
        *(asyncio.create_task(work()) for _ in range(concurrency)),
    ]
    try:
        while (got := await done.get()) is not None:
            if isinstance(got, BaseException):
                raise got
            yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_batches(
    requests: AsyncIterator[Request], most: int
) -> AsyncGenerator[list[Request], None]:
    """Yield requests in lists of at most `most`: what has come by the time the last list is done.

    Never waits for a further request while one is there. What the stream raises is raised here.
    """
    waiting: asyncio.Queue[Request | BaseException | None] = asyncio.Queue(maxsize=most)

    async def pump() -> None:
        try:
            async for request in requests:
                await waiting.put(request)
            await waiting.put(None)
        except Exception as exc:  # noqa: BLE001  raised again by the consumer
            await waiting.put(exc)

    feeder = asyncio.create_task(pump())
    end: BaseException | None = None
    open_ = True
    try:
        while open_:
            batch: list[Request] = []
            got = await waiting.get()
            while True:
                if got is None or isinstance(got, BaseException):
                    end, open_ = got, False
                    break
                batch.append(got)
                await asyncio.sleep(0)  # let the feeder run: it may have more at hand
                if len(batch) == most or waiting.empty():
                    break
                got = waiting.get_nowait()
            if batch:
                yield batch
        if end is not None:
            raise end
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)


def generated(text: str, request: Request) -> str | None:
    """Return a generated text if it is what was asked for: a name on the menu, or reasons.

    A name ends with its line; reasons may be cut at their length.
    """
    text = text.strip() if request.read == "text" else text
    fits = text in request.menu.codes if request.read == "text" else text.startswith("{")
    return text if fits else None


def check_reachable(base_url: str, api_key: str) -> None:
    """Raise `BadConfig` if a server's address or key cannot be sent. Both may be empty."""
    try:
        url = URL(base_url or "http://localhost")
        usable = url.scheme in {"http", "https"} and bool(url.host) and bool(url.port)
    except ValueError:
        usable = False
    if not usable:
        hint = "e.g. --base-url http://localhost:8000"
        raise BadConfig(f"the address {base_url!r} cannot be used", hint=hint)
    if not (api_key.isascii() and api_key.isprintable()):
        raise BadConfig("LLMCAT_API_KEY cannot be used", hint="does it end with a line break?")


def spare(token_of: Mapping[str, int], codes: Sequence[str]) -> int | None:
    """Return the token of a code that a menu does not offer, None if it offers all.

    Its log-probability is asked for too: a grammar that is at work forbids it. A model that
    answers well without any would hide that the grammar is gone.
    """
    taken = set(codes)
    return next((id_ for code, id_ in token_of.items() if code not in taken), None)
