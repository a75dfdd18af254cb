"""A vLLM server over HTTP: the hot path.

One POST per request, one generated token; a name or reasons are spelled under the grammar. The
body is put together from bytes: the shared messages are encoded once per prefix, the constraint
once per menu size. There is no SDK, no model class and no retry object unless a request fails.

How the distribution over a menu comes back: `logprob_token_ids` names the menu's code tokens,
and the first generated position carries the log-probability of each. Under a grammar
(`structured_outputs`) they are taken after the mask; under `allowed_token_ids` before it.
`top_logprobs` is never sent: on vLLM's V1 sampler one request with `logprob_token_ids` changes
what its batch neighbours with `top_logprobs` get.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from llmcat.candidates.codes import grammar, most_tokens
from llmcat.engines import Capabilities, Served, check_reachable, generated, in_flight, spare
from llmcat.engines.vllm_probe import recognized
from llmcat.engines.vllm_reply import NO_THINKING, distribution, one_token_codes, tokenize, usage
from llmcat.errors import (
    ConstraintIgnored,
    EngineBusy,
    EngineError,
    EngineRefused,
    EngineUnsupported,
)
from llmcat.records import (
    MOST_LABELS,
    Answer,
    Item,
    Menu,
    Message,
    Node,
    Prefix,
    Request,
    Usage,
    digest,
)
from llmcat.transport.http import JsonServer, base_of
from llmcat.transport.retry import try_again_if_well

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

__all__ = ["VllmHttp"]

Reading = tuple[tuple[float, ...], str, Usage]
"""The menu's log-probabilities in menu order, or the name that was spelled; the tokens used."""

SERVE_IT = (
    "the server does not keep to the constraint; start it as `llmcat serve model --print` shows: "
    "vLLM 0.26 or newer, --structured-outputs-config with backend outlines, no --reasoning-parser"
)
NEVER = -9000.0
"""vLLM writes -9999 for a masked token's log-probability."""
_TOLERANCE = 0.35
"""How far (in nats) two readings of one distribution may differ: bf16 heads step by 0.125."""
_BLOCK_SIZE = re.compile(r'cache_config_info\{[^}]*\bblock_size="(\d+)"')
_PREFIXES = 512
_CHAT = "/v1/chat/completions"


@dataclass(slots=True)
class _Shared:
    """A prefix as bytes, and the event that says the server has it in its cache."""

    body: bytes
    primed: asyncio.Event | None = None


@dataclass
class VllmHttp:
    """`base_url` with or without `/v1`; `model` may be empty when the server has just one.

    `timeout`: seconds without any answer. `attempts`: tries of one request that fails for a
    reason of its own. `retry_seconds`: how long a server that is away or busy is waited for.
    """

    base_url: str
    model: str = ""
    api_key: str = field(default="", repr=False)
    concurrency: int = 64
    timeout: float = 120.0
    attempts: int = 4
    retry_seconds: float = 60.0
    name: str = "vllm_http"
    capabilities: Capabilities = Capabilities(
        scores=("full", "label_only"),
        constraints=("outlines", "tokens"),
        labels=MOST_LABELS,
        images=True,
    )
    _token_of: dict[str, int] = field(default_factory=dict, repr=False)
    _prefixes: OrderedDict[str, _Shared] = field(default_factory=OrderedDict, repr=False)
    _tails: dict[tuple[str, ...], bytes] = field(default_factory=dict, repr=False)
    _called: dict[tuple[str, ...], list[str]] = field(default_factory=dict, repr=False)
    server: JsonServer = field(repr=False, init=False)

    def __post_init__(self) -> None:
        """Bring the address into one form."""
        self.base_url = base_of(self.base_url).removesuffix("/v1").rstrip("/")
        check_reachable(self.base_url, self.api_key)
        self.server = JsonServer(
            self.base_url,
            self.api_key,
            concurrency=self.concurrency,
            timeout=self.timeout,
            attempts=self.attempts,
            retry_seconds=self.retry_seconds,
        )

    # -- opening ----------------------------------------------------------------------------

    async def open(self) -> Served:
        """Find the model and its codes, then prove the constraint with a canary.

        Raises any `EngineError`.
        """
        self.server.rate.opening()
        try:
            card = await self._find_model()
            version = await self._version()
            self._token_of = await self._codes()
            alphabet = tuple(self._token_of)
            mass = await self.canary(alphabet)
            context = int(card.get("max_model_len") or 0)
            if not context:
                context = int(
                    (await tokenize(self.server, self.model, {"prompt": "a"}))["max_model_len"]
                )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as exc:
            what = f"{self.base_url} does not answer as vLLM does: {type(exc).__name__}: {exc}"
            raise await self._stranger(what) from exc
        return Served(
            engine=self.name,
            model=self.model,
            version=version,
            context=context,
            alphabet=alphabet,
            mass=mass,
            facts={"root": str(card.get("root", ""))},
        )

    async def ailment(self) -> str:
        """Return what is wrong with the server, empty if it says it is well."""
        return await self.server.ailment()

    async def block_size(self) -> int | None:
        """Return how many tokens a block of the prefix cache holds, None if nothing says so."""
        text = await self.server.text("/metrics")
        found = _BLOCK_SIZE.search(text) if text else None
        return int(found[1]) if found else None

    async def _find_model(self) -> dict[str, Any]:
        cards = (await self.server.asked("GET", "/v1/models")).get("data", [])
        names = [str(card["id"]) for card in cards]
        if not names:
            raise EngineUnsupported(f"{self.base_url} serves no model")
        if not self.model and len(names) == 1:
            self.model = names[0]
        if self.model not in names:
            raise EngineRefused(
                f"{self.base_url} does not serve {self.model!r}"
                if self.model
                else f"{self.base_url} serves more than one model",
                hint=f"it serves {', '.join(names)}; choose with --model",
                fatal=True,
            )
        return dict(cards[names.index(self.model)])

    async def _version(self) -> str:
        try:
            return str((await self.server.asked("GET", "/version")).get("version", "unknown"))
        except (EngineRefused, EngineBusy):  # nothing depends on it
            return "unknown"

    async def _codes(self) -> dict[str, int]:
        try:
            return await one_token_codes(self.server, self.model)
        except EngineRefused as exc:
            what = f"{self.base_url} has no /tokenize for chats: {exc}"
            raise await self._stranger(what) from exc

    async def canary(self, alphabet: Sequence[str]) -> float:
        """Prove constraint and log-probabilities on this server; return the label mass.

        Two nonsense labels are asked for twice, with different codes each time. Where the
        alphabet has a code that begins another, the second time has such a pair. Under the
        grammar a code outside it must have no probability and the rest must sum to one; without
        it, the same odds must come back unmasked, and a list of allowed tokens that holds only
        the outside code must be obeyed.
        """
        item = Item(row=0, id="canary", fields={"title": "zorvik"})
        nodes = tuple(Node(id=n, name=n, path=(n,)) for n in ("zorvik", "plimbo"))
        masses: list[float] = []
        for codes in _canary_codes(alphabet):
            menu = Menu(nodes=nodes, codes=codes)
            lines = "\n".join(f"{c}. {n.name}" for c, n in zip(codes, nodes, strict=False))
            text = f"Categories:\n{lines}\n{menu.exit}. None of these\n\nTitle: zorvik\n\nCode:"
            prefix = Prefix(messages=({"role": "user", "content": text},), key=digest(text))
            outside = spare(self._token_of, codes)
            logs: dict[str, tuple[float, ...]] = {}
            for constraint in self.capabilities.constraints:
                request = Request(
                    item=item, menu=menu, prefix=prefix, tail=(), constraint=constraint
                )
                body = orjson.loads(self._body(request))
                reply = await self.server.asked("POST", _CHAT, body)
                logs[constraint], _, _ = self._read(reply, request)
                if constraint == "tokens":
                    body["allowed_token_ids"] = [outside]
                    reply = await self.server.asked("POST", _CHAT, body)
                    if distribution(reply)[0] != f"token_id:{outside}":
                        raise ConstraintIgnored(
                            f"{self.base_url} does not keep to the allowed tokens", hint=SERVE_IT
                        )
            masses.append(sum(map(math.exp, logs["tokens"])))
            total = sum(map(math.exp, logs["outlines"]))
            if not math.isclose(total, 1.0, abs_tol=0.02):
                raise EngineUnsupported(
                    f"under the grammar the menu's probabilities sum to {total:.3f}, not to 1"
                )
            odds = [
                abs((a - logs["outlines"][0]) - (b - logs["tokens"][0]))
                for a, b in zip(logs["outlines"], logs["tokens"], strict=True)
                if min(a, b) > -20.0  # noqa: PLR2004  where rounding does not rule
            ]
            if max(odds, default=0.0) > _TOLERANCE:
                raise EngineUnsupported(
                    f"the two constraints disagree by {max(odds):.2f} nats about the same question",
                    hint="does the server change logits (penalties, --logits-processors)?",
                )
        return min(masses)

    # -- answering --------------------------------------------------------------------------

    async def answer(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        """Answer a stream of requests, at most `concurrency` of them in flight.

        Closing this generator cancels what is in flight.
        """
        async with aclosing(in_flight(requests, self._one, self.concurrency)) as answers:
            async for answer in answers:
                yield answer

    async def _one(self, request: Request) -> Answer:
        """Ask once; on failure, again. Errors of this request alone become its answer."""
        shared = self._shared(request.prefix)
        if shared.primed is None:
            # The first request of a prefix goes alone, so that the others find it in the cache.
            shared.primed = asyncio.Event()
            try:
                return await self._ask(request)
            finally:
                shared.primed.set()
        if not shared.primed.is_set():
            await shared.primed.wait()
        return await self._ask(request)

    async def _ask(self, request: Request) -> Answer:
        started = time.perf_counter()
        body = self._body(request)
        try:
            try:
                logprobs, text, usage = await self._exchange(body, request)
            except EngineError as exc:
                if not exc.retryable:
                    raise
                logprobs, text, usage = await self._exchange_again(body, request, exc)
        except EngineError as exc:
            if exc.fatal:
                raise
            return Answer(request=request, error=exc, seconds=time.perf_counter() - started)
        return Answer(
            request=request,
            logprobs=logprobs,
            text=text,
            masked=request.constraint == "outlines",
            usage=usage,
            seconds=time.perf_counter() - started,
        )

    async def _exchange_again(self, body: bytes, request: Request, failure: EngineError) -> Reading:
        """Try again; if the server is unwell after that, the run cannot go on."""
        return await try_again_if_well(
            lambda: self._exchange(body, request), failure,
            attempts=self.attempts, seconds=self.retry_seconds,
            ailment=self.server.ailment, who=self.base_url,
        )  # fmt: skip

    async def _exchange(self, body: bytes, request: Request) -> Reading:
        send = partial(self.server.json, "POST", _CHAT, body)
        return self._read(await self.server.rate.send(send, request.read), request)

    # -- one request ------------------------------------------------------------------------

    def _body(self, request: Request) -> bytes:
        """Put the request together: shared messages, the item's, model, constraint."""
        own = b",".join(map(orjson.dumps, request.tail))
        shared = self._shared(request.prefix).body
        comma = b"," if own and shared else b""
        return b"".join((b'{"messages":[', shared, comma, own, b"],", self._tail(request)))

    def _shared(self, prefix: Prefix) -> _Shared:
        shared = self._prefixes.get(prefix.key)
        if shared is not None:
            self._prefixes.move_to_end(prefix.key)
        else:
            shared = _Shared(body=b",".join(map(orjson.dumps, prefix.messages)))
            self._prefixes[prefix.key] = shared
            if len(self._prefixes) > _PREFIXES:
                self._prefixes.popitem(last=False)
        return shared

    def _tail(self, request: Request) -> bytes:
        """Everything after the messages. Menus of one size have the same codes."""
        codes = request.menu.codes
        key = (request.constraint, request.read, *codes)
        if key not in self._tails:
            fields: dict[str, Any] = {
                "model": self.model,
                "temperature": 0,
                "chat_template_kwargs": NO_THINKING,
            }
            if request.constraint == "outlines":
                fields["structured_outputs"] = {"regex": grammar(codes, request.read)}
            fields["max_tokens"] = most_tokens(codes, request.read)
            if request.read == "code":
                ids = [self._token_of[code] for code in codes]
                if request.constraint == "tokens":
                    fields["allowed_token_ids"] = ids
                outside = spare(self._token_of, codes)
                fields |= {
                    "logprobs": True,
                    "logprob_token_ids": ids if outside is None else [*ids, outside],
                    "return_tokens_as_token_ids": True,
                }
            if len(self._tails) >= _PREFIXES:
                self._tails.clear()
            self._tails[key] = orjson.dumps(fields)[1:]
        return self._tails[key]

    def _read(self, reply: dict[str, Any], request: Request) -> Reading:
        """Return the menu's log-probabilities or the name, and the tokens used.

        Raises `ConstraintIgnored` when what was generated is not on the menu.
        """
        menu = request.menu
        if request.read != "code":
            try:
                text = str(reply["choices"][0]["message"]["content"])
            except (KeyError, IndexError, TypeError) as exc:
                raise EngineBusy("the reply carries no message") from exc
            if (kept := generated(text, request)) is None:
                raise ConstraintIgnored(
                    f"{self.base_url} answered {text!r}, which it may not", hint=SERVE_IT
                )
            return (), kept, usage(reply)
        chosen, found = distribution(reply)
        names = self._names(menu.codes)
        if chosen not in names[:-1]:
            text = reply["choices"][0]["message"].get("content")
            raise ConstraintIgnored(
                f"{self.base_url} answered {text!r}, which is not on the menu",
                hint=SERVE_IT,
            )
        try:
            *logprobs, outside = map(found.__getitem__, names)
        except KeyError as exc:
            raise EngineUnsupported(
                f"{self.base_url} leaves out tokens it was asked about",
                hint="llmcat needs `logprob_token_ids`, vLLM 0.26 or newer",
            ) from exc
        if request.constraint == "outlines" and outside > NEVER and names[-1] not in names[:-1]:
            raise ConstraintIgnored(
                f"{self.base_url} does not apply the grammar to the first token", hint=SERVE_IT
            )
        if min(logprobs) < NEVER:
            never = [c for c, v in zip(menu.codes, logprobs, strict=True) if v < NEVER]
            raise ConstraintIgnored(
                f"{self.base_url} forbids {', '.join(never[:5])}, which the menu offers",
                hint="its grammar is not the one that was sent; --constraint tokens does without",
            )
        return tuple(logprobs), "", usage(reply)

    def _names(self, codes: tuple[str, ...]) -> list[str]:
        """What the server calls the tokens of a menu's codes, and of the one outside it.

        Where the menu takes the whole alphabet there is none outside, and the last stands twice.
        """
        if codes not in self._called:
            if len(self._called) >= _PREFIXES:
                self._called.clear()
            ids = [self._token_of[code] for code in codes]
            outside = spare(self._token_of, codes)
            ids.append(ids[-1] if outside is None else outside)
            self._called[codes] = [f"token_id:{id_}" for id_ in ids]
        return self._called[codes]

    async def count_tokens(self, messages: list[Message]) -> int:
        """Ask the server how many tokens the conversation is, generation prompt included."""
        body = {"messages": messages, "chat_template_kwargs": NO_THINKING}
        return int((await tokenize(self.server, self.model, body))["count"])

    async def _stranger(self, what: str) -> EngineUnsupported:
        """Return the error of a server that is not vLLM, with its name where that can be told."""
        hint = "is it a vLLM server with a chat model? other servers: --engine openai"
        if found := await recognized(self.server.look_at):
            what = f"{self.base_url} is {found.name}, not vLLM"
            hint = (
                f"--engine openai --base-url {self.base_url}/v1 "
                f"--engine-option dialect={found.dialect}"
            )
        return EngineUnsupported(what, hint=hint)

    async def close(self) -> None:
        """Close the connections."""
        await self.server.close()


def _canary_codes(alphabet: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the codes of two menus that share none; in the second, one begins another."""
    rest = alphabet[3:]
    pairs = [(a, b) for a in rest for b in rest if a != b and b.startswith(a)]
    pair = pairs[0] if pairs else tuple(rest[:2])
    third = next(code for code in rest if code not in pair)
    return [tuple(alphabet[:3]), (*pair, third)]
