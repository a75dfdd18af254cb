#!/usr/bin/env python3
"""Measure `--multi` with a real model: one menu, each candidate by itself, retrieval alone.

    python eval/several.py MODEL [--data FOLDER] [--runs FOLDER] [--only SET,...] [--each]
                                 [--write NAME]

MODEL is a folder that eval/real_models.py made. Real sets with several labels an item are rare and
not free; these are made of real items: one to three of them in one message (a customer who asks two
things) or in one offer (a bundle), each of another category, in a seeded way. The sets come from
--data, prepared folders as eval/sets.py describes. What is learnt is learnt from items made of the
training part, and measured on others, made of the test part. Every answer is kept in --runs.
--write keeps the table in eval/results/NAME.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from real import Rows, intents, rows, write

ROOT = Path(__file__).resolve().parent.parent
SETS = {
    "banking77": ("banking77/train.jsonl.gz", "banking77/test.jsonl", " "),
    "shop32": ("shop32/train.jsonl", "shop32/test.jsonl", " + "),
}
ASKED, TAUGHT = 120, 150
METRICS = ("example_f1", "micro_f1", "macro_f1", "subset_accuracy")


def made(pool: Rows, count: int, seed: int, between: str) -> Rows:
    """Return items of one to three rows of a pool, each of another label."""
    draw = random.Random(seed)
    by: dict[str, Rows] = {}
    for row in pool:
        by.setdefault(row["label"], []).append(row)
    found = []
    for i in range(count):
        labels = draw.sample(sorted(by), draw.choices([1, 2, 3], [0.4, 0.4, 0.2])[0])
        title = between.join(draw.choice(by[label])["title"] for label in labels)
        found.append({"id": f"m{i}", "title": title, "label": labels})
    return found


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--only", default=",".join(SETS))
    parser.add_argument("--each", action="store_true", help="ask about each candidate, too")
    parser.add_argument("--write", default="")
    args = parser.parse_args()
    reader = ["--engine", "transformers_local", "--model", args.model]
    reader += ["--engine-option", "batch=4"]
    table = [
        "| set | asked | labels | F1 of items | micro F1 | macro F1 | all right | tokens |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for name in args.only.split(","):
        here = args.runs / "several" / name
        files = prepare(name, args.data, here)
        ways = {
            "retrieval alone": ["--engine", "retriever", "--multi", "menu"],
            "one menu": [*reader, "--multi", "menu"],
        }
        if args.each:
            ways["each by itself"] = [*reader, "--multi", "each"]
        for way, engine in ways.items():
            table.append(line(name, way, "none", evaluate(files, engine, here / f"{way}.run")))
            print(table[-1], flush=True)
            artifact = here / f"{way}.artifact.json"
            command = ["calibrate", "--file", here / "taught.jsonl", "--out", artifact]
            llmcat([*command, *files[2:], *engine, "--runs", args.runs])
            learnt = [*engine, "--artifact", artifact]
            found = evaluate(files, learnt, here / f"{way}, learnt.run")
            table.append(line(name, way, f"{TAUGHT:,} items", found))
            print(table[-1], flush=True)
    text = "\n".join(table)
    print(text)
    if args.write:
        date = datetime.now(UTC).date().isoformat()
        machine = f"{os.cpu_count()} CPU cores, {platform.machine()}"
        command = f"    python eval/several.py {args.model.name} --only {args.only}"
        head = f"# Several labels an item\n\n{command}\n\n{date}, {args.model.name}, {machine}; "
        head += f"{ASKED} items a set made of test items\n\n"
        (ROOT / "eval" / "results" / f"{args.write}.md").write_text(f"{head}{text}\n")


def prepare(name: str, data: Path, here: Path) -> list[Any]:
    """Write a set's files; return the flags that name those to be asked."""
    training, test, between = SETS[name]
    here.mkdir(parents=True, exist_ok=True)
    pool = rows(data / training)
    write(here / "taught.jsonl", made(pool, TAUGHT, 2, between))
    write(here / "asked.jsonl", made(rows(data / test), ASKED, 3, between))
    labels = intents(sorted({row["label"] for row in pool}))
    if name == "shop32":
        labels = [
            {"id": row["label"], "path": row["label"], "description": row["description"]}
            for row in rows(data / name / "categories.jsonl")
        ]
    write(here / "taxonomy.jsonl", labels)
    return ["--file", here / "asked.jsonl", "--taxonomy", here / "taxonomy.jsonl"]


def evaluate(files: Sequence[Any], engine: Sequence[Any], out: Path) -> dict[str, Any]:
    """Ask about the items; return the run's metrics and its tokens an item."""
    llmcat(["eval", *files, *engine, "--runs", out.parents[2], "--out", out])
    (arm,) = json.loads((out / "run.json").read_text())["arms"].values()
    tokens = arm["costs"]["prompt_tokens_per_item"]
    return json.loads((out / "metrics.json").read_text())["metrics"] | {"tokens": tokens}


def llmcat(arguments: Sequence[Any]) -> None:
    """Run a command of llmcat."""
    command = [sys.executable, "-m", "llmcat", *map(str, arguments), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def line(name: str, way: str, labels: str, found: dict[str, Any]) -> str:
    """Return a row of the table."""
    first = found["example_f1"]
    span = f"{100 * first['value']:.1f} [{100 * first['low']:.1f}, {100 * first['high']:.1f}]"
    rest = [f"{100 * found[metric]['value']:.1f}" for metric in METRICS[1:]]
    cells = [name, way, labels, span, *rest, f"{found['tokens']:.0f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
