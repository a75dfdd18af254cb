"""One server that takes and gives JSON: connections, limits, and failures as errors of ours.

What fails for a reason of its own is tried again (`retry`); how many requests are in flight
follows the answers (`rate`). This module does not know engines, prompts or items.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import orjson

from llmcat.errors import EngineBusy, EngineDown, EngineError, EngineRefused, EngineTimeout
from llmcat.transport.rate import InFlight
from llmcat.transport.retry import insist, refusal

__all__ = ["CONNECT", "JsonServer", "Reply", "base_of"]

ENDPOINTS = (
    "/chat/completions", "/completions", "/responses", "/embeddings", "/models", "/tokenize",
    "/systemone", "/decisions", "/classify", "/health",
)  # fmt: skip
"""What people copy along with an address."""

_MOST_BYTES = 1 << 24
"""No reply is longer."""
CONNECT = 10.0
"""Seconds for a connection, or for a look at what is not needed."""


def base_of(url: str) -> str:
    """Return a server's address with its scheme, without what stands behind for one endpoint.

    `/v1` stays: some servers have their endpoints below another path.
    """
    url = url.strip().rstrip("/")
    for path in ENDPOINTS:
        url = url.removesuffix(path)
    url = url.rstrip("/")
    return url if not url or "://" in url else f"http://{url}"


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to a GET: its `Server` header and its JSON, None where there is none."""

    server: str = ""
    value: Any = None


@dataclass
class JsonServer:
    """A server at `url` (without a slash at its end), asked by one event loop at a time.

    `concurrency`: most requests in flight. `timeout`: seconds without any answer. `attempts` and
    `retry_seconds`: see `retry.try_again`.
    """

    url: str
    key: str = field(default="", repr=False)
    concurrency: int = 64
    timeout: float = 120.0
    attempts: int = 4
    retry_seconds: float = 60.0
    rate: InFlight = field(repr=False, init=False)
    _session: aiohttp.ClientSession | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Begin with few requests in flight."""
        self.rate = InFlight(self.concurrency, self.timeout, self.url)

    async def asked(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Send what opening needs and read JSON; try again as for an item."""
        return await insist(
            lambda: self.rate.send(partial(self.json, method, path, body)),
            attempts=self.attempts,
            seconds=self.retry_seconds,
            met=self.rate.met,
        )

    async def json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Send and read JSON; every foreign exception and status becomes one of ours."""
        if body is not None and not isinstance(body, bytes):
            body = orjson.dumps(body)
        try:
            url = self.url + path
            async with self._client.request(method, url, data=body) as reply:
                raw = await _whole(reply)
                if reply.status != 200:  # noqa: PLR2004
                    raise self._refusal(reply, raw, path)
        except TimeoutError as exc:
            raise EngineTimeout(f"{self.url}: no connection within {CONNECT:g} s") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise EngineDown(
                f"no server at {self.url}: {exc or type(exc).__name__}",
                hint="start one: llmcat serve model --model NAME",
            ) from exc
        try:
            value = orjson.loads(raw)
        except orjson.JSONDecodeError as exc:
            raise EngineBusy(f"{self.url}{path}: the reply is not JSON: {raw[:80]!r}") from exc
        if not isinstance(value, dict):
            raise EngineBusy(f"{self.url}{path}: the reply is not an object: {raw[:80]!r}")
        return value

    def _refusal(self, reply: aiohttp.ClientResponse, raw: bytes, path: str) -> EngineError:
        """Sort a status other than 200 into our errors."""
        status, why = reply.status, _message(raw)
        what = f"{self.url}{path}: HTTP {status}: {why}"
        if "compil" in why.lower() and "regex" in why.lower():
            return EngineRefused(what, hint="the grammar does not compile: use --constraint tokens")
        return refusal(status, what, reply.headers)

    async def ailment(self) -> str:
        """Return what is wrong with the server, empty if it says it is well.

        A gateway that knows no /health has nothing to say about it.
        """
        try:
            url, limit = f"{self.url}/health", aiohttp.ClientTimeout(5)
            async with self._client.get(url, timeout=limit) as reply:
                return "" if reply.status in {200, 404} else f"{url} says HTTP {reply.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            return f"nobody answers {url}: {exc or type(exc).__name__}"

    async def look_at(self, path: str) -> Reply:
        """GET a path that only some servers have."""
        try:
            url, limit = f"{self.url}{path}", aiohttp.ClientTimeout(CONNECT)
            async with self._client.get(url, timeout=limit) as reply:
                server, raw = reply.headers.get("Server", ""), await _whole(reply)
                return Reply(server, orjson.loads(raw) if reply.status == 200 else None)  # noqa: PLR2004
        except (aiohttp.ClientError, EngineError, TimeoutError, OSError, ValueError):
            return Reply()

    async def text(self, path: str) -> str | None:
        """Return the text of a path that is not needed, None where there is none."""
        try:
            limit = aiohttp.ClientTimeout(CONNECT)
            async with self._client.get(self.url + path, timeout=limit) as reply:
                return await reply.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    @property
    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Content-Type": "application/json"}
            if self.key:
                headers["Authorization"] = f"Bearer {self.key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),  # a model server sets none
                connector=aiohttp.TCPConnector(limit=self.concurrency + 8),
                # The answer is `rate`'s to time.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT),
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
            await asyncio.sleep(0)  # transports close in the loop's next round (aiohttp's docs)


async def _whole(reply: aiohttp.ClientResponse) -> bytes:
    """Read a body. One that does not say how long it is may not go on for ever."""
    if (reply.content_length or _MOST_BYTES) < _MOST_BYTES:
        return await reply.read()
    raw = bytearray()
    async for chunk in reply.content.iter_any():
        raw += chunk
        if len(raw) > _MOST_BYTES:
            reply.close()
            raise EngineBusy(f"{reply.url}: the reply does not end")
    return bytes(raw)


def _message(raw: bytes) -> str:
    """Return the server's own words, from the places where servers put them."""
    try:
        value = orjson.loads(raw)
        error = value.get("error", value)
        text = error.get("message") if isinstance(error, dict) else error
        return str(text or value.get("detail") or raw[:200].decode(errors="replace"))[:500]
    except (orjson.JSONDecodeError, AttributeError):
        return raw[:200].decode(errors="replace")
