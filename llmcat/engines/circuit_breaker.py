"""An engine that is never away: what the one behind it cannot answer comes back with an error.

For callers that have another answer. After a failure it waits `pause` seconds before it tries
again, and answers with the error at once until then.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from llmcat.candidates.codes import CANDIDATES
from llmcat.engines import Capabilities, Engine, Served
from llmcat.errors import ConstraintIgnored, EngineError, EngineUnsupported
from llmcat.records import MOST_LABELS, Answer, Message, Request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

__all__ = ["Tolerant"]

PAUSE = 30.0
AWAY = "(away)"


class Tolerant:
    """The same contract, but neither `open` nor `answer` raises because a server is away.

    `down` is the last failure while the engine counts as away. What an engine cannot do at all
    (`EngineUnsupported`, `ConstraintIgnored`) is still raised when it is opened.
    """

    def __init__(self, engine: Engine, *, pause: float = PAUSE) -> None:
        self.engine, self.pause = engine, pause
        self.name: str = engine.name
        self.capabilities: Capabilities = engine.capabilities
        self.down: EngineError | None = None
        self.opened = False
        self._until = 0.0

    @property
    def away(self) -> bool:
        """Whether it answers with errors at this moment."""
        return self.down is not None and time.monotonic() < self._until

    def _fail(self, error: EngineError) -> None:
        self.down, self._until = error, time.monotonic() + self.pause

    async def open(self) -> Served:
        """Open the engine; if it is away, say what an engine like it would."""
        try:
            served = await self.engine.open()
        except (EngineUnsupported, ConstraintIgnored):
            raise
        except EngineError as exc:
            self._fail(exc)
            facts = {"warning": f"the model is away: {exc}"}
            alphabet = CANDIDATES[: MOST_LABELS + 1]
            return Served(self.name, AWAY, "", 1 << 20, alphabet, facts=facts)
        self.opened, self.down = True, None
        return served

    async def answer(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        """Answer each request, with an error where there is no other answer."""
        todo: asyncio.Queue[Request | None] = asyncio.Queue(maxsize=1)
        out: asyncio.Queue[Answer | BaseException | None] = asyncio.Queue()

        async def feed() -> None:
            try:
                async for request in requests:
                    await todo.put(request)
                await todo.put(None)
            except BaseException as exc:  # noqa: BLE001  raised again by the consumer
                out.put_nowait(exc)

        async def pump() -> None:
            try:
                while await self._some(todo, out):
                    pass
                out.put_nowait(None)
            except BaseException as exc:  # noqa: BLE001  likewise
                out.put_nowait(exc)

        tasks = [asyncio.create_task(feed()), asyncio.create_task(pump())]
        try:
            while (got := await out.get()) is not None:
                if isinstance(got, BaseException):
                    raise got
                yield got
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _some(
        self,
        todo: asyncio.Queue[Request | None],
        out: asyncio.Queue[Answer | BaseException | None],
    ) -> bool:
        """Answer until the engine fails or no more requests come; tell whether more may come."""
        first = await todo.get()
        if first is None:
            return False
        if not self.opened and not self.away:
            await self._again(first)
        if self.away or not self.opened:
            out.put_nowait(Answer(request=first, error=self.down))
            return True
        pending = {id(first): first}
        ended = False

        async def stream() -> AsyncIterator[Request]:
            nonlocal ended
            yield first
            while not self.away:
                request = await todo.get()
                if request is None:
                    ended = True
                    return
                pending[id(request)] = request
                yield request

        try:
            async with aclosing(self.engine.answer(stream())) as answers:
                async for answer in answers:
                    if answer.error is None:
                        self.down = None
                    pending.pop(id(answer.request), None)
                    out.put_nowait(answer)
        except EngineError as exc:
            self._fail(exc)
            for request in pending.values():
                out.put_nowait(Answer(request=request, error=exc))
        return not ended

    async def _again(self, request: Request) -> None:
        """Open the engine that was away; it must know the codes that requests are made of."""
        try:
            served = await self.engine.open()
        except EngineError as exc:
            self._fail(exc)
            return
        if set(request.menu.codes) <= set(served.alphabet):
            self.opened, self.down = True, None
        else:
            self._fail(EngineUnsupported("the model is back, and has other codes: begin anew"))

    async def count_tokens(self, messages: list[Message]) -> int:
        """As the engine; 0 while it is away."""
        try:
            return await self.engine.count_tokens(messages) if self.opened else 0
        except EngineError as exc:
            self._fail(exc)
            return 0

    async def close(self) -> None:
        """Close the engine."""
        await self.engine.close()
