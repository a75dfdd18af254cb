"""Rows of files, or of a program, to items. Streaming, in order.

Every row of the input becomes exactly one item. A row that cannot be used becomes an item
with an `error`; only what makes the whole input unusable is an exception. This module does
not know taxonomies, prompts or engines.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llmcat.errors import BadConfig, BadItem, InputError, LlmcatNote
from llmcat.files.formats import Reading, Row, rows_of
from llmcat.files.opened import open_bytes
from llmcat.files.sources import columns_in, expand
from llmcat.items import images, redact
from llmcat.items.cleaning import clean
from llmcat.items.redact import Redactor
from llmcat.items.values import as_id, as_label, as_text, is_missing, several_in
from llmcat.records import CORRECTED, NONE, Item, digest, joined

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from llmcat.config import RunConfig

__all__ = [
    "CUT",
    "TEXT_COLUMNS",
    "Columns",
    "ItemReader",
    "to_items",
    "values_of",
]


OURS = {"label", "decision", "confidence"}
"""Columns of a file that llmcat itself answered."""
TEXT_COLUMNS = ("title", "text", "name", "query", "description", "attributes")
_FIRST = TEXT_COLUMNS[:4]
_USUAL = {name: (name, *TEXT_COLUMNS[4:]) for name in _FIRST}
CUT = "text cut to fit"
SHOWN = 12
"""Columns that a message lists."""
LOOK_AHEAD = 100
"""Rows looked at for the columns before a missing one is an error."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns mean what. Empty `text`: the first of title, text, name and query that is
    there, then description and attributes. `keep`: columns that no prompt shows. `redact`: what is
    masked (see `llmcat.items.redact`). `multi`: an item may have several labels.
    """  # noqa: D205

    text: tuple[str, ...] = ()
    id: str = "id"
    label: str = "label"
    image: str = ""
    keep: tuple[str, ...] = ()
    redact: str = ""
    multi: bool = False

    @classmethod
    def of(cls, config: RunConfig) -> Columns:
        """Return the columns of the settings."""
        return cls(
            text=tuple(name.strip() for name in config.text.split(",") if name.strip()),
            id=config.id,
            label=config.label,
            image=config.image,
            redact=config.redact,
            multi=bool(config.multi),
            keep=tuple(filter(None, (config.source_category, config.group))),
        )


@dataclass(slots=True)
class ItemReader:
    """Raw rows to clean items.

    `counts` says how many fields each cleaning step changed, `parts` how many items each file gave.
    `labelled`: labels are taken for known. Of a file that llmcat itself answered they are only
    where a person corrected a row. `others`: labels come from elsewhere, too.
    """

    columns: Columns = Columns()
    limit: int = 20_000
    counts: Counter[str] = field(default_factory=Counter)
    parts: dict[str, int] = field(default_factory=dict)
    labelled: bool = False
    others: bool = False
    folder: Path = Path()
    """Where an image's path begins: beside the items that name it."""
    _guessed: int = field(default=0, init=False)
    _corrected: int = field(default=0, init=False)
    _masked: Redactor | None = field(init=False, default=None)
    _at: dict[str, str | tuple[str, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Make ready what masks. Raises `BadConfig` if it cannot be had."""
        if self.columns.redact:
            self._masked = redact.parse(self.columns.redact)

    def read(self, *paths: str | Path, how: Reading | None = None) -> Generator[Item, None, None]:
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
                found = self._rows(path, raw, how)
                for item in self.items(found, source=source, row=row, empty=len(paths) > 1):
                    self.parts[name] += 1
                    row += 1
                    yield item
        if not row:
            raise InputError("no rows in any of the files")
        if self._guessed:
            self._say_guessed(", ".join(map(str, paths)))

    def _say_guessed(self, files: str) -> None:
        """Say that labels were llmcat's own. Raises `InputError` where there are no others."""
        guessed, right = self._guessed, self._corrected
        said = f"{files}: llmcat itself answered {guessed:,} rows: these labels are not known to be"
        if not right and not self.others:
            raise InputError(
                f"{said} right, and people corrected none",
                hint="llmcat review and llmcat apply; or --label names the column that is known",
            )
        note = f"{said} right; only the {right:,} that people corrected count"
        warnings.warn(note, LlmcatNote, stacklevel=3)

    def _rows(self, path: str | Path, raw: BinaryIO, how: Reading | None) -> Iterator[Row]:
        """Yield a file's rows, with the columns that its folders name."""
        named = columns_in(path)
        for row, error in rows_of(path, raw, self.reading(how)):
            yield ({**named, **row} if named and row is not None else row), error

    def reading(self, how: Reading | None = None) -> Reading:
        """Return how files are read, with the columns by which a header is told from an item."""
        known = {*TEXT_COLUMNS, self.columns.id, self.columns.label, *self._wanted()}
        return replace(how or Reading(), known=frozenset(map(str.casefold, known)))

    def read_for(self, config: RunConfig) -> Generator[Item, None, None]:
        """Yield the items of the settings' files; see `read`."""
        files = expand(config.file, apart=(config.taxonomy, config.examples))
        return self.read(*files, how=Reading.of(config))

    def check(self, *paths: str | Path, how: Reading | None = None) -> None:
        """Look at the first rows of each file. Raises what `read` would raise about columns."""
        for path in paths:
            with open_bytes(path) as raw:
                found = self._rows(path, raw, how)
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
        self._place(ahead)
        for number, (raw, error) in enumerate(chain(ahead, rows), row):
            yield self._item(number, raw, error)

    def _item(self, row: int, raw: Mapping[str, Any] | None, error: str | None) -> Item:
        if raw is None or error is not None:
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
        names = self.columns.text or self._text_columns(raw)
        fields = {
            name: text
            for name in names
            if (value := self._value(raw, name)) is not None
            and (text := clean(as_text(value), limit=self.limit, counts=self.counts))
        }
        note = CUT if self.counts["cut"] > before else None
        gold = self._known(raw)
        given = as_id(self._value(raw, self.columns.id))
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
                kept={name: as_text(self._value(raw, name)) for name in self.columns.keep},
            )
        self.counts["empty"] += 1
        error = f"no text in {', '.join(self.columns.text or TEXT_COLUMNS)}"
        return Item(row=row, id=id_, fields={}, gold=gold, error=error)

    def _known(self, raw: Mapping[str, Any]) -> str | None:
        """Return a row's label, where it may be taken for one."""
        gold = self._gold(self._value(raw, self.columns.label))
        if not self.labelled or self.columns.label != "label" or not raw.keys() >= OURS:
            return gold
        if raw["decision"] != CORRECTED:
            self._guessed += 1
            return None
        self._corrected += 1
        return gold or NONE

    def _gold(self, value: Any) -> str | None:
        """Return an item's known label, several of them `joined`; None where it has none."""
        if not self.columns.multi:
            return as_label(value) or None
        try:
            labels = several_in(value)
        except ValueError:  # no label of any taxonomy: whoever needs it will say so
            return as_text(value).strip().replace(", ", "|")
        return None if labels is None else joined(labels)

    def _images(self, raw: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the addresses and paths of an item's images."""
        value: Any = self._value(raw, self.columns.image)
        if hasattr(value, "tolist"):  # numpy
            value = value.tolist()
        named = value if isinstance(value, list | tuple) else [value]
        there = [v for v in named if not is_missing(v) and v != ""]
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
        columns = _columns_in(rows)
        return all(_found(name, columns, rows) for name in self._wanted()) and bool(
            self.columns.text or any(_found(name, columns, rows) for name in TEXT_COLUMNS)
        )

    def _check_columns(self, rows: list[Row], source: str) -> None:
        """Raise `BadConfig` if none of the rows looked at has a column that is needed."""
        there = _columns_in(rows)
        if not there:
            return  # nothing but bad rows: each says why
        shown = ", ".join(there) if len(there) <= SHOWN else f"{', '.join(there[:SHOWN])}, ..."
        for name in self._wanted():
            if not _found(name, there, rows):
                near = get_close_matches(name, there, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise BadConfig(f"{source}: no column {name!r}", hint=f"{hint}its columns: {shown}")
        if self.columns.label in self.columns.text:
            raise BadConfig(
                f"{source}: column {self.columns.label!r} is the known label: the model would read "
                "the answer",
                hint="leave it out of --text, or name the labels' column with --label",
            )
        if not self.columns.text and not any(
            _found(name, there, rows) for name in TEXT_COLUMNS if name != self.columns.label
        ):
            raise BadConfig(
                f"{source}: no column called {', '.join(_FIRST)}",
                hint=f"name the text columns with --text; its columns: {shown}",
            )

    def _place(self, rows: list[Row]) -> None:
        """Find the columns that are not called just as they are asked for."""
        columns = _columns_in(rows)
        names = (*TEXT_COLUMNS, *self._wanted(), self.columns.id, self.columns.label)
        self._at = {
            name: place
            for name in filter(None, names)
            if name not in columns and (place := _found(name, columns, rows)) is not None
        }

    def _value(self, raw: Mapping[str, Any], name: str) -> Any:
        """Return what a row has in a column, None where nothing."""
        value = raw.get(name)
        if value is None and (place := self._at.get(name)) is not None:
            value = raw.get(place) if isinstance(place, str) else _inside(raw, place)
        return None if is_missing(value) else value

    def _text_columns(self, raw: Mapping[str, Any]) -> tuple[str, ...]:
        """Return a row's first main column that holds something, then the additional ones."""
        for name in _FIRST:
            if name != self.columns.label and as_text(self._value(raw, name)).strip():
                return _USUAL[name]
        return _USUAL[_FIRST[0]]


def _columns_in(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(str(name) for raw, _ in rows if raw for name in raw))


def _found(name: str, columns: list[str], rows: list[Row]) -> str | tuple[str, ...] | None:
    """Return where a column is: so called, in other letters, or inside others (`fields.title`)."""
    if name in columns:
        return name
    alike = [each for each in columns if each.strip().casefold() == name.casefold()]
    if len(alike) == 1:
        return alike[0]
    parts = tuple(name.split("."))
    if len(parts) > 1 and any(raw and _inside(raw, parts) is not None for raw, _ in rows):
        return parts
    return None


def _inside(value: Any, parts: Sequence[str]) -> Any:
    """Return what stands at a path into nested objects, None where nothing does."""
    for part in parts:
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping):
            value = value.get(part)
        else:
            return None
    return value


def to_items(data: Iterable[Any], *, columns: Columns) -> Iterator[Item]:
    """Yield items from Python values: strings, or mappings with the columns' keys.

    Anything else becomes an item with an error.
    """
    values = list(data)
    if not values:
        return iter(())
    rows = (_raw(value, columns) for value in values)
    return ItemReader(columns=columns).items(rows, source="items")


def values_of(items: Any, columns: Columns) -> tuple[list[Any], Columns]:
    """Return plain values: the rows of a DataFrame as mappings, the rest as it is."""
    import pandas as pd

    if isinstance(items, pd.DataFrame):
        return items.to_dict("records"), columns
    if isinstance(items, str | Mapping):
        raise BadConfig("the items are one item, not a list", hint="give a list: [item]")
    return list(items), columns


def _raw(value: Any, columns: Columns) -> Row:
    if isinstance(value, str):
        return {columns.text[0] if columns.text else "title": value}, None
    if isinstance(value, Mapping):
        return value, None
    if is_missing(value):
        return None, "no text"
    return None, f"expected text or a mapping, found {type(value).__name__}"
