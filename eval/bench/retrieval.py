#!/usr/bin/env python3
"""How fast retrieval alone is: over 10,595 categories, and embeddings beside bare `encode`.

    python eval/bench/retrieval.py [--nodes FILE] [--items N]

Ratios against a baseline in the same run. `--nodes` is a JSONL file with `id` and `path`; without
it as many categories are made up. Whole commands, start to end, are measured as users run them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llmcat.items.readers import ItemReader
from llmcat.retrieval.documents import item_text
from llmcat.retrieval.scorers import Retriever
from llmcat.retrieval.vectors import representation
from llmcat.taxonomy.tree import Taxonomy

NODES = 10_595
WORDS = (
    "red blue steel garden kitchen running cotton phone camera dog cat oak glass baby car".split()
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=Path)
    parser.add_argument("--items", type=int, default=20_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        paths = nodes(args.nodes)
        (here / "t.txt").write_text("\n".join(paths))
        draw = random.Random(0)
        titles = [
            " ".join([*draw.sample(WORDS, 3), draw.choice(paths).rpartition(" > ")[2], str(i)])
            for i in range(args.items)
        ]
        (here / "items.txt").write_text("\n".join(titles))
        taxonomy = Taxonomy.load(here / "t.txt")
        items = list(ItemReader().read(str(here / "items.txt")))
        print(f"{len(taxonomy.nodes):,} nodes, {len(taxonomy.leaves):,} of them leaves, "
              f"{len(items):,} items")  # fmt: skip
        lexical(taxonomy, items)
        whole(here, len(items))
        for name in ("multilingual", "minilm"):
            embedded(name, taxonomy, items[:1_000])


def nodes(path: Path | None) -> list[str]:
    """Return the paths of a taxonomy."""
    if path is None:
        return [f"{WORDS[i % 14]} > {WORDS[i // 14 % 14]} > category {i}" for i in range(NODES)]
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line)["path"] for line in lines]


def lexical(taxonomy: Taxonomy, items: list) -> None:  # type: ignore[type-arg]
    """Score in batches of 64, as a run does."""
    retriever = Retriever(taxonomy)
    retriever.prepare()
    began = time.perf_counter()
    for start in range(0, len(items), 64):
        retriever(items[start : start + 64])
    print(f"lexical, scoring alone: {len(items) / (time.perf_counter() - began):,.0f} items/s")


def whole(here: Path, count: int) -> None:
    """Run the command, start to end."""
    command = [sys.executable, "-m", "llmcat", "classify", "--file", here / "items.txt"]
    command += ["--taxonomy", here / "t.txt", "--engine", "retriever", "--sources", "lexical"]
    began = time.perf_counter()
    done = subprocess.run(
        [*map(str, command), "--out", str(here / "o.jsonl")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    took = time.perf_counter() - began
    print(
        f"llmcat classify, start to end: {count / took:,.0f} items/s; {done.stderr.splitlines()[0]}"
    )


def embedded(name: str, taxonomy: Taxonomy, items: list) -> None:  # type: ignore[type-arg]
    """Score by an embedding model, beside its bare encode in batches of the same size."""
    texts = [item_text(item) for item in items]
    bare = representation(name).fit(())._model  # type: ignore[attr-defined]  # noqa: SLF001
    retriever = Retriever(taxonomy, (name,))
    retriever.prepare()
    began = time.perf_counter()
    for start in range(0, len(texts), 64):
        bare(texts[start : start + 64])
    plain = time.perf_counter() - began
    began = time.perf_counter()
    for start in range(0, len(items), 64):
        retriever(items[start : start + 64])
    took = time.perf_counter() - began
    print(f"{name}: {len(items) / took:,.0f} items/s, {plain / took:.2f} of bare encode")


if __name__ == "__main__":
    main()
