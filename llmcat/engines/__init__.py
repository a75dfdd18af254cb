"""What an engine is: it declares what it can do, opens, and turns a stream of asks into answers.

One verb. Answers come in any order, one per ask, each carrying its ask. What concerns one ask
(refused, timed out, too long) is an `Answer` with an error; what concerns the run (the server
is gone, the constraint is ignored) is raised. What an engine cannot do it refuses aloud. An
engine that collects asks must go on with what it has when no more come: the loop holds only so
many items.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from llmcat.errors import BadConfig
from llmcat.records import digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping

    from llmcat.records import Answer, Ask, Kind, Message

__all__ = ["Capabilities", "Engine", "Served", "in_flight", "open_engine"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can give: kinds of scores, kinds of constraints, labels per menu."""

    scores: tuple[Kind, ...]
    constraints: tuple[Literal["outlines", "tokens"], ...]
    labels: int


@dataclass(frozen=True, slots=True)
class Served:
    """What `open` found. `context` is the most tokens of prompt and answer together.

    `alphabet` holds the codes that are one token each in this model, in order of preference.
    `mass` is the canary's label mass. `facts` is what else is worth recording.
    """

    engine: str
    model: str
    version: str
    context: int
    alphabet: tuple[str, ...]
    mass: float | None = None
    facts: dict[str, str] = field(default_factory=dict)

    def identity(self) -> dict[str, str]:
        """What must be the same for a run to go on."""
        codes = f"{len(self.alphabet)} {digest(*self.alphabet)}"
        model = " ".join(filter(None, (self.model, self.facts.get("root"))))
        return {"engine": self.engine, "model": model, "codes": codes}

    def record(self) -> dict[str, object]:
        """Everything, for the run's record; the alphabet as one string."""
        return asdict(self) | {"alphabet": " ".join(self.alphabet)}


class Engine(Protocol):
    """The contract. `tests/test_engines.py` holds the suite that every engine passes."""

    name: str
    capabilities: Capabilities

    async def open(self) -> Served:
        """Connect and prove, with a canary, that constraint and log-probabilities work."""

    def answer(self, asks: AsyncIterator[Ask]) -> AsyncGenerator[Answer, None]:
        """Answer a stream of asks, each exactly once, in any order."""

    async def count_tokens(self, messages: list[Message]) -> int:
        """Return the number of prompt tokens of a conversation, template included."""

    async def close(self) -> None:
        """Let go of connections and memory."""


async def in_flight(
    asks: AsyncIterator[Ask], one: Callable[[Ask], Awaitable[Answer]], concurrency: int
) -> AsyncGenerator[Answer, None]:
    """Answer a stream of asks one by one, `concurrency` of them at a time, as they come back.

    Never waits for a further ask while an answer is there to give. What `one` or the stream
    raises is raised here; closing this generator cancels what is in flight.
    """
    done: asyncio.Queue[Answer | BaseException | None] = asyncio.Queue()
    gate = asyncio.Semaphore(concurrency)
    flying: set[asyncio.Task[None]] = set()

    async def fly(ask: Ask) -> None:
        try:
            done.put_nowait(await one(ask))
        except BaseException as exc:  # noqa: BLE001  raised again by the consumer
            done.put_nowait(exc)
        finally:
            gate.release()

    async def dispatch() -> None:
        try:
            async for ask in asks:
                await gate.acquire()
                task = asyncio.create_task(fly(ask))
                flying.add(task)
                task.add_done_callback(flying.discard)
            while flying:
                await asyncio.wait(flying)
            done.put_nowait(None)
        except BaseException as exc:  # noqa: BLE001
            done.put_nowait(exc)

    feeder = asyncio.create_task(dispatch())
    try:
        while (got := await done.get()) is not None:
            if isinstance(got, BaseException):
                raise got
            yield got
    finally:
        tasks = [feeder, *flying]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def open_engine(
    name: str,
    *,
    base_url: str = "",
    model: str = "",
    api_key: str = "",
    concurrency: int = 64,
    timeout: float = 120.0,
    retry_seconds: float = 60.0,
    options: Mapping[str, str] | None = None,
) -> Engine:
    """Return the engine of a name, not yet opened. Raises `BadConfig`.

    `options` are the engine's own: for `fake`, noise, sharpness, mass, latency and seed.
    """
    options = options or {}
    if name == "fake":
        from llmcat.engines.fake import FakeEngine

        kinds = {"noise": float, "sharpness": float, "mass": float, "latency": float, "seed": int}
        unknown = sorted(set(options) - set(kinds))
        if unknown:
            raise BadConfig(
                f"engine 'fake' has no option {', '.join(unknown)}",
                hint=f"its options: {', '.join(kinds)}",
            )
        try:
            values: dict[str, Any] = {key: kinds[key](value) for key, value in options.items()}
        except ValueError as exc:
            raise BadConfig(f"engine option: {exc}") from exc
        for key, value in values.items():
            if not 0 <= value < 1e6 or (key == "mass" and not 0 < value <= 1):  # noqa: PLR2004
                raise BadConfig(f"engine option {key}={value} is out of range")
        return FakeEngine(concurrency=concurrency, **values)
    if name == "vllm_http":
        from llmcat.engines.vllm_http import VllmHttp

        if options:
            raise BadConfig(f"engine 'vllm_http' has no option {', '.join(options)}")
        return VllmHttp(
            base_url=base_url,
            model=model,
            api_key=api_key,
            concurrency=concurrency,
            timeout=timeout,
            retry_seconds=retry_seconds,
        )
    raise BadConfig(f"no engine {name!r}", hint="there are vllm_http and fake")
