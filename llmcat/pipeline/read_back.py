"""Predictions read again, whichever format they were written in.

A row is as JSONL has it; what a table does not hold is missing. The user's own columns, where they
came back, stand beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from llmcat.errors import InputError
from llmcat.files.formats import Reading, rows_of
from llmcat.files.opened import bare, open_bytes
from llmcat.items.readers import ItemReader
from llmcat.items.values import as_text, is_missing
from llmcat.pipeline.tables_out import PREFIXES, others_in
from llmcat.records import SEVERAL, digest, key_in
from llmcat.storage import whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from llmcat.config import RunConfig
    from llmcat.items.readers import Columns

__all__ = [
    "HOW",
    "Prediction",
    "as_run",
    "keyed",
    "leave_columns",
    "predictions_in",
    "prefix_in",
    "title_of",
]

Prediction = tuple[dict[str, Any], Mapping[str, Any]]
"""A row of predictions, and the input's columns beside it."""
HOW = Reading(known=frozenset({"decision", "label", "confidence"}))
"""A single row of predictions is one, whatever lists are in it."""
NUMBERS = ("confidence", "p_none", "mass", "level")
COLUMNS, LEFT = ("text", "id", "label", "image"), ".columns.json"
TITLES = ("title", "text", "name", "query")


def predictions_in(path: str | Path, id_column: str = "id") -> Iterator[Prediction]:
    """Yield the predictions of a file; in a table ids stand in `id_column`.

    Raises `InputError` for another file, with the line.
    """
    if not Path(path).exists() and Path(f"{path}.run.json").exists():
        hint = f"llmcat export {path} writes what is there; the same command again goes on"
        raise InputError(f"{path}: its run is not finished", hint=hint)
    with open_bytes(path) as raw:
        for number, (row, wrong) in enumerate(rows_of(path, raw, HOW), 1):
            found = None
            if row is not None and not wrong:
                found = _prediction(row, number - 1, id_column)
            if found is None:
                raise InputError(
                    f"{path}: row {number} is not a prediction{f' ({wrong})' if wrong else ''}",
                    hint="a file that llmcat classify wrote: .jsonl, .csv, .tsv, .xlsx, .parquet",
                )
            yield found


def prefix_in(names: Iterable[str]) -> str:
    """Return what stands before our columns in a table: the latest where there are several."""
    there = set(names)
    return next((p for p in reversed(PREFIXES) if f"{p}decision" in there), "")


def _prediction(row: Mapping[str, Any], place: int, id_column: str) -> Prediction | None:
    kept: Mapping[str, Any]
    if prefix := prefix_in(row):
        ours = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
        kept = {k: v for k, v in row.items() if not k.startswith(prefix)}
    elif isinstance(row.get("decision"), str):
        ours, kept = dict(row), row
    else:
        return None
    if isinstance(ours.get("key"), str):
        ours["key"] = key_in(ours["key"])
    _as_values(ours)
    for name in ("alternatives", "set", "sources"):
        if isinstance(ours.get(name), str):
            ours[name] = orjson.loads(ours[name]) if ours[name] else []
    if isinstance(said := ours.get("labels"), str):
        given = [] if said in {"", "none"} else said.split(SEVERAL)
        ours["labels"] = [{"label": name, "path": name, "p": None} for name in given]
    if isinstance(said := ours.pop("others", None), str):
        ours["alternatives"] = others_in(said)
    sure = ours["confidence"]
    ours.setdefault("kind", "label_only" if sure is None else "top")
    if "p_none" not in row:
        ours["p_none"] = sure if ours["label"] is None else None
    ours.setdefault("alternatives", [])
    ours.setdefault("row", place)
    by_letters = _by_letters(kept)
    if (prefix or "id" not in ours or id_column != "id") and id_column.casefold() in by_letters:
        ours["id"] = as_text(kept[by_letters[id_column.casefold()]])
    ours["id"] = as_text(ours.get("id")) or f"row-{place}"
    return ours, kept


def _by_letters(kept: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of columns by their names in small letters."""
    return {name.casefold(): name for name in kept}


def _as_values(ours: dict[str, Any]) -> None:
    """Read what a table holds as text: numbers, yes and no, and cells that are empty."""
    if isinstance(place := ours.get("row"), str) and place.isdigit():
        ours["row"] = int(place)
    if isinstance(said := ours.get("degraded"), str):
        ours["degraded"] = said.casefold() == "true"
    for name in NUMBERS:
        value = ours.get(name)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                ours[name] = float(value.replace(",", ".")) if value else None
        elif is_missing(value):
            ours[name] = None
    for name in ("label", "path", "reason", "gold"):
        ours[name] = None if is_missing(ours.get(name)) or ours.get(name) == "" else ours[name]
    for name in ("id", "label", "path", "reason", "gold"):
        if isinstance(said := ours.get(name), str) and said.startswith("'="):
            ours[name] = said[1:]


def as_run(path: str | Path, config: RunConfig) -> RunConfig:
    """Return settings with the columns of the run that wrote a file, where nobody named others."""
    for name, inside in ((f"{path}.run.json", ("about", "settings")), (f"{path}{LEFT}", ())):
        try:
            was = orjson.loads(Path(name).read_bytes())
            for key in inside:
                was = was[key]
            update = {n: was[n] for n in COLUMNS if n in was and n not in config.model_fields_set}
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return config.model_copy(update=update)
    return config


def leave_columns(path: str | Path, config: RunConfig) -> None:
    """Leave beside a file that no run wrote which columns it has, for `as_run`, if not the usual.

    Raises `JournalError`.
    """
    named = {n: getattr(config, n) for n in COLUMNS}
    usual = {n: type(config).model_fields[n].default for n in COLUMNS}
    place = Path(f"{path}{LEFT}")
    if named == usual:
        place.unlink(missing_ok=True)
        return
    with whole(place) as raw:
        raw.write(orjson.dumps(named) + b"\n")


def title_of(kept: Mapping[str, Any], column: str = "") -> str:
    """Return an item's title among the columns that came back; empty where there is none."""
    named = _by_letters(kept)
    for name in (column,) if column else TITLES:
        if (found := named.get(name.casefold())) is not None and (text := as_text(kept[found])):
            return text
    return ""


def keyed(path: str | Path, columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each prediction with its text's key: as it was written, else of the text beside it.

    Raises `InputError` where there is neither.
    """
    first = next(predictions_in(path), None)
    if first is not None and "key" in first[0]:
        yield from ((row["key"] or "", row) for row, _ in predictions_in(path, columns.id))
        return
    if Path(bare(str(path))).suffix in {".jsonl", ".ndjson", ".parquet"}:
        raise InputError(f"{path}: no keys: an earlier llmcat wrote it")
    items = ItemReader(columns=columns).read(path)
    for item, (row, _) in zip(items, predictions_in(path, columns.id), strict=True):
        yield digest(item.content), row
