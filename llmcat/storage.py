"""Files that are written whole or not at all, and SQLite files that several processes share."""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import time
from typing import TYPE_CHECKING, BinaryIO, cast

from llmcat.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["connect", "text_in", "whole", "wrote"]

PATIENCE = 60.0
"""Seconds to wait for another process that writes."""


def wrote(path: Path) -> str:
    """Say that a file or folder is written, before it is: what was there is replaced."""
    return f"{'replaced' if path.exists() else 'wrote'} {path}"


@contextlib.contextmanager
def whole(path: Path, *, hint: str = "") -> Iterator[BinaryIO]:
    """Give a file to write, which takes the place of `path` at the end, or leaves it as it was.

    Raises `JournalError` if it cannot be written.
    """
    draft = path.with_name(f"{path.name}.part")
    try:
        with draft.open("wb") as raw:
            try:
                yield raw
                raw.flush()
                os.fsync(raw.fileno())
                draft.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    draft.unlink()
                raise
    except OSError as exc:
        raise JournalError(f"{path}: {exc.strerror or exc}", hint=hint) from exc


@contextlib.contextmanager
def text_in(raw: BinaryIO) -> Iterator[io.TextIOWrapper]:
    """Give a file of bytes as one of text, UTF-8, line ends as they are written."""
    text = io.TextIOWrapper(cast("io.BufferedWriter", raw), "utf-8", newline="")
    yield text
    text.flush()
    text.detach()


def connect(path: Path, *, threads: bool = False) -> sqlite3.Connection:
    """Open a file, or make it, with a journal beside which others can read and write.

    Transactions are the caller's; `threads`: more than one thread uses it, one at a time. Raises
    `sqlite3.Error`.
    """
    db = sqlite3.connect(
        path, isolation_level=None, timeout=PATIENCE, check_same_thread=not threads
    )
    patience = time.monotonic() + PATIENCE
    while True:  # SQLite waits for no lock here, and another process may just do the same
        try:
            db.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > patience:
                db.close()
                raise
            time.sleep(0.02)
        except sqlite3.Error:
            db.close()
            raise
    db.execute("PRAGMA synchronous=NORMAL")
    return db
