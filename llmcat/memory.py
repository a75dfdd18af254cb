"""What has been answered already: exact duplicates, in bounded memory.

`DiskMemory` keeps its index in a temporary SQLite file that vanishes with the run; the journal
is what lasts. `dict`-like `PlainMemory` serves the library, where the items are in memory anyway.
"""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from pathlib import Path

import orjson

from llmcat.errors import JournalError
from llmcat.records import Scores

__all__ = ["DiskMemory", "PlainMemory"]

KEPT = 4
"""How many labels' probabilities a remembered answer keeps: what a row shows."""


class PlainMemory(dict[str, Scores]):
    """Remembers everything, in a dict."""

    def put(self, content: str, scores: Scores) -> None:
        """Remember the scores of a text."""
        self[content] = scores


class DiskMemory:
    """Remembers answers and ids by hash, in a temporary SQLite file without a journal.

    Scores come back with the best `KEPT` labels only.
    """

    def __init__(self) -> None:
        """Make the file in the system's temporary folder."""
        self._folder = tempfile.TemporaryDirectory(prefix="llmcat-")
        self._db = sqlite3.connect(
            Path(self._folder.name) / "seen.sqlite", isolation_level=None, check_same_thread=False
        )
        self._db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384;"
            "CREATE TABLE answers (key BLOB PRIMARY KEY, scores BLOB) WITHOUT ROWID;"
            "CREATE TABLE ids (key BLOB PRIMARY KEY) WITHOUT ROWID;"
            "BEGIN;"
        )

    def get(self, content: str) -> Scores | None:
        """Return the scores of this very text, if it was answered."""
        found = self._do("SELECT scores FROM answers WHERE key = ?", (_key(content),)).fetchone()
        if found is None:
            return None
        label, p, p_none, kind, mass, note = orjson.loads(found[0])
        return Scores(label, p, p_none, kind, mass, note)

    def put(self, content: str, scores: Scores) -> None:
        """Remember the scores of a text."""
        best = sorted(scores.p, key=lambda i: -scores.p[i])[:KEPT]
        if scores.label in scores.p and scores.label not in best:
            best.append(scores.label)
        p = {id_: scores.p[id_] for id_ in best}
        value = orjson.dumps(
            [scores.label, p, scores.p_none, scores.kind, scores.mass, scores.note]
        )
        self._do("INSERT OR REPLACE INTO answers VALUES (?, ?)", (_key(content), value))

    def new_id(self, id_: str) -> bool:
        """Tell whether this id comes for the first time, and remember it."""
        return self._do("INSERT OR IGNORE INTO ids VALUES (?)", (_key(id_),)).rowcount == 1

    def _do(self, sql: str, values: tuple[bytes, ...]) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as exc:
            raise JournalError(
                f"the temporary folder {self._folder.name}: {exc}",
                hint="make room there, or set TMPDIR; the run can go on",
            ) from exc

    def close(self) -> None:
        """Remove the file."""
        self._db.close()
        self._folder.cleanup()


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
