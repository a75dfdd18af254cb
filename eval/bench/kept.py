"""What it costs that the file comes back: a table with five columns kept, beside one without.

    python eval/bench/kept.py --rows 1000000

With the fake engine, which matches words: everything but a model. Prints rows a second from start
to end, and the peak memory of each process, also of one over 10,000 rows; and how long a workbook
of 100,000 rows takes to read, beside pandas with the same library.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = "red blue iron oak shoes bags toys lamp chair knife wide soft".split()
SHEET = 100_000


def write(path: Path, rows: int) -> None:
    """Write a shop's table of our own making."""
    draw = random.Random(1)
    with path.open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["sku", "title", "brand", "price", "note"])
        for i in range(rows):
            title = " ".join(draw.choices(WORDS, k=5))
            table.writerow([f"S{i:07}", f"{title} {i}", "Acme", f"{i % 900}.99", "plain"])


def run(path: Path, keep: str) -> tuple[float, float]:
    """Return seconds and MiB at most of a run."""
    out = path.with_name("out.csv")
    for made in path.parent.glob("out.csv*"):
        made.unlink()
    command = [sys.executable, "-m", "llmcat", "classify", str(path), "--labels", "shoes,bags,toys",
               "--engine", "fake", "--out", str(out), "--keep", keep, "--quiet"]  # fmt: skip
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def sheet(folder: Path) -> None:
    """Print how long a workbook takes to read, by us and by pandas."""
    import pandas as pd

    from llmcat.items.readers import ItemReader

    write(folder / "s.csv", SHEET)
    book = folder / "s.xlsx"
    pd.read_csv(folder / "s.csv").to_excel(book, index=False)
    started = time.perf_counter()
    pd.read_excel(book, engine="calamine")
    theirs = time.perf_counter() - started
    started = time.perf_counter()
    count = sum(1 for _ in ItemReader().read(book))
    ours = time.perf_counter() - started
    ratio = ours / theirs
    print(f"a workbook of {count:,} rows: {ours:.1f} s, {ratio:.2f} of pandas ({theirs:.1f} s)")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "few.csv", 10_000)
        write(folder / "many.csv", rows)
        _, few = run(folder / "few.csv", "all")
        found = {keep: run(folder / "many.csv", keep) for keep in ("none", "all")}
        sheet(folder)  # last: a child's peak begins with what its parent holds
    for keep, (seconds, most) in found.items():
        print(f"--keep {keep}: {rows / seconds:,.0f} rows/s, {most:.0f} MiB")
    ratio = found["none"][0] / found["all"][0]
    more = found["all"][1] - few
    print(f"with five columns kept {ratio:.2f} of the rate; {more:+.0f} MiB against 10,000 rows")


if __name__ == "__main__":
    main()
