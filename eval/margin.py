#!/usr/bin/env python3
"""Compare lines on the margin p1 - p2 with lines on the top probability, on finished runs.

    python eval/margin.py RUN...

RUN is a folder of `llmcat eval`. Prints which share of the items, surest first, is taken at a
precision of 85, 90 and 95 %, by either: chosen on the same items, so both flatter alike.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from llmcat.evaluation.metrics import coverage_at


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    print("| run | items | right | taken at 85 %: top, margin | at 90 % | at 95 % |")
    print("|---|--:|--:|--:|--:|--:|")
    for run in parser.parse_args().runs:
        lines = (run / "predictions.jsonl").read_text().splitlines()
        rows = [row for row in map(json.loads, lines) if row["confidence"] is not None]
        right = np.array([(row["label"] or "none") == row["gold"] for row in rows])
        top = np.array([row["confidence"] for row in rows])
        others = [[a["p"] for a in row["alternatives"]] for row in rows]
        none = [(row["p_none"] or 0.0) if row["label"] else 0.0 for row in rows]
        margin = top - np.array([max([*p, n]) for p, n in zip(others, none, strict=True)])
        cells = [run.name, f"{len(rows):,}", f"{100 * right.mean():.1f}"]
        for precision in (0.85, 0.9, 0.95):
            both = (coverage_at(by, right, precision=precision).value for by in (top, margin))
            cells.append(", ".join(f"{100 * value:.1f}" for value in both))
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
