"""What a category's own text is worth beside a few labelled examples, to students and to retrieval.

    python eval/names.py --data DATA --out eval/results/names.md

DATA is the folder of prepared sets. Development parts only: of shop32's and banking77's training
files and of the shipped examples (those with a category) a third, 400 at most, is tested on, and
examples are drawn from the rest, anew with every seed.
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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from llmcat.evidence.assemble import learnt_pool
from llmcat.evidence.pool import Pool, default_weights
from llmcat.records import Item
from llmcat.retrieval import scorers
from llmcat.retrieval.scorers import Retriever
from llmcat.students.recipe import Recipe, trained
from llmcat.students.training import name_of
from llmcat.taxonomy.tree import Taxonomy

ROOT = Path(__file__).resolve().parent.parent
MOST = 400
FEATURES = ("lexical", "multilingual", "minilm")
Rows = list[tuple[str, str]]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, packed or not."""
    opened = gzip.open if path.suffix == ".gz" else Path.open
    with opened(path, "rt", encoding="utf-8") as lines:  # type: ignore[operator]
        return [json.loads(line) for line in lines]


def sets(data: Path) -> Iterator[tuple[str, Rows, Taxonomy]]:
    """Yield each set: its name, texts with labels, and its categories."""
    rows = read(ROOT / "examples" / "items.jsonl") + read(ROOT / "examples" / "pool.jsonl")
    texts = [(row["title"], row["label"]) for row in rows if row["label"] != "none"]
    yield "examples", texts, Taxonomy.load(str(ROOT / "examples" / "taxonomy.yaml"))
    rows = read(data / "shop32" / "train.jsonl")
    named = [
        {"id": row["label"], "name": row["label"], "description": row["description"]}
        for row in read(data / "shop32" / "categories.jsonl")
    ]
    made = Taxonomy.parse("\n".join(map(json.dumps, named)), suffix=".jsonl", source="shop32")
    yield "shop32", [(row["title"], row["label"]) for row in rows], made
    rows = read(data / "banking77" / "train.jsonl.gz")
    labels = Taxonomy.from_labels(sorted({row["label"] for row in rows}))
    yield "banking77", [(row["title"], row["label"]) for row in rows], labels


def drawn(rows: Rows, each: int, seed: int) -> tuple[Rows, Rows]:
    """Return `each` examples a category, and the items to test on."""
    draw = random.Random(seed)
    rows = draw.sample(rows, len(rows))
    cut = min(MOST, len(rows) // 3)
    by_label = defaultdict(list)
    for row in rows[cut:]:
        by_label[row[1]].append(row)
    return [row for label in sorted(by_label) for row in by_label[label][:each]], rows[:cut]


def of_student(recipe: Recipe, examples: Rows, test: Rows) -> float:
    """Return the percentage of the test items that a student gets right."""
    labels, weight = np.array([label for _, label in examples]), np.ones(len(examples))
    student = trained(recipe, recipe.params, [text for text, _ in examples], labels, weight)
    best = student.predict_proba([text for text, _ in test]).argmax(axis=1)
    right = student.classes_[best] == np.array([label for _, label in test])
    return 100.0 * float(np.mean(right))


def items(rows: Rows) -> list[Item]:
    """Return texts as items."""
    return [Item(row=i, id=str(i), fields={"title": text}) for i, (text, _) in enumerate(rows)]


def of_retrieval(
    taxonomy: Taxonomy, examples: Rows, test: Rows, worth: float, *, learns: bool = False
) -> float:
    """Return the percentage that retrieval puts first, a text counting as `worth` examples."""
    scorers.DOCUMENT = worth
    shown, labels = items(examples), [label for _, label in examples]
    made = Retriever(taxonomy, encoders=FEATURES)
    made = made.with_examples(shown, labels) if examples else made
    pool = Pool(weights=default_weights(made.sources))
    if learns:
        pool = learnt_pool(made, shown, labels)
    said = made(items(test)).scores
    best = sum(pool.weight(name) * values for name, values in said.items()).argmax(axis=1)  # type: ignore[union-attr]
    return 100.0 * float(
        np.mean([made.ids[i] == label for i, (_, label) in zip(best, test, strict=True)])
    )


def gained(pairs: Sequence[tuple[float, float]]) -> list[str]:
    """Return the cells of two columns and their difference."""
    before, after = np.array(pairs).T
    gain = after - before
    wide = t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
    return [f"{before.mean():.1f}", f"{after.mean():.1f}", f"{gain.mean():+.1f} ± {wide:.1f}"]


def students(data: Path, counts: Sequence[int], seeds: int) -> Iterator[list[str]]:
    """Yield the rows of the first table."""
    for name, rows, taxonomy in sets(data):
        names = {node.id: name_of(node.id, taxonomy) for node in taxonomy.leaves}
        for features in ("tfidf", *FEATURES[1:]):
            plain = Recipe(params={"features": features})
            named = replace(plain, names=names)
            for each in counts:
                parts = [drawn(rows, each, seed) for seed in range(seeds)]
                pairs = [(of_student(plain, *p), of_student(named, *p)) for p in parts]
                yield [name, features, str(each), *gained(pairs)]


def retrieval(data: Path, counts: Sequence[int], seeds: int) -> Iterator[list[str]]:
    """Yield the rows of the second table."""
    for name, rows, taxonomy in sets(data):
        for each in counts:
            cells = []
            for seed in range(seeds):
                examples, test = drawn(rows, each, seed)
                cells.append(
                    [
                        of_retrieval(taxonomy, [], test, 4.0),
                        *(
                            of_retrieval(taxonomy, examples, test, worth)
                            for worth in (1.0, 4.0, 8.0)
                        ),
                        of_retrieval(taxonomy, examples, test, 4.0, learns=True),
                    ]
                )
            yield [name, str(each), *(f"{x:.1f}" for x in np.mean(cells, axis=0))]


def table(head: str, rows: Iterator[list[str]]) -> Iterator[str]:
    """Yield the lines of a table, each shown when it comes."""
    yield head
    yield "|" + "---|" * (head.count("|") - 1)
    for cells in rows:
        line = f"| {' | '.join(cells)} |"
        print(line, file=sys.stderr, flush=True)
        yield line


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--each", default="1,3,10", help="examples a category")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="The number of unique classes")
    counts = [int(each) for each in args.each.split(",")]
    command = f"python eval/names.py --data DATA --seeds {args.seeds}"
    lines = [
        "# A category's own text beside a few examples",
        "",
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, CPU. Percent right on "
        f"development items that have a category, mean of {args.seeds} draws.",
        "",
        "Retrieval by all three encoders; a text counts as 1, 4 or 8 examples of its category. The "
        "weights are the defaults, in the last column learnt from the examples.",
        "",
        *table(
            "| set | examples a category | without any | 1 | 4 | 8 | 4, learnt |",
            retrieval(args.data, counts, args.seeds),
        ),
        "",
        "Students, without and with the names (4 examples each); the difference with its 95 % "
        "interval over the draws.",
        "",
        *table(
            "| set | features | examples a category | without | with | difference |",
            students(args.data, counts, args.seeds),
        ),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
