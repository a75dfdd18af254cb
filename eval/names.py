"""What a category's name is worth to a student with few examples.

    python eval/names.py --data DATA --out eval/results/student-names.md

DATA is the folder of prepared sets. Development parts only: of shop32 and banking77 each training
file is cut in two, a third (600 at most) to test on and the rest to draw examples from, anew with
every seed. A student is trained on them with and without the names, by the features given.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import random
import sys
import warnings
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from llmcat.students.recipe import Recipe, trained

MOST = 600
Rows = list[tuple[str, str]]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, packed or not."""
    opened = gzip.open if path.suffix == ".gz" else Path.open
    with opened(path, "rt", encoding="utf-8") as lines:  # type: ignore[operator]
        return [json.loads(line) for line in lines]


def shop32(data: Path) -> tuple[Rows, dict[str, str]]:
    """Return titles with their labels, and the categories' names with their descriptions."""
    rows = [(row["title"], row["label"]) for row in read(data / "shop32" / "train.jsonl")]
    named = read(data / "shop32" / "categories.jsonl")
    return rows, {row["label"]: f"{row['label']}. {row['description']}" for row in named}


def banking77(data: Path) -> tuple[Rows, dict[str, str]]:
    """Return questions with their intents, and the intents' names."""
    rows = [(row["title"], row["label"]) for row in read(data / "banking77" / "train.jsonl.gz")]
    return rows, {label: label.replace("_", " ") for label in sorted({label for _, label in rows})}


def drawn(rows: Rows, each: int, seed: int) -> tuple[Rows, Rows]:
    """Return `each` examples a category, and the items to test on."""
    draw = random.Random(seed)
    rows = draw.sample(rows, len(rows))
    test, rest = rows[: min(MOST, len(rows) // 3)], rows[min(MOST, len(rows) // 3) :]
    by_label = defaultdict(list)
    for row in rest:
        by_label[row[1]].append(row)
    return [row for label in sorted(by_label) for row in by_label[label][:each]], test


def accuracy(recipe: Recipe, examples: Rows, test: Rows) -> float:
    """Return the share of the test items that a student gets right."""
    labels, weight = np.array([label for _, label in examples]), np.ones(len(examples))
    student = trained(recipe, recipe.params, [text for text, _ in examples], labels, weight)
    best = student.predict_proba([text for text, _ in test]).argmax(axis=1)
    right = student.classes_[best] == np.array([label for _, label in test])
    return 100.0 * float(np.mean(right))


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--features", default="tfidf,minilm,multilingual")
    parser.add_argument("--each", default="1,3,10", help="examples a category")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="The number of unique classes")
    command = f"python eval/names.py --data DATA --seeds {args.seeds}"
    lines = [
        "# A category's name as an example of it",
        "",
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, CPU: accuracy in "
        f"percent on development items, mean of {args.seeds} draws; the difference with its 95 % "
        "interval over the draws.",
        "",
        "| set | features | examples a category | without names | with | difference |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for load in (shop32, banking77):
        rows, names = load(args.data)
        for features in args.features.split(","):
            recipe = Recipe(params={"features": features})
            named = replace(recipe, names=names)
            for each in map(int, args.each.split(",")):
                pairs = []
                for seed in range(args.seeds):
                    parts = drawn(rows, each, seed)
                    pairs.append((accuracy(recipe, *parts), accuracy(named, *parts)))
                without, with_ = np.array(pairs).T
                gain = with_ - without
                wide = t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
                lines.append(
                    f"| {load.__name__} | {features} | {each} | {without.mean():.1f} | "
                    f"{with_.mean():.1f} | {gain.mean():+.1f} ± {wide:.1f} |"
                )
                print(lines[-1], file=sys.stderr)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
