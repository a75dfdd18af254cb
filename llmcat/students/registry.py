"""Students of every kind, made and loaded; imported when chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmcat.errors import BadConfig
from llmcat.students import single

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from llmcat.students import Estimator, Kind

__all__ = ["load", "make"]


def make(kind: Kind, params: Mapping[str, Any]) -> Estimator:
    """Return an estimator of a kind, not yet trained. Raises `BadConfig` for unknown settings."""
    if kind in {"linear", "encoder"}:
        return single.make(kind, params)
    try:
        found: Estimator = _several(kind)(**params)
    except TypeError as exc:
        raise BadConfig(f"a student of kind {kind} has no such setting: {exc}") from exc
    return found


def load(kind: Kind, folder: Path, params: Mapping[str, Any]) -> Estimator:
    """Return a trained estimator from its folder; `params` are what it was made with."""
    if kind in {"linear", "encoder"}:
        return single.load(kind, folder, params)
    found: Estimator = _several(kind).load(folder, params)
    return found


def _several(kind: Kind) -> Any:
    from llmcat.students.ensemble import StackedStudent, VotingStudent

    return VotingStudent if kind == "vote" else StackedStudent
