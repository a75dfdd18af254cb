"""Values of files and of programs as text: fields, ids, labels; and what stands for none."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmcat.errors import InputError
from llmcat.records import NONE, joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["as_id", "as_label", "as_text", "is_missing", "several_in", "several_of"]

_THERE = {str, int, bool, list, dict, tuple}
"""Types of which no value stands for none."""


def is_missing(value: Any) -> bool:
    """Tell whether a value stands for none, in any of the coats that has: None, NaN, NaT, NA."""
    if value is None or type(value) in _THERE:
        return value is None
    if type(value).__name__ in {"NAType", "NaTType"}:
        return True
    try:
        return bool(value != value)  # noqa: PLR0124  NaN of float, numpy and Decimal
    except (TypeError, ValueError):  # an array
        return False


def as_text(value: Any) -> str:
    """Show a JSON value as a person would write it: `{"brand": "X"}` as `brand: X`."""
    if is_missing(value):
        return ""
    if isinstance(value, str | bytes):  # bytes: Parquet written without saying that it is text
        return value if isinstance(value, str) else value.decode()
    if hasattr(value, "tolist"):  # numpy
        value = value.tolist()
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {t}" for k, v in value.items() if (t := as_text(v)))
    if isinstance(value, list | tuple):
        if value and all(isinstance(v, Mapping) and {"role", "content"} <= v.keys() for v in value):
            value = [v["content"] for v in value]  # a conversation
        return ", ".join(t for v in value if (t := as_text(v)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value) if isinstance(value, float) else str(value)


def as_label(value: Any) -> str:
    """Show a known label as it was written; a list of one has it, of several it is a path."""
    if hasattr(value, "tolist"):  # numpy
        value = value.tolist()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return " > ".join(value)
    return as_text(value).strip()


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
        named = as_text(value).split("|")
        if not any(part.strip() for part in named):
            return None
    labels = [text for v in named if (text := as_text(v).strip())]
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


def as_id(value: Any) -> str:
    """Show an id; a whole number that pandas made a float is a whole number."""
    whole = isinstance(value, float) and value.is_integer()
    text = str(int(value)) if whole else as_text(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
