"""Measure the demo model as users meet it: llmcat, zero-shot prompt, a real vLLM server.

    llmcat serve model --model serve/demo/llmcat_demo/model -- --dtype float32
    LLMCAT_DATA=folder python eval/demo_model/evaluate.py http://127.0.0.1:8000

Prints the table of the model card: accuracy with random menu orders, agreement between two of
them, our own examples, labels that training never saw, and the use of the exit; with Wilson's 95 %
interval. Exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from data import EXAMPLES, Drawn, rows
from measure import trials

from llmcat import Classifier, Taxonomy

BARS = {
    "shop32, 32 labels, random menu order": 0.75,
    "the same answer in two random menu orders": 0.85,
    "our examples, their own taxonomy": 0.60,
    "8 labels held out of training": 0.40,
    "own label off the menu: sent to the exit": 0.50,
    "own label on the menu: sent to the exit": -0.10,
}


def answers(drawn: Drawn, **settings: str) -> list[int]:
    """Ask llmcat; return for each item the index of the label it chose, n for the exit."""
    flat = Taxonomy.from_labels(drawn.labels)
    index = {node.id: i for i, node in enumerate(flat.leaves)}
    with Classifier(flat, **settings) as classifier:
        got = classifier.classify(drawn.items)
    return [index.get(row["label"], len(index)) for row in got]


def ours(part: str, **settings: str) -> tuple[int, int]:
    """Ask about our examples in their own taxonomy; return the number right, and of how many."""
    items = rows(EXAMPLES / ("items.jsonl" if part == "test" else "pool.jsonl"))
    with Classifier(EXAMPLES / "taxonomy.yaml", **settings) as classifier:
        got = classifier.classify(items)
    pairs = zip(got, items, strict=True)
    return sum((r["label"] or "none") == i["label"] for r, i in pairs), len(got)


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval (Wilson 1927)."""
    z, p = 1.959964, hits / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * ((p * (1 - p) + z * z / (4 * total)) / total) ** 0.5 / (1 + z * z / total)
    return middle - half, middle + half


def main() -> int:
    """Measure, print, compare with the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="address of the server; empty for --engine demo")
    parser.add_argument("--part", choices=("dev", "test"), default="test")
    parser.add_argument("--prompt", help="only our examples, with this prompt")
    args = parser.parse_args()
    settings = {"base_url": args.url} if args.url else {"engine": "demo"}
    settings["prompt"] = "zero-shot"  # what it was trained on
    if args.prompt:
        settings["prompt"] = args.prompt
        if args.prompt.startswith("few-shot"):
            settings["examples"] = str(EXAMPLES / "pool.jsonl")
        hits, total = ours(args.part, **settings)
        print(f"our examples with {args.prompt}: {hits / total:.1%} of {total}")
        return 0
    found = trials(Path(os.environ["LLMCAT_DATA"]), args.part)
    counts: dict[str, tuple[int, int]] = {}

    def right(name: str) -> tuple[list[list[int]], int, int]:
        got = [answers(d, **settings) for d in found[name]]
        wanted = [[len(d.labels) if a is None else a for a in d.answers] for d in found[name]]
        hits = sum(
            g == w for x, y in zip(got, wanted, strict=True) for g, w in zip(x, y, strict=True)
        )
        return got, hits, sum(map(len, got))

    one, hits, total = right("shop32")
    counts["shop32, 32 labels, random menu order"] = hits, total
    exits = sum(g == len(d.labels) for x, d in zip(one, found["shop32"], strict=True) for g in x)
    two, _, _ = right("again")
    names = [
        [[[*d.labels, ""][g] for g in x] for x, d in zip(got, found[key], strict=True)]
        for got, key in ((one, "shop32"), (two, "again"))
    ]
    same = sum(a == b for x, y in zip(*names, strict=True) for a, b in zip(x, y, strict=True))
    counts["the same answer in two random menu orders"] = same, total
    counts["our examples, their own taxonomy"] = ours(args.part, **settings)
    if "unseen" in found:
        counts["8 labels held out of training"] = right("unseen")[1:]
    counts["own label off the menu: sent to the exit"] = right("left out")[1:]
    counts["own label on the menu: sent to the exit"] = exits, total
    failed = 0
    print("| what | measured | 95 % interval | n | bar |\n|---|---|---|---|---|")
    for name, (hits, total) in counts.items():
        share, bar = hits / total, BARS[name]
        missed = share < bar if bar > 0 else share > -bar
        failed += missed
        low, high = wilson(hits, total)
        words = (
            f"{'at least' if bar > 0 else 'at most'} {abs(bar):.0%}{' MISSED' if missed else ''}"
        )
        print(f"| {name} | {share:.1%} | {low:.1%} to {high:.1%} | {total} | {words} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
