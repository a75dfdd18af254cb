"""How many requests a server has at a time, and when it counts as silent.

The number in flight grows and shrinks with the answers: doubled by every round of answers at
first, then by one, and halved when answers take long or the server says that it is busy
(additive increase, multiplicative decrease: Chiu & Jain, Computer Networks and ISDN Systems 17,
1989; the fast start is TCP's). So the queue at a slow server stays short, and a fast one soon has
as many as are allowed.

A request fails once the server has answered nothing at all for a time, on any request: a slow
server is no dead server. This module does not know HTTP, prompts or items.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from llmcat.errors import EngineBusy, EngineDown, EngineError, EngineTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["InFlight"]

T = TypeVar("T")
START = 8
"""Requests in flight before the first answer."""
SHARE = 1 / 8
"""An answer within this share of the silence that is allowed is never late: 15 s of 120 s."""
TIMES = 4
"""Nor is one that takes so many times what an answer takes by itself: a server that works at many
answers together is slow with each of them, and loses by having fewer."""
LEARN = 1 / 8
"""How far one quick answer lowers what an answer is held to take by itself."""


class InFlight:
    """One server's requests: at most `limit` of them at a time, which is at most `most`.

    `silence`: seconds without any answer after which what waits has failed. `who` names the
    server in errors.
    """

    def __init__(self, most: int, silence: float, who: str) -> None:
        self.most, self.silence, self.who = most, silence, who
        self.limit = float(min(START, most))
        self.heard = -math.inf
        """When the server last answered anything, on the event loop's clock."""
        self._opening = -math.inf
        self._doubling = True
        self._flying = 0
        self._turns: deque[asyncio.Future[None]] = deque()
        self._waiting: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._alone: dict[str, float] = {}
        self._shrunk = -math.inf

    def opening(self) -> None:
        """Begin to open the engine: from here on it is not known whether anybody is there."""
        self._opening = asyncio.get_running_loop().time()

    def met(self) -> bool:
        """Tell whether the server has answered anything since the engine began to open."""
        return self.heard > self._opening

    async def send(self, request: Callable[[], Awaitable[T]], kind: str = "") -> T:
        """Send a request when it is its turn, and return what comes back.

        Requests of one `kind` are alike in what they take; those of none say nothing about the
        rate. An `EngineError` of the request's own is raised as it is: it tells whether the server
        answered. Raises `EngineTimeout` once the server is silent.
        """
        await self._turn()
        try:
            loop = asyncio.get_running_loop()
            sent = loop.time()
            try:
                got = await self._listen(request, sent)
            except (EngineTimeout, EngineDown):
                self._begin_anew()
                raise
            except EngineError as exc:
                self.heard = loop.time()
                if isinstance(exc, EngineBusy) and exc.patient:
                    self._shrink(sent)
                raise
            self.heard = loop.time()
            if kind:
                self._learn(kind, sent, self.heard - sent)
            return got
        finally:
            self._flying -= 1
            self._call_next()

    # -- how many ---------------------------------------------------------------------------

    async def _turn(self) -> None:
        """Wait until there is room for one more: first come, first served."""
        if not self._turns and self._flying < int(self.limit):
            self._flying += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had its turn, and passes it on
                self._flying -= 1
                self._call_next()
            elif turn in self._turns:
                self._turns.remove(turn)
            raise

    def _call_next(self) -> None:
        """Take in as many as there is room for. Whoever gave up while waiting is passed over."""
        while self._turns and self._flying < int(self.limit):
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                self._flying += 1

    def _learn(self, kind: str, sent: float, seconds: float) -> None:
        """Grow or shrink by what an answer took."""
        alone = self._alone.setdefault(kind, seconds)
        if seconds < alone:
            self._alone[kind] = alone + LEARN * (seconds - alone)
        if seconds > max(SHARE * self.silence, TIMES * alone):
            self._shrink(sent)
        elif self._turns:  # some wait: it is the limit that holds them back
            more = 1.0 if self._doubling else 1.0 / self.limit
            self.limit = min(float(self.most), self.limit + more)

    def _shrink(self, sent: float) -> None:
        """Halve; once for all that was sent before the last time."""
        if sent > self._shrunk:
            self._shrunk = asyncio.get_running_loop().time()
            self.limit = max(1.0, self.limit / 2)
            self._doubling = False

    def _begin_anew(self) -> None:
        """Forget the rate of a server that was away: it comes back cold."""
        self.limit = min(self.limit, float(START))
        self._doubling = True

    # -- whether it is there ----------------------------------------------------------------

    async def _listen(self, request: Callable[[], Awaitable[T]], sent: float) -> T:
        """Wait as long as the server answers anything. One timer watches all that wait."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._waiting[limit] = sent
                if self._timer is None:
                    self._watch(self.silence)
                return await request()
        except TimeoutError as exc:
            raise EngineTimeout(
                f"{self.who}: not one answer within {self.silence:g} s",
                hint="is it that slow? a longer --timeout waits for it",
            ) from exc
        finally:
            self._waiting.pop(limit, None)
            if not self._waiting and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _watch(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """End the waiting of what has heard nothing since it was sent; look again later."""
        self._timer, now = None, asyncio.get_running_loop().time()
        for limit, sent in list(self._waiting.items()):
            if max(sent, self.heard) + self.silence <= now:
                del self._waiting[limit]
                limit.reschedule(now)
        if self._waiting:
            oldest = max(min(self._waiting.values()), self.heard)
            self._watch(max(oldest + self.silence - now, 0.001))
