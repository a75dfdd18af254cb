"""Servers that are slow, busy, silent or not what they are taken for; each of them is a real one.

The vLLM dialect is the benchmarks' stub's (eval/bench/stub.py), the others are `dialects`'.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from dialects import Dialects
from helpers import ROOT, InThread, Ran, free_port
from llmcat_serve import launch

from llmcat import Taxonomy
from llmcat.candidates.plan import Plan
from llmcat.checks import doctor
from llmcat.config import load
from llmcat.engines import Engine, Served
from llmcat.engines.hardware import lacks_bf16
from llmcat.engines.registry import open_engine
from llmcat.engines.vllm_http import VllmHttp
from llmcat.errors import EngineBusy, EngineDown, EngineError, EngineTimeout, EngineUnsupported
from llmcat.evaluation.speed import duration
from llmcat.prompting import templates
from llmcat.prompting.builder import Task
from llmcat.records import Answer, Item, Request
from llmcat.transport.rate import START, InFlight
from llmcat.transport.retry import refusal

sys.path.insert(0, str(ROOT / "eval" / "bench"))
import stub

LABELS = Taxonomy.from_labels(["shoes", "bags", "toys"])
Answering = Callable[[web.Request], Any]


class Queue(InThread):
    """A vLLM that takes `seconds` for each answer, `hands` of them at a time, the rest in a queue.

    After `falls_silent` answers it says nothing more. `busy` holds how often a path is refused
    before it answers, and the headers of the refusals.
    """

    def __init__(
        self, *, seconds: float = 0.0, hands: int = 1, falls_silent: int = 1 << 30
    ) -> None:
        self.seconds, self.hands, self.falls_silent = seconds, hands, falls_silent
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.busy: dict[str, list[tuple[int, dict[str, str]]]] = {}
        self.asked: Counter[str] = Counter()
        self.inside = self.most = self.answered = 0
        super().__init__()

    async def start(self) -> None:
        self.turn = asyncio.Semaphore(self.hands)
        app = web.Application(client_max_size=1 << 26, middlewares=[self._refuse])
        self.routes(app)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/v1/models", stub.models)
        app.router.add_post("/tokenize", stub.tokenize)
        app.router.add_post("/detokenize", stub.detokenize)
        app.router.add_post("/v1/chat/completions", self._queued(stub.answer))

    def _queued(self, answer: Answering) -> Answering:
        async def queued(request: web.Request) -> web.StreamResponse:
            self.inside += 1
            self.most = max(self.most, self.inside)
            try:
                async with self.turn:
                    if self.answered >= self.falls_silent:
                        await asyncio.sleep(60)
                    await asyncio.sleep(self.seconds)
                    self.answered += 1
                return await answer(request)  # type: ignore[no-any-return]
            finally:
                self.inside -= 1

        return queued

    @web.middleware
    async def _refuse(self, request: web.Request, handler: Answering) -> web.StreamResponse:
        self.asked[request.path] += 1
        if left := self.busy.get(request.path):
            status, headers = left.pop()
            why = {"error": {"message": "not now"}}
            return web.json_response(why, status=status, headers=headers)
        return await handler(request)  # type: ignore[no-any-return]

    async def stop(self) -> None:
        await self.runner.cleanup()


class Spoken(Queue):
    """The same queue before OpenAI's dialect."""

    def routes(self, app: web.Application) -> None:
        spoken = Dialects.__new__(Dialects)
        spoken.ignoring, spoken.failing, spoken.bodies = False, {}, []
        app.router.add_get("/{dialect}/v1/models", spoken._models)
        app.router.add_post("/{dialect}/v1/chat/completions", self._queued(spoken._chat))


@pytest.fixture
def begun() -> Iterator[Callable[[InThread], Any]]:
    """Ends at the end of the test what is put in."""
    running: list[InThread] = []

    def begin(server: InThread) -> Any:
        running.append(server)
        return server

    yield begin
    for server in running:
        server.close()


ENGINES = ["vllm_http", "openai", "litellm"]


def reaching(name: str, **queue: Any) -> tuple[Queue, Callable[..., Engine]]:
    """A server that an engine can ask, and what makes the engine."""
    server = Queue(**queue) if name == "vllm_http" else Spoken(**queue)
    url = server.url if name == "vllm_http" else f"{server.url}/openai/v1"
    model = {"litellm": "openai/m"}.get(name, "")
    return server, lambda **o: open_engine(name, base_url=url, model=model, **o)


def asked(engine: Engine, count: int) -> list[Answer]:
    """Open an engine, ask so many items, close it."""

    async def run() -> list[Answer]:
        try:
            served = await engine.open()
            return [a async for a in engine.answer(asks(served, count))]
        finally:
            await engine.close()

    return asyncio.run(run())


async def asks(served: Served, count: int) -> AsyncIterator[Request]:
    plan = Plan(LABELS, served.alphabet)
    task = Task(plan, templates.load("zero-shot"), mass_sample=0)
    for i in range(count):
        item = Item(i, str(i), {"title": f"thing {i}"})
        yield task.ask(*task.fit(item), plan.whole)


# -- slow is not dead ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
def test_a_slow_server_makes_no_error(name: str, begun: Any) -> None:
    """Sixty-four items at one in 0.1 s: the last waits six times the time-out, and is answered."""
    server, engine = reaching(name, seconds=0.1)
    begun(server)
    answers = asked(engine(timeout=1.0), 64)
    assert sorted(a.request.item.row for a in answers) == list(range(64))
    assert [a.error for a in answers if a.error] == []
    assert server.most <= 2 * START  # of 64 that are allowed


def test_the_queue_at_a_slow_server_stays_short() -> None:
    """One answer in 20 ms, a quarter of a second of silence allowed, 64 at once: a few wait."""
    turn, waiting, seen = asyncio.Lock(), 0, []

    async def one(_: int) -> None:
        nonlocal waiting
        waiting += 1
        async with turn:
            await asyncio.sleep(0.02)
        seen.append(waiting)
        waiting -= 1

    driven(InFlight(64, 0.25, "us"), 200, one, workers=64)
    assert max(seen) <= 2 * START
    assert 2 <= sum(seen[100:]) / 100 <= START


@pytest.mark.parametrize("name", ENGINES)
def test_a_server_that_falls_silent(name: str, begun: Any) -> None:
    """What it has answered stays; the rest fail, and no earlier than the silence lasts."""
    server, engine = reaching(name, falls_silent=20)
    begun(server)
    made = engine(timeout=0.5, retry_seconds=1.0)
    made.attempts = 1  # type: ignore[attr-defined]
    started = time.monotonic()
    answers = asked(made, 30)
    failed = [a for a in answers if a.error]
    canary = 6 if name == "vllm_http" else 2
    assert len(answers) - len(failed) == 20 - canary
    assert all(isinstance(a.error, EngineTimeout) for a in failed)
    assert "not one answer within 0.5 s" in str(failed[0].error)
    assert time.monotonic() - started >= 0.5


@pytest.mark.parametrize("name", ENGINES)
def test_a_fast_server_soon_has_as_many_as_are_allowed(name: str, begun: Any) -> None:
    """A server that works at all of them at once, in a few rounds of answers."""
    server, engine = reaching(name, seconds=0.2, hands=64)
    begun(server)
    started = time.monotonic()
    assert len(asked(engine(concurrency=32), 150)) == 150
    assert server.most == 32
    assert time.monotonic() - started < 8


# -- the policy ---------------------------------------------------------------------------------


def driven(
    policy: InFlight, requests: int, one: Callable[[int], Any], *, workers: int = 16
) -> list[float]:
    """Send requests, as many at a time as are let; the limit after each."""
    limits = []

    async def run() -> None:
        todo = iter(range(requests))

        async def work() -> None:
            for i in todo:
                with suppress(EngineBusy):
                    await policy.send(lambda i=i: one(i), "code")  # type: ignore[misc]
                limits.append(policy.limit)

        await asyncio.gather(*(work() for _ in range(workers)))

    asyncio.run(run())
    return limits


def test_it_halves_once_for_a_round_that_is_refused() -> None:
    """Then it grows by one in a round, not by one an answer."""

    async def one(i: int) -> None:
        await asyncio.sleep(0.005)
        if 200 <= i < 204:
            raise EngineBusy("429", patient=True)

    limits = driven(InFlight(12, 60.0, "us"), 300, one)
    assert max(limits[:190]) == 12
    assert min(limits) == 6
    grown = limits[-1] - 6
    assert 2 < grown < 6.1


def test_a_server_that_was_away_begins_anew() -> None:
    """No more than at first, but soon as many as before."""

    async def one(i: int) -> None:
        await asyncio.sleep(0.001)
        if i == 200:
            raise EngineDown("gone")

    policy = InFlight(14, 60.0, "us")
    with pytest.raises(EngineDown):
        driven(policy, 201, one)
    assert policy.limit == START
    assert driven(policy, 100, one)[-1] == 14


def test_first_come_first_served() -> None:
    """Whoever has just been answered does not go before those that wait."""
    began = []

    async def one(i: int) -> None:
        began.append(i)
        await asyncio.sleep(0.001)

    driven(InFlight(4, 60.0, "us"), 200, one, workers=64)
    assert began == list(range(200))


def test_what_waits_for_its_turn_can_be_given_up() -> None:
    """Cancelled, it takes nobody's turn along."""

    async def run() -> list[int]:
        policy = InFlight(1, 60.0, "us")
        gate, came = asyncio.Event(), []

        async def one(i: int) -> None:
            await gate.wait()
            came.append(i)

        tasks = []
        for i in range(4):
            tasks.append(asyncio.create_task(policy.send(lambda i=i: one(i))))  # type: ignore[misc]
            await asyncio.sleep(0)
        tasks[1].cancel()
        gate.set()
        await asyncio.sleep(0)
        tasks[2].cancel()  # called by now, or about to be
        await asyncio.gather(*tasks, return_exceptions=True)
        return came

    assert asyncio.run(asyncio.wait_for(run(), 5)) == [0, 3]


# -- patience while an engine opens -------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("path", ["/v1/models", "/detokenize", "/v1/chat/completions"])
def test_a_server_that_is_busy_when_it_is_opened(begun: Any, path: str, status: int) -> None:
    """It is waited for as long as it says, in seconds or until a date."""
    server, engine = reaching("vllm_http")
    begun(server)
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.busy[path] = [(status, {"Retry-After": "1"}), (status, {"Retry-After": until})]
    started = time.monotonic()
    assert [a.error for a in asked(engine(retry_seconds=20.0), 3)] == [None] * 3
    assert time.monotonic() - started > 1.5


@pytest.mark.parametrize("name", ["openai", "litellm"])
def test_a_provider_that_is_busy_when_it_is_opened(begun: Any, name: str) -> None:
    """The list of models, and the canary's requests; the constraint is proved all the same."""
    server, engine = reaching(name)
    begun(server)
    for path in ("/openai/v1/models", "/openai/v1/chat/completions"):
        server.busy[path] = [(429, {"Retry-After": "0.3"}), (503, {})]
    assert [a.error for a in asked(engine(retry_seconds=20.0), 3)] == [None] * 3
    assert server.asked["/openai/v1/chat/completions"] == 2 + 2 + 3


def test_a_server_that_stays_busy_is_given_up(begun: Any) -> None:
    """After --retry-seconds, with its own words."""
    server, engine = reaching("vllm_http")
    begun(server)
    server.busy["/tokenize"] = [(503, {})] * 500
    started = time.monotonic()
    with pytest.raises(EngineBusy, match="not now"):
        asked(engine(retry_seconds=1.0), 1)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("name", ENGINES)
def test_a_server_that_is_gone_when_it_is_opened_again(name: str) -> None:
    """Told at once, as where nobody ever was: whoever opens it again has other things to do."""
    server, engine = reaching(name)
    made = engine(retry_seconds=30.0)

    async def run() -> float:
        try:
            await made.open()
            await asyncio.to_thread(server.close)
            started = time.monotonic()
            with pytest.raises(EngineDown):
                await made.open()
            return time.monotonic() - started
        finally:
            await made.close()

    assert asyncio.run(run()) < 5


def after(header: str, **headers: str) -> float:
    return refusal(503, "busy", {"Retry-After": header, **headers}).retry_after


def test_a_date_to_wait_for() -> None:
    """By the server's clock where it tells the time; in bounds, never negative."""
    now = datetime(2001, 1, 1, 12, tzinfo=UTC)  # its clock is wrong by decades

    def date(seconds: float) -> str:
        return format_datetime(now + timedelta(seconds=seconds), usegmt=True)

    assert after(date(7), Date=date(0)) == 7.0
    assert after(date(-7), Date=date(0)) == 0.0
    assert after(date(1e7), Date=date(0)) == 300.0
    assert after(date(7)) == 0.0  # past by our clock
    soon = datetime.now(UTC) + timedelta(seconds=30)
    assert 25.0 < after(format_datetime(soon, usegmt=True)) <= 30.0
    assert 25.0 < after(format_datetime(soon.replace(tzinfo=None))) <= 30.0
    for said, seconds in (("2.5", 2.5), ("-1", 0.0), ("1e9", 300.0), ("nan", 0.0), ("soon", 0.0),
                          ("", 0.0), ("Mon, 99 Foo 2001", 0.0)):  # fmt: skip
        assert after(said) == seconds


# -- servers that are not vLLM ------------------------------------------------------------------

MODELS = {"object": "list", "data": [{"id": "m"}]}
LOST = {"error": "Unexpected endpoint or method. Returning 200 anyway"}
KINDS: dict[str, tuple[str, dict[str, Any], Any]] = {
    # dialect, what answers by path, what everything else answers (None: 404)
    "llama.cpp": (
        "llamacpp",
        {
            "/v1/models": MODELS,
            "/props": {"default_generation_settings": {}, "total_slots": 1},
            "/tokenize": {"tokens": []},
            "/detokenize": {"content": ""},
        },
        None,
    ),
    "SGLang": (
        "sglang",
        {"/v1/models": MODELS, "/get_model_info": {"model_path": "m", "is_generation": True}},
        None,
    ),
    "Text Generation Inference": (
        "tgi",
        {"/v1/models": MODELS, "/info": {"model_id": "m", "version": "3.3"}},
        None,
    ),
    "Ollama": ("ollama", {"/v1/models": MODELS, "/api/version": {"version": "0.12.0"}}, None),
    "LM Studio": ("ollama", {"/v1/models": MODELS, "/api/v0/models": MODELS}, LOST),
}


class Kind(InThread):
    """A server with fixed replies."""

    def __init__(self, replies: dict[str, Any], otherwise: Any, header: str = "") -> None:
        self.replies, self.otherwise, self.header = replies, otherwise, header
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._reply)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()

    async def _reply(self, request: web.Request) -> web.Response:
        said = self.replies.get(request.path, self.otherwise)
        headers = {"Server": self.header} if self.header else {}
        if said is None:
            return web.Response(status=404, headers=headers)
        return web.json_response(said, headers=headers)

    async def stop(self) -> None:
        await self.runner.cleanup()


def refused(server: Kind) -> EngineError:
    with pytest.raises(EngineUnsupported) as caught:
        asked(VllmHttp(server.url, retry_seconds=1.0), 1)
    return caught.value


@pytest.mark.parametrize("name", KINDS)
def test_a_server_of_another_kind_is_named(begun: Any, name: str) -> None:
    """And which engine and dialect reach it."""
    dialect, replies, otherwise = KINDS[name]
    server = begun(Kind(replies, otherwise))
    error = refused(server)
    assert str(error) == f"{server.url} is {name}, not vLLM"
    assert error.hint == (
        f"--engine openai --base-url {server.url}/v1 --engine-option dialect={dialect}"
    )


def test_llama_cpp_is_known_by_its_name_too(begun: Any) -> None:
    """Where /props is closed, the header tells."""
    _, replies, _ = KINDS["llama.cpp"]
    rest = {path: said for path, said in replies.items() if path != "/props"}
    assert "is llama.cpp" in str(refused(begun(Kind(rest, None, "llama.cpp"))))


def test_a_server_that_nobody_knows(begun: Any) -> None:
    """It says what was missing, and that there is another engine."""
    error = refused(begun(Kind({"/v1/models": MODELS}, None)))
    assert "has no /tokenize" in str(error)
    assert "--engine openai" in error.hint


# -- slow machines ------------------------------------------------------------------------------

OLD_CPU = "processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f avx512_vnni\nbugs\t\t: spectre_v1\n"


def test_a_cpu_without_bfloat16_is_seen() -> None:
    """By the features that it lists; one that lists none tells nothing."""
    assert lacks_bf16(OLD_CPU)
    assert lacks_bf16("processor\t: 0\nFeatures\t: fp asimd crc32\n")
    for one in ("avx512_bf16", "amx_bf16"):
        assert not lacks_bf16(OLD_CPU.replace("avx512_vnni", one))
    assert not lacks_bf16("Features\t: fp asimd bf16\n")
    assert not lacks_bf16("")
    assert not lacks_bf16("cpu\t\t: POWER9\n")


def test_the_profile_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bfloat16 is slow, float32; each step bounded; the user's flags come last."""
    monkeypatch.setattr(launch, "_gpus", lambda: 0)
    for text, added in ((OLD_CPU, ["float32"]), (OLD_CPU + "flags : amx_bf16", []), ("", [])):
        monkeypatch.setattr(launch, "cpuinfo", lambda text=text: text)
        for profile in ("cpu", "classify", "decide"):
            environment, command = launch.command_for("m", profile=profile)
            assert [b for a, b in pairwise(command) if a == "--dtype"] == added
            assert int(environment["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"]) > 300
        _, command = launch.command_for("m", profile="gpu")
        assert not {"--dtype", "--max-num-batched-tokens"} & {*command}
    monkeypatch.setattr(launch, "cpuinfo", lambda: OLD_CPU)
    monkeypatch.setenv("VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", "7")
    own = ["--dtype", "bfloat16", "--max-num-batched-tokens", "512"]
    environment, command = launch.command_for("m", profile="cpu", extra=own)
    assert environment["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] == "7"
    assert command[-4:] == own
    assert command.index("--max-num-batched-tokens") < len(command) - 4


def test_doctor_says_how_long_the_file_takes(llmcat: Callable[..., Ran], tmp_path: Path) -> None:
    """The user's rows where there are some, else a million like the examples."""
    (tmp_path / "mine.txt").write_text("red shoes\n" * 70)
    said = llmcat("doctor", "--engine", "fake", "--labels", "shoes,bags", "--file", "mine.txt").out
    assert re.search(r"speed: reads [\d,]+ tokens/s.*; your 70 rows take about 0 min", said)
    assert "a million items like these take" in llmcat("doctor", "--engine", "fake").out


def test_doctor_on_a_cpu_that_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It warns where the reason can be known; elsewhere the rate is all it says."""
    monkeypatch.setattr(doctor, "cpuinfo", lambda: OLD_CPU)
    monkeypatch.setattr(doctor, "which_program", lambda _: None)
    here = load(base_url="http://localhost:8000")
    slow = doctor._speed(here, 4000, 32.0, 32)
    assert slow.level == "warn"
    assert slow.found == (
        "reads 125 tokens/s, cached ones aside; a million items like these take about 11 days 13 h"
    )
    assert "--dtype float32" in slow.todo
    own = load(engine="transformers_local", model="m")
    assert "--engine-option dtype=float32" in doctor._speed(own, 4000, 32.0, 32).todo
    well = [
        (here, 40_000),  # fast
        (here, 400),  # nearly all was cached
        (load(base_url="http://10.0.0.7:8000"), 4000),  # another machine
        (load(engine="transformers_local", model="m", engine_option="dtype=float32"), 4000),
    ]
    assert {doctor._speed(c, tokens, 32.0, 32).level for c, tokens in well} == {"ok"}
    monkeypatch.setattr(doctor, "cpuinfo", lambda: "")
    assert doctor._speed(here, 4000, 32.0, 32).level == "ok"


def test_times_in_words() -> None:
    """From seconds to years."""
    for seconds, said in ((5, "0 min 5 s"), (3720, "1 h 2 min"), (90_000, "1 day 1 h"),
                          (1.2e6, "13 days 21 h"), (1e8, "1,157 days 9 h")):  # fmt: skip
        assert duration(seconds) == said
