"""What runs leave behind: a folder for each, and a registry of all.

    runs/runs.sqlite     which runs there were, and how often a question was looked at
    runs/answers.sqlite  answers by request (llmcat.engines.cache)
    runs/NAME-HASH/      one run: run.json, and what `collect` and `experiment` write

This module does not know engines, metrics or decisions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from llmcat.errors import InputError, JournalError, RunMismatch
from llmcat.evaluation.schema import RunRecord, checked_run
from llmcat.pipeline.journal import locked, refuse_other
from llmcat.storage import Database, whole

__all__ = ["SOLO", "Folder", "Look", "Registry", "load", "named", "stem_of"]

SOLO = "eval"
"""The name of the arm that is measured alone: its files have no name in front."""


def stem_of(files: str) -> str:
    """Return a run's name before its hash, from the file of its items."""
    name = Path(files.split("\n", maxsplit=1)[0]).name.lstrip("-.").split(".")[0]
    return name or "items"


def named(arm: str, suffix: str) -> str:
    """Return the name of an arm's file: `b.metrics.json`; `metrics.json` where there is one arm."""
    return suffix if arm == SOLO else f"{arm}.{suffix}"


@dataclass
class Folder:
    """The folder of a run, locked while it is written."""

    path: Path
    record: RunRecord
    _lock: BinaryIO | None = field(default=None, repr=False)

    @classmethod
    def begin(cls, path: Path, record: RunRecord) -> Folder:
        """Take the folder for a run, or go on with the same one.

        Raises `RunMismatch` if another run is in it, `JournalError` if it cannot be written.
        """
        before = None
        try:
            if path.is_dir() and any(path.iterdir()):
                before = load(path)
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / ".lock").open("ab")
        except OSError as exc:
            raise JournalError(f"{exc.filename or path}: {exc.strerror}") from exc
        if not locked(lock):
            lock.close()
            raise JournalError(f"{path}: another llmcat is writing it")
        if before is not None:
            hint = "choose another --out; answers that were given are not asked for again"
            try:
                refuse_other(str(path), before["identity"], record["identity"], hint=hint)
            except RunMismatch:
                cls(path, before, lock).close()
                raise
            record = {**record, "created": before["created"]}
        folder = cls(path, record, lock)
        folder.save("running")
        return folder

    def file(self, name: str) -> Path:
        """Return the path of a file in it."""
        return self.path / name

    def save(self, status: str) -> None:
        """Write the record, whole or not at all."""
        self.record["status"] = status
        self.write("run.json", self.record)

    def write(self, name: str, value: Any) -> None:
        """Write a file, whole or not at all: text as it is, anything else as JSON."""
        with whole(self.file(name)) as raw:
            if isinstance(value, str):
                raw.write(value.encode())
            else:
                raw.write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")

    def keep(self, source: Path) -> str:
        """Copy a file into `inputs/`, named by its content; return its name there."""
        try:
            content = source.read_bytes()
            name = f"inputs/{hashlib.sha256(content).hexdigest()[:8]}-{source.name}"
            self.file("inputs").mkdir(exist_ok=True)
            self.file(name).write_bytes(content)
        except OSError as exc:
            raise JournalError(f"{exc.filename}: {exc.strerror}") from exc
        return name

    def close(self) -> None:
        """Let go of it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            self.file(".lock").unlink(missing_ok=True)


def load(path: Path) -> RunRecord:
    """Return the record of the run in a folder. Raises `JournalError` if there is none."""
    try:
        return checked_run(orjson.loads((path / "run.json").read_bytes()))
    except (OSError, ValueError) as exc:
        what = "" if isinstance(exc, OSError) else f" (run.json: {exc})"
        raise JournalError(
            f"{path} holds no evaluation run{what}",
            hint="choose another --out, or an empty folder",
        ) from exc


# -- the registry -----------------------------------------------------------------------------


MIGRATIONS = (
    """
    CREATE TABLE runs (name TEXT PRIMARY KEY, folder TEXT, kind TEXT, created TEXT,
        file TEXT, n INTEGER, arms TEXT, status TEXT, result TEXT);
    CREATE TABLE looks (question TEXT, rule TEXT, planned INTEGER, n INTEGER, items TEXT,
        run TEXT, at TEXT, PRIMARY KEY (question, rule, planned, items))
    """,
)


COLUMNS = ("name", "folder", "kind", "created", "file", "n", "arms", "status", "result")


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a question: by which rule, with how many looks planned (0: none), at what."""

    rule: str
    planned: int
    n: int
    items: str
    run: str
    at: str


class Registry:
    """Which runs there were, in an SQLite file. Raises `JournalError` if it cannot be used."""

    def __init__(self, folder: Path) -> None:
        """Open the registry of a runs folder, or make it; bring an older one up to date."""
        self.path = folder / "runs.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise JournalError(f"{folder}: {exc.strerror or exc}") from exc
        self._db = Database(self.path, MIGRATIONS, hint="move it away, or choose another --runs")

    @classmethod
    def existing(cls, folder: str) -> Registry:
        """Open a registry that is there. Raises `InputError` if none is."""
        if not (Path(folder) / "runs.sqlite").is_file():
            raise InputError(f"{folder}: no runs there", hint="--runs names another folder")
        return cls(Path(folder))

    def note(self, folder: Path, record: RunRecord, result: str = "") -> None:
        """Write down how a run stands; `result` is what it found, in a line."""
        items = record["items"]
        values = (
            folder.name if folder.resolve().parent == self.path.parent.resolve() else str(folder),
            str(folder.resolve()),
            record["kind"],
            record["created"],
            items["file"],
            items["n"],
            orjson.dumps({n: arm["said"] for n, arm in record["arms"].items()}).decode(),
            record["status"],
            result,
        )
        with self._db.writing() as db:
            db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs, the latest first."""
        rows = self._db.rows("SELECT * FROM runs ORDER BY created DESC, rowid DESC")
        found = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        return [run | {"arms": orjson.loads(run["arms"])} for run in found]

    def find(self, name: str) -> Path:
        """Return the folder of a run, by its name, the beginning of it or of its hash.

        Raises `InputError` where there is none, or several.
        """
        every = self.runs()
        fits = [run for run in every if name in {run["name"], run["name"].rpartition("-")[2]}]
        fits = fits or [r for r in every if f"-{name}" in r["name"] or r["name"].startswith(name)]
        if len(fits) != 1:
            what = "no run is" if not fits else f"{len(fits)} runs are"
            known = ", ".join(run["name"] for run in (fits or every)[:5]) or "none"
            raise InputError(f"{what} called {name!r}", hint=f"there are: {known}")
        folder = Path(fits[0]["folder"])
        if not folder.is_dir():
            raise InputError(f"the folder of run {fits[0]['name']} is gone: {folder}")
        return folder

    def looks(self, question: str) -> list[Look]:
        """Return the looks at a question so far, in their order."""
        rows = self._db.rows(
            "SELECT rule, planned, n, items, run, at FROM looks WHERE question = ? ORDER BY at, n",
            (question,),
        )
        return [Look(*row) for row in rows]

    def others(self, question: str, items: str) -> int:
        """Return how many other questions were asked of the same items."""
        rows = self._db.rows(
            "SELECT COUNT(DISTINCT question) FROM looks WHERE items = ? AND question != ?",
            (items, question),
        )
        return int(next(iter(rows))[0])

    def look(self, question: str, look: Look) -> None:
        """Write down that a question was looked at; the same items again are the same look."""
        with self._db.writing() as db:
            db.execute(
                "INSERT OR IGNORE INTO looks VALUES (?, ?, ?, ?, ?, ?, ?)",
                (question, look.rule, look.planned, look.n, look.items, look.run, look.at),
            )

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
