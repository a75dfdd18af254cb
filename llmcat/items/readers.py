"""Files to items: JSONL, CSV, TSV, plain lines, Parquet, `-`; gzip, zstd. Streaming, in order.

Every row of the input becomes exactly one item. A row that cannot be used becomes an item
with an `error`; only what makes the whole input unusable is an exception. This module does
not know taxonomies, prompts or engines.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcat.errors import BadConfig, BadItem, InputError
from llmcat.items import images, redact
from llmcat.items.cleaning import clean
from llmcat.items.formats import ROWS, Format, Row, format_of, open_bytes
from llmcat.items.redact import Redactor
from llmcat.items.sources import expand
from llmcat.records import NONE, Item, digest, joined

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from llmcat.config import RunConfig

__all__ = ["CUT", "Columns", "ItemReader", "several_in", "several_of", "to_items", "values_of"]


TEXT_COLUMNS = ("title", "text", "name", "query", "description", "attributes")
_FIRST = TEXT_COLUMNS[:4]
_USUAL = {name: (name, *TEXT_COLUMNS[4:]) for name in _FIRST}
CUT = "text cut to fit"
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
                found = ROWS[fmt or format_of(path, raw)](raw)
                for item in self.items(found, source=source, row=row, empty=len(paths) > 1):
                    self.parts[name] += 1
                    row += 1
                    yield item
        if not row:
            raise InputError("no rows in any of the files")

    def read_for(self, config: RunConfig) -> Generator[Item, None, None]:
        """Yield the items of the settings' files; see `read`."""
        return self.read(*expand(config.file), fmt=config.input_format or None)

    def check(self, *paths: str | Path, fmt: Format | None = None) -> None:
        """Look at the first rows of each file. Raises what `read` would raise about columns."""
        for path in paths:
            with open_bytes(path) as raw:
                found = ROWS[fmt or format_of(path, raw)](raw)
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
        gold = self._gold(raw.get(self.columns.label))
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

    def _gold(self, value: Any) -> str | None:
        """Return an item's known label, several of them `joined`; None where it has none."""
        if not self.columns.multi:
            return _as_text(value).strip() or None
        try:
            labels = several_in(value)
        except ValueError:  # no label of any taxonomy: whoever needs it will say so
            return _as_text(value).strip().replace(", ", "|")
        return None if labels is None else joined(labels)

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
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, "no text"
    return None, f"expected text or a mapping, found {type(value).__name__}"


# -- rows -----------------------------------------------------------------------------------


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


def several_in(value: Any) -> list[str] | None:
    """Return the labels in a cell: a list, or text with `|` between them; None where it is empty.

    A list may hold names, or objects with a `label`, as rows of predictions do; it may be written
    as JSON. An empty list, or `none` alone, says that no label applies. Raises `ValueError` for
    `none` beside a label.
    """
    if hasattr(value, "tolist"):  # numpy
        value = value.tolist()
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    named: list[Any]
    if isinstance(value, list | tuple | set | frozenset):
        named = [v.get("label") if isinstance(v, Mapping) else v for v in value]
    else:
        named = _as_text(value).split("|")
        if not any(part.strip() for part in named):
            return None
    labels = [text for v in named if (text := _as_text(v).strip())]
    folded = {label.casefold() for label in labels}
    if len(folded) > 1 and NONE in folded:
        raise ValueError(f"labels {', '.join(labels)}: {NONE} stands beside others")
    return labels


def several_of(y: Iterable[Any], classes: Sequence[str] | None) -> list[str]:
    """Return each item's labels `joined`, from lists, text, or rows of indicators of `classes`.

    Raises `InputError`, which says of which item, where one has no labels or they cannot be.
    """
    if getattr(y, "ndim", 1) == 2:  # noqa: PLR2004  as scikit-learn's multi-label classifiers say it
        if classes is None or len(classes) != y.shape[1]:  # type: ignore[attr-defined]
            raise InputError("a matrix of indicators needs `labels`, one column for each class")
        y = [[name for name, given in zip(classes, row, strict=True) if given] for row in y]
    found = []
    for number, labels in enumerate(y):
        try:
            parts = several_in(labels)
        except ValueError as exc:
            raise InputError(f"item {number}: {exc}") from exc
        if parts is None:
            raise InputError(f"item {number} has no labels", hint="`none`, or an empty list")
        found.append(joined(parts))
    return found


def _as_id(value: Any) -> str:
    """Show an id; a whole number that pandas made a float is a whole number."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else _as_text(value)
