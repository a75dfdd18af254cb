r"""CSV and its kin: which dialect a table is written in, and its rows in any of them.

The rule, which is said where it finds other than the suffix promises: of comma, semicolon, tab and
bar that one separates columns which the header has, and with which most of the first rows have as
many cells as the header. A first line `sep=;` says it outright. A quote inside a quoted cell is
doubled, unless only `\"` makes the rows fit. TSV is not quoted across lines: tabs and line ends
cannot stand in a cell, unless only quotes make the rows fit.

No row is swallowed: where a quote is not closed, or closed rows later, its row is named and reading
goes on with the next line.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from llmcat.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["SEPARATORS", "Cells", "Dialect", "cells_in", "looks_like_table", "numbered", "sniff"]

SEPARATORS = ",;\t|"
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
LOOKED_AT = 200
"""Lines that a dialect is told by."""
LONGEST = 1 << 20
"""Characters of one record: beyond that a quote is not closed."""
TORN = "a line end within quotes, which TSV has not (--input-format csv --delimiter tab reads it)"
ROWS_OF_ONE = 2
"""So many lines inside a quoted cell, each a row by itself, are rows that a quote swallowed."""

Cells = tuple[list[str], str | None]
"""A row's cells, or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Dialect:
    r"""How a table is written. `quoted`: cells may be in quotes, and then hold line ends.

    `escape` is what a quote inside quotes stands behind, empty where it is doubled. `skip`: lines
    before the header. `said`: what is worth telling of how this was found.
    """

    separator: str = ","
    quoted: bool = True
    escape: str = ""
    skip: int = 0
    said: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The separator in words."""
        return NAMES.get(self.separator, repr(self.separator))


def sniff(lines: list[str], *, usual: str = ",", separator: str = "", escape: str = "") -> Dialect:
    """Tell the dialect by the first lines; what is given is not asked about.

    `usual`: what the file's name promises.
    """
    lines = lines[:LOOKED_AT]
    said: list[str] = []
    skip = 0
    if lines and lines[0].lower().startswith("sep=") and len(lines[0].strip()) == len("sep=;"):
        separator = separator or lines[0].strip()[-1]
        skip = 1
    while skip < len(lines) and _is_remark(lines[skip]):
        skip += 1
    if skip and not lines[0].lower().startswith("sep="):
        said.append(f"{skip} lines before the header begin with #: left out")
    lines = lines[skip:]
    plain = Dialect(usual, escape=escape, skip=skip)
    escapes = any('\\"' in line for line in lines)
    tried = [separator] if separator else [usual, *(s for s in SEPARATORS if s != usual)]
    found = max(
        (_fits(replace(plain, separator=s, escape=e, quoted=q), lines)
         for s in tried for q in ((False, True) if s == "\t" else (True,))
         for e in ([escape] if escape else ["", "\\"] if q and escapes else [""])),
        key=lambda pair: pair[0], default=((0, 0), plain),
    )  # fmt: skip
    (share, columns), dialect = found
    if columns < 2 and not separator:  # noqa: PLR2004  one column: nothing separates
        dialect = replace(plain, quoted=usual != "\t")
    elif dialect.separator != usual and not separator:
        said.append(
            f"columns are separated by {dialect.name} ({columns} columns, {share:.0%} of the first "
            "rows fit; --delimiter to be sure)"
        )
    if dialect.escape and not escape:
        said.append('a quote inside quotes is written \\" (--escape to be sure)')
    return replace(dialect, said=tuple(said))


def _is_remark(line: str) -> bool:
    return line.startswith("#") and not any(s in line for s in SEPARATORS)


def _fits(dialect: Dialect, lines: list[str]) -> tuple[tuple[float, int], Dialect]:
    """Return which share of the rows has as many cells as the header, and how many these are."""
    rows = list(islice(_records(iter(lines), replace(dialect, skip=0)), LOOKED_AT))
    rows = [(cells, wrong) for cells, wrong in rows if cells or wrong]
    if not rows or rows[0][1] or len(rows[0][0]) < 2:  # noqa: PLR2004
        return (0.0, 1), dialect
    # The last lines may be cut, or a quoted cell may go on behind them.
    columns, others = len(rows[0][0]), rows[1:-1] if len(lines) >= LOOKED_AT else rows[1:]
    fit = [not wrong and _full(cells, columns) for cells, wrong in others]
    return (sum(fit) / len(fit) if fit else 1.0, columns), dialect


def _full(cells: list[str], columns: int) -> bool:
    return len(cells) == columns or (len(cells) > columns and not any(cells[columns:]))


def looks_like_table(lines: list[str], known: Iterable[str]) -> str:
    """Return what separates the columns of text that is a table with a header; else nothing.

    Two of its first line's cells are called as columns are, or one is and every row has as many.
    """
    if not lines:
        return ""
    names = {name.casefold() for name in known}
    for separator in SEPARATORS:
        header = [cell.strip().strip('"').casefold() for cell in lines[0].split(separator)]
        if len(header) < 2 or len(set(header)) < len(header):  # noqa: PLR2004
            continue
        met = sum(cell in names for cell in header)
        (share, _), _ = _fits(Dialect(separator, quoted=separator != "\t"), lines)
        if met > 1 or (met and len(lines) > 1 and share == 1.0):
            return separator
        if met and len(lines) == 1 and all(cell.isidentifier() for cell in header):
            return separator  # all that has come of a pipe
    return ""


def cells_in(lines: Iterable[str], dialect: Dialect) -> Iterator[Cells]:
    """Yield each row's cells, the header first. A row that cannot be read says why.

    Raises `InputError` for a header with a column twice, or that is not text.
    """
    for _, cells, wrong in numbered(lines, dialect):
        yield cells, wrong


def numbered(lines: Iterable[str], dialect: Dialect) -> Iterator[tuple[int, list[str], str | None]]:
    """Yield what `cells_in` does, each with the number of its last line."""
    counted = _Counted(iter(lines))
    rows = _records(islice(counted, dialect.skip, None), dialect)
    for cells, wrong in _checked(rows, dialect):
        yield counted.number, cells, wrong


class _Counted:
    """Lines, and how many there were."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines, self.number = lines, 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.number += 1
        return line


def _checked(rows: Iterator[Cells], dialect: Dialect) -> Iterator[Cells]:
    header: list[str] | None = None
    for cells, wrong in rows:
        if wrong:
            yield _fitted(cells, header or [], dialect), wrong
        elif not any(cells) and len(cells) < 2 and not (header and len(header) == 1 and cells):  # noqa: PLR2004
            continue  # an empty line
        elif header is None:
            header = [cell.strip() for cell in cells]
            while len(header) > 1 and not header[-1]:
                header.pop()
            _check(header)
            yield header, None
        elif len(cells) > len(header) and any(cells[len(header) :]):
            what = f"{len(cells)} cells in a row of {len(header)} columns"
            yield _fitted(cells, header, dialect), what
        elif any(not is_text(cell) for cell in cells):
            yield [], "not UTF-8"
        elif len(cells) < len(header) and not dialect.quoted and _opens(cells):
            what = f"{len(cells)} cells in a row of {len(header)} columns"
            yield _fitted(cells, header, dialect), what
        else:
            yield (cells + [""] * len(header))[: len(header)], None


def _fitted(cells: list[str], header: list[str], dialect: Dialect) -> list[str]:
    """Return a bad row's cells, a cell for each column: what is over stays in the last one."""
    most = len(header)
    if len(cells) > most > 0:
        cells = [*cells[: most - 1], dialect.separator.join(cells[most - 1 :])]
    cells = cells if all(map(is_text, cells)) else []
    return (cells + [""] * most)[:most] if cells else []


def _opens(cells: list[str]) -> bool:
    return any(cell.startswith('"') for cell in cells)


def _check(header: list[str]) -> None:
    if not all(map(is_text, header)):
        raise InputError("the header is not UTF-8", hint="--encoding says what it is")
    doubled = [name for name, n in Counter(header).items() if name and n > 1]
    if doubled:
        raise InputError(f"columns stand twice in the header: {', '.join(doubled)}")


def is_text(cell: str) -> bool:
    """Tell whether a cell decoded, i.e. holds no escaped bytes."""
    return cell.isascii() or not any("\udc80" <= c <= "\udcff" for c in cell)


def _records(lines: Iterator[str], dialect: Dialect) -> Iterator[Cells]:
    """Yield the cells of each record, or why there are none."""
    if dialect.quoted:
        yield from _quoted(lines, dialect)
        return
    held: list[str] | None = None  # a row whose last cell may go on in the next line
    columns = 0
    for line in lines:
        cells = line.rstrip("\r\n").split(dialect.separator)
        if held is not None:
            torn = len(cells) < columns and cells[0].rstrip().endswith('"')
            yield [_unquoted(cell) for cell in held], TORN if torn else None
            held = None
            if torn:
                yield cells, TORN
                continue
        columns = columns or len(cells)
        if len(cells) == columns > 1 and cells[-1].startswith('"') and not _closed(cells[-1]):
            held = cells
            continue
        yield [_unquoted(cell) if cell.startswith('"') else cell for cell in cells], None
    if held is not None:
        yield [_unquoted(cell) for cell in held], None


def _unquoted(cell: str) -> str:
    """Return what a cell of a line says: without quotes where they are those of CSV."""
    return cell[1:-1].replace('""', '"') if _closed(cell) else cell


def _closed(cell: str) -> bool:
    """Tell whether a cell is in quotes from end to end, those inside doubled."""
    inside = cell[1:-1].replace('""', "")
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inside


class _Taken:
    """Lines for a reader of CSV, which remembers those of the record at hand."""

    def __init__(self, lines: Iterator[str], number: int) -> None:
        self.lines, self.again = lines, deque[str]()
        self.of_record: list[str] = []
        self.size, self.number = 0, number

    def __iter__(self) -> _Taken:
        return self

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else next(self.lines)
        self.of_record.append(line)
        self.size += len(line)
        if self.size > LONGEST and len(self.of_record) > 1:
            raise csv.Error(f"longer than {LONGEST:,} characters")
        return line

    def done(self) -> None:
        """Go on to the next record."""
        self.number += len(self.of_record)
        self.of_record.clear()
        self.size = 0

    def only_first(self) -> None:
        """Give all lines but the first once more: they are rows of their own."""
        self.again.extendleft(reversed(self.of_record[1:]))
        del self.of_record[1:]
        self.done()


def _quoted(lines: Iterator[str], dialect: Dialect) -> Iterator[Cells]:
    csv.field_size_limit(64 * 1024 * 1024)
    taken = _Taken(lines, dialect.skip)
    columns = 0
    rows = _reader(taken, dialect)
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as exc:
            what = str(exc)
            if len(taken.of_record) > 1 or "unexpected end" in what:
                what = f"a quote opened on line {taken.number + 1} is not closed ({exc})"
            cells = taken.of_record[0].rstrip("\r\n").split(dialect.separator)  # as they stand
            taken.only_first()
            rows = _reader(taken, dialect)
            yield cells, f"not CSV: {what}"
            continue
        inside = taken.of_record[1:-1]
        if len(inside) >= ROWS_OF_ONE and columns > 1 and _are_rows(
            inside, dialect, columns, _shape(cells[0])
        ):  # fmt: skip
            what = (
                f"a quote opened on line {taken.number + 1} is closed {len(inside) + 1} rows later"
            )
            cells = taken.of_record[0].rstrip("\r\n").split(dialect.separator)  # as they stand
            taken.only_first()
            rows = _reader(taken, dialect)
            yield cells, f"not CSV: {what}"
            continue
        columns = columns or len(cells)
        taken.done()
        yield cells, None


def _are_rows(lines: list[str], dialect: Dialect, columns: int, shape: str) -> bool:
    """Tell whether each line is a whole row by itself, with a first cell of the same shape."""
    try:
        rows = [next(_reader([line], dialect), []) for line in lines]
    except csv.Error:
        return False
    return all(_full(cells, columns) and _shape(cells[0]) == shape for cells in rows)


def _shape(cell: str) -> str:
    """Return which kinds of characters a cell is made of: `A1` for B27, `a a` for two words."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "1", cell))


def _reader(lines: Iterable[str], dialect: Dialect) -> Iterator[list[str]]:
    if dialect.escape:  # only before a quote: `C:\\temp` is a path
        lines = (line.replace(f'{dialect.escape}"', '""') for line in lines)
    return csv.reader(lines, delimiter=dialect.separator, strict=True)
