"""What a calibration and a line add to a run's time, on a real server.

    python eval/bench/gate.py [--model FOLDER] [--items 3000] [--pairs 5]

`llmcat classify` with the example taxonomy, with and without `--calibration` and
`--accept-precision`, in turns over the same items. Exit code 1 if the median ratio is under 0.98.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import DEMO, ROOT, WHOLE_MENU, alternate, header, items, table, taxonomy, vllm

LLMCAT = [sys.executable, "-m", "llmcat"]


def rate(folder: Path, file: Path, url: str, *more: str) -> float:
    """Classify; return items per second from the first item to the last."""
    out = folder / "out.jsonl"
    command = [*LLMCAT, "classify", "--file", str(file), "--taxonomy", str(taxonomy())]
    command += ["--base-url", url, "--out", str(out), "--restart", "--quiet", *WHOLE_MENU, *more]
    subprocess.run(command, check=True, cwd=folder)
    session = json.loads((folder / "out.jsonl.run.json").read_text())["sessions"][-1]
    return float(session["rows_written"] / session["seconds"])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(DEMO))
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with vllm(folder, args.model, "--max-model-len", "4096") as url:
            gold = ROOT / "examples" / "items.jsonl"
            command = [*LLMCAT, "calibrate", "--file", str(gold), "--taxonomy", str(taxonomy())]
            command += ["--base-url", url, "--quiet", *WHOLE_MENU]
            subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
            file = items(folder, args.items)
            line = ("--calibration", "calibration.json", "--accept-precision", "0.7")
            rate(folder, file, url)  # the server's prefix cache holds all of it from here on
            rates = alternate(
                {
                    "with a line": lambda: rate(folder, file, url, *line),
                    "plain": lambda: rate(folder, file, url),
                },
                pairs=args.pairs,
            )
    print(header(f"# A calibration and a line, {args.items:,} items"))
    print(table(rates, of="with a line"))
    ratios = [a / b for a, b in zip(rates["with a line"], rates["plain"], strict=True)]
    return 1 if statistics.median(ratios) < 0.98 else 0


if __name__ == "__main__":
    sys.exit(main())
