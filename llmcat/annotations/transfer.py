"""Labels between the store and files: what goes out to be checked, and how it comes back.

This module does not know engines, students or runs.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from llmcat.annotations.store import CHECKED, Label, key_of
from llmcat.errors import BadConfig, InputError
from llmcat.files.formats import Reading
from llmcat.files.sources import expand
from llmcat.items.readers import Columns, ItemReader
from llmcat.records import key_in, key_out
from llmcat.storage import now, text_in, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmcat.annotations.store import LabelStore, Source
    from llmcat.config import RunConfig
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["export", "import_labels"]


KEY = re.compile(r"k[0-9a-f]{16}")
"""A key as it is written: a text that nobody has labelled yet has one, too."""


def import_labels(
    config: RunConfig, taxonomy: Taxonomy, store: LabelStore, *, source: Source, by: str = ""
) -> Counter[str]:
    """Put the labels of a file into the store; return how many rows there were of each kind.

    `new`, `known` (the source's latest word already), `unlabelled`. A row is known by the column
    `key` of an exported file, where the store has that key, else by its text, else by its id. All
    or nothing: raises `InputError` for labels that the taxonomy does not have, and for rows that
    cannot be placed.
    """
    reader, has_text = _reader(config)
    reader.labelled = source in CHECKED
    labels: list[Label] = []
    texts: dict[str, Mapping[str, str]] = {}
    counts, foreign, lost = Counter[str](), Counter[str](), list[str]()
    at = now()
    for item in reader.read_for(config):
        given = taxonomy.given(item.gold)
        if not given:
            counts["unlabelled"] += 1
            continue
        node = taxonomy.resolve(given)
        if node is None:
            foreign[given] += 1
            continue
        named = item.kept.get("key", "").strip()
        own = key_of(item.content) if has_text and item.error is None else ""
        if named and (KEY.fullmatch(named) or store.knows(named)):
            key = key_in(named)
            keys = [key]
        elif named and not (own and store.knows(own)):
            lost.append(named)
            continue
        else:
            keys = [own] if own else store.keys_of(item.id)
        if not keys:
            lost.append(item.id)
            continue
        if own and config.keep_text and not named:
            texts[keys[0]] = item.fields
        labels.append(Label(keys[0], node, source, item.id, at=at, by=by, taxonomy=taxonomy.digest))
    if foreign:
        named = ", ".join(f"{label!r} ({n:,})" for label, n in foreign.most_common(10))
        raise InputError(
            f"labels that are not in the taxonomy: {named}", hint="mend the labels or the taxonomy"
        )
    if lost:
        raise InputError(
            f"{len(lost):,} rows have neither a text nor a key or id that the store knows: "
            f"{', '.join(lost[:5])}",
            hint="did a spreadsheet change the keys? leave the items' text in the file",
        )
    counts["new"] = store.add(labels, texts=texts)
    counts["known"] = len(labels) - counts["new"]
    return counts


def _reader(config: RunConfig) -> tuple[ItemReader, bool]:
    """Return what reads a file of labels, and whether it has the items' text.

    By the column `key` where it has one.
    """
    plain = Columns.of(config)
    keyed = replace(plain, keep=("key",))
    files = expand(config.file)
    for columns, has_text in ((keyed, True), (replace(keyed, text=(plain.id,)), False)):
        try:
            ItemReader(columns=columns).check(*files, how=Reading.of(config))
        except BadConfig:
            continue
        return ItemReader(columns=columns), has_text
    return ItemReader(columns=plain), True


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
        known["key"] = key_out(label.key)
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
