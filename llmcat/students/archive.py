"""Fitted scikit-learn objects and arrays as files that run no code when they are read (skops)."""

from __future__ import annotations

from importlib import util
from typing import TYPE_CHECKING, Any

from llmcat.errors import BadConfig, InputError, JournalError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read", "write"]


TRUSTED = ("scipy.sparse._csr.csr_matrix", "scipy.sparse._csr.csr_array")
"""Plain matrices, which skops does not name among its own."""


def write(path: Path, kept: Any) -> None:
    """Write objects. Raises `JournalError` where the disk does not take them."""
    check()
    from skops import io

    try:
        io.dump(kept, path)
    except OSError as exc:
        raise JournalError(f"{path}: {exc.strerror}") from exc


def read(path: Path) -> Any:
    """Read objects of known kinds only. Raises `InputError` for any other file."""
    check()
    from skops import io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return io.load(path, trusted=list(TRUSTED))
    except UntrustedTypesFoundException as exc:
        raise InputError(f"{path} holds what a student has no use for: {exc}") from exc
    except Exception as exc:  # a broken archive fails in many ways
        raise InputError(f"{path} cannot be read: {exc}") from exc


def check() -> None:
    """Raise `BadConfig` if skops is not installed."""
    if util.find_spec("skops") is None:
        raise BadConfig("students need skops", hint='pip install "llmcat[student]"')
