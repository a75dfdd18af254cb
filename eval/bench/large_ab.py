"""What metrics, bootstrap and report of 100,000 recorded answers in two arms take.

    python eval/bench/large_ab.py [--items N] [--labels N]

The first run asks the fake engine and keeps the answers; the second asks nothing, and is the one
that is measured. Exit code 1 if its peak is over 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import header

LIMIT = 1024.0


def ran(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Run; return seconds, peak memory in MiB and what was printed."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return time.monotonic() - began, used.ru_maxrss / 1024, said


def main() -> int:
    """Run twice, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=120)
    args = parser.parse_args()
    draw = random.Random(0)
    labels = [f"category {i}" for i in range(args.labels)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "items.jsonl").open("w") as sink:
            for i in range(args.items):
                row = {"id": i, "title": f"thing {draw.random()}", "label": draw.choice(labels)}
                sink.write(json.dumps(row) + "\n")
        command = [sys.executable, "-m", "llmcat", "ab", "--file", "items.jsonl", "--quiet"]
        command += ["--labels", ",".join(labels), "--engine", "fake"]
        command += ["--a", "engine_option=accuracy=0.80", "--b", "engine_option=accuracy=0.81"]
        first, peak, _ = ran(command, folder)
        again, peak_again, said = ran(command, folder)
        (page,) = folder.glob("runs/*/report.html")
        size = page.stat().st_size / 2**20
    print(header(f"{args.items:,} items in two arms, {args.labels} labels"))
    print("| | seconds | peak memory, MiB |\n|---|--:|--:|")
    print(f"| asking the fake engine | {first:.0f} | {peak:.0f} |")
    print(f"| from recorded answers | {again:.0f} | {peak_again:.0f} |\n")
    print(f"report.html: {size:.1f} MiB. {said.splitlines()[0]}")
    return 1 if peak_again > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
