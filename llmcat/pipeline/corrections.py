"""People's labels over predictions: read from a file or the label store, put in, written again."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from llmcat.errors import InputError, LlmcatNote
from llmcat.files import excel
from llmcat.files.formats import form_of, rows_of
from llmcat.files.opened import bare, open_bytes
from llmcat.items.readers import Columns
from llmcat.items.values import as_label, as_text
from llmcat.pipeline.read_back import HOW, keyed, leave_columns, predictions_in, prefix_in
from llmcat.pipeline.tables_out import AS_NEW, MORE, OURS, RESERVED, write_lines
from llmcat.pipeline.writers import check_format, packing
from llmcat.records import CORRECTED, NONE, key_in
from llmcat.storage import whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llmcat.annotations.store import LabelStore
    from llmcat.config import RunConfig
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["NOTES", "Corrections", "apply", "of_store", "read"]

MINE = {*OURS, *MORE, *RESERVED}
"""Columns that are ours in a table whose own have no prefix."""
CHANGED = ("label", "path", "decision", "confidence", "labels", "level", "set")
NOTES = {"taxonomy": "the taxonomy is wrong", "opinion": "a second opinion is wanted"}


@dataclass
class Corrections:
    """People's labels as node ids or `none`, by text's key, by id and by row.

    `handed_back`: they are predictions, edited; what is as it was is nobody's word. `notes`: what a
    reviewer said of items instead of a label (`NOTES`), with their ids.
    """

    by_key: dict[str, str] = field(default_factory=dict)
    by_id: dict[str, str] = field(default_factory=dict)
    by_row: dict[int, str] = field(default_factory=dict)
    handed_back: bool = False
    notes: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.by_key) + len(self.by_id) + len(self.by_row)

    def of(self, row: Mapping[str, Any], key: str) -> tuple[Any, str] | None:
        """Return which correction is about a row, and its label."""
        places: list[tuple[Any, dict[Any, str]]] = [
            (key, self.by_key), (row["id"], self.by_id), (row["row"], self.by_row),
        ]  # fmt: skip
        return next(((place, labels[place]) for place, labels in places if place in labels), None)


def read(path: str, taxonomy: Taxonomy, config: RunConfig) -> Corrections:
    """Return the corrections of a file; a row without a label says nothing.

    Raises `InputError` for labels that the taxonomy does not have, two about one item that differ,
    and rows that name no item.
    """
    found, foreign = Corrections(), Counter[str]()
    with open_bytes(path) as raw:
        for number, (row, wrong) in enumerate(rows_of(path, raw), 1):
            if row is None or wrong:
                raise InputError(f"{path}: row {number}: {wrong}")
            named = {str(name).strip().casefold(): value for name, value in row.items()}
            prefix = prefix_in(row)
            if prefix or {"decision", "confidence"} <= named.keys():
                found.handed_back = True
                named |= {n: named.get(f"{prefix}{n}") for n in (config.label, "key") if prefix}
            if (note := named.get("note")) in NOTES:
                found.notes.setdefault(note, []).append(as_text(named.get("id")))
            given = taxonomy.given(as_label(named.get(config.label.casefold())))
            if not given and found.handed_back and config.label.casefold() in named:
                given = NONE  # as predictions are written
            if not given:
                continue
            label = taxonomy.resolve(given)
            if label is None:
                foreign[given] += 1
                continue
            _put(found, named, label, f"{path}: row {number}", config)
    if foreign:
        shown = ", ".join(f"{name!r} ({n:,})" for name, n in foreign.most_common(10))
        raise InputError(f"{path}: labels that are not in the taxonomy: {shown}")
    if not len(found) and not found.notes:
        raise InputError(f"{path}: no labels", hint=f"the column {config.label!r} holds them")
    return found


def _put(
    found: Corrections, named: Mapping[str, Any], label: str, where: str, config: RunConfig
) -> None:
    place: Any
    labels: dict[Any, str]
    if key := as_text(named.get("key")).strip():
        place, labels = key_in(key), found.by_key
    elif id_ := as_text(named.get(config.id.casefold()) or named.get("id")).strip():
        place, labels = id_, found.by_id
    elif row := as_text(named.get("row")).strip():
        if not row.isdigit():
            raise InputError(f"{where}: {row!r} is no number of a row")
        place, labels = int(row), found.by_row
    else:
        raise InputError(f"{where} says of no item: it has no key, id or row")
    if labels.setdefault(place, label) != label:
        raise InputError(f"{where}: {place!r} has two labels: {labels[place]!r} and {label!r}")


def of_store(store: LabelStore, taxonomy: Taxonomy) -> Corrections:
    """Return what people and gold labels say in the store, as far as the taxonomy still has it."""
    held = store.holding("person", "gold")
    known = {one.key: found for one in held if (found := taxonomy.resolve(one.label)) is not None}
    if not known:
        raise InputError(f"{store.path}: nobody has labelled anything")
    return Corrections(by_key=known)


def apply(
    path: str, given: Corrections, taxonomy: Taxonomy, config: RunConfig, *, gold: str = ""
) -> dict[str, int]:
    """Write the predictions with people's labels in them; return how many rows of each kind.

    A table keeps its columns, a JSONL file its rows; everything but label, path, decision and
    confidence stays. Raises `InputError` or `JournalError`.
    """
    out = Path(config.out)
    suffix, was = check_format(str(out)), Path(bare(path)).suffix
    if suffix == ".parquet" or (suffix == ".jsonl") != (was in {".jsonl", ".ndjson"}):
        raise InputError(
            f"{out}: predictions in {was} come back as {'JSONL' if was == '.jsonl' else 'a table'}",
            hint="-o with the suffix of the predictions; a table also as .xlsx or .csv",
        )
    counts = Counter(dict.fromkeys(("rows", "changed", "same", "rest"), 0))
    used: set[Any] = set()
    cases: list[dict[str, Any]] = []

    def rows() -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
        keys = _keys(path, given, config)
        for row, kept in predictions_in(path, config.id):
            counts["rows"] += 1
            met = given.of(row, next(keys))
            if met is not None and given.handed_back and (row["label"] or NONE) == met[1]:
                used.add(met[0])
                met = None
            if met is None:
                counts["rest"] += 1
            else:
                used.add(met[0])
                cases.append(_case(row, kept, met[1]))
                counts["same" if (row["label"] or NONE) == met[1] else "changed"] += 1
                row.update(_corrected(row, met[1], taxonomy))
            yield row, kept

    with whole(out) as raw:
        packed = packing(raw, out.suffix)
        if suffix == ".jsonl":
            packed.writelines(_lines(path, rows()))
        else:
            _write_table(packed, path, out, rows())
        if packed is not raw:
            packed.close()
    leave_columns(out, config)
    if gold:
        with whole(Path(gold)) as raw:
            raw.writelines(orjson.dumps(case, default=str) + b"\n" for case in cases)
    return {**counts, "lost": len(given) - len(used)}


def _corrected(row: Mapping[str, Any], label: str, taxonomy: Taxonomy) -> dict[str, Any]:
    """Return what of a row is otherwise once a person has labelled it."""
    node = taxonomy.nodes.get(label)
    now: dict[str, Any] = {
        "label": node.id if node else None,
        "path": node.label if node else None,
        "decision": CORRECTED,
        "confidence": None,
    }
    if "labels" in row:
        one = {"label": node.id, "path": node.label, "p": None} if node else None
        now["labels"] = [one] if one else []
    return now | {name: None for name in ("level", "set") if name in row}


def _case(row: Mapping[str, Any], kept: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return a row as a labelled item: the user's own columns, without what was predicted."""
    mine = MINE if "decision" in kept else set()  # else ours have a prefix
    theirs = {name: value for name, value in kept.items() if name not in mine}
    return {**theirs, "id": row["id"], "label": label}


def _keys(path: str, given: Corrections, config: RunConfig) -> Iterator[str]:
    """Yield each row's key, where a correction goes by one."""
    if not given.by_key:
        while True:
            yield ""
    yield from (key for key, _ in keyed(path, Columns.of(config)))


def _lines(path: str, rows: Iterator[tuple[dict[str, Any], Mapping[str, Any]]]) -> Iterator[bytes]:
    """Yield lines of JSON as they were, with what changed of ours."""
    with open_bytes(path) as source:
        for (row, _), (was, _) in zip(rows, rows_of(path, source, HOW), strict=True):
            now = dict(was or {})
            if row["decision"] == CORRECTED:
                prefix = prefix_in(now)
                now |= {prefix + n: row[n] for n in CHANGED if prefix + n in now}
            yield orjson.dumps(now, default=str) + b"\n"


def _write_table(
    raw: BinaryIO, path: str, out: Path, rows: Iterator[tuple[dict[str, Any], Mapping[str, Any]]]
) -> None:
    """Write a table as it was, with what changed of ours: a workbook with all that is in it."""
    with open_bytes(path) as source:
        form = form_of(path, source)
        old = rows_of(path, source, HOW, form)
        first = next(old)
        header = list(first[0] or {})
        prefix = prefix_in(header)
        changed = [name for name in CHANGED if prefix + name in header]

        def new(row: Mapping[str, Any]) -> list[Any]:
            return [_labels(row[n]) if n == "labels" else row[n] for n in changed]

        if form.format == "xlsx" and check_format(str(out)) == ".xlsx":
            ours = (new(row) if row["decision"] == CORRECTED else None for row, _ in rows)
            if excel.write_beside(Path(path), raw, "", [prefix + n for n in changed], ours):
                return
            warnings.warn(f"{out}: {AS_NEW}", LlmcatNote, stacklevel=2)

        def cells() -> Iterator[list[Any]]:
            for (row, _), (was, _) in zip(rows, chain([first], old), strict=True):
                now = {**(was or {})}
                if row["decision"] == CORRECTED:
                    now |= {prefix + n: value for n, value in zip(changed, new(row), strict=True)}
                yield [now.get(name) for name in header]

        if check_format(str(out)) == ".xlsx":
            excel.write(raw, header, cells())
        else:
            write_lines(raw, out, chain([header], cells()), form)


def _labels(value: Any) -> str:
    return "|".join(one["label"] for one in value or ()) or NONE
