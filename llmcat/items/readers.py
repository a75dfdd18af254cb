"""Files to items: JSONL, CSV, TSV, plain lines, Parquet, `-`; gzip, zstd. Streaming, in order.

Every row of the input becomes exactly one item. A row that cannot be used becomes an item
with an `error`; only what makes the whole input unusable is an exception. This module does
not know taxonomies, prompts or engines.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import orjson
from backports import zstd

from llmcat.errors import BadConfig, BadItem, InputError
from llmcat.items import images, parquet, redact
from llmcat.items.cleaning import clean
from llmcat.items.redact import Redactor
from llmcat.records import Item, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from llmcat.config import RunConfig

__all__ = ["Columns", "ItemReader", "bare", "count_rows", "expand", "to_items"]

Format = Literal["jsonl", "csv", "tsv", "txt", "parquet"]
Row = tuple[Mapping[str, Any] | None, str | None]
"""A raw row, or what is wrong with it."""

TEXT_COLUMNS = ("title", "text", "name", "query", "description", "attributes")
_FIRST = TEXT_COLUMNS[:4]
_USUAL = {name: (name, *TEXT_COLUMNS[4:]) for name in _FIRST}
CUT = "text cut to fit"
LOOK_AHEAD = 100
"""Rows looked at for the columns before a missing one is an error."""
_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
    ".parquet": "parquet",
}


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns mean what. Empty `text`: the first of title, text, name and query that is
    there, then description and attributes. `keep`: columns that no prompt shows. `redact`: what is
    masked (see `llmcat.items.redact`).
    """  # noqa: D205

    text: tuple[str, ...] = ()
    id: str = "id"
    label: str = "label"
    image: str = ""
    keep: tuple[str, ...] = ()
    redact: str = ""

    @classmethod
    def of(cls, config: RunConfig) -> Columns:
        """Return the columns of the settings."""
        return cls(
            text=tuple(name.strip() for name in config.text.split(",") if name.strip()),
            id=config.id,
            label=config.label,
            image=config.image,
            redact=config.redact,
            keep=tuple(filter(None, (config.source_category, config.group))),
        )


@dataclass(slots=True)
class ItemReader:
    """Raw rows to clean items.

    `counts` says how many fields each cleaning step changed, `parts` how many items each file gave.
    """

    columns: Columns = Columns()
    limit: int = 20_000
    counts: Counter[str] = field(default_factory=Counter)
    parts: dict[str, int] = field(default_factory=dict)
    folder: Path = Path()
    """Where an image's path begins: beside the items that name it."""
    _masked: Redactor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Make ready what masks. Raises `BadConfig` if it cannot be had."""
        if self.columns.redact:
            self._masked = redact.parse(self.columns.redact)

    def read(self, *paths: str | Path, fmt: Format | None = None) -> Generator[Item, None, None]:
        """Yield the items of files, one after the other, or of standard input for `-`.

        Rows are numbered through. Of many files some may be empty. Raises `InputError` if a file
        cannot be opened or breaks off or there are no rows, and `BadConfig` if a file lacks a
        column that was asked for by name.
        """
        row = 0
        for path in paths:
            source = "standard input" if path == "-" else str(path)
            name = str(path)
            self.parts[name] = 0
            self.folder = Path() if path == "-" else Path(path).parent
            with open_bytes(path) as raw:
                found = _ROWS[fmt or format_of(path, raw)](raw)
                for item in self.items(found, source=source, row=row, empty=len(paths) > 1):
                    self.parts[name] += 1
                    row += 1
                    yield item
        if not row:
            raise InputError("no rows in any of the files")

    def check(self, *paths: str | Path, fmt: Format | None = None) -> None:
        """Look at the first rows of each file. Raises what `read` would raise about columns."""
        for path in paths:
            with open_bytes(path) as raw:
                found = _ROWS[fmt or format_of(path, raw)](raw)
                next(self.items(found, source=str(path), empty=len(paths) > 1), None)

    def items(
        self, rows: Iterable[Row], *, source: str, row: int = 0, empty: bool = False
    ) -> Iterator[Item]:
        """Yield one item per raw row, numbered from `row`. `empty`: there may be none."""
        rows = iter(rows)
        first = next(rows, None)
        if first is None and empty:
            return
        if first is None:
            raise InputError(f"{source}: no rows", hint="one item per line, or a CSV with a header")
        # A pipe may hold back its second row until the first is answered: look at one row only,
        # and at more where it does not tell.
        ahead = [first]
        while not self._columns_found(ahead) and len(ahead) < LOOK_AHEAD:
            another = next(rows, None)
            if another is None:
                break
            ahead.append(another)
        self._check_columns(ahead, source)
        for number, (raw, error) in enumerate(chain(ahead, rows), row):
            yield self._item(number, raw, error)

    def _item(self, row: int, raw: Mapping[str, Any] | None, error: str | None) -> Item:
        if raw is None:
            self.counts["malformed"] += 1
            return Item(row=row, id=f"row-{row}", fields={}, error=error)
        try:
            item = self._good_item(row, raw)
            return self._masked(item) if self._masked else item
        except (RecursionError, ValueError, TypeError) as exc:  # nested a thousand deep, say
            self.counts["malformed"] += 1
            return Item(row=row, id=f"row-{row}", fields={}, error=f"not readable: {exc}")

    def _good_item(self, row: int, raw: Mapping[str, Any]) -> Item:
        before = self.counts["cut"]
        names = self.columns.text or _text_columns(raw)
        fields = {
            name: text
            for name in names
            if name in raw
            and (text := clean(_as_text(raw.get(name)), limit=self.limit, counts=self.counts))
        }
        note = CUT if self.counts["cut"] > before else None
        gold = _as_text(raw.get(self.columns.label)).strip() or None
        given = _as_id(raw.get(self.columns.id))
        try:
            shown = self._images(raw) if self.columns.image else ()
        except BadItem as exc:
            id_ = given or digest(*fields, *fields.values())
            return Item(row=row, id=id_, fields={}, gold=gold, error=str(exc))
        id_ = given or digest(*fields, *fields.values(), *shown)
        if fields:
            return Item(
                row=row,
                id=id_,
                fields=fields,
                gold=gold,
                note=note,
                id_given=bool(given),
                images=shown,
                kept={name: _as_text(raw.get(name)) for name in self.columns.keep},
            )
        self.counts["empty"] += 1
        error = f"no text in {', '.join(self.columns.text or TEXT_COLUMNS)}"
        return Item(row=row, id=id_, fields={}, gold=gold, error=error)

    def _images(self, raw: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the addresses and paths of an item's images."""
        value: Any = raw.get(self.columns.image)
        if hasattr(value, "tolist"):  # numpy
            value = value.tolist()
        named = value if isinstance(value, list | tuple) else [value]
        there = [v for v in named if v is not None and v == v and v != ""]  # noqa: PLR0124  NaN
        return tuple(images.place(v, self.folder) for v in there)

    def _wanted(self) -> list[str]:
        """The columns that were asked for by name."""
        asked = [(self.columns.id, "id"), (self.columns.label, "label")]
        asked.append((self.columns.image, ""))
        return [
            *self.columns.text,
            *self.columns.keep,
            *(name for name, usual in asked if name != usual),
        ]

    def _columns_found(self, rows: list[Row]) -> bool:
        there = {name for raw, _ in rows if raw for name in raw}
        return there.issuperset(self._wanted()) and bool(
            self.columns.text or there.intersection(TEXT_COLUMNS)
        )

    def _check_columns(self, rows: list[Row], source: str) -> None:
        """Raise `BadConfig` if none of the rows looked at has a column that is needed."""
        there = dict.fromkeys(str(name) for raw, _ in rows if raw for name in raw)
        if not there:
            return  # nothing but bad rows: each says why
        hint = f"its columns: {', '.join(there)}"
        for name in self._wanted():
            if name not in there:
                raise BadConfig(f"{source}: no column {name!r}", hint=hint)
        if not self.columns.text and not set(there).intersection(TEXT_COLUMNS):
            raise BadConfig(
                f"{source}: no column called {', '.join(_FIRST)}",
                hint=f"name the text columns with --text; {hint}",
            )


def _text_columns(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row's first main column that holds something, then the additional ones."""
    for name in _FIRST:
        if name in raw and _as_text(raw[name]).strip():
            return _USUAL[name]
    return _USUAL[_FIRST[0]]


def to_items(data: Iterable[Any], *, columns: Columns) -> Iterator[Item]:
    """Yield items from Python values: strings, or mappings with the columns' keys.

    Anything else becomes an item with an error.
    """
    values = list(data)
    if not values:
        return iter(())
    rows = (_raw(value, columns) for value in values)
    return ItemReader(columns=columns).items(rows, source="items")


def _raw(value: Any, columns: Columns) -> Row:
    if isinstance(value, str):
        return {columns.text[0] if columns.text else "title": value}, None
    if isinstance(value, Mapping):
        return value, None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, "no text"
    return None, f"expected text or a mapping, found {type(value).__name__}"


# -- bytes ----------------------------------------------------------------------------------


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


def expand(files: str, *, out: str = "") -> list[str]:
    """Return the files that a setting names: one to a line, each a file, a folder or a pattern.

    A folder stands for the files in it that can be read, a pattern (`*`, `?`, `[...]`, `**`) for
    those it fits, both in alphabetical order, but never for what is written to `out`. Raises
    `InputError` where there are none.
    """
    found: dict[str, None] = {}
    if not files.strip():
        raise InputError("no file is named", hint="--file FILE, or - for standard input")
    for name in filter(None, files.split("\n")):
        if Path(name).is_dir():
            inside = sorted(p for p in Path(name).iterdir() if p.suffix and p.is_file())
            inside = [p for p in inside if ".predictions." not in p.name]
            fits = [str(p) for p in inside if Path(bare(p.name)).suffix in _SUFFIX]
            fits = [p for p in fits if not _written(p, out)]
        elif glob.has_magic(name) and not Path(name).exists():
            every = glob.glob(name, recursive=True)  # noqa: PTH207  absolute patterns too
            fits = sorted(p for p in every if Path(p).is_file() and not _written(p, out))
        else:
            fits = [name]
        if not fits:
            raise InputError(f"{name}: no files there", hint=f"that end in {', '.join(_SUFFIX)}")
        found.update(dict.fromkeys(fits))
    return list(found)


def _written(path: str, out: str) -> bool:
    """Tell whether a file belongs to an output: is it, lies in it, or stands beside it."""
    if not out or out == "-":
        return False
    mine, made = os.path.abspath(path), os.path.abspath(out)  # noqa: PTH100  `..` is to go
    return mine == made or mine.startswith((made + os.sep, made + "."))


def bare(name: str) -> str:
    """Return a file's name in small letters without `.gz` or `.zst`."""
    return name.lower().removesuffix(".gz").removesuffix(".zst")


def format_of(path: str | Path, raw: BinaryIO) -> Format:
    """Tell the format by the suffix; for `-`, by whether the first line begins a JSON object."""
    suffix = Path(bare(str(path))).suffix
    if suffix in _SUFFIX:
        return _SUFFIX[suffix]
    if path != "-":
        raise InputError(
            f"{path}: unknown format {suffix!r}",
            hint=f"use {', '.join(_SUFFIX)} (also .gz, .zst), or say --input-format",
        )
    start = cast("io.BufferedReader", raw).peek(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    return "jsonl" if start.startswith(b"{") else "txt"


def count_rows(*paths: str | Path, fmt: Format | None = None) -> int:
    """Count the rows of files without keeping them."""
    total = 0
    for path in paths:
        with open_bytes(path) as raw:
            found = fmt or format_of(path, raw)
            if found == "parquet":
                total += parquet.count(raw)
            else:
                total += sum(1 for _ in _ROWS[found](raw))
    return total


# -- rows -----------------------------------------------------------------------------------


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
            if not all(map(_is_text, header)):
                raise InputError("the header is not UTF-8", hint="save the file as UTF-8")
            doubled = [name for name, n in Counter(header).items() if name and n > 1]
            if doubled:
                raise InputError(f"columns stand twice in the header: {', '.join(doubled)}")
        elif len(cells) > len(header):
            yield None, f"{len(cells)} cells in a row of {len(header)} columns"
        elif any(not _is_text(c) for c in cells):
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


_ROWS: dict[Format, Callable[[BinaryIO], Iterator[Row]]] = {
    "jsonl": _jsonl,
    "txt": _txt,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
}


def _is_text(cell: str) -> bool:
    """Tell whether a cell decoded, i.e. holds no escaped bytes."""
    return cell.isascii() or not any("\udc80" <= c <= "\udcff" for c in cell)


def _as_text(value: Any) -> str:
    """Show a JSON value as a person would write it: `{"brand": "X"}` as `brand: X`."""
    if isinstance(value, bytes):  # Parquet written without saying that it is text
        value = value.decode()
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""  # NaN is how pandas marks what is missing
    if hasattr(value, "tolist"):  # numpy
        value = value.tolist()
    if isinstance(value, dict):
        return "; ".join(f"{k}: {t}" for k, v in value.items() if (t := _as_text(v)))
    if isinstance(value, list | tuple):
        return ", ".join(t for v in value if (t := _as_text(v)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value) if isinstance(value, float) else str(value)


def _as_id(value: Any) -> str:
    """Show an id; a whole number that pandas made a float is a whole number."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else _as_text(value)
