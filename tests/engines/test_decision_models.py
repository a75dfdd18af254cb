"""Decision models: real ones (sparrow-decider, a Qwen3 behind vLLM), and servers with one fault."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.request import Request as Post
from urllib.request import urlopen

import numpy as np
import pytest
from aiohttp import web
from helpers import EXAMPLES, InThread, Ran, free_port, read_rows
from jevcompat.mock import FAULTS, MockConfig, Running

from llmcat import Taxonomy
from llmcat.candidates.plan import Plan
from llmcat.engines import Served, discovery
from llmcat.engines.decision_forms import FORMS, Asked, probabilities_of, rounding
from llmcat.engines.decision_server import DecisionServer
from llmcat.engines.registry import open_engine
from llmcat.errors import EngineError, EngineRefused, Undecided
from llmcat.evidence.gather import Asked as Asking
from llmcat.pipeline.duplicates import Forgetful
from llmcat.pipeline.loop import classify
from llmcat.prompting import templates
from llmcat.prompting.builder import Task
from llmcat.records import Answer, Item, Request, RowResult

Cli = Callable[..., Ran]
LABELS = ["Shoes", "Bags & Cases", "Toys", "Café décor", "Garden tools", "books"]
SHOP = ("--taxonomy", EXAMPLES / "taxonomy.yaml", "--file", EXAMPLES / "items.jsonl")


# -- forms: what is read, and what is refused ---------------------------------------------------


GOOD = {"type": "choice", "choice": "b", "probabilities": {"a": 0.2, "b": 0.7, "c": 0.1}}


def test_a_good_answer_is_read_by_its_probabilities() -> None:
    """In the order of the options; whatever confidence says, or that rounding leaves a sum off."""
    assert probabilities_of({**GOOD, "confidence": 0.001}, ["c", "b", "a"]) == [0.1, 0.7, 0.2]
    off = {"a": 0.1994, "b": 0.7, "c": 0.1}
    assert probabilities_of({**GOOD, "probabilities": off}, ["a", "b", "c"]) == [0.1994, 0.7, 0.1]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "was not answered"),
        ("b", "not an object"),
        ({"type": "refusal"}, "declined"),
        ({"type": "noul", "noul": 0.5}, "type 'noul'"),
        ({"type": "choice", "choice": "b"}, "no probabilities"),
        ({**GOOD, "probabilities": [0.2, 0.7, 0.1]}, "no probabilities"),
        ({**GOOD, "probabilities": {"A": 0.2, "b": 0.7, "c": 0.1}}, "not those that were sent"),
        ({**GOOD, "probabilities": {"a": 0.3, "b": 0.7}}, "not those that were sent: 'c'"),
        ({**GOOD, "probabilities": {"a": 0.2, "b": 0.7, "c": 0.05, "d": 0.05}}, "sent: 'd'"),
        ({**GOOD, "probabilities": {"a": "0.2", "b": 0.7, "c": 0.1}}, "not a number"),
        ({**GOOD, "probabilities": {"a": True, "b": 0.0, "c": 0.0}}, "not a number"),
        ({**GOOD, "probabilities": {"a": math.nan, "b": 0.7, "c": 0.1}}, "between 0 and 1"),
        ({**GOOD, "probabilities": {"a": -0.3, "b": 1.2, "c": 0.1}}, "between 0 and 1"),
        ({**GOOD, "probabilities": {"a": 0.3, "b": 0.8, "c": 0.1}}, "sum to 1.200"),
        ({**GOOD, "choice": "a"}, "chooses 'a'"),
        ({**GOOD, "choice": "B"}, "chooses 'B'"),
    ],
)
def test_what_was_not_asked_for_is_refused(answer: Any, said: str) -> None:
    """Never `none`, never a guess."""
    with pytest.raises(EngineRefused, match=said):
        probabilities_of(answer, ["a", "b", "c"])


def test_a_tie_at_the_top_is_cannot_tell() -> None:
    """Also one that rounding made; one option alone is no tie."""
    tied = {"type": "choice", "choice": "a", "probabilities": {"a": 0.4, "b": 0.4, "c": 0.2}}
    with pytest.raises(Undecided, match="cannot tell 'a' from 'b'"):
        probabilities_of(tied, ["a", "b", "c"])
    one = {"type": "choice", "choice": "a", "probabilities": {"a": 1.0}}
    assert probabilities_of(one, ["a"]) == [1.0]


def test_rounding_is_found() -> None:
    """The unit of which all seen are multiples; none where there are more digits."""
    assert rounding([0.25, 0.5, 0.0]) == 0.01
    assert rounding([0.2501, 0.5]) == pytest.approx(1e-4)
    assert rounding([0.25012345678, 0.5]) == 0.0


def test_a_scale_is_asked_as_a_score() -> None:
    """In both forms; the probabilities come back by number or by name."""
    from openai.types.decision import Decision
    from openai.types.decision_create_params import DecisionCreateParams
    from pydantic import TypeAdapter

    options = [{"name": "low", "description": "hardly"}, {"name": "high", "description": None}]
    asked = {"q": Asked("a thing", "How much?", options, scale=True)}
    body = FORMS["systemone"].spell("m", asked)
    assert body["questions"]["q"]["criteria"] == ["low: hardly", "high"]
    answer = {"type": "score", "score": 0.7, "probabilities": {"0": 0.3, "1": 0.7}}
    said = FORMS["systemone"].find({"answers": {"q": answer}}, "q", asked)
    assert probabilities_of(said.answer, ["low", "high"]) == [0.3, 0.7]
    body = FORMS["decisions"].spell("m", asked)
    TypeAdapter(DecisionCreateParams).validate_python(body)
    p = [{"label": "low", "value": 0, "probability": 0.3},
         {"label": "high", "value": 1, "probability": 0.7}]  # fmt: skip
    answer = {"type": "score", "name": "q", "score": 0.7, "confidence": 0.4, "probabilities": p}
    usage = {
        "input_tokens": 12, "output_tokens": 2, "total_tokens": 14,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    reply = {"answers": [answer], "model": "m", "usage": usage}
    Decision.model_validate(reply)
    said = FORMS["decisions"].find(reply, "q", asked)
    assert probabilities_of(said.answer, ["low", "high"]) == [0.3, 0.7]
    for form, odd in (("systemone", {"0": 1.0}), ("decisions", p[:1])):
        spoilt: Any = {**answer, "probabilities": odd}
        answers = [spoilt] if form == "decisions" else {"q": spoilt}
        with pytest.raises(EngineRefused, match="for each level"):
            FORMS[form].find({"answers": answers}, "q", asked)


def test_the_decisions_form_is_that_of_openais_types() -> None:
    """A body that the SDK's parameters take, and a reply that its model parses, both ways."""
    from openai.types.decision import Decision
    from openai.types.decision_create_params import DecisionCreateParams
    from pydantic import TypeAdapter

    options = [{"name": "a", "description": "first"}, {"name": "b", "description": None}]
    asked = {"q": Asked("a thing", "Which?", options), "r": Asked("a thing", "Or?", options)}
    form = FORMS["decisions"]
    body = form.spell("gpt-6-luna", asked)
    TypeAdapter(DecisionCreateParams).validate_python(body)
    choice = {
        "type": "choice", "name": "q", "choice": "b", "confidence": 0.4,
        "probabilities": [{"value": "a", "probability": 0.3}, {"value": "b", "probability": 0.7}],
    }  # fmt: skip
    usage = {
        "input_tokens": 12, "output_tokens": 2, "total_tokens": 14,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    refused = {"type": "refusal", "name": "r"}
    reply = {"answers": [choice, refused], "model": "gpt-6-luna", "usage": usage}
    Decision.model_validate(reply)
    said = form.find(reply, "q", asked)
    assert probabilities_of(said.answer, ["a", "b"]) == [0.3, 0.7]
    assert (said.usage.prompt, said.usage.cached, said.usage.generated) == (12, 5, 2)
    with pytest.raises(EngineRefused, match="declined"):
        probabilities_of(form.find(reply, "r", asked).answer, ["a", "b"])
    twice = {**choice, "probabilities": [*choice["probabilities"], choice["probabilities"][0]]}
    listed = {**choice, "probabilities": [{"value": ["a"], "probability": 1.0}]}
    named = {**choice, "name": ["q"]}
    for answers in (
        [choice],
        [refused, choice],
        *([odd, refused] for odd in (twice, listed, named)),
    ):
        with pytest.raises(EngineRefused):
            form.find({**reply, "answers": answers}, "q", asked)


# -- each fault of the conformance suite ----------------------------------------------------------


def asked_of(engine: DecisionServer, count: int = 200) -> list[Answer]:
    """Open an engine and ask about so many items."""
    taxonomy = Taxonomy.from_labels(LABELS)

    async def feed(requests: list[Request]) -> AsyncIterator[Request]:
        for request in requests:
            yield request

    async def work() -> list[Answer]:
        try:
            served = await engine.open()
            plan = Plan(taxonomy, served.alphabet, len(served.alphabet) - 1)
            task = Task(plan, templates.load("decide"), mass_sample=0)
            items = [Item(i, str(i), {"title": f"thing {i} é"}) for i in range(count)]
            menu = plan.menu(taxonomy.leaves)
            requests = [task.ask(*task.fit(item), menu) for item in items]
            return [answer async for answer in engine.answer(feed(requests))]
        finally:
            await engine.close()

    return sorted(asyncio.run(work()), key=lambda a: a.request.item.row)


def of_mock(fault: str = "", key: str = "", **how: Any) -> list[Answer]:
    """Ask a mock with a fault."""
    faults = frozenset(filter(None, [fault]))
    wanted = key if fault != "auth-rejects-header" else ""  # a key that nobody asked for
    with Running(MockConfig(key=wanted or None, faults=faults, **how)) as mock:
        return asked_of(DecisionServer(mock.url, FORMS["systemone"], api_key=key, retry_seconds=5))


@pytest.fixture(scope="module")
def truth() -> list[Answer]:
    """What the mock says when nothing is wrong with it."""
    answers = of_mock()
    assert not any(answer.error for answer in answers)
    return answers


WITH_KEY = {"auth-x-api-key", "auth-plain", "auth-invalid-403-text", "auth-rejects-header"}
REFUSED = {
    "wrong-route", "xssi-200", "auth-x-api-key", "auth-rejects-header", "first-question-only",
    "strict-ids", "nfd-keys", "no-null-description", "extra-answer", "nan", "choice-key-case",
    "choice-sum", "choice-second", "id-leaks", "batch-leaks", "order-leaks", "reject-jev-latest",
}  # fmt: skip
"""Faults with which the engine does not open. With all others every answer is the right one."""


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_each_fault_is_harmless_or_found_out(fault: str, truth: list[Answer]) -> None:
    """The same answers as without it, or no engine."""
    key = "" if fault not in WITH_KEY else "k"
    if fault in REFUSED:
        with pytest.raises(EngineError) as caught:
            of_mock(fault, key)
        assert str(caught.value)
        return
    answers = of_mock(fault, key)
    for answer, right in zip(answers, truth, strict=True):
        assert answer.error is None
        assert answer.logprobs == pytest.approx(right.logprobs, abs=1e-9)


def test_a_busy_server_is_waited_for(truth: list[Answer]) -> None:
    """429 with a Retry-After: every item is answered all the same."""
    answers = of_mock(busy_every=7)
    assert [a.logprobs for a in answers] == [a.logprobs for a in truth]


class Server(InThread):
    """Decides by the length of the text; `spoil(reply, body)` may change what it says."""

    def __init__(
        self, spoil: Callable[[Any, Any], Any], limit: int = 300, *, status: int = 400,
        models: Any = None, anything: Any = ...,
    ) -> None:  # fmt: skip
        self.spoil, self.limit, self.port, self.asked = spoil, limit, free_port(), 0
        self.status, self.models, self.anything = status, models, anything
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__()

    async def start(self) -> None:
        app = web.Application()
        if self.anything is ...:
            app.router.add_post("/v1/systemone", self.reply)
        if self.models is not None:
            app.router.add_get("/api/v0/models", self.listed)
            app.router.add_get("/v1/models", self.listed)
        app.router.add_post("/{path:.*}", self.other)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()

    async def reply(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked += 1
        answers = {}
        for id_, question in body["questions"].items():
            names = list(question["criteria"])
            if len(names) > self.limit:
                return web.json_response({"error": "too many options"}, status=self.status)
            seed = [(len(body["state"]) * 31 + sum(map(ord, name))) % 17 + 1 for name in names]
            weights = [w**2 + i * 1e-7 for i, w in enumerate(seed)]
            p = {name: w / sum(weights) for name, w in zip(names, weights, strict=True)}
            answers[id_] = {"type": "choice", "choice": max(p, key=p.__getitem__),
                            "probabilities": p}  # fmt: skip
        spoilt = self.spoil({"model": "stub", "answers": answers}, body)
        return spoilt if isinstance(spoilt, web.Response) else web.json_response(spoilt)

    async def listed(self, _: web.Request) -> web.Response:
        return web.json_response(self.models)

    async def other(self, _: web.Request) -> web.Response:
        if self.anything is ...:
            return web.Response(status=404)
        return web.json_response(self.anything)

    async def stop(self) -> None:
        await self.runner.cleanup()


def opened(spoil: Callable[[Any, Any], Any], **how: Any) -> Served:
    """Open an engine on a server."""
    server = Server(spoil, **how)

    async def work() -> Served:
        engine = DecisionServer(server.url, FORMS["systemone"], retry_seconds=1)
        try:
            return await engine.open()
        finally:
            await engine.close()

    try:
        return asyncio.run(work())
    finally:
        server.close()


def whole(reply: Any, _: Any) -> Any:
    return reply


def rounded(reply: Any, _: Any) -> Any:
    for answer in reply["answers"].values():
        answer["probabilities"] = {k: round(v, 2) for k, v in answer["probabilities"].items()}
    return reply


def constant(reply: Any, _: Any) -> Any:
    for answer in reply["answers"].values():
        names = sorted(answer["probabilities"])
        p = {name: float(i + 1) for i, name in enumerate(names)}
        answer["probabilities"] = {name: v / sum(p.values()) for name, v in p.items()}
        answer["choice"] = names[-1]
    return reply


def capped(reply: Any, _: Any) -> Any:
    for answer in reply["answers"].values():
        first = dict(list(answer["probabilities"].items())[:20])
        total = sum(first.values())
        answer["probabilities"] = {name: v / total for name, v in first.items()}
        answer["choice"] = max(first, key=first.__getitem__)
    return reply


@pytest.mark.parametrize(("limit", "most"), [(300, 127), (100, 64), (26, 26), (11, 10)])
def test_how_many_options_it_takes_is_found_out(limit: int, most: int) -> None:
    """By asking; nobody tells it."""
    served = opened(whole, limit=limit)
    assert (len(served.alphabet) - 1, served.facts["options"]) == (most, str(most))
    assert served.any_order


def test_a_server_that_caps_options_in_silence() -> None:
    """It answers about the first 20 only: more are not asked about."""
    assert opened(capped).facts["options"] == "20"


def test_a_tie_among_many_options_is_no_limit() -> None:
    """The answer is one all the same: as many options as were sent came back."""

    def tied(reply: Any, _: Any) -> Any:
        for answer in reply["answers"].values():
            p = answer["probabilities"]
            if len(p) > 30:
                first, second = sorted(p, key=p.__getitem__)[-2:]
                p[first] = p[second] = (p[first] + p[second]) / 2
        return reply

    assert opened(tied).facts["options"] == "127"


def test_a_server_that_breaks_beyond_its_limit_is_opened_soon() -> None:
    """Any status may tell a limit: what is too many is asked once."""
    server = Server(whole, limit=20, status=500)

    async def work() -> Served:
        engine = DecisionServer(server.url, FORMS["systemone"])
        try:
            return await engine.open()
        finally:
            await engine.close()

    try:
        assert asyncio.run(work()).facts["options"] == "20"
        assert server.asked < 15
    finally:
        server.close()


def crowded(reply: Any, body: Any) -> Any:
    if len(body["questions"]) > 2:
        return web.json_response({"error": "too much"}, status=400)
    return reply


@pytest.mark.parametrize(("spoil", "requests"), [(whole, 1), (crowded, 1 + 4)])
def test_what_is_asked_of_one_item_goes_together(
    spoil: Callable[[Any, Any], Any], requests: int
) -> None:
    """Four orders are four questions of one request; what is too much at once is asked singly."""
    server, taxonomy = Server(spoil), Taxonomy.from_labels(LABELS)

    async def work(orders: int) -> tuple[int, list[RowResult]]:
        engine = DecisionServer(server.url, FORMS["systemone"], retry_seconds=1)
        try:
            served = await engine.open()
            before = server.asked
            plan = Plan(taxonomy, served.alphabet, len(served.alphabet) - 1, orders=orders)
            task = Task(plan, templates.load("decide"), mass_sample=0)
            items = [Item(i, str(i), {"title": f"thing {'x' * i}"}) for i in range(3)]
            found = [one async for one in classify(items, task, engine, memory=Forgetful())]
            return server.asked - before, found
        finally:
            await engine.close()

    try:
        (_, once), (asked, found) = asyncio.run(work(1)), asyncio.run(work(4))
    finally:
        server.close()
    assert asked == 3 * requests
    for one, other in zip(once, found, strict=True):  # the order means nothing to this server
        assert one.scores is not None
        assert other.scores is not None
        assert dict(other.scores.p) == pytest.approx(dict(one.scores.p), abs=1e-5)


def test_the_place_of_an_answer_says_nothing_of_none() -> None:
    """A reader that was not offered the exit is silent about it, place prior or none."""
    prior = np.log(np.array([0.6, 0.2, 0.1, 0.1]))
    for p in ([0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]):
        said = np.log(np.array([*p, 0.25]))
        asked = Asking((0, 1, 2), (((0, 1, 2), said),), exit=False)
        for known in (None, prior):
            assert asked.heard(known).exit_odds == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("answer", "engine", "dialect"),
    [
        ({"error": "Unexpected endpoint"}, "openai", "ollama"),
        (None, "openai", "ollama"),
        ({"answers": {}}, "openai", "ollama"),
    ],
)
def test_what_answers_anything_does_not_decide(answer: Any, engine: str, dialect: str) -> None:
    """LM Studio says 200 to unknown paths: it is asked by its dialect."""
    server = Server(whole, models={"data": [{"id": "m"}]}, anything=answer)
    try:
        found = asyncio.run(discovery.look_at(server.url))
    finally:
        server.close()
    assert (found.engine, found.dialect) == (engine, dialect)


def test_a_busy_server_is_not_taken_for_another() -> None:
    """One that cannot serve just now is opened as what it is, and says why it does not open."""
    server = Server(lambda *_: web.Response(status=429, text='{"error": "slow down"}'))
    try:
        found = asyncio.run(discovery.look_at(server.url))
    finally:
        server.close()
    assert found.engine == "systemone"
    assert "429" in found.why


def test_addresses_with_a_forms_path(sparrow: str, llmcat: Cli) -> None:
    """What a person copies from a page works."""
    for path in ("/v1", "/v1/systemone", "/v1/"):
        ran = llmcat("classify", "--labels", "shoes,bags", "--base-url", f"{sparrow}{path}",
                     LLMCAT_PROMPT="", stdin="red shoes\n")  # fmt: skip
        assert ran.code == 0, ran.err


def test_two_digits_are_enough() -> None:
    """What is rounded to 0.00 keeps half a unit; the rounding is on record."""
    assert opened(rounded).facts["rounded to"] == "0.01"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (constant, "the same whatever the item"),
        (lambda *_: web.Response(status=501, text="{}"), "HTTP 501"),
        (lambda *_: web.Response(status=404, text="{}"), "--engine vllm_http"),
        (lambda *said: list(said[:1]), "not an object"),
        (lambda *said: {**said[0], "answers": {}}, "not answered"),
    ],
)
def test_a_server_that_cannot_be_relied_on_is_not_opened(
    spoil: Callable[[Any, Any], Any], said: str
) -> None:
    """And the message says what is wrong, or who else is to ask it."""
    with pytest.raises(EngineError) as caught:
        opened(spoil)
    assert said in f"{caught.value} {caught.value.hint}"


# -- real models ------------------------------------------------------------------------------


def test_sparrow_under_llmcat(sparrow: str, llmcat: Cli, tmp_path: Path) -> None:
    """An address is enough: it is found out what the server speaks; retrieval is added up."""
    out = tmp_path / "out.jsonl"
    ran = llmcat("classify", *SHOP, "--base-url", sparrow, "--out", out, "--limit", "40",
                 LLMCAT_PROMPT="")  # fmt: skip
    assert ran.code == 0
    rows = read_rows(out)
    record = json.loads(Path(f"{out}.run.json").read_text())
    assert record["about"]["served"]["engine"] == "systemone"
    assert record["about"]["served"]["model"].startswith("sparrow-nano")
    assert record["about"]["evidence"]["sources"]["reader"] == 0.6
    assert sum(row["label"] == row["gold"] for row in rows) > 20
    assert all(
        len(row["evidence"]["offered"]) == 30 for row in rows if "offered" in row["evidence"]
    )
    again = out.read_bytes()
    Path(f"{out}.run.json").write_text(
        Path(f"{out}.run.json").read_text().replace('"done"', '"failed"')
    )
    out.write_bytes(again[: len(again) // 2])
    ran = llmcat("classify", *SHOP, "--base-url", sparrow, "--out", out, "--limit", "40",
                 LLMCAT_PROMPT="")  # fmt: skip
    assert ran.code == 0
    assert out.read_bytes() == again


def test_levels_of_a_scale(sparrow: str, llmcat: Cli, tmp_path: Path) -> None:
    """Asked as a score; the expected level is that of the row, and eval knows how far it is off."""
    (tmp_path / "scale.yaml").write_text("ordered: true\nlabels: [poor, fair, good, new]\n")
    (tmp_path / "used.csv").write_text(
        "title,label\nscreen is cracked,poor\nopened box like new,new\nsome scratches,fair\n"
    )
    how = ("--file", "used.csv", "--base-url", sparrow)
    ran = llmcat("classify", *how, "--taxonomy", "scale.yaml", "--out", "o.jsonl", LLMCAT_PROMPT="")
    assert ran.code == 0, ran.err
    rows = read_rows(tmp_path / "o.jsonl")
    at = {"poor": 1, "fair": 2, "good": 3, "new": 4}
    for row in rows:
        p = {row["label"]: row["confidence"]} | {a["label"]: a["p"] for a in row["alternatives"]}
        assert row["level"] == pytest.approx(sum(at[k] * v for k, v in p.items()), abs=1e-4)
    question = {"type": "score", "criteria": list(at),
                "instructions": "Which category does this item belong to?"}  # fmt: skip
    body = json.dumps({"state": "screen is cracked", "questions": {"q": question}}).encode()
    asked = Post(f"{sparrow}/v1/systemone", body, {"Content-Type": "application/json"})  # noqa: S310  loopback
    with urlopen(asked) as reply:  # noqa: S310  by hand
        by_hand = json.load(reply)["answers"]["q"]
    assert rows[0]["level"] == pytest.approx(by_hand["score"] + 1, abs=2e-3)
    ran = llmcat("eval", *how, "--labels", ",".join(at), "--ordered", LLMCAT_PROMPT="")
    assert "kappa quadratic" in ran.out
    assert "level error" in ran.out
    off = [abs(row["level"] - at[row["gold"]]) for row in rows]
    assert f"{sum(off) / 3:.4f}" in ran.out
    out = tmp_path / "o.csv"
    llmcat("classify", *how, "--taxonomy", "scale.yaml", "--out", out, "--keep", "none",
           LLMCAT_PROMPT="")  # fmt: skip
    assert out.read_text().splitlines()[0].endswith(",level")
    ran = llmcat("classify", *how, "--labels", "a,b", "--ordered", "--multi", LLMCAT_PROMPT="")
    assert ran.code == 2
    assert ran.err.startswith("llmcat: error: --ordered gives an item one level")
    ran = llmcat("classify", "--labels", "a,b", "--ordered", "--engine", "fake", stdin="x\n")
    assert 1 <= json.loads(ran.out)["level"] <= 2  # a menu read by codes, too


def test_names_it_cannot_tell_apart_are_named(sparrow: str, llmcat: Cli, tmp_path: Path) -> None:
    """Chinese names that its tokenizer does not know get one probability: said, not swallowed."""
    tags = "处理器,电视,牛肉,饮料,shoes"
    ran = llmcat("classify", "--labels", tags, "--engine", "systemone", "--base-url", sparrow,
                 LLMCAT_PROMPT="", stdin="red shoes\n")  # fmt: skip
    assert ran.code == 0
    assert "cannot tell 4 categories apart by their names (处理器, 电视" in ran.err


def test_doctor_says_what_a_decision_server_takes(sparrow: str, llmcat: Cli) -> None:
    """Form, model, limit; and whether the model reads what it is shown."""
    ran = llmcat("doctor", "--base-url", sparrow, LLMCAT_PROMPT="")
    assert "--engine systemone: sparrow-nano" in ran.out
    assert "options 127" in ran.out
    assert "a question takes 127 of them" in ran.out


def test_wordings_are_compared_like_any_prompt(sparrow: str, llmcat: Cli) -> None:
    """Retrieval alone, names, names with descriptions: a decision, paired, with what it took."""
    ran = llmcat("ab", *SHOP, "--base-url", sparrow, "--limit", "60", "--quiet",
                 "--a", "engine=retriever", "--b", "engine=systemone",
                 "--c", "engine=systemone,prompt=decide-described", LLMCAT_PROMPT="")  # fmt: skip
    assert ran.code == 0
    assert "b against a" in ran.out
    assert "c against a" in ran.out
    assert "McNemar" in ran.out


def test_a_chat_prompt_is_not_for_a_decision_model(sparrow: str, llmcat: Cli) -> None:
    """Refused with the prompts that are, and the other way round."""
    ran = llmcat("classify", "--labels", "a,b", "--base-url", sparrow, "--prompt", "zero-shot",
                 stdin="x\n")  # fmt: skip
    assert ran.code == 3
    assert "decide.en@1" in ran.err
    ran = llmcat("classify", "--labels", "a,b", "--engine", "fake", "--prompt", "decide",
                 stdin="x\n")  # fmt: skip
    assert ran.code == 3
    assert "cannot answer decide prompts" in ran.err


def test_several_labels_from_one_question(sparrow: str, llmcat: Cli) -> None:
    """`--multi` reads one question of all names; one name at a time would always be sure."""
    flags = ("--labels", "red things,shoes,bags,toys", "--base-url", sparrow)
    ran = llmcat("classify", *flags, "--multi", LLMCAT_PROMPT="", stdin="red shoes\n")
    assert ran.code == 0
    (row,) = ran.rows()
    assert {one["label"] for one in row["labels"]} >= {"shoes"}
    ran = llmcat("classify", *flags, "--multi", "each", LLMCAT_PROMPT="", stdin="red shoes\n")
    assert ran.code == 2
    assert "--multi menu" in ran.err


def test_calibrate_explain_and_the_line(sparrow: str, llmcat: Cli, tmp_path: Path) -> None:
    """Labels teach the weights and draw a line; a row says what the model added."""
    common = ("--taxonomy", EXAMPLES / "taxonomy.yaml", "--base-url", sparrow)
    ran = llmcat("calibrate", "--file", EXAMPLES / "items.jsonl", *common, LLMCAT_PROMPT="")
    assert ran.code == 0
    assert "reader" in ran.out
    out = tmp_path / "out.jsonl"
    ran = llmcat("classify", *SHOP, "--base-url", sparrow, "--artifact", "artifact.json",
                 "--accept-precision", "0.8", "--out", out, LLMCAT_PROMPT="")  # fmt: skip
    assert ran.code == 0
    rows = read_rows(out)
    assert {row["decision"] for row in rows} <= {"accept", "review", "none"}
    said = llmcat("explain", rows[0]["id"], "--run", out).out
    assert "reader" in said
    assert "offered" in said


def test_a_decision_model_steps_in_for_a_classifier(
    sparrow: str, llmcat: Cli, tmp_path: Path
) -> None:
    """The fallback labeler asks it about what the student is not sure of."""
    common = ("--taxonomy", EXAMPLES / "taxonomy.yaml")
    pool = EXAMPLES / "pool.jsonl"
    ran = llmcat("student", "train", "--file", pool, *common, "--out", "student")
    assert ran.code == 0
    out = tmp_path / "out.jsonl"
    flags = ("--file", EXAMPLES / "items.jsonl", *common, "--primary", "student", "--limit", "30")
    ran = llmcat("fallback", *flags, "--base-url", sparrow, "--out", out, LLMCAT_PROMPT="")
    assert ran.code in {0, 1}
    rows = read_rows(out)
    assert {"model", "primary"} & {row["by"] for row in rows}
    assert not any(row["degraded"] for row in rows)
    assert any(row["by"] != "primary" for row in rows)


def test_litellm_asks_a_provider(decider: str) -> None:
    """The same answers as over our own path, from the real vLLM server."""
    from llmcat.engines.litellm_decisions import LiteLLMDecisions

    form, options = FORMS["systemone"], {"retry_seconds": 5.0}
    ours = asked_of(DecisionServer(decider, form, **options), 5)  # type: ignore[arg-type]
    model = "hosted_vllm/tiny"
    theirs = asked_of(LiteLLMDecisions(decider, form, model, **options), 5)  # type: ignore[arg-type]
    for one, other in zip(ours, theirs, strict=True):
        assert one.error is other.error is None
        assert [math.exp(x) for x in one.logprobs] != []
        mine, its = ([math.exp(x - math.log(math.fsum(map(math.exp, a.logprobs))))
                      for x in a.logprobs] for a in (one, other))  # fmt: skip
        assert mine == pytest.approx(its, abs=1e-4)


def test_redaction_and_duplicates(sparrow: str, llmcat: Cli, tmp_path: Path) -> None:
    """What is masked is not sent; what looks the same is asked about once."""
    out = tmp_path / "out.jsonl"
    ran = llmcat("classify", "--labels", "shoes,bags", "--base-url", sparrow, "--out", out,
                 "--redact", "email", LLMCAT_PROMPT="",
                 stdin="red shoes, a@example.com\nred shoes, b@example.com\n")  # fmt: skip
    assert ran.code == 0
    assert "exact duplicates, asked once: 1" in ran.err


def test_an_empty_item_is_a_row_with_a_reason(sparrow: str, llmcat: Cli) -> None:
    """It is not asked about; the others are."""
    ran = llmcat("classify", "--labels", "shoes,bags", "--base-url", sparrow, LLMCAT_PROMPT="",
                 stdin='{"title": "red shoes"}\n{"title": " "}\n')  # fmt: skip
    assert ran.code == 1
    assert [row["decision"] for row in ran.rows()] == ["labelled", "error"]


def test_unknown_form() -> None:
    """An engine of decisions needs an address."""
    with pytest.raises(Exception, match="needs --base-url"):
        open_engine("decisions")


def test_a_model_behind_vllm_decides(decider: str, llmcat: Cli, tmp_path: Path) -> None:
    """26 options at most, the label mass of each answer, an order that matters: measured."""
    out = tmp_path / "out.jsonl"
    ran = llmcat("classify", *SHOP, "--engine", "systemone", "--base-url", decider, "--out", out,
                 "--limit", "12", LLMCAT_PROMPT="")  # fmt: skip
    assert ran.code == 0
    about = json.loads(Path(f"{out}.run.json").read_text())["about"]
    assert about["served"]["facts"]["options"] == "26"
    assert about["served"]["context"] == 2048
    assert len(about["evidence"]["place_prior"]) == 27
    rows = read_rows(out)
    assert all(0 < row["mass"] < 1 and len(row["evidence"]["offered"]) == 26 for row in rows)
    ran = llmcat("classify", "--labels", "a,b", "--engine", "systemone", "--base-url", decider,
                 "--model", "jev-latest", LLMCAT_PROMPT="", stdin="x\n")  # fmt: skip
    assert ran.code == 3
    assert "it serves tiny" in ran.err


def test_a_chat_server_under_systemone(server: str, llmcat: Cli) -> None:
    """The demo model's architecture does not decide: who is to ask it is said."""
    ran = llmcat("classify", "--labels", "a,b", "--engine", "systemone", "--base-url", server,
                 LLMCAT_PROMPT="", stdin="x\n")  # fmt: skip
    assert ran.code == 3
    assert "--engine vllm_http" in ran.err
