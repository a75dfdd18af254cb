"""Where the files that ship with llmcat are: in the wheel, or in the repository beside it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["folder"]

_HERE = Path(__file__).parent


def folder(name: str) -> Path:
    """Return the folder `prompts` or `examples`, installed (`llmcat/_NAME`) or checked out."""
    installed = _HERE / f"_{name}"
    return installed if installed.is_dir() else _HERE.parent / name
