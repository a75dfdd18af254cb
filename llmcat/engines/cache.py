"""Answers kept by request: what was asked once is not asked again.

    Remembering(engine) ─ key of the request ─▶ there?  the answer as it was, tokens, time
                                        └▶ else   engine.answer, then kept

An engine behind it is opened once, however many arms use it. This module does not know items'
labels, files of items or metrics; what shapes an answer is in the key, and nothing else.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from llmcat.records import Answer, Request, Usage, digest
from llmcat.storage import Database

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from llmcat.engines import Capabilities, Engine, Served
    from llmcat.records import Message

__all__ = ["AnswerStore", "Remembering"]

BATCH = 256


MIGRATIONS = (
    # as 0.1 made it, without a version
    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer BLOB) WITHOUT ROWID",
)


class AnswerStore:
    """Answers by key, in an SQLite file that many runs share.

    Written in batches: kill -9 loses at most the last `BATCH` answers. Raises `JournalError` where
    the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it."""
        self._new: dict[str, bytes] = {}
        hint = "move it away, or choose another --runs"
        self._db = Database(path, MIGRATIONS, hint=hint)

    def get(self, key: str, request: Request) -> Answer | None:
        """Return the answer to a request, if there is one."""
        blob = self._new.get(key)
        if blob is None:
            rows = self._db.rows("SELECT answer FROM answers WHERE key = ?", (key,))
            if not rows:
                return None
            ((blob,),) = rows
        try:
            said = orjson.loads(blob)
        except orjson.JSONDecodeError:  # broken: it is asked again
            return None
        p = tuple(-float("inf") if x is None else x for x in said["logprobs"])
        return Answer(
            request=request,
            logprobs=p,
            text=said["text"],
            masked=said["masked"],
            missing=said["missing"],
            by=said["by"],
            usage=Usage(*said["usage"]),
            seconds=said["seconds"],
        )

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer. An infinite log-probability is written as null."""
        used = answer.usage
        self._new[key] = orjson.dumps(
            {
                "logprobs": answer.logprobs,
                "text": answer.text,
                "masked": answer.masked,
                "missing": answer.missing,
                "by": answer.by,
                "usage": (used.prompt, used.cached, used.generated, used.cost),
                "seconds": answer.seconds,
            }
        )
        if len(self._new) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet in the file."""
        with self._db.writing() as db:
            db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", self._new.items())
        self._new.clear()

    def close(self) -> None:
        """Write the rest and let go of the file."""
        self.flush()
        self._db.close()


class Remembering:
    """An engine that looks into a store before it asks; the same contract.

    `fresh` asks everything anew (and keeps the answers). `seen` is told of every request, `came` of
    every answer; `asked` counts what went to the engine.
    """

    def __init__(
        self, engine: Engine, store: AnswerStore, options: str = "", where: str = ""
    ) -> None:
        """`options` are the engine's own; `where` tells models of one name apart."""
        self.engine, self.store, self.options, self.where = engine, store, options, where
        self.name: str = engine.name
        self.capabilities: Capabilities = engine.capabilities
        self.fresh = False
        self.seen: Callable[[Request], None] | None = None
        self.came: Callable[[Answer], None] | None = None
        self.asked = 0
        self._served: Served | None = None
        self._prefix = ""
        self._menus: dict[int, tuple[object, str]] = {}

    async def open(self) -> Served:
        """Open the engine; a second time, say again what was found."""
        if self._served is None:
            self._served = await self.engine.open()
            named = self._served.identity()
            self._prefix = digest(*named.values(), self._served.version, self.options, self.where)
        return self._served

    async def answer(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        """Answer each request, from the store where it is there."""
        out: asyncio.Queue[Answer | BaseException | None] = asyncio.Queue()

        async def unknown() -> AsyncIterator[Request]:
            async for request in requests:
                if self.seen:
                    self.seen(request)
                known = None if self.fresh else self.store.get(self.key(request), request)
                if known is None:
                    self.asked += 1
                    yield request
                else:
                    out.put_nowait(known)
                    await asyncio.sleep(0)

        async def pump() -> None:
            try:
                async with aclosing(self.engine.answer(unknown())) as answers:
                    async for answer in answers:
                        if answer.error is None:
                            self.store.put(self.key(answer.request), answer)
                        out.put_nowait(answer)
                out.put_nowait(None)
            except BaseException as exc:  # noqa: BLE001  raised again by the consumer
                out.put_nowait(exc)

        task = asyncio.create_task(pump())
        try:
            while (got := await out.get()) is not None:
                if isinstance(got, BaseException):
                    raise got
                if self.came:
                    self.came(got)
                yield got
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def key(self, request: Request) -> str:
        """Return a hash of all that shapes the answer: model, options, messages, menu, reading."""
        kept = self._menus.get(id(request.menu))
        if kept is None or kept[0] is not request.menu:
            if len(self._menus) > 1024:  # noqa: PLR2004
                self._menus.clear()
            kept = self._menus[id(request.menu)] = (request.menu, request.menu.digest)
        tail = orjson.dumps(request.tail).decode()
        # No model sees the gold label; the fake one can be told to answer by it.
        gold = (request.item.gold or "") if self.name == "fake" and self.options else ""
        return digest(
            self._prefix, request.prefix.key, tail, kept[1], request.constraint, request.read, gold
        )

    async def count_tokens(self, messages: list[Message]) -> int:
        """As the engine."""
        return await self.engine.count_tokens(messages)

    async def close(self) -> None:
        """Close the engine; the store stays open."""
        await self.engine.close()
