"""Rows of JSON: a value per line, one array, values over several lines, one object with a list.

Which it is shows at the beginning; an array is read as it comes, an object as a whole. `NaN` and
`Infinity`, which Python writes and JSON does not know, are missing values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import orjson

from llmcat.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

__all__ = ["json_rows"]

Row = tuple[Mapping[str, Any] | None, str | None]
CHUNK = 1 << 16
LONGEST = 1 << 26
"""Characters of one value at most, where values are not lines."""
BETWEEN = re.compile(r"[\s,]*")
WRAPPED = {"row", "row_idx", "truncated_cells"}
"""What the Hugging Face dataset viewer puts around a row."""


def json_rows(lines: Iterator[bytes], known: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a JSON file by its lines; `known` are columns that an item may have.

    Raises `InputError` for an array or an object that is not JSON, or holds no rows.
    """
    first = next((line for line in lines if line.strip()), b"")
    start = first.strip()[:1]
    value = _whole(first)
    if start == b"[":
        second = next((line for line in lines if line.strip()), b"") if value is not None else b""
        every = chain([first], [second] if second else [], lines)
        if value is None or not second:
            yield from map(_row, _values(every, opened=True))
            return
        lines = chain([second], lines)
    elif start == b"{" and value is None:
        second = next((line for line in lines if line.strip()), b"")
        lines = chain([second] if second else [], lines)
        if second and not isinstance(_whole(second), Mapping):
            found = _values(chain([first], lines), opened=False)
            one, other = next(found, None), next(found, None)
            if other is None and isinstance(one, Mapping):
                yield from _rows_of(one, known)
                return
            yield from map(_row, chain([one, other] if other is not None else [one], found))
            return
    elif isinstance(value, Mapping) and (_lists_in(value) or _by_columns(value, known)):
        second = next((line for line in lines if line.strip()), b"")
        if not second:
            yield from _rows_of(value, known)
            return
        lines = chain([second], lines)
    yield from _jsonl(chain([first] if first else [], lines))


def _jsonl(lines: Iterable[bytes]) -> Iterator[Row]:
    for line in lines:
        if not (text := line.strip()):
            continue
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            value = _whole(text)
            if value is None:
                yield None, f"not JSON: {_why(text, exc)}"
                continue
        if type(value) is dict and any(
            type(v) is float and abs(v) >= 2**64 for v in value.values()
        ):
            value = json.loads(text)  # orjson reads integers beyond 64 bits as floats
        yield _row(value)


def _whole(line: bytes) -> Any:
    """Return a line's value, `NaN` and `Infinity` in it as missing; None where it has none."""
    try:
        return json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def _why(line: bytes, exc: orjson.JSONDecodeError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as bad:
        return f"not UTF-8 at byte {bad.start}"
    return str(exc)


def _row(value: Any) -> Row:
    if isinstance(value, str):
        return {"title": value}, None
    if not isinstance(value, Mapping):
        return None, f"expected a JSON object, found {type(value).__name__}"
    if _is_wrapped(value):
        return value["row"], None
    if "custom_id" in value and isinstance(body := value.get("body"), Mapping):
        text = next((body[k] for k in ("messages", "input", "prompt") if body.get(k)), None)
        return {"id": value["custom_id"], "text": text, **value}, None
    return value, None


def _is_wrapped(value: Mapping[str, Any]) -> bool:
    return "row" in value and set(value) <= WRAPPED and isinstance(value["row"], Mapping)


def _known_in(value: Mapping[str, Any], known: Collection[str]) -> set[str]:
    """Return which of the columns that items may have an object has."""
    return {name for name in map(str, value) if name.casefold() in known}


def _by_columns(value: Mapping[str, Any], known: Collection[str]) -> bool:
    """Tell whether an object holds columns: lists or numbered values under names of columns."""
    inside = [value[name] for name in _known_in(value, known)]
    return bool(inside) and all(
        (isinstance(v, Mapping) and len(v) > 1 and all(str(k).isdigit() for k in v))
        or (isinstance(v, list) and len(v) > 1 and not isinstance(v[0], Mapping))
        for v in inside
    )


def _lists_in(value: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the lists of objects that an object holds, by name."""
    return {
        name: inside
        for name, inside in value.items()
        if isinstance(inside, list) and inside and all(isinstance(v, Mapping) for v in inside)
    }


def _rows_of(value: Mapping[str, Any], known: Collection[str]) -> Iterator[Row]:
    """Yield an object as a row, or the rows of the one list it holds. Raises `InputError`."""
    if _by_columns(value, known):
        raise InputError(
            "JSON by columns, not by rows",
            hint='in pandas to_json(orient="records")',
        )
    # An item may hold lists of objects; a list of items tells more than what stands around it.
    top = _known_in(value, known)
    lists = {
        name: rows
        for name, rows in _lists_in(value).items()
        if not top or _is_wrapped(rows[0]) or len(_known_in(rows[0], known)) > len(top)
    }
    if not lists or "custom_id" in value:
        yield _row(value)
        return
    wrapped = {name: rows for name, rows in lists.items() if _is_wrapped(rows[0])}
    named = {name: rows for name, rows in lists.items() if _known_in(rows[0], known)}
    fit = wrapped or named or lists
    if len(fit) > 1:
        raise InputError(
            f"one JSON object with more than one list: {', '.join(fit)}",
            hint="give the items as an array of objects, or one object a line",
        )
    yield from map(_row, next(iter(fit.values())))


def _values(lines: Iterable[bytes], *, opened: bool) -> Iterator[Any]:
    """Yield values that follow one another, with blanks or commas between.

    `opened`: they stand in an array. Raises `InputError` where something else follows.
    """
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    source = iter(lines)
    text, at, ended, count = "", 0, False, 0
    while True:
        between = BETWEEN.match(text, at)
        at = between.end() if between else at
        if opened and text[at : at + 1] == "[":
            opened, at = False, at + 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except RecursionError as exc:
            raise InputError(f"JSON nested too deeply after {count:,} items") from exc
        except json.JSONDecodeError as exc:
            rest = text[at:].strip()
            if ended:
                if rest in {"", "]"}:
                    return
                raise InputError(f"not JSON after {count:,} items: {exc.msg}") from exc
            if len(text) - at > LONGEST:
                raise InputError(f"not JSON after {count:,} items: {exc.msg}") from exc
            new = _some(source, max(CHUNK, len(text) - at))
            text, at, ended = text[at:] + new, 0, not new
            continue
        count += 1
        yield value


def _some(lines: Iterator[bytes], size: int) -> str:
    """Return the next lines, of about so many bytes; nothing at the end."""
    parts: list[bytes] = []
    for line in lines:
        parts.append(line)
        size -= len(line)
        if size <= 0:
            break
    try:
        return b"".join(parts).decode()
    except UnicodeDecodeError as exc:
        raise InputError(
            f"not UTF-8: {exc.reason} at byte {exc.start}", hint="--encoding says what it is"
        ) from exc
