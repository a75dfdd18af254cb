"""Parquet through pyarrow: rows in and out, one row group at a time."""

from __future__ import annotations

import uuid
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from llmcat.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["check", "count", "rows_of", "write"]

_BATCH = 1024
_GROUP = 65_536
"""Rows in a written row group."""


def check() -> None:
    """Raise `InputError` if Parquet cannot be used here."""
    _pyarrow()


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as exc:
        raise InputError(
            "Parquet needs the package pyarrow", hint='pip install "llmcat[parquet]"'
        ) from exc
    return pa


def _open(raw: BinaryIO) -> Any:
    pa = _pyarrow()
    try:
        return pa.parquet.ParquetFile(raw)
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise InputError(f"not a Parquet file: {exc}") from exc


def rows_of(raw: BinaryIO) -> Iterator[dict[str, Any]]:
    """Yield rows as mappings. Raises `InputError` if the file is not Parquet or is damaged."""
    file, pa = _open(raw), _pyarrow()
    names = file.schema_arrow.names
    doubled = [name for name, n in Counter(names).items() if n > 1]
    if doubled:
        raise InputError(f"columns stand twice in the file: {', '.join(doubled)}")
    classes = _classes(file.schema_arrow)
    try:
        for batch in file.iter_batches(batch_size=_BATCH):
            columns = [
                _named(_values(column, pa), classes[name]) if name in classes
                else _values(column, pa)
                for name, column in zip(names, batch.columns, strict=True)
            ]  # fmt: skip
            for cells in zip(*columns, strict=True):
                yield dict(zip(names, cells, strict=True))
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise InputError(f"the Parquet file breaks off: {exc}") from exc


def _values(column: Any, pa: Any) -> list[Any]:
    """Return a column's values as Python has them, as text what Python has no value for."""
    if column.type == pa.binary(16) or str(column.type).startswith("extension<arrow.uuid"):
        plain = column.storage if hasattr(column, "storage") else column
        return [None if v is None else str(uuid.UUID(bytes=v)) for v in plain.to_pylist()]
    try:
        found: list[Any] = column.to_pylist(maps_as_pydicts="lossy")
    except (ValueError, OverflowError, TypeError, KeyError, pa.ArrowException, OSError):
        return [_cell(column[i], pa) for i in range(len(column))]
    return found


def _cell(cell: Any, pa: Any) -> Any:
    """Return one value; one that Python cannot hold (the year 20000, a zone on Mars) as text."""
    try:
        return cell.as_py()
    except (ValueError, OverflowError, TypeError, KeyError, pa.ArrowException, OSError):
        pass
    try:
        if pa.types.is_timestamp(cell.type):
            return str(cell.cast(pa.timestamp(cell.type.unit)).cast(pa.string()).as_py())
        return str(cell.cast(pa.string()).as_py())
    except (pa.ArrowException, ValueError, OSError):
        return str(cell)


def _classes(schema: Any) -> dict[str, list[str]]:
    """Return the names of integer labels, by column, as Hugging Face's `datasets` stores them."""
    try:
        told = orjson.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = told["info"]["features"]
        return {
            name: [str(each) for each in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _named(values: list[Any], names: list[str]) -> list[Any]:
    """Return labels by name; -1, which stands for none given, is missing."""
    return [
        names[v] if isinstance(v, int) and 0 <= v < len(names) else None if v == -1 else v
        for v in values
    ]


def count(raw: BinaryIO) -> int:
    """Return the number of rows, from the file's footer."""
    return int(_open(raw).metadata.num_rows)


def write(out: BinaryIO, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write prediction rows. Every file has the same columns and types, whatever its rows hold.

    Those of the fallback labeler have four more; `sources` is JSON.
    """
    rows = iter(rows)
    first = next(rows, None)
    pa = _pyarrow()
    other = pa.struct([("label", pa.string()), ("path", pa.string()), ("p", pa.float64())])
    text, number = pa.string(), pa.float64()
    columns = [
        ("row", pa.int64()),
        ("id", text),
        ("label", text),
        ("path", text),
        ("decision", text),
        ("confidence", number),
        ("kind", text),
        ("alternatives", pa.list_(other)),
        ("p_none", number),
        ("mass", number),
        ("reason", text),
        ("key", text),
        ("gold", text),
        ("set", pa.list_(text)),
    ]
    if first is not None and "labels" in first:
        columns += [("labels", pa.list_(other))]
    if first is not None and "level" in first:
        columns += [("level", number)]
    decided_by = first is not None and "sources" in first
    if decided_by:
        columns += [("by", text), ("why", text), ("degraded", pa.bool_()), ("sources", text)]
    schema = pa.schema(columns)
    with pa.parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        batch: list[Mapping[str, Any]] = []
        for row in chain([first] if first is not None else [], rows):
            told = {"sources": orjson.dumps(row["sources"]).decode()} if decided_by else {}
            batch.append({**row, **told})
            if len(batch) == _GROUP:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch.clear()
        writer.write_table(pa.Table.from_pylist(batch, schema=schema))
