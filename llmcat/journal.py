"""The predictions file as journal: append-only, in order, resumable after anything.

    <out>                 the rows; for CSV and compressed outputs <out>.journal.jsonl until the end
    <out>.run.json        everything that is constant in the run, and what each session did

On resume the torn tail is cut, the rows are counted and the run goes on after them, but only
if it is the same run: any difference in what shapes the answers is refused by name.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from llmcat import writers
from llmcat.errors import JournalError, RunMismatch

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Journal"]

SYNC_SECONDS = 5.0


@dataclass
class Journal:
    """An open predictions file. `done` is the number of rows that were there already."""

    out: Path
    identity: Mapping[str, str]
    record: dict[str, Any]
    path: Path
    done: int = 0
    finished: bool = False
    _file: BinaryIO | None = field(default=None, repr=False)
    _synced: float = 0.0

    @classmethod
    def open(
        cls, out: str, identity: Mapping[str, str], about: Mapping[str, Any], *, restart: bool
    ) -> Journal:
        """Begin a run, or go on with the one that is there.

        `identity` must not change within a run; `about` is recorded beside it. Raises
        `RunMismatch` if the file belongs to another run, `JournalError` if it cannot be used.
        """
        target = Path(out)
        path = journal_path(target)
        record_path = target.with_name(f"{target.name}.run.json")
        previous = _load(record_path)
        if previous is None:
            for file in (target, path):
                if file.exists() and file.stat().st_size:
                    raise JournalError(
                        f"{file} exists and is not the output of a run",
                        hint="choose another --out, or remove the file",
                    )
            previous = {"status": "new", "sessions": []}
        elif restart:
            for old in (target, path, record_path):
                old.unlink(missing_ok=True)
            previous = {"status": "new", "sessions": []}
        else:
            _compare(str(target), previous.get("identity", {}), identity)
        finished = previous["status"] == "done"
        record = {**previous, "identity": dict(identity), "about": dict(about)}
        journal = cls(target, identity, record, path, finished=finished)
        if not finished:
            journal._begin()
        return journal

    def _begin(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(self.path.open("ab+"))
                _lock(file, self.path)
                self.done = _cut_torn_tail(file, self.path)
                stack.pop_all()
        except OSError as exc:
            raise JournalError(f"{self.path}: {exc.strerror}") from exc
        self._file = file
        self.save("running")

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Write rows; they survive kill -9 from here on, and a power cut within seconds."""
        assert self._file is not None  # noqa: S101  append follows open
        try:
            self._file.write(b"".join(orjson.dumps(row) + b"\n" for row in rows))
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as exc:
            raise JournalError(
                f"{self.path}: {exc.strerror}",
                hint="make room, then run the same command again: it goes on",
            ) from exc

    def end_session(self, session: Mapping[str, Any], *, status: str) -> None:
        """Note what this session did; when the run is done, make the output file."""
        self.record["sessions"].append(dict(session))
        if self._file is not None:
            with contextlib.suppress(OSError), self._file as file:
                file.flush()
                os.fsync(file.fileno())
            self._file = None
        if status == "done" and self.path != self.out:
            writers.export(self.path, self.out)
        self.save(status)
        if status == "done" and self.path != self.out:
            self.path.unlink()

    def save(self, status: str) -> None:
        """Write the run's record, whole or not at all."""
        self.record["status"] = status
        path = self.out.with_name(f"{self.out.name}.run.json")
        draft = path.with_name(f"{path.name}.part")
        try:
            draft.write_bytes(orjson.dumps(self.record, option=orjson.OPT_INDENT_2) + b"\n")
            draft.replace(path)
        except OSError as exc:
            raise JournalError(f"{path}: {exc.strerror}") from exc


def journal_path(out: Path) -> Path:
    """Return where the rows are written while the run goes on."""
    return out if out.suffix == ".jsonl" else out.with_name(f"{out.name}.journal.jsonl")


def check_writable(out: str) -> None:
    """Raise `JournalError` if the output's folder cannot be written, before money is spent."""
    writers.check_format(out)
    path = journal_path(Path(out))
    for file in (Path(out), path):
        if file.exists() and not file.is_file():
            raise JournalError(f"{file}: not a regular file")
    try:
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as exc:
        raise JournalError(f"{path}: {exc.strerror}") from exc


def _load(path: Path) -> dict[str, Any] | None:
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as exc:
        raise JournalError(f"{path}: {exc}", hint="--restart starts over") from exc
    return dict(value)


def _compare(out: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    differences = [
        f"{key}: {before.get(key, '(not set)')} then, {now.get(key, '(not set)')} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if differences:
        raise RunMismatch(
            out,
            differences,
            hint="use the same settings, another --out, or --restart to start over",
        )


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep a second process from writing the same output, where the system can."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise JournalError(f"{path}: another llmcat is writing it") from exc


def _cut_torn_tail(file: BinaryIO, path: Path) -> int:
    """Cut what follows the last whole row; return the number of rows.

    Row numbers are the journal's own check: the n-th line holds row n - 1.
    """
    file.seek(0)
    count, end = 0, 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        try:
            row = orjson.loads(line)["row"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            break
        if row != count:
            raise JournalError(
                f"{path}: line {count + 1} holds row {row}",
                hint="it was changed by hand; --restart starts over",
            )
        count, end = count + 1, end + len(line)
    file.truncate(end)
    file.seek(end)
    return count
