#!/usr/bin/env python3
"""What default weights rest on: sources alone and together, on development parts.

    python eval/evidence.py --data FOLDER [--model FOLDER --runs FOLDER] [--write]

Development parts only: half of the shipped examples, training parts of shop32, banking77, clinc150
and shopify_to_google (see real.py for the test parts). Prints what each source has right alone and
with default weights, what labelled examples add, and with --model what the model is worth at which
weight; its answers are kept in --runs. --write keeps all of it in eval/results/evidence.md.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import platform
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from real import EXAMPLES, ROOT, Rows, Set, intents, rows, shop32, some, tested, titles_zh, write
from sklearn.metrics import roc_auc_score

from llmcat import config
from llmcat.evaluation.arms import Arm
from llmcat.evaluation.experiment import Options, evaluate
from llmcat.evaluation.run_folder import SOLO, load
from llmcat.evidence import assemble, none_rule, place_prior
from llmcat.evidence.gather import Gathered
from llmcat.evidence.pool import DEFAULTS, READER, Pool, fit
from llmcat.items.readers import Columns, to_items
from llmcat.records import NONE, Item
from llmcat.retrieval.documents import group_of, in_latin, item_text
from llmcat.retrieval.scorers import Retriever, Signals, encoders_of
from llmcat.taxonomy.tree import Taxonomy

GRID = (0.0, 0.25, 0.5, 1.0, 2.0)
READER_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
ASKED, LEAST_OUTSIDE = 150, 5
Array = np.ndarray[Any, Any]


@dataclass
class Part:
    """A development part, and what its items' categories are: columns, -1 for none."""

    name: str
    taxonomy: Taxonomy
    items: list[Item]
    gold: list[str]
    columns: Array

    @classmethod
    def of(cls, found: Set) -> Part:
        """Read a set as llmcat does."""
        taxonomy = (
            Taxonomy.load(found.taxonomy)
            if isinstance(found.taxonomy, Path)
            else Taxonomy.load(write_there(found))
        )
        items = list(to_items(found.items, columns=Columns()))
        gold = [str(row["label"]) for row in found.items]
        at = {leaf.id: i for i, leaf in enumerate(taxonomy.leaves)}
        return cls(found.name, taxonomy, items, gold, np.array([at.get(g, -1) for g in gold]))


def write_there(found: Set) -> Path:
    """Write a set's taxonomy and items beside each other; return the taxonomy's file."""
    here = Path(".cache") / "evidence" / found.name
    here.mkdir(parents=True, exist_ok=True)
    if not isinstance(found.taxonomy, Path):
        write(here / "taxonomy.jsonl", found.taxonomy)
    write(here / "items.jsonl", found.items)
    return here / "taxonomy.jsonl"


def parts(data: Path) -> list[Set]:
    """Return the development parts."""
    bank = some(rows(data / "banking77" / "train.jsonl.gz"), 7)
    clinc = some(rows(data / "clinc150" / "train.jsonl.gz"), 3)
    inside = [r for r in clinc if r["label"] != "oos"][:400]
    outside = [r | {"label": NONE} for r in clinc if r["label"] == "oos"][:100]
    own = [r for r in rows(EXAMPLES / "items.jsonl") if not tested(r["id"])]
    zh = titles_zh(data, "train", seed=9)
    return [
        Set("examples", own, EXAMPLES / "taxonomy.yaml"),
        shop32(data, "train"),
        Set("banking77", bank[:385], intents(sorted({r["label"] for r in bank}))),
        Set(
            "clinc150", [*inside, *outside], intents(sorted({r["label"] for r in clinc} - {"oos"}))
        ),
        replace(zh, items=zh.items[: zh.first]),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    sets = parts(args.data)
    found = [Part.of(one) for one in sets]
    heard = {part.name: Retriever(part.taxonomy, encoders_of("auto"))(part.items) for part in found}
    said = [alone(found, heard), regret(found[:4], heard), shots(args.data, found[2])]
    if args.model:
        said.append(asyncio.run(reader(sets[:3], found[:3], args)))
    text = "\n\n".join("\n".join(lines) for lines in said) + "\n"
    print(text)
    if args.write:
        date = datetime.now(UTC).date().isoformat()
        head = (
            "# What the default weights rest on: development parts\n\n    python eval/evidence.py"
        )
        head += f" --data FOLDER{' --model qwen-coder' if args.model else ''}\n\n{date}, "
        head += f"{os.cpu_count()} CPU cores, {platform.machine()}\n\n"
        (ROOT / "eval" / "results" / "evidence.md").write_text(f"{head}{text}")


def right(log_p: Array, columns: Array) -> float:
    """Return how many of the items with a category are right, in percent."""
    known = columns >= 0
    return float(100 * (log_p.argmax(axis=1) == columns)[known].mean())


def table(heads: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    """Return a Markdown table."""
    heads = list(heads)
    rule = "|---|" + "--:|" * (len(heads) - 1)
    return [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)]


def alone(found: list[Part], heard: dict[str, Signals]) -> list[str]:
    """Return what each source has right alone, and all with default weights."""
    lines = []
    for name in [*encoders_of("auto"), "all"]:
        cells = []
        for part in found:
            log_p = Pool().scorers(heard[part.name])
            scores = log_p if name == "all" else heard[part.name].scores[name]
            zh = np.array([not in_latin(item_text(item)) for item in part.items])
            cells.append(f"{right(scores, part.columns):.1f}")
            if part.name == "examples":
                cells.append(f"{right(scores[zh], part.columns[zh]):.1f}")
            if (part.columns < 0).sum() > LEAST_OUTSIDE:
                cells.append(f"{outsiders(heard[part.name], log_p, part, name):.2f}")
        lines.append([name, *cells])
    heads = ["right, no labels used"]
    for part in found:
        known = int((part.columns >= 0).sum())
        heads.append(f"{part.name} ({known})")
        if part.name == "examples":
            heads.append("of these Chinese")
        if (part.columns < 0).sum() > LEAST_OUTSIDE:
            heads.append(f"AUC of none ({int((part.columns < 0).sum())})")
    return table(heads, lines)


def outsiders(signals: Signals, log_p: Array, part: Part, name: str) -> float:
    """Return the AUC of none by one encoder's similarity, or by the whole default rule."""
    if name == "all":
        odds = none_rule.DEFAULT(none_rule.inputs(signals.similarity, log_p, np.zeros(len(log_p))))
    else:
        like = signals.similarity[:, encoders_of("auto").index(name)]
        odds = -np.nan_to_num(like, nan=0.0)
    return float(roc_auc_score(part.columns < 0, odds))


def regret(found: list[Part], heard: dict[str, Signals]) -> list[str]:
    """Return how many points default weights lose to the best of a grid, set by set."""
    names = encoders_of("auto")
    best: dict[str, float] = defaultdict(float)
    for weights in itertools.product(GRID, repeat=len(names)):
        if any(weights):
            pool = Pool(weights=dict(zip(names, weights, strict=True)))
            for part in found:
                score = right(pool.scorers(heard[part.name]), part.columns)
                best[part.name] = max(best[part.name], score)
    lost = {p.name: best[p.name] - right(Pool().scorers(heard[p.name]), p.columns) for p in found}
    said = ", ".join(f"{name} {value:.1f}" for name, value in lost.items())
    weights_ = ", ".join(f"{name} {DEFAULTS[name]:g}" for name in names)
    return [f"Points that the default weights ({weights_}) lose to the best of a grid of "
            f"{', '.join(f'{g:g}' for g in GRID)}: {said}."]  # fmt: skip


def shots(data: Path, part: Part) -> list[str]:
    """Return what labelled examples add on banking77: each source, and learnt weights."""
    train = some(rows(data / "banking77" / "train.jsonl.gz"), 7)[385:]
    columns: dict[str, list[str]] = defaultdict(list)
    counts = (1, 3, 10)
    for count in counts:
        seen: dict[str, int] = defaultdict(int)
        shown: Rows = []
        for row in train:
            if seen[row["label"]] < count:
                seen[row["label"]] += 1
                shown.append(row)
        items = list(to_items(shown, columns=Columns()))
        labels = [str(row["label"]) for row in shown]
        retriever = Retriever(part.taxonomy, encoders_of("auto")).with_examples(items, labels)
        signals = retriever(part.items)
        for name, scores in signals.scores.items():
            columns[name].append(f"{right(scores, part.columns):.1f}")
        pool = assemble.learnt_pool(retriever, items, labels)
        columns["learnt weights"].append(f"{right(pool.scorers(signals), part.columns):.1f}")
    heads = ["banking77, labelled per class", *map(str, counts)]
    return table(heads, ([name, *cells] for name, cells in columns.items()))


async def reader(sets: list[Set], found: list[Part], args: argparse.Namespace) -> list[str]:
    """Return what the model is worth at which weight, its place prior from reference items."""
    cells: dict[float, list[str]] = {weight: [] for weight in READER_WEIGHTS}
    notes = []
    for one, part in zip(sets, found, strict=True):
        kept, prior = await asked(one, args)
        rows_ = list(kept.signals)
        columns = part.columns[rows_]
        signals = Signals.stacked([kept.signals[row] for row in rows_])
        said = [kept.asked[row] for row in rows_]
        heard = [a.heard(prior) if a else None for a in said]
        known = columns >= 0
        for weight in READER_WEIGHTS:
            log_p = Pool(weights={READER: weight}).labels(signals, heard)
            gold = np.maximum(columns, 0)
            loss = -log_p[np.arange(len(gold)), gold][known].mean()
            cells[weight].append(f"{right(log_p, columns):.1f} ({loss:.3f})")
        for name, taken in (("as it came", None), ("place prior off", prior)):
            best = [a.chosen[int(a.heard(taken).log_p[:-1].argmax())] for a in said if a]
            hit = 100 * np.mean((np.array(best) == columns)[known])
            notes.append(f"- {part.name}: the model alone, {name}, {hit:.1f}")
        groups = group_of([item_text(part.items[row]) for row in rows_])
        learnt = fit(signals, [a.heard(place_prior.estimate(
            [b.turns[0][1] for b in said if b])) if a else None for a in said],
            columns, groups)  # fmt: skip
        weights = ", ".join(f"{name} {w:.2f}" for name, w in learnt.weights.items())
        notes.append(f"- {part.name}: learnt on these items: {weights}")
    heads = ["weight of the model", *(f"{p.name} ({min(ASKED, len(p.items))})" for p in found)]
    return [*table(heads, ([f"{w:g}", *cells[w]] for w in READER_WEIGHTS)), "",
            "In brackets the log loss.", "", *notes]  # fmt: skip


async def asked(found: Set, args: argparse.Namespace) -> tuple[Gathered, Array | None]:
    """Ask the model about a part as a user would; return what was kept, and the place prior."""
    taxonomy = write_there(found)
    settings = config.load(
        file=str(taxonomy.with_name("items.jsonl")),
        taxonomy=str(found.taxonomy if isinstance(found.taxonomy, Path) else taxonomy),
        engine="transformers_local",
        engine_option="batch=4",
        model=str(args.model),
        runs=str(args.runs),
        out=str(args.runs / "evidence" / found.name),
        limit=ASKED,
    )
    kept = Gathered()
    options = Options(command=("eval/evidence.py",), kept=kept)
    folder = await evaluate(
        [Arm(SOLO, settings)], options, stop=asyncio.Event(), say=lambda _: None
    )
    assert folder is not None
    prior = load(folder)["arms"][SOLO]["evidence"]["place_prior"]
    return kept, None if prior is None else np.array(prior)


if __name__ == "__main__":
    main()
