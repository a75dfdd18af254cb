"""Labelled sets in llmcat's form: `items.jsonl` and a taxonomy, ready for llmcat eval and ab.

    python eval/sets.py examples OUT                     our own 256 items
    python eval/sets.py shop32 OUT --data FOLDER         a set that is already prepared
    python eval/sets.py banking77 OUT --source test.csv  from its public source, downloaded before

Public sources (none is part of llmcat; each keeps its licence):

    banking77  github.com/PolyAI-LDN/task-specific-datasets, banking_data/test.csv (CC BY 4.0):
               Casanueva et al. 2020, Efficient Intent Detection with Dual Sentence Encoders
    clinc150   github.com/clinc/oos-eval, data/data_full.json (CC BY 3.0): Larson et al. 2019, An
               Evaluation Dataset for Intent Classification and Out-of-Scope Prediction; out of
               scope becomes `none`
    shop32     titles from PriceRunner (Akritidis, UCI dataset 837, CC BY 4.0) and USDA SR28 (public
               domain), chosen and read by hand: only in its prepared form
    naics2022_level3[_train]  the index of NAICS 2022 (US Census Bureau, public domain), by its
               first three levels: only in its prepared form
    jd_hard_zh Chinese titles that a trained model got wrong, many labels wrong: for --audit
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT_OF_SCOPE = {"oos", "out of scope", "out_of_scope", "oos > oos"}


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file, gzip or not."""
    with path.open("rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as lines:
        for line in lines:
            yield json.loads(line)


def write(out: Path, items: Iterable[dict[str, Any]], nodes: Iterable[dict[str, Any]]) -> int:
    """Write both files; return the number of items."""
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    with (out / "items.jsonl").open("w", encoding="utf-8") as sink:
        for item in items:
            sink.write(json.dumps(item, ensure_ascii=False) + "\n")
            count += 1
    with (out / "taxonomy.jsonl").open("w", encoding="utf-8") as sink:
        for node in nodes:
            sink.write(json.dumps(node, ensure_ascii=False) + "\n")
    return count


def flat(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a flat taxonomy of the labels that occur, their names readable."""
    labels = sorted({item["label"] for item in items} - {"none"})
    return [{"id": label, "name": label.replace("_", " ")} for label in labels]


def prepared_shop32(data: Path) -> tuple[list[Any], list[Any]]:
    """Test part: 640 titles, 32 categories of depth two, with notes."""
    nodes = []
    for row in rows(data / "categories.jsonl"):
        node = {"path": row["label"], "description": row["description"]}
        nodes.append(node | {"name_zh": row["label_zh"].rpartition(" > ")[2]})
    return list(rows(data / "test.jsonl")), nodes


def prepared_banking77(data: Path) -> tuple[list[Any], list[Any]]:
    """Test part: 3,080 questions, 77 intents."""
    items = list(rows(data / "test.jsonl"))
    return items, flat(items)


def prepared_clinc150(data: Path) -> tuple[list[Any], list[Any]]:
    """Validation part: 150 intents in domains, and questions that belong nowhere."""
    items = [
        row | {"label": "none" if row["label"].lower() in OUT_OF_SCOPE else row["label"]}
        for row in rows(data / "validation.jsonl")
    ]
    return items, [{"path": label} for label in sorted({i["label"] for i in items} - {"none"})]


def prepared_jd_hard_zh(data: Path) -> tuple[list[Any], list[Any]]:
    """All 2,516 titles, 255 labels."""
    items = list(rows(data / "items.jsonl"))
    return items, [{"id": n["id"], "name": n["id"]} for n in flat(items)]


def prepared_naics2022_level3(data: Path, split: str = "test") -> tuple[list[Any], list[Any]]:
    """Business activities by industry group: the first three levels, 12 training items or more."""
    every = [
        row | {"label": " > ".join(row["label"].split(" > ")[:3])}
        for row in rows(data / "items.jsonl.gz")
    ]
    count = Counter(row["label"] for row in every if row["split"] == "train")
    kept = {label for label, n in count.items() if n >= 12 and label.count(" > ") == 2}
    items = [row for row in every if row["split"] == split and row["label"] in kept]
    return items, [{"path": label} for label in sorted(kept)]


def prepared_naics2022_level3_train(data: Path) -> tuple[list[Any], list[Any]]:
    """The same, the training part."""
    return prepared_naics2022_level3(data, "train")


def public_banking77(source: Path) -> tuple[list[Any], list[Any]]:
    """From banking_data/test.csv: the columns text and category."""
    with source.open(encoding="utf-8", newline="") as lines:
        items = [
            {"id": f"bk-{i}", "title": row["text"], "label": row["category"]}
            for i, row in enumerate(csv.DictReader(lines))
        ]
    return items, flat(items)


def public_clinc150(source: Path) -> tuple[list[Any], list[Any]]:
    """From data/data_full.json: lists of [text, intent] by split."""
    parts = json.loads(source.read_text("utf-8"))
    items = [
        {"id": f"cl-{i}", "title": text, "label": "none" if intent == "oos" else intent}
        for i, (text, intent) in enumerate([*parts["val"], *parts["oos_val"]])
    ]
    return items, flat(items)


PREPARED: dict[str, Callable[[Path], tuple[list[Any], list[Any]]]] = {
    "shop32": prepared_shop32,
    "banking77": prepared_banking77,
    "clinc150": prepared_clinc150,
    "jd_hard_zh": prepared_jd_hard_zh,
    "naics2022_level3": prepared_naics2022_level3,
    "naics2022_level3_train": prepared_naics2022_level3_train,
}
PUBLIC = {"banking77": public_banking77, "clinc150": public_clinc150}


def main() -> int:
    """Write one set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", choices=["examples", *PREPARED])
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--data", type=Path, help="folder of prepared sets (default: LLMCAT_DATA)",
                        default=os.environ.get("LLMCAT_DATA"))  # fmt: skip
    parser.add_argument("--source", type=Path, help="the public source's file")
    args = parser.parse_args()
    if args.name == "examples":
        args.out.mkdir(parents=True, exist_ok=True)
        for name in ("items.jsonl", "taxonomy.yaml"):
            (args.out / name).write_bytes((ROOT / "examples" / name).read_bytes())
        print(f"wrote {args.out}")
        return 0
    if args.source:
        if args.name not in PUBLIC:
            print(f"{args.name} has no public source that can be converted", file=sys.stderr)
            return 2
        found = PUBLIC[args.name](args.source)
    elif args.data:
        folder = "naics2022_index" if args.name.startswith("naics") else args.name
        found = PREPARED[args.name](Path(args.data) / folder)
    else:
        print("--source FILE, or --data FOLDER (LLMCAT_DATA)", file=sys.stderr)
        return 2
    print(f"wrote {args.out}: {write(args.out, *found):,} items, {len(found[1]):,} labels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
