"""What tests share: a server, a proxy that can spoil its traffic, the command line's words."""

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
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
DEMO_MODEL = ROOT / "serve" / "demo" / "llmcat_demo" / "model"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(
    model: Path, log: Path, *extra: str, name: str = "tiny", profile: str = "cpu", room: int = 4096
) -> Iterator[str]:
    """Run `llmcat serve model` until the end of the block. `room` 0: what the model itself has."""
    port = free_port()
    command = [sys.executable, "-m", "llmcat", "serve", "model", "--model", str(model)]
    command += ["--name", name, "--profile", profile, "--port", str(port)]
    command += ["--", "--dtype", "float32"]
    if room:
        command += ["--max-model-len", str(room)]
    command += extra
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, env=environment, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while not healthy(url):
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


def tiny_qwen3(folder: Path) -> Path:
    """Make a Qwen3 of two layers and random weights, with the demo model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=4096,
        tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def healthy(url: str) -> bool:
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


class Ran:
    """What a command printed and returned."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
