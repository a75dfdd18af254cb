"""Workbooks (.xlsx, .xls, .ods): one sheet in by calamine, predictions out by openpyxl."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, BinaryIO

from llmcat.errors import BadConfig, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["blank", "check", "rows_in", "write", "write_beside"]

MISSING = 'pip install "llmcat[excel]"'


def check() -> None:
    """Raise `InputError` if workbooks cannot be used here."""
    try:
        import openpyxl
        import python_calamine  # noqa: F401
    except ImportError as exc:
        raise InputError("Excel needs python-calamine and openpyxl", hint=MISSING) from exc
    del openpyxl


def rows_in(raw: BinaryIO, sheet: str = "") -> tuple[str, list[str], Iterator[list[Any]]]:
    """Return the sheet's name, those of all sheets, and its rows, the header first.

    Without `sheet` the first one that holds anything. Whole numbers are integers, as they look in
    the sheet. Raises `InputError` for a damaged workbook, `BadConfig` for an unknown sheet.
    """
    check()
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        book = CalamineWorkbook.from_filelike(raw)
        names = book.sheet_names
        if sheet and sheet not in names:
            raise BadConfig(f"no sheet {sheet!r}", hint=f"there are {', '.join(names)}")
        for name in [sheet] if sheet else names:
            rows = book.get_sheet_by_name(name).to_python(skip_empty_area=False)
            if sheet or any(any(cell != "" for cell in row) for row in rows):
                return (
                    name,
                    names,
                    ([c if type(c) is str else _value(c) for c in row] for row in rows),
                )
    except CalamineError as exc:
        raise InputError(f"a damaged workbook: {exc}") from exc
    raise InputError("a workbook without rows")


def blank(cells: Sequence[Any]) -> bool:
    """Tell whether a row holds nothing that is seen."""
    return (not cells or cells[0] == "") and not any(cell != "" for cell in cells)


def _value(cell: Any) -> Any:
    if type(cell) is float and cell.is_integer() and abs(cell) < 2**53:
        return int(cell)
    if isinstance(cell, dt.datetime) and cell.time() == dt.time():
        return cell.date().isoformat()
    if isinstance(cell, dt.datetime | dt.date | dt.time):
        return cell.isoformat()
    return str(cell) if isinstance(cell, dt.timedelta) else cell


def write(
    out: BinaryIO,
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    choices: Sequence[str] = (),
) -> None:
    """Write a workbook of one sheet. Text stays text: a cell that begins with `=` is no formula.

    `choices` are what the last column may hold: a list to choose from, on a sheet of its own.
    """
    check()
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook(write_only=True)
    sheet = book.create_sheet("predictions")

    def told(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = ILLEGAL_CHARACTERS_RE.sub(" ", value)
        if not text.startswith("="):
            return text
        cell = WriteOnlyCell(sheet, text)
        cell.data_type = "s"
        return cell

    sheet.append([told(name) for name in header])
    for row in rows:
        sheet.append([told(value) for value in row])
    if choices:
        from openpyxl.utils import get_column_letter
        from openpyxl.worksheet.datavalidation import DataValidation

        listed = book.create_sheet("categories")
        for choice in choices:
            listed.append([told(choice)])
        rule = DataValidation(
            "list", formula1=f"categories!$A$1:$A${len(choices)}", allow_blank=True
        )
        rule.add(f"{get_column_letter(len(header))}2:{get_column_letter(len(header))}1048576")
        sheet.data_validations.append(rule)
    book.save(out)


def write_beside(
    source: Path,
    out: BinaryIO,
    sheet: str,
    header: Sequence[str],
    rows: Iterator[Sequence[Any] | None],
) -> bool:
    """Write a workbook again with columns in it; all else stays: sheets, formats, formulas.

    `header` names the columns: those that are there are written into, others come behind. `rows`
    are those of `rows_in` without blank ones, in their order; None leaves a row as it is. Macros
    are left out. Returns whether it could: not every workbook can be read for that.
    """
    check()
    from openpyxl import load_workbook
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    with source.open("rb") as raw:
        name, _, seen = rows_in(raw, sheet)
        places = [number for number, cells in enumerate(seen, 1) if not blank(cells)]
    try:
        book = load_workbook(source)
        cells = book[name]
    except Exception:  # noqa: BLE001  openpyxl raises what it meets
        return False
    there = {str(cell.value).strip(): cell.column for cell in cells[places[0]]}
    free = iter(range(cells.max_column + 1, cells.max_column + len(header) + 2))
    columns = [there[each] if each in there else next(free) for each in header]
    waiting = iter([header])
    for place in places:
        values = next(waiting, None) or next(rows, None)
        for column, value in zip(columns, values or (), strict=False):
            told = ILLEGAL_CHARACTERS_RE.sub(" ", value) if isinstance(value, str) else value
            cell = cells.cell(place, column, told)
            if told is None:
                cell.value = None
            if isinstance(told, str) and told.startswith("="):
                cell.data_type = "s"
    book.save(out)
    return True
