"""Shared fixtures: one real vLLM server per session, and a proxy that can spoil its traffic."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import util
from pathlib import Path

import hypothesis
import pytest
from helpers import DEMO_MODEL, Proxy, Ran, free_port, healthy, serve, tiny_qwen3

from llmcat.cli.main import main
from llmcat.errors import LlmcatWarning

hypothesis.settings.register_profile("untimed", deadline=None)  # no test fails for being slow
hypothesis.settings.load_profile("untimed")

ASK_FOR_IT = {"test_engines", "test_demo_model"}
"""Files whose fixtures take the server where a test's parameters want it."""
SERVERS = {"LLMCAT_VLLM_URL", "LLMCAT_LLAMACPP_URL", "LLMCAT_REAL_MODEL"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real", action="store_true", help="run the tests of a whole real model")
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        # In two processes: what needs the server in the one that starts it, a file's rest together.
        group = item.path.stem
        if {"server", "decider"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)
            group = "server"
        elif group in ASK_FOR_IT:
            group = "server"
        item.add_marker(pytest.mark.xdist_group(group))
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="minutes, not seconds: run with --slow"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to run where xdist would scatter what belongs together, as under pytest 9.2."""
    grouped = getattr(session.config.option, "loadgroup", False)
    if grouped and not all("@" in item.nodeid for item in session.items):
        pytest.exit(
            "pytest-xdist does not group these tests: are both packages as in pyproject?", 4
        )


@pytest.fixture(autouse=True)
def _clean_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the developer's own settings, and each has a folder of its own."""
    for name in list(os.environ):
        if name.startswith("LLMCAT_") and name not in SERVERS:
            monkeypatch.delenv(name)
    # The demo model, which most tests serve, was trained on prompts that put the menu first.
    monkeypatch.setenv("LLMCAT_PROMPT", "zero-shot")
    monkeypatch.chdir(tmp_path)


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


@pytest.fixture(scope="session")
def decider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real vLLM CPU server with a tiny Qwen3, of random weights: it decides."""
    folder = tmp_path_factory.mktemp("decider")
    model = tiny_qwen3(folder / "model")
    with serve(model, folder / "log", profile="decide", room=2048) as url:
        yield url


@pytest.fixture(scope="session")
def sparrow() -> Iterator[str]:
    """The address of a real decision server: 2.2 MB of weights that its package carries."""
    port = free_port()
    code = "from sparrow_decider.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while not healthy(url):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield url
        process.terminate()


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    """A proxy before the real server, harmless until it is told to tamper."""
    proxy = Proxy(server)
    yield proxy
    proxy.close()


def _called(args: list[str]) -> int:
    """Run the command line, in a thread where a loop runs here already (a browser's)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return main(args)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(main, args).result()


@pytest.fixture
def llmcat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run `llmcat` as its script does, in this process: a start takes longer than most tests.

    What only a process shows (signals, a terminal, how it ends) is tested in processes elsewhere.
    """

    def run(*args: object, stdin: str | bytes = "", **env: str) -> Ran:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        (tmp_path / ".stdin").write_bytes(data)
        streams = {
            "stdin": (tmp_path / ".stdin").open(encoding="utf-8"),
            "stdout": io.TextIOWrapper(io.BytesIO(), "utf-8"),
            "stderr": io.TextIOWrapper(io.BytesIO(), "utf-8"),
        }
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", LlmcatWarning)
            patch.chdir(tmp_path)
            for name, value in {"COLUMNS": "100", **env}.items():
                patch.setenv(name, value)
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            before = os.dup(0)  # items are read from there
            os.dup2(streams["stdin"].fileno(), 0)
            try:
                code = _called(list(map(str, args)))
            except SystemExit as exc:  # argparse's own
                code = exc.code if isinstance(exc.code, int) else 1
            finally:
                os.dup2(before, 0)
                os.close(before)
                streams["stdin"].close()
                (tmp_path / ".stdin").unlink()
        said = {}
        for name in ("stdout", "stderr"):
            streams[name].flush()
            said[name] = streams[name].buffer.getvalue().decode()  # type: ignore[attr-defined]
        assert "Traceback" not in said["stderr"], said["stderr"]
        return Ran(subprocess.CompletedProcess(args, code, said["stdout"], said["stderr"]))

    return run
