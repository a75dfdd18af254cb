"""How soon `llmcat --help` is there, and how memory grows with a file.

    python eval/bench/startup.py [--pairs 15] [--items 1000000]

Prints the time of `llmcat --help` beside `python -c pass`, and the most memory that
`llmcat classify` takes for 10,000 items and for `--items`, all different (engine `fake`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import alternate, header, items, table, taxonomy

LLMCAT = [sys.executable, "-m", "llmcat"]


def per_second(command: list[str]) -> float:
    """How often a second a command could run."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return 1 / (time.perf_counter() - started)


def peak(folder: Path, count: int) -> tuple[float, float]:
    """Return the most memory of a run in MiB, and its seconds."""
    file = items(folder, count)
    command = [*LLMCAT, "classify", "--file", str(file), "--taxonomy", str(taxonomy())]
    command += ["--out", str(folder / "out.jsonl"), "--engine", "fake", "--restart", "--quiet"]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss / 1024, time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--items", type=int, default=1_000_000)
    args = parser.parse_args()
    runs = {
        "python -c pass": lambda: per_second([sys.executable, "-c", "pass"]),
        "llmcat --help": lambda: per_second([*LLMCAT, "--help"]),
    }
    rates = alternate(runs, pairs=args.pairs)
    print(header("# Start-up and memory"))
    print(table(rates, of="python -c pass"))
    print("\n| items | most memory | seconds |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for count in (10_000, args.items):
            memory, seconds = peak(Path(name), count)
            print(f"| {count:,} | {memory:,.1f} MiB | {seconds:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
