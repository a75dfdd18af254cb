"""Raw rows of each format that files have."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import orjson
from backports import zstd

from llmcat.errors import InputError
from llmcat.items import parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


__all__ = ["ROWS", "SUFFIXES", "Format", "Row", "bare", "format_of", "lines_of", "open_bytes"]


Format = Literal["jsonl", "csv", "tsv", "txt", "parquet"]


Row = tuple[Mapping[str, Any] | None, str | None]
"""A raw row, or what is wrong with it."""


SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
    ".parquet": "parquet",
}


@contextmanager
def open_bytes(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for reading, `-` for standard input; gzip and zstd are told by content.

    Raises `InputError`.
    """
    with ExitStack() as stack:
        if path == "-":
            # An own reader: a thread may be left waiting in it when the program ends.
            raw = stack.enter_context(open(0, "rb", closefd=False))
        else:
            try:
                raw = stack.enter_context(Path(path).open("rb"))
            except OSError as exc:
                raise InputError(f"{path}: {exc.strerror}") from exc
        start = raw.peek(4)[:4]
        if start[:2] in {b"\xff\xfe", b"\xfe\xff"}:
            raise InputError(f"{path}: UTF-16, not UTF-8", hint="save it as UTF-8")
        if start[:2] == b"\x1f\x8b":
            unpacked: Any = gzip.GzipFile(fileobj=raw)
        elif start == b"\x28\xb5\x2f\xfd":
            unpacked = zstd.ZstdFile(raw)
        else:
            yield raw
            return
        unpacked = stack.enter_context(unpacked)
        yield stack.enter_context(io.BufferedReader(cast("io.RawIOBase", unpacked)))


def bare(name: str) -> str:
    """Return a file's name in small letters without `.gz` or `.zst`."""
    return name.lower().removesuffix(".gz").removesuffix(".zst")


def format_of(path: str | Path, raw: BinaryIO) -> Format:
    """Tell the format by the suffix; for `-`, by whether the first line begins a JSON object."""
    suffix = Path(bare(str(path))).suffix
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if path != "-":
        raise InputError(
            f"{path}: unknown format {suffix!r}",
            hint=f"use {', '.join(SUFFIXES)} (also .gz, .zst), or say --input-format",
        )
    start = cast("io.BufferedReader", raw).peek(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    return "jsonl" if start.startswith(b"{") else "txt"


def lines_of(raw: BinaryIO) -> Iterator[bytes]:
    """Yield lines with their ends; a byte-order mark is dropped."""
    try:
        for number, line in enumerate(raw):
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
    except (EOFError, OSError, zlib.error, zstd.ZstdError) as exc:
        raise InputError(f"the input breaks off: {exc}") from exc


def _jsonl(raw: BinaryIO) -> Iterator[Row]:
    for line in map(bytes.strip, lines_of(raw)):
        if not line:
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            yield None, f"not JSON: {_why(line, exc)}"
            continue
        if isinstance(value, dict):
            if any(type(v) is float and abs(v) >= 2**64 for v in value.values()):
                value = json.loads(line)  # orjson reads integers beyond 64 bits as floats
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
    for line in lines_of(raw):
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as exc:
            yield None, f"not UTF-8 at byte {exc.start}"
            continue
        if text.strip():
            yield {"title": text}, None


def _csv(raw: BinaryIO, delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(64 * 1024 * 1024)
    text = (line.decode(errors="surrogateescape") for line in lines_of(raw))
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as exc:
            if rows.line_num > line:
                exc = csv.Error(f"a quote opened on line {line} is not closed ({exc})")
            yield None, f"not CSV: {exc}"
            continue
        if not cells:
            continue
        if header is None:
            header = [c.strip() for c in cells]
            if not all(map(is_text, header)):
                raise InputError("the header is not UTF-8", hint="save the file as UTF-8")
            doubled = [name for name, n in Counter(header).items() if name and n > 1]
            if doubled:
                raise InputError(f"columns stand twice in the header: {', '.join(doubled)}")
        elif len(cells) > len(header):
            yield None, f"{len(cells)} cells in a row of {len(header)} columns"
        elif any(not is_text(c) for c in cells):
            yield None, "not UTF-8"
        else:
            cells += [""] * (len(header) - len(cells))
            yield {name: c for name, c in zip(header, cells, strict=True) if name}, None


def _tsv(raw: BinaryIO) -> Iterator[Row]:
    return _csv(raw, delimiter="\t")


def _parquet(raw: BinaryIO) -> Iterator[Row]:
    if not raw.seekable():
        raise InputError("Parquet cannot be read from a pipe", hint="give the file: --file FILE")
    for row in parquet.rows_of(raw):
        yield row, None


ROWS: dict[Format, Callable[[BinaryIO], Iterator[Row]]] = {
    "jsonl": _jsonl,
    "txt": _txt,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
}


def is_text(cell: str) -> bool:
    """Tell whether a cell decoded, i.e. holds no escaped bytes."""
    return cell.isascii() or not any("\udc80" <= c <= "\udcff" for c in cell)
