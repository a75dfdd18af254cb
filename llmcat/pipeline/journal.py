"""The predictions file as journal: append-only, in order, resumable after anything.

    <out>                 the rows; for other formats <out>.journal.jsonl until the end
    <out>.run.json        everything that is constant in the run, and what each session did

For a folder these two are `journal.jsonl` and `run.json` in it.

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

import llmcat
from llmcat.errors import JournalError, RunMismatch
from llmcat.files.opened import bare
from llmcat.pipeline import writers
from llmcat.records import ROUTE
from llmcat.storage import whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmcat.pipeline.tables_out import Kept

__all__ = [
    "Journal",
    "check_writable",
    "hold",
    "is_folder",
    "journal_path",
    "locked",
    "record_of",
    "record_path",
    "refuse_other",
    "write_record",
]

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
        cls,
        out: str,
        identity: Mapping[str, str],
        about: Mapping[str, Any],
        *,
        restart: bool,
        apart: bool = False,
    ) -> Journal:
        """Begin a run, or go on with the one that is there.

        `identity` must not change within a run; `about` is recorded beside it. `apart`: the output
        is made at the end whatever its format is. Raises
        `RunMismatch` if the file belongs to another run, `JournalError` if it cannot be used.
        """
        target = Path(out)
        if is_folder(out):
            target.mkdir(exist_ok=True)
        journal = cls(target, identity, {}, journal_path(target, apart=apart))
        # The lock comes first; who replaces the file holds its successor before it is there.
        journal._file = hold(journal.path)
        try:
            journal._begin(about, restart=restart)
        except BaseException:
            journal.close()
            raise
        return journal

    def _begin(self, about: Mapping[str, Any], *, restart: bool) -> None:
        """Find out whether this is a new run, one to go on with, or one that is done."""
        assert self._file is not None  # noqa: S101  locked before
        previous = record_of(self.out)
        if previous is None:
            for file in (self.out, self.path):
                if file.is_file() and file.stat().st_size:
                    raise JournalError(
                        f"{file} exists and is not the output of a run",
                        hint="choose another --out, or remove the file",
                    )
        elif previous["status"] != "done" and not self.path.stat().st_size:
            if self.path != self.out and self.out.is_file() and self.out.stat().st_size:
                raise JournalError(
                    f"{self.out} holds the rows of a run without --keep that was interrupted",
                    hint="go on without it, then llmcat export --keep; or --restart",
                )
            previous = None  # it ended before its first row: there is nothing to go on with
        elif restart:
            if self.path != self.out:
                for made in self._made(previous):
                    made.unlink(missing_ok=True)
            self._file.truncate(0)
            previous = None
        else:
            refuse_other(
                str(self.out),
                previous["identity"],
                self.identity,
                hint="use the same settings, another --out, or --restart to start over",
            )
        self.record = {
            "status": "new",
            "sessions": [],
            **(previous or {}),
            "identity": dict(self.identity),
            "about": dict(about),
        }
        if self.record["status"] == "done":
            size = _size(self._made(self.record))
            self.finished = size in {self.record.get("bytes"), self.record.get("becomes")}
            if not self.finished:
                raise JournalError(
                    f"{self.out} was changed or removed after its run was done",
                    hint="--restart asks everything again",
                )
        if self.finished:
            self.close()
            return
        self.done = _cut_torn_tail(self._file, self.path)
        self.save("running")

    @staticmethod
    def last(out: str) -> dict[str, Any]:
        """Return what the last session of a run noted."""
        record = record_of(Path(out))
        return dict(record["sessions"][-1]) if record else {}

    @staticmethod
    def done_as(out: str, settings: Mapping[str, Any], identity: Mapping[str, str]) -> bool:
        """Tell whether a run with these settings is done, and its output as it was left.

        `identity` is what can be known without an engine.
        """
        target = Path(out)
        record = record_of(target)
        if record is None or record.get("status") != "done":
            return False
        about = record.get("about", {})
        was = about.get("settings", {})
        same = about.get("llmcat") == llmcat.__version__ and all(
            was.get(name) == value for name, value in settings.items()
        )
        same = same and all(record["identity"].get(k) == v for k, v in identity.items())
        journal = Journal(target, {}, {}, journal_path(target))
        return same and _size(journal._made(record)) == record.get("bytes")

    @staticmethod
    def prior(out: str) -> list[float] | None:
        """Return the place prior that earlier sessions of a run used, None if there is none.

        A run goes on by the one it began with; measuring it anew would give slightly another.
        """
        try:
            found = orjson.loads(record_path(Path(out)).read_bytes())["about"]["evidence"][
                "place_prior"
            ]
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
            return None  # nothing is there, or the journal itself will say what is wrong
        return [float(x) for x in found] if found else None

    def _made(self, record: Mapping[str, Any]) -> list[Path]:
        """Return the files that a run made, by its record."""
        if not self.out.is_dir():
            return [self.out]
        return [self.out / part for part in record.get("parts", ())]

    def close(self) -> None:
        """Let go of the file. An empty journal beside a finished output is removed."""
        if self._file is None:
            return
        self._sync()
        with contextlib.suppress(OSError):
            self._file.close()
        self._file = None
        if self.path != self.out and self.path.exists() and not self.path.stat().st_size:
            self.path.unlink()

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

    def end_session(
        self,
        session: Mapping[str, Any],
        *,
        status: str,
        parts: Mapping[Path, int] | None = None,
        kept: Kept | None = None,
    ) -> None:
        """Note what this session did; when the run is done, make the output, whole or in parts."""
        self.record["sessions"].append(dict(session))
        self._sync()
        try:
            if status == "done":
                if self.path != self.out:
                    writers.export(self.path, self.out, parts, kept)
                if parts is not None:
                    self.record["parts"] = [str(part.relative_to(self.out)) for part in parts]
                self.record["bytes"] = _size(self._made(self.record))
            self.save(status)
            if status == "done" and self.path != self.out:
                self.path.unlink()
        finally:
            self.close()

    def _sync(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # append has said so already
                self._file.flush()
                os.fsync(self._file.fileno())

    def save(self, status: str) -> None:
        """Write the run's record, whole or not at all."""
        self.record["status"] = status
        write_record(record_path(self.out), self.record)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a run's record, whole or not at all. Raises `JournalError`."""
    with whole(path) as raw:
        raw.write(orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n")


def is_folder(out: str) -> bool:
    """Tell whether predictions go into a folder, a file per input file."""
    named = Path(bare(out)).suffix in writers.FORMATS
    return out.endswith(("/", os.sep)) or (Path(out).is_dir() and not named)


def _size(files: Iterable[Path]) -> int:
    """Return the bytes of files together; what is not there has none."""
    return sum(file.stat().st_size for file in files if file.exists())


def record_path(out: Path) -> Path:
    """Return where a run's record is."""
    return out / "run.json" if out.is_dir() else out.with_name(f"{out.name}.run.json")


def journal_path(out: Path, *, apart: bool = False) -> Path:
    """Return where the rows are written while the run goes on.

    Those of `.jsonl` in the output itself, unless it is to be made of them at the end (`apart`).
    """
    if out.is_dir():
        return out / "journal.jsonl"
    beside = out.with_name(f"{out.name}.journal.jsonl")
    return beside if apart or out.suffix != ".jsonl" or beside.exists() else out


def check_writable(out: str, inputs: Iterable[str]) -> None:
    """Raise `JournalError` if the output cannot be written, before money is spent.

    Nor may it be one of the files that the run reads.
    """
    target = Path(out)
    if is_folder(out):
        if not target.exists() and not target.parent.is_dir():
            raise JournalError(f"{target.parent}: no such folder")
        if target.exists() and not (target / "run.json").exists() and any(target.iterdir()):
            raise JournalError(
                f"{out} is not empty and not the output of a run", hint="choose another --out"
            )
        if not os.access(target if target.exists() else target.parent, os.W_OK):
            raise JournalError(f"{out}: cannot be written")
        return
    writers.check_format(out)
    for name in inputs:
        if name and target.exists() and Path(name).exists() and target.samefile(name):
            raise JournalError(f"{out} is an input of this run", hint="choose another --out")
    for file in (target, journal_path(target)):
        if file.exists() and not file.is_file():
            raise JournalError(f"{file}: not a regular file")
        if file.exists() and not os.access(file, os.W_OK):
            raise JournalError(f"{file}: cannot be written")
    if not target.parent.is_dir():
        raise JournalError(f"{target.parent}: no such folder")
    if not os.access(target.parent, os.W_OK):
        raise JournalError(f"{target.parent}: cannot be written")


SHOWN = {ROUTE: "primary, policy or checks", "judge": "calibration or threshold"}
"""What a part of the identity is called in messages, where its key does not say it."""


def record_of(out: Path) -> dict[str, Any] | None:
    """Return the record of the run that writes to `out`, None if there is none."""
    path = record_path(out)
    try:
        value = orjson.loads(path.read_bytes())
        if not {"status", "sessions", "identity"} <= dict(value).keys():
            raise ValueError("not the record of a run")
        if (route := value["identity"].pop(SHOWN[ROUTE], None)) is not None:  # before 0.2
            value["identity"][ROUTE] = route
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as exc:
        raise JournalError(f"{path}: {exc}", hint="remove it, or choose another --out") from exc
    return dict(value)


def refuse_other(out: str, before: Mapping[str, str], now: Mapping[str, str], *, hint: str) -> None:
    """Raise `RunMismatch`, with every difference, if two identities are not the same."""
    differences = [
        "input: the items have changed"
        if key == "input"
        else f"{SHOWN.get(key, key)}: {before.get(key, '(not set)')} then, "
        f"{now.get(key, '(not set)')} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if differences:
        raise RunMismatch(out, differences, hint=hint)


def hold(path: Path, *, make: bool = True) -> BinaryIO:
    """Open a file to add to, or `make` it; no other process does until it is closed.

    Raises `JournalError` if another one has it, or it cannot be opened.
    """
    while True:
        try:
            file = path.open("ab+" if make else "rb+")
            try:
                free = locked(file)
                mine = os.fstat(file.fileno())
                if free and path.exists() and os.path.samestat(mine, path.stat()):
                    return file
            except BaseException:
                file.close()
                raise
        except OSError as exc:
            raise JournalError(f"{path}: {exc.strerror}") from exc
        file.close()
        if not free:
            raise JournalError(f"{path}: another llmcat is writing it")
        # else it was replaced between the two: its successor is the one to hold


def locked(file: BinaryIO) -> bool:
    """Keep other processes from writing this file; False if one does already."""
    try:
        import fcntl
    except ImportError:  # a system without it goes unprotected
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _cut_torn_tail(file: BinaryIO, path: Path) -> int:
    """Cut what follows the last whole row; return the number of rows.

    Row numbers are the journal's own check: the n-th line holds row n - 1. What is no row is a
    torn tail only if no row follows it.
    """
    file.seek(0)
    count, end, bad = 0, 0, 0
    for number, line in enumerate(file, 1):
        try:
            row = orjson.loads(line)["row"] if line.endswith(b"\n") else None
        except (orjson.JSONDecodeError, KeyError, TypeError):
            row = None
        if row is None:
            bad = bad or number
        elif bad or row != count:
            what = f"line {bad} is no row" if bad else f"line {number} holds row {row}"
            raise JournalError(
                f"{path}: {what}", hint="it was changed by hand; --restart starts over"
            )
        else:
            count, end = count + 1, end + len(line)
    file.truncate(end)
    file.seek(end)
    return count
