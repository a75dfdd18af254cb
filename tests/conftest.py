"""Shared fixtures: one real vLLM server per session, and a proxy that can spoil its traffic."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
ASK_FOR_IT = {"test_engines", "test_demo_model"}
"""Files whose fixtures take the server where a test's parameters want it."""
SERVERS = {"LLMCAT_VLLM_URL", "LLMCAT_LLAMACPP_URL", "LLMCAT_REAL_MODEL"}
DEMO_MODEL = ROOT / "serve" / "demo" / "llmcat_demo" / "model"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real", action="store_true", help="run the tests of a whole real model")
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        # In two processes: what needs the server in the one that starts it, a file's rest together.
        group = item.path.stem
        if "server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.server)
            group = "server"
        elif group in ASK_FOR_IT:
            group = "server"
        item.add_marker(pytest.mark.xdist_group(group))
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="minutes, not seconds: run with --slow"))


@pytest.fixture(autouse=True)
def _clean_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the developer's own settings, and each has a folder of its own."""
    for name in list(os.environ):
        if name.startswith("LLMCAT_") and name not in SERVERS:
            monkeypatch.delenv(name)
    # The demo model, which most tests serve, was trained on prompts that put the menu first.
    monkeypatch.setenv("LLMCAT_PROMPT", "zero-shot")
    monkeypatch.chdir(tmp_path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real vLLM CPU server with the demo model, by `llmcat serve model`.

    LLMCAT_VLLM_URL names a server that runs already instead.
    """
    if url := os.environ.get("LLMCAT_VLLM_URL"):
        yield url
        return
    if util.find_spec("vllm") is None:
        pytest.fail("vLLM is not installed; `make test` installs it", pytrace=False)
    with serve(DEMO_MODEL, tmp_path_factory.mktemp("server") / "log") as url:
        yield url


@contextmanager
def serve(model: Path, log: Path, *extra: str) -> Iterator[str]:
    """Run a model server until the end of the block."""
    port = free_port()
    command = [sys.executable, "-m", "llmcat", "serve", "model", "--model", str(model)]
    command += ["--name", "tiny", "--profile", "cpu", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, "--", "--max-model-len", "4096", "--dtype", "float32", *extra],
            stdout=sink, stderr=sink, env=environment, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"vLLM did not start:\n{log.read_text()[-3000:]}", pytrace=False)
            time.sleep(0.5)
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2):  # noqa: S310
            return True
    except OSError:
        return False


Tamper = Callable[[str, dict[str, Any]], Awaitable[web.StreamResponse | None]]


class InThread:
    """Something asynchronous in a thread of its own: `start` begins it, `stop` ends it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.run(self.start())

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    async def _end(self) -> None:
        await self.stop()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0.2)  # transports close in the loop's next rounds

    def close(self) -> None:
        self.run(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


class Proxy(InThread):
    """Stands before the real server. `tamper(path, body)` may change the body it forwards,
    or answer itself; `kill()` closes the door in the middle of everything.
    """  # noqa: D205

    def __init__(self, target: str) -> None:
        self.target, self.port = target, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.tamper: Tamper | None = None
        self.bodies: list[dict[str, Any]] = []
        super().__init__()

    async def start(self) -> None:
        self.client = aiohttp.ClientSession()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw) if raw else {}
        if request.path.endswith("/chat/completions"):
            self.bodies.append(body)
        if self.tamper and (reply := await self.tamper(request.path, body)) is not None:
            return reply
        url = f"{self.target}{request.path}"
        async with self.client.request(request.method, url, json=body or None) as reply:
            return web.Response(
                status=reply.status, body=await reply.read(), content_type=reply.content_type
            )

    def kill(self) -> None:
        """Close the door; safe to call from a tamper."""
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop)

    async def stop(self) -> None:
        await self.runner.cleanup()
        await self.client.close()


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    """A proxy before the real server, harmless until it is told to tamper."""
    proxy = Proxy(server)
    yield proxy
    proxy.close()


class Ran:
    """What a command printed and returned."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def llmcat(tmp_path: Path) -> Callable[..., Ran]:
    """Run `llmcat` in a process of its own, in the test's folder."""

    def run(*args: object, stdin: str | bytes = "", **env: str) -> Ran:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [sys.executable, "-m", "llmcat", *map(str, args)],
            input=data, capture_output=True, cwd=tmp_path, timeout=120, check=False,
            env={**os.environ, "COLUMNS": "100", **env},
        )  # fmt: skip
        text = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )
        assert "Traceback" not in text.stderr, text.stderr
        return Ran(text)

    return run


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
