"""What engines share that speak OpenAI's chat completions and cannot be asked about tokens.

Codes are single letters and digits here: each is one token in every tokenizer, so no server needs
to be asked. How a constraint is spelled, and what comes back, differs from server to server: that
is a `Dialect`. Where the answer is JSON (`{"label": "A"}`), the code is found in it, and the
list of log-probabilities of the token that carries it is read.
"""

from __future__ import annotations

import json
import math
import re
import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from llmcat.candidates.codes import CANDIDATES, grammar, most_tokens, schema
from llmcat.engines import Capabilities, Served, check_reachable, generated, in_flight
from llmcat.errors import (
    ConstraintIgnored,
    EngineBusy,
    EngineError,
    EngineRefused,
    EngineUnsupported,
)
from llmcat.records import Answer, Item, Menu, Node, Prefix, Request, Usage, digest
from llmcat.transport.http import base_of
from llmcat.transport.rate import InFlight
from llmcat.transport.retry import insist, try_again

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

    from llmcat.records import Message

__all__ = ["ALPHABET", "DIALECTS", "Completions", "Dialect"]

T = TypeVar("T")
ALPHABET = tuple(code for code in CANDIDATES if len(code) == 1)
CONTEXT = 32_768
"""Tokens taken for the context where a server does not say."""
BYTES_PER_TOKEN = 3
"""UTF-8 bytes to a token, an estimate: about four in English, three in Chinese, one in numbers."""
_JSON_FRAME = 24
"""More than the tokens of an answer's JSON without its value."""
LAPSES = 3
"""Answers off the menu, one after the other, that show that the constraint is not in force."""
NEGLIGIBLE = 0.01
"""What may be left unlisted, once every code is listed, for the list to count as whole."""
_CODE_IN_JSON = re.compile(r'"label"\s*:\s*"(.)"')
_GBNF_RATIONALE = r"""root ::= "{\"rationale\": \"" char* "\"}"
char ::= [^"\\\x00-\x1f] | "\\" ["\\/bfnrt]"""
_NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server wants a constraint, and how much of a distribution it gives back.

    `spell` turns the codes and the read mode into request fields; `whole`: the answer is the
    code or name itself, not JSON. `top`: the longest list of log-probabilities to ask for.
    `length`: what the field for the most tokens is called. `extra`: fields always sent.
    """

    name: str
    what: str
    spell: Callable[[Sequence[str], Any], dict[str, Any]]
    whole: bool
    top: int = 20
    length: str = "max_tokens"
    extra: dict[str, Any] = field(default_factory=dict)


def _json_schema(codes: Sequence[str], read: Any) -> dict[str, Any]:
    """As Outlines asks OpenAI: a strict JSON schema."""
    wanted = schema(codes, read)
    from outlines.models.openai import OpenAITypeAdapter

    return dict(OpenAITypeAdapter().format_output_type(wanted))


def _vllm(codes: Sequence[str], read: Any) -> dict[str, Any]:
    """As Outlines asks vLLM."""
    regex = grammar(codes, read)
    from outlines.models.vllm import VLLMTypeAdapter
    from outlines.types.dsl import Regex

    return dict(VLLMTypeAdapter().format_output_type(Regex(regex)))


def _sglang(codes: Sequence[str], read: Any) -> dict[str, Any]:
    """As Outlines asks SGLang."""
    regex = grammar(codes, read)
    from outlines.models.sglang import SGLangTypeAdapter
    from outlines.types.dsl import Regex

    fields = SGLangTypeAdapter().format_output_type(Regex(regex))
    return dict(fields["extra_body"])


def _tgi(codes: Sequence[str], read: Any) -> dict[str, Any]:
    """As Outlines asks TGI, in the field that its chat route has for it."""
    regex = grammar(codes, read)
    from outlines.models.tgi import TGITypeAdapter
    from outlines.types.dsl import Regex

    fields = TGITypeAdapter().format_output_type(Regex(regex))
    return {"response_format": fields["grammar"]}


def _gbnf(codes: Sequence[str], read: Any) -> dict[str, Any]:
    """As llama.cpp wants it: its own grammar notation."""
    if read == "reason":
        return {"grammar": _GBNF_RATIONALE}
    end = ' "\\n"' if read == "text" else ""
    names = " | ".join(json.dumps(code, ensure_ascii=False) for code in codes)
    return {"grammar": f"root ::= ({names}){end}"}


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "openai",
            "OpenAI, and what takes its `response_format` with a JSON schema",
            _json_schema,
            whole=False,
            length="max_completion_tokens",
        ),
        Dialect("ollama", "Ollama, LM Studio: the same, older names", _json_schema, whole=False),
        Dialect("vllm", "vLLM 0.12 to 0.25", _vllm, whole=True, extra=_NO_THINKING),
        Dialect("sglang", "SGLang", _sglang, whole=True, extra=_NO_THINKING),
        Dialect(
            "llamacpp",
            "llama.cpp's servers",
            _gbnf,
            whole=True,
            top=64,
            extra=_NO_THINKING | {"repeat_penalty": 1.0},
        ),
        Dialect("tgi", "Text Generation Inference", _tgi, whole=True, top=5),
    )
}


@dataclass
class Completions:
    """The engine but for the sending: subclasses bring `find`, `complete` and `close`.

    `context` 0: what the server says, or `CONTEXT`. `timeout`: seconds without any answer.
    """

    base_url: str = ""
    model: str = ""
    api_key: str = field(default="", repr=False)
    concurrency: int = 64
    timeout: float = 120.0
    attempts: int = 4
    retry_seconds: float = 60.0
    context: int = 0
    dialect: Dialect = DIALECTS["openai"]
    name: str = ""
    capabilities: Capabilities = Capabilities(
        scores=("full", "top", "label_only"),
        constraints=("outlines",),
        labels=len(ALPHABET) - 1,
        images=True,
    )
    scored: bool = True
    dropped: frozenset[str] = frozenset()
    _spelled: dict[tuple[str, ...], dict[str, Any]] = field(
        default_factory=dict, repr=False, init=False
    )
    _lapses: int = field(default=0, repr=False, init=False)
    rate: InFlight = field(repr=False, init=False)

    def __post_init__(self) -> None:
        """Refuse an address or a key that cannot be sent."""
        self.base_url = base_of(self.base_url)
        check_reachable(self.base_url, self.api_key)
        self.rate = InFlight(self.concurrency, self.timeout, self.base_url or self.model)

    async def patiently(self, once: Callable[[], Awaitable[T]]) -> T:
        """Send what opening needs, and try again as for an item. Raises `EngineError`."""
        return await insist(
            lambda: self.rate.send(once),
            attempts=self.attempts,
            seconds=self.retry_seconds,
            met=self.rate.met,
        )

    async def complete(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Send one request; return the reply as JSON. Raises `EngineError`."""
        raise NotImplementedError

    async def find(self) -> dict[str, str]:
        """Find the model and its context; return what is worth recording."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of connections."""

    async def open(self) -> Served:
        """Find the model, then prove the constraint with a canary. Raises any `EngineError`."""
        self.rate.opening()
        facts = await self.find()
        await self.canary()
        facts["scores"] = "the likeliest codes" if self.scored else "none: label_only"
        return Served(
            engine=self.name,
            model=self.model,
            version=facts.pop("version", "unknown"),
            context=self.context or CONTEXT,
            alphabet=ALPHABET,
            facts=facts,
        )

    async def canary(self) -> None:
        """Prove that the constraint is in force, and find out about log-probabilities.

        The prompt offers some codes, the constraint only others: what answers with one of these
        obeys. Twice, with different codes. A server that refuses log-probabilities, or leaves
        them out, gives labels only; one that takes no temperature decides by itself.
        """
        for codes in (ALPHABET[-3:], ALPHABET[3:6]):
            request = _nonsense(codes)
            while True:
                try:
                    reply = await self.patiently(partial(self.complete, self._fields(request)))
                    break
                except (EngineRefused, EngineUnsupported) as exc:
                    if self.scored and "logprobs" in str(exc):
                        self.scored = False
                    elif "temperature" in str(exc) and "temperature" not in self.dropped:
                        self.dropped |= {"temperature"}
                    else:
                        raise
            listed = _choice(reply).get("logprobs")
            self.scored = self.scored and isinstance(listed, dict) and bool(listed.get("content"))
            self._lapses = LAPSES - 1  # here, one is enough
            self.read(reply, request)

    async def answer(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        """Answer a stream of requests, at most `concurrency` of them in flight."""
        async with aclosing(in_flight(requests, self._one, self.concurrency)) as answers:
            async for answer in answers:
                yield answer

    async def _one(self, request: Request) -> Answer:
        """Ask; errors of this request alone become its answer."""
        started = time.perf_counter()
        try:
            answer = await self.ask(request)
        except EngineError as exc:
            if exc.fatal:
                raise
            answer = Answer(request=request, error=exc)
        return replace(answer, seconds=time.perf_counter() - started)

    async def ask(self, request: Request) -> Answer:
        """Ask until there is an answer or no hope. Raises `EngineError`."""
        fields = self._fields(request)

        async def once() -> Answer:
            reply = await self.rate.send(partial(self.complete, fields), request.read)
            return self.read(reply, request)

        try:
            return await once()
        except EngineError as exc:
            if not exc.retryable:
                raise
            return await try_again(once, exc, attempts=self.attempts, seconds=self.retry_seconds)

    async def count_tokens(self, messages: list[Message]) -> int:
        """Estimate the tokens of a conversation by its bytes."""
        size = sum(len(str(m["content"]).encode("utf-8", "surrogatepass")) for m in messages)
        return size // BYTES_PER_TOKEN + 16 * len(messages)

    # -- one request ------------------------------------------------------------------------

    def _fields(self, request: Request) -> dict[str, Any]:
        """Put the request together."""
        codes, dialect = request.menu.codes, self.dialect
        key = (request.read, *codes)
        if key not in self._spelled:
            if len(self._spelled) >= 512:  # noqa: PLR2004
                self._spelled.clear()
            longest = most_tokens(codes, request.read) + (0 if dialect.whole else _JSON_FRAME)
            fields = {"temperature": 0, dialect.length: longest} | dialect.spell(
                codes, request.read
            )
            if request.read == "code":
                fields |= {"logprobs": True, "top_logprobs": dialect.top}
            self._spelled[key] = fields | dialect.extra
        fields = {
            name: value
            for name, value in self._spelled[key].items()
            if name not in self.dropped and (self.scored or "logprobs" not in name)
        }
        return {"model": self.model, "messages": request.messages, **fields}

    def read(self, reply: dict[str, Any], request: Request) -> Answer:
        """Read a reply. Raises `EngineRefused` for one that is no answer.

        An answer that the constraint does not allow is such a one; after the third in a row the
        constraint is not in force, and `ConstraintIgnored` is raised.
        """
        choice = _choice(reply)
        text = choice["message"].get("content") or ""
        if refused := choice["message"].get("refusal"):
            raise EngineRefused(f"{self.model} refuses to answer: {refused}")
        said = _answered(text, request, whole=self.dialect.whole)
        if said is None:
            ended = choice.get("finish_reason")
            if ended == "length" or not text:
                raise EngineRefused(
                    f"{self.model} gave no answer (it ended for {ended!r})",
                    hint="does it think first? turn that off, or use an instruct model",
                )
            if ended == "content_filter":
                raise EngineRefused(f"{self.model}: the provider's filter stopped the answer")
            self._lapses += 1
            what = f"{self.model} answered {text[:200]!r}, which it may not"
            if self._lapses < LAPSES:
                raise EngineRefused(what)
            raise ConstraintIgnored(
                what,
                hint="the server does not apply the constraint: another dialect, or another engine",
            )
        self._lapses = 0
        usage = _usage(reply)
        if request.read != "code" or not self.scored:
            return Answer(request=request, text=said, masked=None, usage=usage)
        logprobs, missing = _listed(choice, request.menu.codes, whole=self.dialect.whole)
        return Answer(request=request, logprobs=logprobs, missing=missing, masked=None, usage=usage)


def _nonsense(codes: Sequence[str]) -> Request:
    """Return a question whose prompt offers A, B and C, but whose constraint other codes."""
    text = "Categories:\nA. zorvik\nB. plimbo\nC. None of these\n\nTitle: zorvik\n\nCode:"
    nodes = tuple(Node(id=n, name=n, path=(n,)) for n in ("zorvik", "plimbo"))
    item = Item(row=0, id="canary", fields={"title": "zorvik"})
    prefix = Prefix(messages=({"role": "user", "content": text},), key=digest(text))
    return Request(item=item, menu=Menu(nodes=nodes, codes=tuple(codes)), prefix=prefix, tail=())


def _choice(reply: dict[str, Any]) -> dict[str, Any]:
    """Return the one choice of a reply. Raises `EngineBusy` if it has none."""
    try:
        choice = reply["choices"][0]
        choice["message"]["content"]  # is it there?
    except (KeyError, IndexError, TypeError) as exc:
        raise EngineBusy(f"the reply carries no message: {str(reply)[:200]}") from exc
    return dict(choice)


def _answered(text: str, request: Request, *, whole: bool) -> str | None:
    """Return the code, name or reasons in an answer, None if it is none that was asked for."""
    if request.read == "reason":
        return generated(text.strip(), request)
    if not whole:
        try:
            text = str(json.loads(text)["label"])
        except (ValueError, KeyError, TypeError):
            return None
    text = text.strip()
    return text if text in request.menu.codes else None


def _listed(
    choice: dict[str, Any], codes: Sequence[str], *, whole: bool
) -> tuple[tuple[float, ...], float]:
    """Return each code's log-probability, -inf if it is not listed, and a bound on the unlisted.

    A token may carry more than the code: the quotation mark before or after it. All tokens that
    lead to one code only count for it; one that still leads to any counts as unlisted. Every
    unlisted token is at most as likely as the last on the list, and all of them share what the
    listed ones leave.
    """
    try:
        tokens = choice["logprobs"]["content"]
        text = "".join(t["token"] for t in tokens)
        start = 0 if whole else _CODE_IN_JSON.search(text).start(1)  # type: ignore[union-attr]
        at = 0
        while at + len(tokens[0]["token"]) <= start:
            at += len(tokens[0]["token"])
            tokens = tokens[1:]
        before = tokens[0]["token"][: start - at]
        listed = {
            t["token"]: float(t["logprob"]) for t in (tokens[0], *(tokens[0]["top_logprobs"] or ()))
        }
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as exc:
        raise EngineBusy("the reply's log-probabilities cannot be read") from exc
    if not all(value <= 1e-3 for value in listed.values()):  # noqa: PLR2004  rounding
        raise EngineBusy("the reply's log-probabilities are invalid")
    mass = dict.fromkeys(codes, 0.0)
    left = max(0.0, 1.0 - math.fsum(map(math.exp, listed.values())))
    for token, value in listed.items():
        code, rest = token[len(before) :][:1], token[len(before) + 1 :]
        if token.startswith(before) and code in mass and (not rest or rest[0] == '"'):
            mass[code] += math.exp(value)
        elif token and before.startswith(token):
            left += math.exp(value)
    unseen = sum(1 for p in mass.values() if not p)
    if unseen == len(codes):
        raise EngineBusy("the reply's log-probabilities hold none of the menu's codes")
    if whole:
        left = min(left, unseen * math.exp(min(listed.values())))
    if not unseen and left < NEGLIGIBLE:
        left = 0.0
    return tuple(math.log(p) if p else -math.inf for p in mass.values()), left


def _usage(reply: dict[str, Any]) -> Usage:
    """Return the tokens used; what the server does not say counts as none."""
    used = reply.get("usage")
    if not isinstance(used, dict):
        return Usage(cost=reply.get("cost") or 0.0)
    details = used.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Usage(
        used.get("prompt_tokens") or 0,
        cached or 0,
        used.get("completion_tokens") or 0,
        reply.get("cost") or 0.0,
    )
