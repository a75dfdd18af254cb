"""`make demo`: the main job, whole: a real vLLM server, and llmcat classifying the examples.

    python examples/demo.py [--model NAME_OR_FOLDER]

Without a model it serves llmcat's own demo model, which is small and made for this show. The
server is stopped at the end, also when interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
DEMO_MODEL = ROOT / "serve" / "demo" / "llmcat_demo" / "model"
OUT = ROOT / "out"
LLMCAT = [sys.executable, "-m", "llmcat"]
PATIENCE = 900  # seconds until a server counts as failed; a large model loads for minutes


def main() -> int:
    """Run the demo; return the exit code of the classification."""
    parser = argparse.ArgumentParser(description="Serve a model and classify the example items.")
    parser.add_argument("--model", help="name on the model hub, or a folder")
    model = parser.parse_args().model
    if model is None:
        heading("the demo model: 7 million parameters, made to show the stack at work")
        print("It reads the menu and answers with a code, as any model here does, but it knows")
        print("little. For real labels: make demo MODEL=Qwen/Qwen3-4B-Instruct-2507 (or a folder).")
        print("What it can do, measured: serve/demo/llmcat_demo/model/MODEL_CARD.md\n")
        model = DEMO_MODEL
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    OUT.mkdir(exist_ok=True)
    os.chdir(ROOT)  # what is shown names files from here
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = OUT / "server.log"
    command = [*LLMCAT, "serve", "model", "--model", str(model), "--port", str(port)]
    if model == DEMO_MODEL:
        command += ["--", "--dtype", "float32"]  # as its card says
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"} if Path(model).is_dir() else None
    with log.open("wb") as sink:
        server = subprocess.Popen(
            command, stdout=sink, stderr=sink, env=environment, start_new_session=True
        )
    try:
        if not wait_until_healthy(server, port, log):
            return 3
        return classify(f"http://127.0.0.1:{port}", model)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    finally:
        stop(server)


def wait_until_healthy(server: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    """Wait for the server; say how long, and show its log if it fails."""
    started = time.monotonic()
    while (waited := time.monotonic() - started) < PATIENCE:
        if server.poll() is not None:
            print(f"\nthe server ended with code {server.returncode}; the end of {log}:")
            print(*log.read_text("utf-8", "replace").splitlines()[-15:], sep="\n")
            return False
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                progress(f"vLLM is up after {waited:.0f} s\n")
                return True
        except OSError:
            progress(f"starting vLLM ... {waited:.0f} s")
            time.sleep(0.5)
    print(f"\nthe server is not up after {PATIENCE} s; see {log}")
    return False


def classify(url: str, model: str | Path) -> int:
    """Classify the example items and print what came out."""
    items, out = EXAMPLES / "items.jsonl", Path(OUT.name) / "demo.predictions.jsonl"
    taxonomy = EXAMPLES / "taxonomy.yaml"
    shown = "llmcat classify --file examples/items.jsonl --taxonomy examples/taxonomy.yaml"
    heading(f"{shown} --base-url {url}")
    flags = ["--file", items, "--out", out, "--taxonomy", taxonomy, "--base-url", url, "--restart"]
    if model == DEMO_MODEL:
        print("(with --prompt zero-shot: the demo model was trained on menus that come first)")
        flags += ["--prompt", "zero-shot"]
    code = subprocess.run([*LLMCAT, "classify", *flags], check=False).returncode
    if code in {0, 1}:
        heading("llmcat show out/demo.predictions.jsonl --items examples/items.jsonl")
        subprocess.run([*LLMCAT, "show", out, "--items", items, "--limit", "25"], check=True)
    return code


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and everything it started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave it running
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):  # the whole group is gone
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(15)
    print("server stopped")


def heading(text: str) -> None:
    """Print a heading."""
    print(f"== {text}", flush=True)


def progress(text: str) -> None:
    """Show where the wait stands: one line on a terminal, the end only elsewhere."""
    if sys.stdout.isatty():
        print(f"\r{text}   ", end="", flush=True)
    elif text.endswith("\n"):
        print(text, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
