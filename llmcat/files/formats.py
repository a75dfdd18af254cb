"""Raw rows of a file in any of the formats that files have, and how that format was told."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from llmcat.errors import InputError, LlmcatNote
from llmcat.files import excel, parquet, tables
from llmcat.files.json_rows import json_rows
from llmcat.files.opened import PACKED, bare, is_workbook, refuse, start_of
from llmcat.files.tables import Dialect
from llmcat.files.text import Text, lines_of, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmcat.config import RunConfig

__all__ = ["SUFFIXES", "Form", "Format", "Reading", "Row", "form_of", "rows_of"]

Format = Literal["jsonl", "csv", "tsv", "txt", "parquet", "xlsx"]

Row = tuple[Mapping[str, Any] | None, str | None]
"""A raw row, or what is wrong with it."""

SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "txt",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".xls": "xlsx",
    ".ods": "xlsx",
}
GIVE = "give the file: --file FILE"
SEPARATOR_OF = {"csv": ",", "tsv": "\t"}
SPELLED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "pipe": "|"}
"""How a separator may be said where it is hard to type."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are to be read, where that was said; empty: as each file shows.

    `known` are names of columns by which a header is told from an item, in small letters.
    """

    fmt: Format | None = None
    separator: str = ""
    encoding: str = ""
    escape: str = ""
    sheet: str = ""
    known: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: RunConfig) -> Reading:
        """Return what the settings say."""
        return cls(
            fmt=config.input_format or None,
            separator=SPELLED.get(config.delimiter, config.delimiter),
            encoding=config.encoding,
            escape=config.escape,
            sheet=config.sheet,
        )


@dataclass(frozen=True, slots=True)
class Form:
    """How a file is written: enough to write another one like it."""

    format: Format
    text: Text = Text()
    dialect: Dialect = Dialect()
    line_end: str = "\n"


def form_of(path: str | Path, raw: BinaryIO, how: Reading | None = None) -> Form:
    """Tell by suffix and content how an open file is written. Raises `InputError`.

    What is other than the name promises is said, as an `LlmcatNote`.
    """
    how = how or Reading()
    start = start_of(raw)
    refuse(start, path)
    suffix = Path(bare(str(path))).suffix
    named = how.fmt or SUFFIXES.get(suffix)
    if start[:4] == b"PAR1":
        named = "parquet"
    elif is_workbook(raw, path):
        named = "xlsx"
    if named is None and path != "-":
        raise InputError(
            f"{path}: unknown format {suffix!r}",
            hint=f"use {', '.join(SUFFIXES)} (also {', '.join(PACKED)}), or say --input-format",
        )
    if named in {"parquet", "xlsx"}:
        return Form(named)
    text = text_of(start, how.encoding)
    if text.guessed and named == "jsonl" and _lone(start):
        text = Text()  # JSON is UTF-8: one damaged line is no other encoding
    if text.guessed:
        _say(path, f"read as {text.encoding} (told by its bytes; --encoding to be sure)")
    lines = start.decode(text.encoding, "replace").removeprefix("\ufeff").split(text.newline)
    # The last may be cut; of a short file it is not.
    lines = [f"{line}\n" for line in (lines[:-1] if len(lines) > 1 else lines)]
    if named is None:
        begin = start.decode(text.encoding, "replace").lstrip("\ufeff \t\r\n")
        named = "jsonl" if begin.startswith(("{", "[")) else "txt"
    if named == "txt":
        separator = "" if how.fmt else tables.looks_like_table(lines, how.known)
        if not separator:
            return Form("txt", text)
        _say(path, "its first line is a header: read as a table (--input-format txt: as lines)")
        named = "tsv" if separator == "\t" else "csv"
    if named == "jsonl":
        return Form(named, text)
    dialect = tables.sniff(
        lines, usual=SEPARATOR_OF[named], separator=how.separator, escape=how.escape
    )
    for said in dialect.said:
        _say(path, said)
    return Form(named, text, dialect, "\r\n" if lines and lines[0].endswith("\r\n") else "\n")


def _lone(start: bytes) -> bool:
    """Tell whether a single line is not UTF-8."""
    bad = 0
    for line in start.split(b"\n"):
        try:
            line.decode()
        except UnicodeDecodeError:
            bad += 1
    return bad < 2 and b"\0" not in start and start.count(b"\n") > 1  # noqa: PLR2004


def _say(path: str | Path, what: str) -> None:
    name = "standard input" if path == "-" else path
    warnings.warn(f"{name}: {what}", LlmcatNote, stacklevel=3)


def rows_of(
    path: str | Path, raw: BinaryIO, how: Reading | None = None, form: Form | None = None
) -> Iterator[Row]:
    """Yield the rows of an open file. Raises `InputError`, which names the file."""
    how = how or Reading()
    try:
        form = form or form_of(path, raw, how)
        yield from _rows(raw, form, how, path)
    except InputError as exc:
        name = "standard input" if path == "-" else str(path)
        if type(exc) is not InputError or str(exc).startswith(name):
            raise
        raise InputError(f"{name}: {exc}", hint=exc.hint) from exc


def _rows(raw: BinaryIO, form: Form, how: Reading, path: str | Path) -> Iterator[Row]:
    if form.format == "parquet":
        if not raw.seekable():
            raise InputError(
                "Parquet cannot be read from a pipe", hint="give the file: --file FILE"
            )
        for row in parquet.rows_of(raw):
            yield row, None
    elif form.format == "xlsx":
        yield from _sheet(raw, how, path)
    elif form.format == "jsonl":
        yield from json_rows(lines_of(raw, form.text), how.known)
    elif form.format == "txt":
        yield from _lines(lines_of(raw, form.text))
    else:
        text = (line.decode(errors="surrogateescape") for line in lines_of(raw, form.text))
        yield from _table(tables.cells_in(text, form.dialect))


def _lines(lines: Iterator[bytes]) -> Iterator[Row]:
    for line in lines:
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as exc:
            yield None, f"not UTF-8 at byte {exc.start}"
            continue
        if text.strip():
            yield {"title": text}, None


def _table(rows: Iterator[tables.Cells]) -> Iterator[Row]:
    """Yield rows as mappings by the header; of a bad row what is there, and what is wrong."""
    header: list[str] = []
    for cells, wrong in rows:
        if wrong:
            yield dict(zip(header, cells, strict=False)) if header and cells else None, wrong
        elif not header:
            header = named(cells)
        else:
            yield dict(zip(header, cells, strict=True)), None


def named(header: list[str]) -> list[str]:
    """Return a header in which columns without a name are told apart: by blanks, one more each."""
    count = iter(range(len(header)))
    return [name or " " * next(count) for name in header]


def _sheet(raw: BinaryIO, how: Reading, path: str | Path) -> Iterator[Row]:
    if not raw.seekable():
        raise InputError("Excel cannot be read from a pipe", hint=GIVE)
    name, names, rows = excel.rows_in(raw, how.sheet)
    if len(names) > 1 and not how.sheet:
        others = ", ".join(n for n in names if n != name)
        _say(path, f"sheet {name!r} is read (--sheet for another: {others})")
    header: list[str] = []
    for cells in rows:
        if excel.blank(cells):
            continue
        if not header:
            header = named([str(cell).strip() for cell in cells])
            doubled = [each for each, n in Counter(header).items() if each.strip() and n > 1]
            if doubled:
                raise InputError(f"columns stand twice in the header: {', '.join(doubled)}")
            continue
        yield dict(zip(header, cells, strict=False)), None
