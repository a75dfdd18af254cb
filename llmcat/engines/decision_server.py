"""A server with a decision model: options in, a probability for each out, in one pass.

One POST per item, in one of the forms of `decision_forms`. Which options a question may have is
told nowhere but in errors, so opening finds out. Opening also proves on this server what everything
else relies on: that it repeats itself, that neither the question's name nor another question in the
same request changes an answer, that the answer depends on the item. What comes back otherwise than
it was asked for is an error of that item.
"""

from __future__ import annotations

import math
import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import orjson

from llmcat.engines import Capabilities, Served, check_reachable, in_batches, in_flight
from llmcat.engines.decision_forms import Asked, Form, probabilities_of, rounding
from llmcat.errors import EngineError, EngineRefused, EngineUnsupported, Undecided
from llmcat.records import MOST_LABELS, Answer, Request, Usage
from llmcat.transport.http import JsonServer, base_of
from llmcat.transport.retry import insist, try_again_if_well

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    from llmcat.records import Message
    from llmcat.transport.rate import InFlight

__all__ = ["DecisionServer", "bare"]

QUESTION = "Which category does this item belong to?"
STATES = ("a pair of red running shoes, size 42", "a stainless steel frying pan with a lid")
OPTIONS = ("Shoes", "Kitchenware", "Garden décor")
"""What opening asks about; a model that decides at all tells the two states apart. Case and accent
are there so that names which do not come back as they were sent are found out."""
STEADY = 0.05
"""How far a probability may move when the same is asked again, or beside another question."""
LIMITS = (MOST_LABELS, 64, 26, 20, 10)
"""Numbers of options that opening tries: what a menu holds at most, down to vLLM's 26 and less."""
LIKELIEST = "jev-latest"
"""The model that the protocol's own clients ask for, where a server lists none."""
QUESTIONS = 32
"""Questions in one request at most; vLLM takes 64."""
CONTEXT = 8192
"""Tokens taken for the context where nothing says it."""
BYTES_PER_TOKEN = 3
NEVER = 1e-9


@dataclass
class DecisionServer:
    """`base_url` with or without `/v1`; `form` is how it is asked; `model` may be empty.

    `timeout`, `attempts` and `retry_seconds` as in `VllmHttp`. `context`: tokens of state, question
    and options together.
    """

    base_url: str
    form: Form
    model: str = ""
    api_key: str = field(default="", repr=False)
    concurrency: int = 64
    timeout: float = 120.0
    attempts: int = 4
    retry_seconds: float = 60.0
    context: int = CONTEXT
    capabilities: Capabilities = Capabilities(
        scores=("full",), constraints=("outlines",), labels=MOST_LABELS, reads=("decide",)
    )
    name: str = field(default="", init=False)
    server: JsonServer = field(repr=False, init=False)
    unit: float = field(default=0.0, init=False)
    _any_order: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Tidy the address and check it. Raises `BadConfig`."""
        self.name = self.form.name
        self.base_url = bare(self.base_url)
        check_reachable(self.base_url, self.api_key)
        self.server = JsonServer(
            self.base_url, self.api_key, self.concurrency, self.timeout, self.attempts,
            self.retry_seconds,
        )  # fmt: skip

    # -- opening ---------------------------------------------------------------------------------

    async def open(self) -> Served:
        """Find the model, prove that it can be relied on, find out how many options it takes."""
        named = await self.decides()
        facts = await self._proved()
        most = await self._most()
        return Served(
            engine=self.name,
            model=named,
            version="",
            context=self.context,
            alphabet=tuple(str(i) for i in range(1, most + 2)),
            facts=facts | {"options": str(most)},
            any_order=self._any_order,
        )

    async def decides(self) -> str:
        """Ask one question; return the model that answered. Raises `EngineError` if none does."""
        self.rate.opening()
        listed = await self.models()
        usual = LIKELIEST if LIKELIEST in listed else ""
        if not self.model and len(listed) > 1 and not usual:
            raise EngineRefused(
                f"{self.base_url} serves more than one model",
                hint=f"choose with --model: {', '.join(listed)}",
                fatal=True,
            )
        reply = await self._first(self.model or usual or (listed[0] if listed else ""), listed)
        said = reply.get("model")
        return self.model or (said if isinstance(said, str) else "") or "unnamed"

    async def models(self) -> list[str]:
        """Return the models that a server lists, none where it lists none."""
        found = (await self.server.look_at("/v1/models")).value
        cards = found.get("data", found.get("models")) if isinstance(found, dict) else None
        named = {}
        for card in cards if isinstance(cards, list) else []:
            told = card if isinstance(card, dict) else {"id": card}
            if name := told.get("id") or told.get("name"):
                named[str(name)] = told.get("max_model_len")
        room = named.get(self.model or next(iter(named), ""))
        if isinstance(room, int) and self.context == CONTEXT:  # vLLM says it
            self.context = room
        return list(named)

    async def _first(self, model: str, listed: Sequence[str]) -> dict[str, Any]:
        """Ask for the first time; return the reply. A server that wants a name gets the usual."""
        self.model = model
        asked = {"q": _canary()}
        try:
            reply = await self._asked(asked)
        except EngineRefused as exc:
            if not model and "model" in str(exc).lower():
                return await self._first(LIKELIEST, listed)
            raise self._unusable(exc, listed) from exc
        try:  # some servers say 200 to anything
            probabilities_of(self.form.find(reply, "q", asked).answer, asked["q"].names)
        except EngineRefused as exc:
            raise EngineUnsupported(
                f"{self.base_url} does not answer as {self.form.name} does: {exc}",
                hint="without --engine it is found out which engine is to ask it",
            ) from exc
        return reply

    def _unusable(self, exc: EngineRefused, listed: Sequence[str]) -> EngineError:
        """Return what a refused first question means: another model's name, or another server."""
        if listed and self.model not in listed:
            names = ", ".join(listed)
            what = f"{self.base_url} does not serve {self.model!r}"
            return EngineRefused(what, hint=f"it serves {names}; choose with --model", fatal=True)
        if exc.fatal or "HTTP 405" in str(exc):
            return EngineUnsupported(
                f"{self.base_url} does not answer {self.form.path}: {exc}",
                hint="a chat server: --engine vllm_http, or openai; without --engine it is found "
                "out which it is",
            )
        return exc

    async def _proved(self) -> dict[str, str]:
        """Prove what is relied on; return what is worth recording. Raises `EngineUnsupported`."""
        alone = await self._probe({"q": _canary()})
        again = await self._probe({"q": _canary()})
        turned = await self._probe({"q": _canary(turn=True)})
        other = await self._probe({"q": _canary(state=1)})
        company = {"a second question": _canary(options=OPTIONS[1:]), "Q-2 (renamed)": _canary()}
        together = await self._probe(company, of="Q-2 (renamed)")
        self.unit = rounding([*alone, *again, *turned, *other])
        moved = _apart(alone, again)
        if moved > STEADY:
            raise EngineUnsupported(
                f"{self.base_url} does not repeat itself: asked twice, a probability moved by "
                f"{moved:.2f}"
            )
        if (by := _apart(alone, together)) > max(STEADY, 2 * moved):
            raise EngineUnsupported(
                f"{self.base_url} answers otherwise by {by:.2f} under another id, beside another "
                "question"
            )
        if _apart(alone, other) <= max(2 * moved, 2 * self.unit, 1e-6):
            raise EngineUnsupported(
                f"{self.base_url} answers the same whatever the item: the model does not decide"
            )
        order = _apart(alone, turned[::-1])
        self._any_order = order <= self.unit + 1e-9
        return {"repeats within": f"{moved:.2g}", "order moves": f"{order:.2g}",
                "rounded to": f"{self.unit:g}" if self.unit else "no"}  # fmt: skip

    async def _probe(self, asked: Mapping[str, Asked], of: str = "q") -> list[float]:
        """Ask and read one answer of opening. Raises `EngineUnsupported` if it is none."""
        reply = await self._asked(asked)
        try:
            return probabilities_of(self.form.find(reply, of, asked).answer, asked[of].names)
        except EngineRefused as exc:
            raise EngineUnsupported(
                f"{self.base_url} does not answer as {self.form.name} does: {exc}"
            ) from exc

    async def _most(self) -> int:
        """Return how many options a question may have. Raises `EngineUnsupported`."""
        for most in LIMITS:
            names = [*OPTIONS, *(f"Category {i}" for i in range(4, most + 1))]
            asked = {"q": _canary(options=names)}
            try:
                reply = await self._once(asked)
                probabilities_of(self.form.find(reply, "q", asked).answer, names)
            except Undecided:
                return most
            except EngineError as exc:
                if exc.fatal:
                    raise
                continue
            return most
        raise EngineUnsupported(f"{self.base_url} takes no question of {LIMITS[-1]} options")

    async def alike(self, options: Sequence[Mapping[str, str | None]]) -> list[list[str]]:
        """Return names that this model gives one and the same probability, whatever the item.

        At most as many options as one question takes are looked at. Raises any `EngineError`.
        """
        named = [{"name": option["name"], "description": None} for option in options]
        if len(named) < 2:  # noqa: PLR2004
            return []
        seen: dict[str, list[float]] = {str(option["name"]): [] for option in named}
        for state in (*STATES, str(named[0]["name"])):
            asked = {"q": Asked(state, QUESTION, named)}
            answer = self.form.find(await self._asked(asked), "q", asked).answer
            given = answer.get("probabilities") if isinstance(answer, dict) else None
            if (
                not isinstance(given, dict)
                or given.keys() != seen.keys()
                or not all(isinstance(x, int | float) for x in given.values())
            ):
                raise EngineRefused("the names of the categories do not come back as they are sent")
            for name, found in seen.items():
                found.append(float(given[name]))
        groups: dict[tuple[float, ...], list[str]] = {}
        for name, found in seen.items():
            if max(found) > 10 * self.unit:  # below that, rounding makes them alike
                groups.setdefault(tuple(found), []).append(name)
        return [names for names in groups.values() if len(names) > 1]

    # -- answering ---------------------------------------------------------------------------------

    async def answer(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        """Answer a stream of requests; what is asked of one state goes into one.

        At most `concurrency` are in flight, each with as many questions as were there.
        """
        groups = self._together(requests)
        async with aclosing(in_flight(groups, self._all, self.concurrency)) as found:
            async for answers in found:
                for answer in answers:
                    yield answer

    async def _together(self, requests: AsyncIterator[Request]) -> AsyncIterator[list[Request]]:
        async with aclosing(in_batches(requests, self.concurrency)) as batches:
            async for batch in batches:
                for _, same in groupby(batch, key=lambda one: one.tail[0]["content"]):
                    while group := list(islice(same, QUESTIONS)):
                        yield group

    async def _all(self, requests: Sequence[Request]) -> list[Answer]:
        """Ask all at once; where that is refused, one by one: it may be too much at once."""
        started = time.perf_counter()
        ids = ["q"] if len(requests) == 1 else [f"q{i}" for i in range(1, len(requests) + 1)]
        asked = {id_: _question(request) for id_, request in zip(ids, requests, strict=True)}
        body = self.form.spell(self.model, asked)
        once = partial(self.rate.send, partial(self.post, body), "decide")
        try:
            try:
                reply = await once()
            except EngineError as exc:
                if not exc.retryable:
                    raise
                reply = await try_again_if_well(
                    once, exc, attempts=self.attempts, seconds=self.retry_seconds,
                    ailment=self.ailment, who=self.base_url,
                )  # fmt: skip
        except EngineError as exc:
            if exc.fatal:
                raise
            if len(requests) > 1 and not exc.retryable:
                return [answer for one in requests for answer in await self._all([one])]
            seconds = time.perf_counter() - started
            return [Answer(request=one, error=exc, seconds=seconds) for one in requests]
        seconds = (time.perf_counter() - started) / len(requests)
        return [
            self._read(request, reply, id_, asked, seconds)
            for request, id_ in zip(requests, asked, strict=True)
        ]

    def _read(
        self,
        request: Request,
        reply: Mapping[str, Any],
        id_: str,
        asked: Mapping[str, Asked],
        seconds: float,
    ) -> Answer:
        """Return the answer to one question. The first of several bears what the request cost."""
        try:
            said = self.form.find(reply, id_, asked)
            p = probabilities_of(said.answer, asked[id_].names)
        except EngineError as exc:
            return Answer(request=request, error=exc, seconds=seconds)
        floor = max(self.unit / 2, NEVER)
        logs = tuple(math.log(max(x, floor)) + math.log(said.mass or 1.0) for x in p)
        first = id_ == next(iter(asked))
        return Answer(
            request=request,
            logprobs=logs,
            masked=None if said.mass is None else False,
            usage=replace(said.usage, cost=self.cost_of(reply)) if first else Usage(),
            seconds=seconds,
        )

    def cost_of(self, reply: Mapping[str, Any]) -> float:  # noqa: ARG002
        """Return what a reply cost in US dollars; a server of one's own says nothing of it."""
        return 0.0

    async def _once(self, asked: Mapping[str, Asked]) -> dict[str, Any]:
        """Ask what a server may refuse; only one that says it is busy is asked again."""
        body = self.form.spell(self.model, asked)
        try:
            return await self.rate.send(partial(self.post, body))
        except EngineError as exc:
            if not exc.patient:  # a limit may be told by any status
                raise
        return await self._asked(asked)

    async def _asked(self, asked: Mapping[str, Asked]) -> dict[str, Any]:
        """Ask what opening needs, with the patience that items have; return the reply."""
        body = self.form.spell(self.model, asked)
        return await insist(
            lambda: self.rate.send(partial(self.post, body)),
            attempts=self.attempts, seconds=self.retry_seconds, met=self.rate.met,
        )  # fmt: skip

    @property
    def rate(self) -> InFlight:
        """How many requests are under way."""
        return self.server.rate

    async def post(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send one request; every failure is one of our errors."""
        return await self.server.json("POST", self.form.path, body)

    async def ailment(self) -> str:
        """Return what is wrong with the server, empty if it says it is well."""
        return await self.server.ailment()

    async def count_tokens(self, messages: list[Message]) -> int:
        """Estimate: nothing counts a question's tokens before it is asked."""
        return len(orjson.dumps(messages)) // BYTES_PER_TOKEN

    async def close(self) -> None:
        """Close the connections."""
        await self.server.close()


def bare(url: str) -> str:
    """Return a server's address without the path of a form."""
    return base_of(url).removesuffix("/v1").rstrip("/")


def _canary(*, state: int = 0, turn: bool = False, options: Sequence[str] = OPTIONS) -> Asked:
    names = options[::-1] if turn else options
    return Asked(STATES[state], QUESTION, [{"name": n, "description": None} for n in names])


def _question(request: Request) -> Asked:
    state, question, options = (message["content"] for message in request.tail)
    return Asked(state, question, options, scale=request.read == "score")


def _apart(a: Sequence[float], b: Sequence[float]) -> float:
    """Return how far two answers to one question are apart at most."""
    return max(abs(x - y) for x, y in zip(a, b, strict=True))
