"""Labels between the store and files: what goes out to be checked, and how it comes back.

This module does not know engines, students or runs.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from llmcat.annotations.store import Label, key_of
from llmcat.errors import BadConfig, InputError
from llmcat.files.formats import Reading
from llmcat.files.sources import expand
from llmcat.items.readers import Columns, ItemReader
from llmcat.storage import now, text_in, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmcat.annotations.store import LabelStore, Source
    from llmcat.config import RunConfig
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["export", "import_labels"]


def import_labels(
    config: RunConfig, taxonomy: Taxonomy, store: LabelStore, *, source: Source, by: str = ""
) -> Counter[str]:
    """Put the labels of a file into the store; return how many rows there were of each kind.

    `new`, `known` (the source's latest word already), `unlabelled`. A row is known by the column
    `key` of an exported file, else by its text, else by its id. All or nothing: raises `InputError`
    for labels that the taxonomy does not have, and for rows that cannot be placed.
    """
    reader = _reader(config)
    labels: list[Label] = []
    texts: dict[str, Mapping[str, str]] = {}
    counts, foreign, lost = Counter[str](), Counter[str](), list[str]()
    at = now()
    for item in reader.read_for(config):
        if not item.gold:
            counts["unlabelled"] += 1
            continue
        node = taxonomy.resolve(item.gold)
        if node is None:
            foreign[item.gold] += 1
            continue
        keys = [key_of(item.content)] if item.error is None else store.keys_of(item.id)
        if given := item.kept.get("key"):
            keys = [given]
        if not keys:
            lost.append(item.id)
            continue
        if item.error is None and config.keep_text and not given:
            texts[keys[0]] = item.fields
        labels.append(Label(keys[0], node, source, item.id, at=at, by=by, taxonomy=taxonomy.digest))
    if foreign:
        named = ", ".join(f"{label!r} ({n:,})" for label, n in foreign.most_common(10))
        raise InputError(
            f"labels that are not in the taxonomy: {named}", hint="mend the labels or the taxonomy"
        )
    if lost:
        raise InputError(
            f"{len(lost):,} rows have no text, and ids that the store does not know: "
            f"{', '.join(lost[:5])}",
            hint="leave the items' text in the file",
        )
    counts["new"] = store.add(labels, texts=texts)
    counts["known"] = len(labels) - counts["new"]
    return counts


def _reader(config: RunConfig) -> ItemReader:
    """Return what reads a file of labels: by the column `key` where it has one."""
    columns = Columns.of(config)
    exported = replace(columns, keep=("key",), text=(columns.id,))
    try:
        ItemReader(columns=exported).check(*expand(config.file), how=Reading.of(config))
    except BadConfig:
        return ItemReader(columns=columns)
    return ItemReader(columns=exported)


def export(store: LabelStore, labels: Iterable[Label], out: Path, *, to_check: bool = False) -> int:
    """Write labels as .jsonl or .csv, with the texts that the store keeps; return how many.

    The columns are those that `import_labels` reads. `to_check`: the label is called `suggested`,
    and `label` is left empty for whoever checks. Whole or not at all.
    """
    texts = store.texts()
    rows: list[dict[str, Any]] = []
    for label in labels:
        known = asdict(label)
        if to_check:
            known = {"key": label.key, "item": label.item, "suggested": label.label, "label": ""}
        rows.append({"id": known.pop("item"), **texts.get(label.key, {}), **known})
    if out.suffix not in {".jsonl", ".csv"}:
        raise BadConfig(f"{out}: labels are written as .jsonl or .csv")
    with whole(out) as raw:
        if out.suffix == ".jsonl":
            raw.writelines(orjson.dumps(row) + b"\n" for row in rows)
        else:
            names = list(dict.fromkeys(name for row in rows for name in row))
            with text_in(raw) as text:
                writer = csv.DictWriter(text, names or ["id", "label"], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    return len(rows)
