"""SQLite files that several processes read and write at a time."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["connect"]

PATIENCE = 60.0
"""Seconds to wait for another process that writes."""


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
