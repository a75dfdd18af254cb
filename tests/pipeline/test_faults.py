"""Faults that really happen, against processes that really die: what is answered stays answered.

The server is the benchmarks' stub (eval/bench/stub.py), which speaks vLLM's dialect and answers at
once; between it and llmcat stands, where needed, a TCP proxy that misbehaves on the wire.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import ROOT, InThread, Ran, free_port, read_rows

Cli = Callable[..., Ran]


class Stub:
    """The stub server as a process that can be killed and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        script = ROOT / "eval" / "bench" / "stub.py"
        self.process = subprocess.Popen([sys.executable, script, str(self.port)])
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.url}/health", timeout=1).close()  # noqa: S310
                return
            time.sleep(0.05)
        pytest.fail("the stub did not start", pytrace=False)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.kill()


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """Fifteen hundred items, distinct."""
    path = tmp_path / "items.jsonl"
    path.write_text("".join(f'{{"id":"{i}","title":"thing {i}"}}\n' for i in range(1500)))
    return path


def flags(url: str, out: str = "o.jsonl") -> tuple[str, ...]:
    return (
        "classify", "--file", "items.jsonl", "--out", out, "--labels", "a,b,c",
        "--base-url", url, "--concurrency", "8",
    )  # fmt: skip


def begin(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "llmcat", *arguments],
        cwd=tmp_path, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def wait_for_rows(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def complete(path: Path, count: int = 1500) -> list[dict[str, object]]:
    """The rows of a finished file: every one, once, in order."""
    rows = read_rows(path)
    assert [r["row"] for r in rows] == list(range(count))
    return rows


# -- the server -------------------------------------------------------------------------------


def test_a_server_killed_and_restarted_under_load(stub: Stub, items: Path, tmp_path: Path) -> None:
    """The run waits for it and goes on: no row is lost, none is an error."""
    process = begin(tmp_path, *flags(stub.url))
    for rows in (200, 600):
        wait_for_rows(tmp_path / "o.jsonl", rows, process)
        stub.kill()
        time.sleep(0.7)
        stub.start()
    assert process.wait(60) == 0, process.stderr.read() if process.stderr else ""
    process.stderr.close()  # type: ignore[union-attr]
    assert {r["decision"] for r in complete(tmp_path / "o.jsonl")} == {"labelled"}


def test_a_server_that_stays_away(stub: Stub, items: Path, tmp_path: Path, llmcat: Cli) -> None:
    """After `--retry-seconds` the run ends with exit code 3 and can go on later."""
    process = begin(tmp_path, *flags(stub.url), "--retry-seconds", "1")
    wait_for_rows(tmp_path / "o.jsonl", 100, process)
    stub.kill()
    assert process.wait(60) == 3
    said = process.stderr.read()  # type: ignore[union-attr]
    process.stderr.close()  # type: ignore[union-attr]
    assert "no server at" in said
    assert "Traceback" not in said
    stub.start()
    assert llmcat(*flags(stub.url), "--retry-seconds", "1").code == 0
    assert {r["decision"] for r in complete(tmp_path / "o.jsonl")} == {"labelled"}


@pytest.fixture
def student(tmp_path: Path, llmcat: Cli) -> tuple[str, ...]:
    """A classifier of four categories, beside two that it never saw; the flags that use it."""
    rows = [
        {"title": f"{name} of kind {i}", "label": name}
        for name in ("apple", "pear", "plum", "fig")
        for i in range(20)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = ("--labels", "apple,pear,plum,fig,chair,table")
    assert llmcat("student", "train", "--file", "train.jsonl", *labels).code == 0
    return ("fallback", "--file", "items.jsonl", "--out", "o.jsonl", *labels, "--primary",
            "student", "--concurrency", "8")  # fmt: skip


def test_the_model_dies_in_the_middle_of_a_fallback_stream(
    stub: Stub, items: Path, tmp_path: Path, llmcat: Cli, student: tuple[str, ...]
) -> None:
    """Every item is answered; what the model should have been asked is marked, and asked later."""
    url = ("--base-url", stub.url, "--retry-seconds", "0.5")
    process = begin(tmp_path, *student, *url)
    wait_for_rows(tmp_path / "o.jsonl", 200, process)
    stub.kill()
    assert process.wait(60) == 0
    said = process.stderr.read()  # type: ignore[union-attr]
    process.stderr.close()  # type: ignore[union-attr]
    assert "degraded" in said
    rows = complete(tmp_path / "o.jsonl")
    assert {row["decision"] for row in rows} <= {"labelled", "none"}
    lost = [row for row in rows if row["degraded"]]
    assert lost
    assert not any(row["degraded"] for row in rows[:100])
    assert all("away" in str(row["why"]) and row["label"] for row in lost)
    stub.start()
    assert llmcat(*student, *url, "--redo", "degraded").code == 0
    after = complete(tmp_path / "o.jsonl")
    assert not any(row["degraded"] for row in after)
    assert [a for a, b in zip(after, rows, strict=True) if not b["degraded"]] == [
        row for row in rows if not row["degraded"]
    ]


def test_a_fallback_run_that_is_killed_goes_on(
    stub: Stub, items: Path, tmp_path: Path, llmcat: Cli, student: tuple[str, ...]
) -> None:
    """Every row once, in order; the store has a word of the primary about each."""
    url = ("--base-url", stub.url)
    process = begin(tmp_path, *student, *url)
    wait_for_rows(tmp_path / "o.jsonl", 200, process)
    process.kill()
    process.wait()
    process.stderr.close()  # type: ignore[union-attr]
    assert llmcat(*student, *url).code == 0
    assert not any(row["degraded"] for row in complete(tmp_path / "o.jsonl"))
    stats = llmcat("labels", "stats").out
    assert "1,500" in stats


def test_a_name_that_no_dns_knows(items: Path, llmcat: Cli) -> None:
    """One line, exit code 3, at once."""
    started = time.monotonic()
    ran = llmcat(*flags("http://no-such-host.invalid:8000"), "--retry-seconds", "1")
    assert ran.code == 3
    assert "no-such-host.invalid" in ran.err
    assert time.monotonic() - started < 30


# -- the wire ---------------------------------------------------------------------------------


class Wire(InThread):
    """A TCP proxy: every `every`-th request for an answer meets the fault instead."""

    def __init__(self, target: int, fault: Callable[..., Awaitable[None]], every: int) -> None:
        self.port, self.target, self.fault, self.every = free_port(), target, fault, every
        self.asked = self.met = 0
        self.ends: list[asyncio.StreamWriter] = []
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__()

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.handle, "127.0.0.1", self.port)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ends.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            above, up = await asyncio.open_connection("127.0.0.1", self.target)
            self.ends.append(up)
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(length(head))
                if b"/chat/completions" in head:
                    self.asked += 1
                    if self.asked > 20 and self.asked % self.every == 0:  # the canary is let be
                        self.met += 1
                        await self.fault(writer)
                        break
                up.write(head + body)
                answer = await above.readuntil(b"\r\n\r\n")
                writer.write(answer + await above.readexactly(length(answer)))
                await writer.drain()
        writer.close()

    async def stop(self) -> None:
        self.server.close()
        for writer in self.ends:
            writer.transport.abort()


def length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(random.Random(0).randbytes(5000))
    await writer.drain()


async def no_json(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Content-Length: 9\r\n\r\n<html>hi\n")
    await writer.drain()


async def truncated(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b'Content-Length: 5000\r\n\r\n{"choices": [')
    await writer.drain()


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def dripping(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Content-Length: 5000\r\n\r\n")
    for _ in range(300):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.1)


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    for _ in range(2000):
        writer.write(chunk)
        await writer.drain()


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


FAULTS = [no_http, no_json, truncated, silent, dripping, endless, reset]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_what_goes_wrong_on_the_wire_is_asked_again(
    stub: Stub, items: Path, tmp_path: Path, llmcat: Cli, fault: Callable[..., Awaitable[None]]
) -> None:
    """Bodies that are garbage, cut, slow or endless; a peer that says nothing or hangs up."""
    wire = Wire(stub.port, fault, every=250)
    try:
        ran = llmcat(*flags(wire.url), "--timeout", "1")
    finally:
        wire.close()
    assert ran.code == 0, ran.err
    assert wire.met >= 4
    assert {r["decision"] for r in complete(tmp_path / "o.jsonl")} == {"labelled"}


# -- this process -----------------------------------------------------------------------------


def test_killed_at_fifty_moments(stub: Stub, items: Path, tmp_path: Path, llmcat: Cli) -> None:
    """Before the first row, between rows, while writing: the end is as if nothing had happened."""
    draw, kills = random.Random(5), 0
    out = tmp_path / "o.jsonl"
    whole = llmcat(*flags(stub.url, "whole.jsonl"))
    assert whole.code == 0
    while kills < 50:
        process = begin(tmp_path, *flags(stub.url), "--concurrency", "1", "--quiet")
        moment = draw.uniform(0.2, 1.4)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        ended = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]
        kills += 1
        if ended:  # it was done: begin anew
            assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
            out.unlink()
            (tmp_path / "o.jsonl.run.json").unlink()
    assert llmcat(*flags(stub.url)).code == 0
    rows = complete(out)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    record = json.loads((tmp_path / "o.jsonl.run.json").read_text())
    assert sum(s["rows_written"] for s in record["sessions"]) <= len(rows)


# -- the clock --------------------------------------------------------------------------------

JUMPING = """
import random, sys, threading, time
real, drift = time.time, [0.0]
def jump():
    draw = random.Random(1)
    while True:
        time.sleep(0.05)
        drift[0] += draw.choice([-86_400.0, 3_600.0, 1e7])
time.time = lambda: real() + drift[0]
threading.Thread(target=jump, daemon=True).start()
from llmcat.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_clock_that_jumps(stub: Stub, items: Path, tmp_path: Path) -> None:
    """Days forward and back in the middle of a run, the server away meanwhile: nobody notices."""
    command = [sys.executable, "-c", JUMPING, *flags(stub.url)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for_rows(tmp_path / "o.jsonl", 200, process)
    stub.kill()
    time.sleep(0.7)
    stub.start()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert {r["decision"] for r in complete(tmp_path / "o.jsonl")} == {"labelled"}
    record = json.loads((tmp_path / "o.jsonl.run.json").read_text())
    assert 0.7 < record["sessions"][-1]["seconds"] < 60
