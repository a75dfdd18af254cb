"""What has been answered already: exact duplicates, in bounded memory.

`DiskMemory` keeps its index in a temporary SQLite file that vanishes with the run; the journal
is what lasts. `dict`-like `PlainMemory` serves the library, where the items are in memory anyway.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
import tempfile
from pathlib import Path
from typing import Any

import orjson

from llmcat.errors import JournalError
from llmcat.pipeline.decode import best
from llmcat.records import Decided, Scores, digest

__all__ = ["DiskMemory", "Earlier", "Forgetful", "PlainMemory"]

KEPT = 4
"""How many labels' probabilities a remembered answer keeps: what a row shows."""
BATCH = 4096
"""Answers written to the file at once."""
FILTER = 1 << 24
"""Bytes of the filter: at 10 million texts, each with an id, one in 25 is looked up in vain."""
_LAST = FILTER - 1
_PARTS = struct.Struct("4I").unpack


class PlainMemory(dict[str, Decided]):
    """Remembers everything, in a dict."""

    def put(self, content: str, decided: Decided) -> None:
        """Remember what was decided about a text."""
        self[content] = decided


class Forgetful:
    """Remembers nothing: what was answered is kept elsewhere."""

    def get(self, content: str) -> None:
        """Return nothing."""

    def put(self, content: str, decided: Decided) -> None:
        """Keep nothing."""


class DiskMemory:
    """Remembers answers and ids by hash, in a temporary SQLite file without a journal.

    Most texts and ids come once: a Bloom filter (Bloom 1970) knows these without a look into the
    file, and what is new goes there in batches. Scores come back with the best `KEPT` labels only.
    """

    def __init__(self) -> None:
        """Make the file in the system's temporary folder."""
        self._filter = bytearray(FILTER)
        self._answers: dict[bytes, bytes] = {}  # not yet in the file
        self._ids: set[bytes] = set()  # likewise
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

    def get(self, content: str) -> Decided | None:
        """Return what was decided about this very text, if it was answered."""
        key = _key("text", content)
        if not self._perhaps(key):
            return None
        value = self._answers.get(key)
        if value is None:
            found = self._do("SELECT scores FROM answers WHERE key = ?", (key,)).fetchone()
            if found is None:
                return None
            (value,) = found
        decision, held, *found = orjson.loads(value)
        found[-2] = None if found[-2] is None else tuple(found[-2])
        scores = Scores(*found)
        return Decided(decision, scores, None if held is None else tuple(held))

    def put(self, content: str, decided: Decided) -> None:
        """Remember what was decided about a text."""
        scores = decided.scores
        given = scores.several if scores.several is not None else (scores.label,)
        ranked = best(scores, KEPT - 1 + len(given))
        kept = dict.fromkeys([*ranked, *(id_ for id_ in given if id_ in scores.p)])
        p = {id_: scores.p[id_] for id_ in kept}
        key = _key("text", content)
        self._mark(key)
        self._answers[key] = orjson.dumps(
            [
                decided.decision,
                decided.held,
                scores.label,
                p,
                scores.p_none,
                scores.kind,
                scores.mass,
                scores.note,
                scores.order_disagreement,
                scores.chance,
                scores.sources,
                scores.evidence,
                scores.several,
                scores.level,
            ]
        )
        if len(self._answers) >= BATCH:
            rows = sorted(self._answers.items())  # neighbours share a page of the file
            self._do("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows, many=True)
            self._answers.clear()

    def new_id(self, id_: str) -> bool:
        """Tell whether this id comes for the first time, and remember it."""
        key = _key("id", id_)
        if self._perhaps(key):
            known = key in self._ids or self._do("SELECT 1 FROM ids WHERE key = ?", (key,))
            if known is True or (known and known.fetchone()):
                return False
        self._mark(key)
        self._ids.add(key)
        if len(self._ids) >= BATCH:
            rows = [(each,) for each in sorted(self._ids)]
            self._do("INSERT INTO ids VALUES (?)", rows, many=True)
            self._ids.clear()
        return True

    def _perhaps(self, key: bytes) -> bool:
        """Tell whether a key may have been marked; False is certain."""
        bits = self._filter
        return all(bits[part >> 3 & _LAST] >> (part & 7) & 1 for part in _PARTS(key))

    def _mark(self, key: bytes) -> None:
        for part in _PARTS(key):  # four parts of a hash are four hashes
            self._filter[part >> 3 & _LAST] |= 1 << (part & 7)

    def _do(self, sql: str, values: Any, *, many: bool = False) -> sqlite3.Cursor:
        try:
            return (self._db.executemany if many else self._db.execute)(sql, values)
        except sqlite3.Error as exc:
            raise JournalError(
                f"the temporary folder {self._folder.name}: {exc}",
                hint="make room there, or set TMPDIR; the run can go on",
            ) from exc

    def close(self) -> None:
        """Remove the file."""
        self._db.close()
        self._folder.cleanup()


class Earlier:
    """A memory that also knows what an earlier run decided, by the texts' keys.

    `copied` counts the texts that it answered for.
    """

    def __init__(self, memory: DiskMemory) -> None:
        """`memory` is that of the run itself."""
        self.memory, self.copied = memory, 0
        self._earlier = DiskMemory()

    def remember(self, key: str, decided: Decided) -> None:
        """Know what was decided about the text of a key."""
        self._earlier.put(key, decided)

    def get(self, content: str) -> Decided | None:
        """Return what was decided about this very text, in this run or the earlier one."""
        if (decided := self.memory.get(content)) is not None:
            return decided
        decided = self._earlier.get(digest(content))
        self.copied += decided is not None
        return decided

    def put(self, content: str, decided: Decided) -> None:
        """Remember what was decided about a text."""
        self.memory.put(content, decided)

    def new_id(self, id_: str) -> bool:
        """Tell whether this id comes for the first time, and remember it."""
        return self.memory.new_id(id_)

    def close(self) -> None:
        """Remove what is known of the earlier run."""
        self._earlier.close()


def _key(kind: str, text: str) -> bytes:
    return hashlib.blake2b(
        f"{kind}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()
