"""Files to items: JSONL, CSV, TSV, plain lines, `-`, each also gzip. Streaming, in order.

Every row of the input becomes exactly one item. A row that cannot be used becomes an item
with an `error`; only what makes the whole input unusable is an exception. This module does
not know taxonomies, prompts or engines.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import orjson

from llmcat.cleaning import clean
from llmcat.errors import BadConfig, InputError
from llmcat.records import Item, digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Columns", "ItemReader", "count_rows", "to_items"]

Format = Literal["jsonl", "csv", "tsv", "txt"]
Row = tuple["Mapping[str, Any] | None", "str | None"]
"""A raw row, or what is wrong with it."""

TEXT_COLUMNS = ("title", "text", "name", "query", "description", "attributes")
_FIRST = TEXT_COLUMNS[:4]
_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
}


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns mean what. Empty `text`: the first of title, text, name and query that is
    there, then description and attributes.
    """  # noqa: D205

    text: tuple[str, ...] = ()
    id: str = "id"
    label: str = "label"


@dataclass(slots=True)
class ItemReader:
    """Raw rows to clean items. `counts` says how many fields each cleaning step changed."""

    columns: Columns = Columns()
    limit: int = 20_000
    counts: Counter[str] = field(default_factory=Counter)
    _text: tuple[str, ...] | None = None

    def read(self, path: str | Path, *, fmt: Format | None = None) -> Iterator[Item]:
        """Yield the items of a file, or of standard input for `-`.

        Raises `InputError` if the file cannot be opened, has no rows, or lacks a column that
        was asked for by name.
        """
        with open_bytes(path) as raw:
            fmt = fmt or format_of(path, raw)
            rows = _ROWS[fmt](raw)
            yield from self.items(rows, source="standard input" if path == "-" else str(path))

    def items(self, rows: Iterable[Row], *, source: str) -> Iterator[Item]:
        """Yield one item per raw row."""
        row = -1
        for row, (raw, error) in enumerate(rows):
            yield self._item(row, raw, error, source)
        if row < 0:
            raise InputError(f"{source}: no rows", hint="one item per line, or a CSV with a header")

    def _item(
        self, row: int, raw: Mapping[str, Any] | None, error: str | None, source: str
    ) -> Item:
        if raw is None:
            self.counts["malformed"] += 1
            return Item(row=row, id=f"row-{row}", fields={}, error=error)
        if self._text is None:
            self._text = self._choose(raw, source)
        before = self.counts["cut"]
        fields = {
            name: text
            for name in self._text
            if (text := clean(_as_text(raw.get(name)), limit=self.limit, counts=self.counts))
        }
        note = "text cut to fit" if self.counts["cut"] > before else None
        gold = _as_text(raw.get(self.columns.label)).strip() or None
        id_ = _as_text(raw.get(self.columns.id)) or digest(*fields, *fields.values())
        if fields:
            return Item(row=row, id=id_, fields=fields, gold=gold, note=note)
        self.counts["empty"] += 1
        wanted = ", ".join(self._text)
        return Item(row=row, id=id_, fields={}, gold=gold, error=f"no text in {wanted}")

    def _choose(self, raw: Mapping[str, Any], source: str) -> tuple[str, ...]:
        """Settle which columns hold the text, from the first good row."""
        there = ", ".join(map(str, raw))
        for name in self.columns.text:
            if name not in raw:
                raise BadConfig(f"{source}: no column {name!r}", hint=f"its columns: {there}")
        if self.columns.text:
            return self.columns.text
        first = next((name for name in _FIRST if name in raw), None)
        if first is None:
            raise BadConfig(
                f"{source}: no column called {', '.join(_FIRST)}",
                hint=f"name the text columns with --text; its columns: {there}",
            )
        return (first, *TEXT_COLUMNS[len(_FIRST) :])


def to_items(
    data: Iterable[str | Mapping[str, Any]], *, columns: Columns, counts: Counter[str] | None = None
) -> Iterator[Item]:
    """Yield items from Python values: strings, or mappings with the columns' keys."""
    reader = ItemReader(columns=columns)
    if counts is not None:
        reader.counts = counts
    first = columns.text[0] if columns.text else "title"
    rows: Iterator[Row] = (
        ({first: value} if isinstance(value, str) else value, None) for value in data
    )
    return reader.items(rows, source="items")


# -- bytes ----------------------------------------------------------------------------------


@contextmanager
def open_bytes(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for reading, `-` for standard input, gzip by content. Raises `InputError`."""
    with ExitStack() as stack:
        if path == "-":
            raw = cast("io.BufferedReader", sys.stdin.buffer)
        else:
            try:
                raw = stack.enter_context(Path(path).open("rb"))
            except OSError as exc:
                raise InputError(f"{path}: {exc.strerror}") from exc
        if raw.peek(2)[:2] != b"\x1f\x8b":
            yield raw
            return
        unpacked = stack.enter_context(gzip.GzipFile(fileobj=raw))
        yield stack.enter_context(io.BufferedReader(cast("io.RawIOBase", unpacked)))


def format_of(path: str | Path, raw: BinaryIO) -> Format:
    """Tell the format by the suffix; for `-`, by whether the first line begins a JSON object."""
    name = str(path).lower().removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix in _SUFFIX:
        return _SUFFIX[suffix]
    if path != "-":
        raise InputError(
            f"{path}: unknown format {suffix!r}",
            hint=f"use {', '.join(_SUFFIX)} (also .gz), or say --input-format",
        )
    start = cast("io.BufferedReader", raw).peek(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    return "jsonl" if start.startswith(b"{") else "txt"


def count_rows(path: str | Path, *, fmt: Format | None = None) -> int:
    """Count the rows of a file without keeping them."""
    with open_bytes(path) as raw:
        return sum(1 for _ in _ROWS[fmt or format_of(path, raw)](raw))


# -- rows -----------------------------------------------------------------------------------


def _lines(raw: BinaryIO) -> Iterator[bytes]:
    """Yield lines with their ends; a byte-order mark is dropped."""
    try:
        for number, line in enumerate(raw):
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
    except (EOFError, OSError, gzip.BadGzipFile) as exc:
        raise InputError(f"the input breaks off: {exc}") from exc


def _jsonl(raw: BinaryIO) -> Iterator[Row]:
    for line in map(bytes.strip, _lines(raw)):
        if not line:
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            yield None, f"not JSON: {_why(line, exc)}"
            continue
        if isinstance(value, dict):
            yield value, None
        elif isinstance(value, str):
            yield {"title": value}, None
        else:
            yield None, f"expected a JSON object, found {type(value).__name__}"


def _why(line: bytes, exc: orjson.JSONDecodeError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as bad:
        return f"not UTF-8 at byte {bad.start}"
    return str(exc)


def _txt(raw: BinaryIO) -> Iterator[Row]:
    for line in _lines(raw):
        try:
            text = line.decode()
        except UnicodeDecodeError as exc:
            yield None, f"not UTF-8 at byte {exc.start}"
            continue
        if text.strip():
            yield {"title": text}, None


def _csv(raw: BinaryIO, delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(64 * 1024 * 1024)
    text = (line.decode(errors="surrogateescape") for line in _lines(raw))
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as exc:
            yield None, f"not CSV: {exc}"
            continue
        if not cells:
            continue
        if header is None:
            header = [c.strip() for c in cells]
            doubled = [name for name, n in Counter(header).items() if n > 1]
            if doubled:
                raise InputError(f"columns stand twice in the header: {', '.join(doubled)}")
        elif len(cells) > len(header):
            yield None, f"{len(cells)} cells in a row of {len(header)} columns"
        elif any(not _is_text(c) for c in cells):
            yield None, "not UTF-8"
        else:
            yield dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=True)), None


def _tsv(raw: BinaryIO) -> Iterator[Row]:
    return _csv(raw, delimiter="\t")


_ROWS = {"jsonl": _jsonl, "txt": _txt, "csv": _csv, "tsv": _tsv}


def _is_text(cell: str) -> bool:
    """Tell whether a cell decoded, i.e. holds no escaped bytes."""
    return cell.isascii() or not any("\udc80" <= c <= "\udcff" for c in cell)


def _as_text(value: Any) -> str:
    """Show a JSON value as a person would write it: `{"brand": "X"}` as `brand: X`."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # noqa: PLR0124  NaN, as pandas marks the missing
        return ""
    if isinstance(value, dict):
        return "; ".join(f"{k}: {t}" for k, v in value.items() if (t := _as_text(v)))
    if isinstance(value, list | tuple):
        return ", ".join(t for v in value if (t := _as_text(v)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value) if isinstance(value, float) else str(value)
