"""Parquet through pyarrow: rows in and out, one row group at a time."""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from llmcat.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = ["check", "count", "rows_of", "tables_made", "tables_of", "write", "write_beside"]

_BATCH = 1024
_GROUP = 65_536
"""Rows in a written row group."""
MORE = frozenset({"labels", "level", "by", "why", "degraded", "sources"})
"""Columns that are there where the rows have them."""


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
    types = _types()
    names = [name for name in types if name not in MORE or (first is not None and name in first)]
    schema = pa.schema([(name, types[name]) for name in names])
    with pa.parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        every = chain([first] if first is not None else [], rows)
        writer.write_table(_table([], schema))
        while batch := list(islice(every, _GROUP)):
            writer.write_table(_table(batch, schema))


def write_beside(
    out: BinaryIO,
    tables: Iterable[Any],
    rows: Iterable[Mapping[str, Any]],
    names: Mapping[str, str],
) -> None:
    """Write tables of the input, each row of predictions beside its own, under other names.

    `names` maps what is written of a row to the names of its columns. Input without a prediction is
    left out. Raises `InputError` where there are fewer rows of input.
    """
    pa, types, rows = _pyarrow(), _types(), iter(rows)
    schema = pa.schema([(name, types[name]) for name in names])
    with contextlib.ExitStack() as stack:
        writer = None
        for table in tables:
            batch = list(islice(rows, table.num_rows))
            both, ours = table.slice(0, len(batch)), _table(batch, schema)
            for name in names:
                both = both.append_column(names[name], ours[name])
            if writer is None:
                opened = pa.parquet.ParquetWriter(out, both.schema, compression="zstd")
                writer = stack.enter_context(opened)
            if batch:
                writer.write_table(both)
        if next(rows, None) is not None:
            raise InputError("fewer rows than were read: has the file changed?")


def tables_of(raw: BinaryIO, names: Sequence[str]) -> Iterator[Any]:
    """Yield a file's own columns as they are, those of `names` or all. Raises `InputError`."""
    file, pa = _open(raw), _pyarrow()
    columns = list(names) or None
    yield file.schema_arrow.empty_table().select(columns or file.schema_arrow.names)
    try:
        for batch in file.iter_batches(batch_size=_GROUP, columns=columns):
            table = pa.Table.from_batches([batch])
            yield table.select(columns) if columns else table
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise InputError(f"the Parquet file breaks off: {exc}") from exc


def tables_made(
    rows: Callable[[], Iterator[Mapping[str, Any]]], columns: Sequence[str]
) -> Iterator[Any]:
    """Yield tables of rows from other formats: the type of a column is that of all its values.

    Booleans, integers of 64 bits and numbers; everything else is text. Goes twice through `rows`.
    """
    pa = _pyarrow()
    kinds: dict[str, set[type]] = {name: set() for name in columns}
    for row in rows():
        for name, kind in kinds.items():
            value = row.get(name)
            if value is not None:
                kind.add(str if isinstance(value, int) and abs(value) >= 2**63 else type(value))
    plain = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    types = {
        name: plain[next(iter(kind))] if len(kind) == 1 and kind <= plain.keys()
        else pa.float64() if kind == {int, float}
        else pa.string()
        for name, kind in kinds.items()
    }  # fmt: skip
    schema, every = pa.schema(list(types.items())), rows()
    text = [name for name, kind in types.items() if kind == pa.string()]
    yield schema.empty_table()
    while batch := list(islice(every, _GROUP)):
        told = [
            {**row, **{n: str(row[n]) for n in text if row.get(n) is not None}} for row in batch
        ]
        yield pa.Table.from_pylist(told, schema=schema)


def _types() -> dict[str, Any]:
    """Return the types of the columns of predictions, in their order."""
    pa = _pyarrow()
    other = pa.struct([("label", pa.string()), ("path", pa.string()), ("p", pa.float64())])
    text, number = pa.string(), pa.float64()
    return {
        "row": pa.int64(), "id": text, "label": text, "path": text, "decision": text,
        "confidence": number, "kind": text, "alternatives": pa.list_(other), "p_none": number,
        "mass": number, "reason": text, "key": text, "gold": text, "set": pa.list_(text),
        "labels": pa.list_(other), "level": number, "by": text, "why": text,
        "degraded": pa.bool_(), "sources": text,
    }  # fmt: skip


def _table(rows: Sequence[Mapping[str, Any]], schema: Any) -> Any:
    """Return rows of predictions as a table; `sources` is JSON."""
    told = [
        {**row, "sources": orjson.dumps(row["sources"]).decode()} if "sources" in row else row
        for row in rows
    ]
    return _pyarrow().Table.from_pylist(told, schema=schema)
