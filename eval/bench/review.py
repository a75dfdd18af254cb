"""How soon the review page answers with 100,000 rows waiting and 10,595 categories.

    python eval/bench/review.py

In a real Chromium over loopback: from a key to the next item, and a search among all categories.
"""

from __future__ import annotations

import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

ROWS, NODES, TURNS = 100_000, 10_595, 30
PORT = 8799


def write(folder: Path) -> None:
    """Write predictions and categories of our own making."""
    words = ["red", "blue", "iron", "oak", "soft", "wide", "tall", "mini"]
    nodes = [f"{a} > {a} {b} {n}" for n in range(166) for a in words for b in words][:NODES]
    (folder / "tax.txt").write_text("\n".join(nodes) + "\n")
    with (folder / "out.csv").open("w") as out:
        out.write("id,title,label,path,decision,confidence,others,reason\n")
        for n in range(ROWS):
            node = nodes[n * 7919 % NODES]
            out.write(f"{n},thing {n},{node},{node},labelled,0.{n % 89 + 10},,\n")


def main() -> None:
    """Serve, press keys, print the medians and the largest."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        command = [sys.executable, "-m", "llmcat", "review", "out.csv", "--taxonomy", "tax.txt",
                   "--port", str(PORT)]  # fmt: skip
        with subprocess.Popen(command, cwd=name, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            print(process.stderr.readline().strip())
            with sync_playwright() as driver:
                page = driver.chromium.launch(
                    executable_path=browser, args=["--no-sandbox"]
                ).new_page()
                page.goto(f"http://127.0.0.1:{PORT}/")
                page.locator("#who").fill("anna")
                page.locator("#who").press("Enter")
                page.wait_for_function("document.getElementById('title').textContent !== ''")
                turns = []
                for _ in range(TURNS):
                    before = page.locator("#title").inner_text()
                    started = time.perf_counter()
                    page.keyboard.press("n")
                    page.wait_for_function(
                        "t => document.getElementById('title').textContent !== t", arg=before
                    )
                    turns.append(1000 * (time.perf_counter() - started))
                searches = page.evaluate(
                    "() => ['m', 'mini', 'oak 1', 'red wi', '165', 'soft tall 9'].map((w) => { "
                    "const t = performance.now(); find(w); return performance.now() - t; })"
                )
            process.send_signal(signal.SIGINT)
    for what, found in (("next item", turns), ("search", searches)):
        print(f"{what}: median {statistics.median(found):.1f} ms, largest {max(found):.1f} ms")


if __name__ == "__main__":
    main()
