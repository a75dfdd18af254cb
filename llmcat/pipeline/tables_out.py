"""The user's own table with what was decided beside it: rows, columns and their order kept.

The rows of the input are read a second time, beside the journal's, and written as the input was:
separator, encoding, line ends, a workbook's sheets and formats. A column that is there already is
never overwritten: ours are then called `llmcat_label` and so on.
"""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import orjson

from llmcat.errors import InputError, LlmcatNote
from llmcat.files import excel, parquet
from llmcat.files.formats import Form, Reading, form_of, rows_of
from llmcat.files.opened import bare, open_bytes
from llmcat.files.sources import columns_in
from llmcat.items.readers import ItemReader
from llmcat.records import NONE, SEVERAL, key_out, readable
from llmcat.storage import text_in
from llmcat.taxonomy.load import taxonomy_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from llmcat.config import RunConfig
    from llmcat.items.readers import Columns

__all__ = [
    "AS_NEW",
    "MORE",
    "OURS",
    "PREFIXES",
    "RESERVED",
    "TABLES",
    "Kept",
    "kept_of",
    "others_in",
    "prefix_for",
    "safe",
    "write_kept",
    "write_lines",
]

TABLES = (".csv", ".tsv", ".xlsx")
"""Outputs that the input's columns come back in, unless `--keep none`; in others with `--keep`."""
PREFIXES = ["llmcat_", *(f"llmcat{n}_" for n in range(2, 100))]
"""What stands before our names where the input has some of them; the last there is the latest."""
OURS = ("label", "path", "decision", "confidence", "others", "reason", "key")
"""What is added to each row; `others` are the alternatives, to be read."""
AS_NEW = "the workbook cannot be written as it is: this is a new one, of the one sheet"
T = TypeVar("T")
FIRST = 100
COMMA, POINT = re.compile(r"-?\d+,\d+"), re.compile(r"-?\d+\.\d+")
SPECIAL = re.compile(r'["\r\n]')
OTHER = re.compile(r"(?P<path>.+) \((?P<p>\d+) %\)")
BETWEEN = " | "
RESERVED = {"row", "alternatives", "kind", "p_none", "mass", "gold", "evidence", "sources"}
"""Names that mean something in other predictions: where the input has one, ours get a prefix."""
MORE = ("labels", "level", "set", "by", "why", "degraded")
"""What is added where the predictions have it."""


@dataclass(frozen=True)
class Kept:
    """Which columns of which files come back; without `names` all of them."""

    files: tuple[str, ...]
    how: Reading
    names: tuple[str, ...] = ()
    bom: bool = False

    def only(self, file: str) -> Kept:
        """Return the same for one of the files."""
        return Kept((file,), self.how, self.names, self.bom)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Yield the input's rows; one that cannot be read is empty."""
        for file in self.files:
            with open_bytes(file) as raw:
                named = columns_in(file)
                for row, _ in rows_of(file, raw, self.how):
                    yield {} if row is None else {**named, **row}

    def columns(self) -> list[str]:
        """Return the names of the columns that come back, in their order."""
        if self.names:
            return list(self.names)
        found: dict[str, None] = {}
        for file in self.files:
            one = self.only(file)
            with open_bytes(file) as raw, warnings.catch_warnings():
                warnings.simplefilter("ignore", LlmcatNote)  # it has been said
                varies = form_of(file, raw, self.how).format == "jsonl"
            for row in one.rows() if varies else islice(filter(None, one.rows()), 1):
                found.update(dict.fromkeys(map(str, row)))
        return list(found)

    def has_commas(self) -> bool:
        """Tell whether the first rows write numbers with decimal commas, and none with a point."""
        texts = [str(cell) for row in islice(self.rows(), FIRST) for cell in row.values()]
        return any(map(COMMA.fullmatch, texts)) and not any(map(POINT.fullmatch, texts))

    def check(self, config: RunConfig) -> None:
        """Raise `InputError` where the input's encoding cannot hold a category's name."""
        form = self.form()
        encoding = form.text.encoding
        if not _same(config.out, form) or encoding.startswith("utf"):
            return
        for node in taxonomy_of(config).nodes.values():
            try:
                f"{node.id} {node.label}".encode(encoding)
            except UnicodeEncodeError as exc:
                raise _not_in(config.out, exc, encoding) from exc

    def form(self) -> Form:
        """Return how the first file is written."""
        with open_bytes(self.files[0]) as raw, warnings.catch_warnings():
            warnings.simplefilter("ignore", LlmcatNote)
            return form_of(self.files[0], raw, self.how)


def kept_of(
    config: RunConfig, files: Sequence[str], columns: Columns, *, stream: bool
) -> Kept | None:
    """Return what of the input comes back, None where nothing does. Raises `InputError`."""
    suffix = Path(bare(config.out)).suffix or f".{config.out_format}"
    table = suffix in TABLES
    if not config.keep and not table:
        return None
    if config.keep == "none" or ((stream or config.redact) and not config.keep):
        return None
    if config.redact:
        raise InputError(
            "--keep writes the items as they came, and --redact is to mask them",
            hint="--keep none",
        )
    if stream:
        raise InputError("--keep reads the items a second time: give a file, not a pipe")
    names = () if config.keep in {"", "all"} else tuple(map(str.strip, config.keep.split(",")))
    return Kept(tuple(files), ItemReader(columns=columns).reading(Reading.of(config)), names,
                config.bom)  # fmt: skip


def write_kept(out: BinaryIO, path: Path, rows: Iterable[Mapping[str, Any]], kept: Kept) -> None:
    """Write the input's rows with what was decided of each.

    A file that is packed is packed by the caller. Raises `InputError` where the input has changed.
    """
    rows = iter(rows)
    first = next(rows, None)
    columns = kept.columns()
    suffix = Path(bare(str(path))).suffix
    ours = [*OURS, *(name for name in MORE if first is not None and name in first)]
    if suffix in {".jsonl", ".parquet"}:
        ours[ours.index("others")] = "alternatives"
    names = _names(path, columns, ours)
    every = chain([first] if first is not None else [], rows)
    if suffix == ".jsonl":
        out.writelines(_json_lines(kept, every, names))
    elif suffix == ".parquet":
        added = ({n: _value(row, n) for n in ours} for row in every)
        _write_parquet(out, kept, columns, added, names)
    elif suffix == ".xlsx":
        beside = ([_cell(row, name) for name in ours] for row in every)
        _write_workbook(out, path, kept, columns, beside, list(names.values()))
    else:
        form = kept.form()
        comma = form.dialect.separator == ";" and _same(path, form) and kept.has_commas()

        def cells(row: Mapping[str, Any]) -> list[Any]:
            made = [safe(_cell(row, name)) for name in ours]
            return [str(x).replace(".", ",") if comma and isinstance(x, float) else x for x in made]

        lines = (
            [_text(old.get(c)) for c in columns] + cells(row) for old, row in _both(kept, every)
        )
        header = [*columns, *names.values()]
        write_lines(out, path, chain([header], lines), form, bom=kept.bom)


def _names(path: Path, columns: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
    """Return what each of our columns is called: with a prefix where the input has one of them."""
    there = {name.casefold() for name in columns}
    prefix = ""
    if doubled := [name for name in (*OURS, *MORE, *sorted(RESERVED)) if name in there]:
        prefix = prefix_for(there, ours)
        warnings.warn(
            f"{path}: the input has a column {doubled[0]!r}: ours are called {prefix}label, "
            f"{prefix}path, ...",
            LlmcatNote,
            stacklevel=3,
        )
    return {name: prefix + name for name in ours}


def _json_lines(
    kept: Kept, rows: Iterable[Mapping[str, Any]], names: Mapping[str, str]
) -> Iterator[bytes]:
    """Yield the input's rows as they were, what they lack still missing, with ours behind."""
    for old, row in _both(kept, rows):
        some = {n: old[n] for n in kept.names if n in old} if kept.names else old
        both = {**some, **{name: _value(row, n) for n, name in names.items()}}
        yield orjson.dumps(both, default=str, option=orjson.OPT_NON_STR_KEYS) + b"\n"


def _write_workbook(
    out: BinaryIO,
    path: Path,
    kept: Kept,
    columns: Sequence[str],
    beside: Iterator[list[Any]],
    header: list[str],
) -> None:
    """Write the workbook itself with our columns in it, or a new one."""
    source = Path(kept.files[0])
    workbook = kept.form().format == "xlsx" and source.suffix.lower() in {".xlsx", ".xlsm"}
    if workbook and len(kept.files) == 1 and not kept.names:
        if excel.write_beside(source, out, kept.how.sheet, header, beside):
            return
        warnings.warn(f"{path}: {AS_NEW}", LlmcatNote, stacklevel=3)
    cells = ([_excel(old.get(c)) for c in columns] + new for old, new in _both(kept, beside))
    excel.write(out, [*columns, *header], cells)


def prefix_for(there: Collection[str], ours: Iterable[str]) -> str:
    """Return what our names get before them where some are there already."""
    return next(p for p in PREFIXES if not any(p + name in there for name in ours))


def _write_parquet(
    out: BinaryIO,
    kept: Kept,
    columns: Sequence[str],
    added: Iterable[Mapping[str, Any]],
    names: Mapping[str, str],
) -> None:
    """Write a Parquet file's own columns, types and all, or another input's as what they are."""
    source = kept.files[0]
    with open_bytes(source) as raw:
        if len(kept.files) == 1 and kept.form().format == "parquet" and not columns_in(source):
            parquet.write_beside(out, parquet.tables_of(raw, kept.names), added, names)
            return

    def rows() -> Iterator[dict[str, Any]]:
        return ({c: _text(row.get(c)) for c in columns} for row in kept.rows())

    parquet.write_beside(out, parquet.tables_made(rows, columns), added, names)


def _value(row: Mapping[str, Any], name: str) -> Any:
    """Return what JSON and Parquet hold of a row of ours: nested values as they are."""
    return key_out(row["key"]) if name == "key" and row.get("key") else row.get(name)


def _both(kept: Kept, rows: Iterable[T]) -> Iterator[tuple[Mapping[str, Any], T]]:
    """Yield each row of the input beside what was decided of it. Raises `InputError`."""
    old = kept.rows()
    for row in rows:
        was = next(old, None)
        if was is None:
            raise InputError(f"{kept.files[-1]}: fewer rows than were read: has the file changed?")
        yield was, row


def write_lines(
    out: BinaryIO, path: Path, lines: Iterator[list[Any]], form: Form, *, bom: bool = False
) -> None:
    """Write a table as the input was, where that was one of its kind; else as UTF-8.

    Raises `InputError` for what the input's encoding cannot hold.
    """
    same, usual = _same(path, form), "\t" if Path(bare(str(path))).suffix == ".tsv" else ","
    separator = form.dialect.separator if same else usual
    end = ("\r" if form.text.newline == "\r" else form.line_end) if same else "\n"
    encoding = form.text.encoding if same else "utf-8"
    mark = "\ufeff" if bom or (same and form.text.bom) else ""
    try:
        sink = io.TextIOWrapper(out, encoding, newline="") if encoding != "utf-8" else None
        with text_in(out) if sink is None else _detached(sink) as text:
            text.write(mark)
            if same and form.dialect.escape:
                text.writelines(_escaped(cells, separator) + end for cells in lines)
            else:
                csv.writer(text, delimiter=separator, lineterminator=end).writerows(lines)
    except UnicodeEncodeError as exc:
        raise _not_in(path, exc, encoding) from exc


def _same(path: str | Path, form: Form) -> bool:
    """Tell whether a table is written as one of a form was."""
    suffix = Path(bare(str(path))).suffix
    return suffix in {".csv", ".tsv"} and suffix == f".{form.format}"


def _not_in(path: str | Path, exc: UnicodeEncodeError, encoding: str) -> InputError:
    return InputError(
        f"{path}: {exc.object[exc.start : exc.end]!r} cannot be written in {encoding}, which the "
        "input is in",
        hint="--out with .xlsx, or .jsonl; or save the input as UTF-8",
    )


def _escaped(cells: Iterable[Any], separator: str) -> str:
    """Return a line in which a quote inside quotes stands behind a backslash."""
    texts = ("" if cell is None else str(cell) for cell in cells)
    return separator.join(
        '"' + text.replace('"', '\\"') + '"' if SPECIAL.search(text) or separator in text else text
        for text in texts
    )


class _detached:  # noqa: N801  a context, as `text_in` is
    def __init__(self, text: io.TextIOWrapper) -> None:
        self.text = text

    def __enter__(self) -> io.TextIOWrapper:
        return self.text

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.text.flush()
        self.text.detach()


def _cell(row: Mapping[str, Any], name: str) -> Any:
    """Return what a cell shows of a row of ours: labels with bars between, the rest as it is."""
    if name == "key":
        return key_out(row["key"]) if row.get("key") else None
    if name == "others":
        return BETWEEN.join(
            f"{one['path']} ({100 * one['p']:.0f} %)" for one in row["alternatives"]
        )
    value = row.get(name)
    if name == "labels" and isinstance(value, list):
        return readable(SEVERAL.join(one["label"] for one in value) or NONE, several=True)
    return _text(value) if isinstance(value, list | dict) else value


def others_in(text: str) -> list[dict[str, Any]]:
    """Return the alternatives that a cell shows, by their paths."""
    met = filter(None, map(OTHER.fullmatch, text.split(BETWEEN)))
    return [{"label": m["path"], "path": m["path"], "p": int(m["p"]) / 100} for m in met]


def _text(value: Any) -> Any:
    """Return what a cell shows of a value of the input: as it was, JSON for what is nested."""
    if isinstance(value, list | dict):
        return json.dumps(value, default=str, ensure_ascii=False)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()  # halves of characters
    return value


def _excel(value: Any) -> Any:
    value = _text(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def safe(value: Any) -> Any:
    """Return text that no spreadsheet takes for a formula: ours, which a model may have written."""
    return f"'{value}" if isinstance(value, str) and value.startswith("=") else value
