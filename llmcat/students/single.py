"""The students that are one classifier: made and loaded by kind, imported when chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmcat.errors import BadConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from llmcat.students import Estimator

__all__ = ["load", "make"]


def make(kind: str, params: Mapping[str, Any]) -> Estimator:
    """Return an estimator of a kind, not yet trained. Raises `BadConfig` for unknown settings."""
    try:
        found: Estimator = _kind(kind)(**params)
    except TypeError as exc:
        raise BadConfig(f"a student of kind {kind} has no such setting: {exc}") from exc
    return found


def load(kind: str, folder: Path, params: Mapping[str, Any]) -> Estimator:
    """Return a trained estimator from its folder; `params` are what it was made with."""
    found: Estimator = _kind(kind).load(folder, params)
    return found


def _kind(kind: str) -> Any:
    if kind == "linear":
        from llmcat.students.linear import LinearStudent

        return LinearStudent
    from llmcat.students.encoder import EncoderStudent

    return EncoderStudent
