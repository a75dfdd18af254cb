"""Files that are written whole or not at all, and SQLite files that several processes share."""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from llmcat.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["Database", "now", "text_in", "whole", "wrote"]

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


class Database:
    """An SQLite file that processes share: opened, brought to today's version, its errors ours.

    `migrations` are scripts, the n-th of which takes a file from version n to n + 1; one that was
    released never changes. Between a statement's `;` there is none. `hint` says what to do where
    the file cannot be used; `threads`: more than one uses it, one at a time. Raises `JournalError`,
    also for a file of a later version.
    """

    def __init__(
        self, path: Path, migrations: Sequence[str], *, hint: str = "", threads: bool = False
    ) -> None:
        """Open the file, or make it."""
        self.path, self.hint = path, hint
        with self._told():
            self.connection = _connect(path, threads=threads)
        if self.version != len(migrations):
            self._migrate(migrations)

    @property
    def version(self) -> int:
        """How many of the migrations have been applied."""
        return int(self.rows("PRAGMA user_version")[0][0])

    def _migrate(self, migrations: Sequence[str]) -> None:
        with self.writing():  # another process may do the same at this moment
            if self.version > len(migrations):
                raise JournalError(
                    f"{self.path} is of version {self.version}, this llmcat knows "
                    f"{len(migrations)}",
                    hint="use the newer llmcat that wrote it",
                )
            for number in range(self.version, len(migrations)):
                for statement in filter(str.strip, migrations[number].split(";")):
                    self.connection.execute(statement)
                self.connection.execute(f"PRAGMA user_version = {number + 1}")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise JournalError(f"{self.path}: {exc}", hint=self.hint) from exc

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Do what is inside as one transaction, alone."""
        with self._told():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def rows(self, sql: str, values: Iterable[Any] = ()) -> list[Any]:
        """Return what a question gives."""
        with self._told():
            return self.connection.execute(sql, tuple(values)).fetchall()

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()


def now() -> str:
    """Return the time in UTC, ISO 8601, to the microsecond: records are ordered by it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _connect(path: Path, *, threads: bool = False) -> sqlite3.Connection:
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
