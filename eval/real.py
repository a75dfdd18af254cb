#!/usr/bin/env python3
"""Measure llmcat with a real instruct model, on test parts, beside what costs nothing.

    python eval/real.py MODEL [--serve] [--data FOLDER] [--runs FOLDER] [--only SET,...]
                              [--whole] [--write NAME]

MODEL is a folder that eval/real_models.py made. Each set is asked as a new user would ask it, with
the defaults: of a vLLM server that is started here with --serve, else through the engine
transformers_local (the same answers, without a server; speed is measured by bench/real_speed.py).
Every answer is kept in --runs, so nothing is asked twice. The
shipped examples are split by a hash of their ids: tuning looks at the other half only. The other
sets come from --data, prepared folders as eval/sets.py describes; those that are not there are
left out, and said so. A sample of each is asked, what a CPU reads in an hour or two; with --whole
all of it. --write keeps the table in eval/results/NAME.md.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from bench.common import gpu, vllm
from sklearn.metrics import precision_recall_curve, roc_auc_score

from llmcat.evaluation.adds import sentence

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
Rows = list[dict[str, Any]]


@dataclass
class Set:
    """A labelled set as llmcat reads it. Where not all is asked: its `first`, or by `--limit`."""

    name: str
    items: Rows
    taxonomy: Rows | Path
    examples: Rows = field(default_factory=list)
    first: int | None = None
    limit: int = 0


def rows(path: Path) -> Rows:
    """Read JSONL, also gzip."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line) for line in lines]


def tested(id_: str) -> bool:
    """Tell whether an example belongs to the test half."""
    return hashlib.sha256(id_.encode()).digest()[0] % 2 == 1


def some(values: Iterable[dict[str, Any]], seed: int, count: int | None = None) -> Rows:
    """Return rows in a seeded order, the first `count` of them."""
    found = list(values)
    random.Random(seed).shuffle(found)
    return found[:count]


def intents(labels: Iterable[str]) -> Rows:
    """Return intents as a taxonomy: their names are words joined by underscores."""
    return [{"id": label, "name": label.replace("_", " ")} for label in labels]


def examples(_: Path) -> Set:
    """Return the test half of the shipped examples."""
    kept = [row for row in rows(EXAMPLES / "items.jsonl") if tested(row["id"])]
    return Set("examples", kept, EXAMPLES / "taxonomy.yaml")


def shop32(data: Path, part: str = "test") -> Set:
    """Return shop titles of a part and their 32 categories."""
    labels = [
        {"id": row["label"], "path": row["label"], "description": row["description"]}
        for row in rows(data / "shop32" / "categories.jsonl")
    ]
    found = some(rows(data / "shop32" / f"{part}.jsonl"), 7)
    return Set("shop32", found, labels, limit=300)


def banking77(shots: int) -> Callable[[Path], Set]:
    """Return what makes the bank intents, with so many labelled examples of each."""

    def made(data: Path) -> Set:
        train = some(rows(data / "banking77" / "train.jsonl.gz"), 7)
        seen: dict[str, int] = {}
        shown: Rows = []
        for row in train[385:]:  # the first 385 are for development
            if seen.get(row["label"], 0) < shots:
                seen[row["label"]] = seen.get(row["label"], 0) + 1
                shown.append(row)
        found = some(rows(data / "banking77" / "test.jsonl"), 7)
        name = f"banking77, {shots} labelled per class" if shots else "banking77"
        labels = intents(sorted({r["label"] for r in train}))
        return Set(name, found, labels, shown, first=385, limit=250 if shots else 0)

    return made


def clinc150(data: Path) -> Set:
    """Return queries of 150 intents and the 100 that belong to none: 400 of them, or all."""
    names = sorted({row["label"] for row in rows(data / "clinc150" / "train.jsonl.gz")} - {"oos"})
    found = some(rows(data / "clinc150" / "validation.jsonl"), 3)
    inside = [row for row in found if row["label"] != "oos"]
    outside = [row | {"label": "none"} for row in found if row["label"] == "oos"][:100]
    asked = [*some([*inside[:400], *outside], 5), *inside[400:]]
    return Set("clinc150 with outsiders", asked, intents(names), first=500)


def titles_zh(data: Path, part: str = "test", seed: int = 7) -> Set:
    """Return Chinese category names of one shop taxonomy, to be put into another's top level."""
    every = rows(data / "shopify_to_google" / "items.jsonl.gz")
    found = [r for r in every if r["depth"] > 1 and r.get("title_zh")]
    made = [
        {"id": r["id"], "title": r["title_zh"].rpartition(" > ")[2],
         "label": r["label"].partition(" > ")[0]}
        for r in some((r for r in found if r["split"] == part), seed)
    ]  # fmt: skip
    names = sorted({r["label"].partition(" > ")[0] for r in found})
    return Set("Chinese titles", made, [{"id": n, "name": n} for n in names], first=200)


SETS: dict[str, Callable[[Path], Set]] = {
    "examples": examples,
    "shop32": shop32,
    "banking77": banking77(0),
    "banking77-3": banking77(3),
    "banking77-10": banking77(10),
    "clinc150": clinc150,
    "titles-zh": titles_zh,
}


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--only", default=",".join(SETS))
    parser.add_argument("--serve", action="store_true", help="ask a vLLM server, started here")
    parser.add_argument("--whole", action="store_true", help="ask about all items, not a sample")
    parser.add_argument("--write", default="")
    args = parser.parse_args()
    engine = ["--engine", "transformers_local", "--model", args.model]
    with ExitStack() as stack:
        if args.serve:
            args.runs.mkdir(parents=True, exist_ok=True)
            engine = ["--base-url", stack.enter_context(vllm(args.runs, str(args.model)))]
        else:
            engine += ["--engine-option", "batch=4"]
        measure(args, engine)


def measure(args: argparse.Namespace, engine: list[Any]) -> None:
    """Ask about each set, print the table."""
    lines = [
        "| set | items | alone | with model | the model adds | p | recall at 8 | tokens |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    notes = []
    for name in args.only.split(","):
        try:
            found = SETS[name](args.data)
        except FileNotFoundError as exc:
            print(f"{name}: left out, {exc.filename} is not there")
            continue
        folder = run(found, engine, args.runs, whole=args.whole)
        (arm,) = json.loads((folder / "run.json").read_text())["arms"].values()
        lines.append(line(found, arm["adds"]))
        notes += remarks(found, folder, arm["adds"])
        print(lines[-1], *notes[-2:], sep="\n", flush=True)
    text = "\n".join([*lines, "", *notes])
    print(text)
    if args.write:
        keep(text, args)


def run(found: Set, engine: list[Any], runs: Path, *, whole: bool = False) -> Path:
    """Ask about a set as a user would; return the run's folder."""
    here = runs / "sets" / re.sub(r"\W+", "-", found.name)
    here.mkdir(parents=True, exist_ok=True)
    write(here / "items.jsonl", found.items[: None if whole else found.first])
    taxonomy = found.taxonomy
    if not isinstance(taxonomy, Path):
        write(here / "taxonomy.jsonl", taxonomy)
        taxonomy = here / "taxonomy.jsonl"
    flags = [] if whole or not found.limit else ["--limit", str(found.limit)]
    if found.examples:
        write(here / "examples.jsonl", found.examples)
        flags += ["--examples", str(here / "examples.jsonl")]
    command = [
        sys.executable,
        "-m",
        "llmcat",
        "eval",
        "--quiet",
        "--file",
        here / "items.jsonl",
    ]
    command += ["--taxonomy", taxonomy, *engine, "--runs", runs, "--out", here / "run", *flags]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return here / "run"


def write(path: Path, values: Rows) -> None:
    """Write JSONL."""
    path.write_text("\n".join(json.dumps(v, ensure_ascii=False) for v in values) + "\n")


def line(found: Set, adds: dict[str, Any]) -> str:
    """Return a set's row of the table."""
    gain, low, high = (100 * adds[key] for key in ("gain", "low", "high"))
    cells = [
        found.name,
        f"{adds['n']:,}",
        f"{100 * adds['alone']:.1f}",
        f"{100 * adds['with_model']:.1f}",
        f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]",
        f"{adds['p']:.3g}",
        f"{100 * adds['recall']:.1f}",
        f"{adds['tokens_per_item']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def remarks(found: Set, folder: Path, adds: dict[str, Any]) -> list[str]:
    """Say what a set is there for besides accuracy: parts of it, and `none`."""
    said = [f"- {found.name}: {sentence(adds)}"]
    curve = adds["curve"][:: max(1, (len(adds["curve"]) - 1) // 5)]
    steps = ", ".join(f"{100 * right:.1f}" for _, right in curve)
    said.append(f"  - sent to the model 0, 20, ... 100 %, the least sure first: {steps} % right")
    predicted = rows(folder / "predictions.jsonl")
    labelled = [r for r in predicted if r["gold"] != "none"]
    if len(labelled) < len(predicted):
        right = [r["label"] == r["gold"] for r in labelled]
        said.append(
            f"  - of the {len(labelled)} with a category {100 * np.mean(right):.1f} % right"
        )
        none = np.array([r["gold"] == "none" for r in predicted])
        odds = np.array([r["p_none"] for r in predicted])
        precision, recall, _ = precision_recall_curve(none, odds)
        best = recall[:-1][precision[:-1] >= 0.6].max(initial=0.0)
        said.append(
            f"  - none ({none.sum()} of them): AUC of its odds {roc_auc_score(none, odds):.3f}, "
            f"recall {100 * best:.0f} % at precision 60 %"
        )
    items = {row["id"]: row for row in found.items}
    zh = [r for r in labelled if re.search("[\u4e00-\u9fff]", items[r["id"]]["title"])]
    if 0 < len(zh) < len(labelled):
        right = [r["label"] == r["gold"] for r in zh]
        said.append(f"  - of the {len(zh)} Chinese ones {100 * np.mean(right):.1f} % right")
    return said


def keep(text: str, args: argparse.Namespace) -> None:
    """Write the table down with what made it."""
    date = datetime.now(UTC).date().isoformat()
    machine = f"{gpu()}, {os.cpu_count()} CPU cores, {platform.machine()}"
    flags = "".join(f" --{name}" for name in ("serve", "whole") if getattr(args, name))
    command = f"python eval/real.py {args.model.name}{flags} --only {args.only}"
    head = f"# {args.model.name}, zero-shot defaults\n\n    {command}\n\n{date}, {machine}\n\n"
    (ROOT / "eval" / "results" / f"{args.write}.md").write_text(f"{head}{text}\n")
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split("<!-- real -->")
    after = rest.split("<!-- end real -->", 1)[1]
    table = text.split("\n\n", maxsplit=1)[0]
    readme.write_text(f"{before}<!-- real -->\n{table}\n<!-- end real -->{after}")


if __name__ == "__main__":
    main()
