"""What is to be checked, and by whom: a queue in an SQLite file beside the predictions.

Labels themselves go to the label store at once; the queue only knows who has an item before them,
who has answered and who passed. It is filled once, and goes on after a kill -9: what the store has
is never asked again.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from llmcat.annotations.store import Label
from llmcat.errors import InputError
from llmcat.storage import Database

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from llmcat.annotations.store import LabelStore

__all__ = ["ORDERS", "Entry", "Queue", "kappa"]

LEASE = 600.0
"""Seconds for which an item is one reviewer's; then another may get it."""
ORDERS = ("unsure", "disagree", "cold", "random")
MIGRATIONS = (
    """
    CREATE TABLE items (
        place INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, entry TEXT NOT NULL,
        need INTEGER NOT NULL, answers INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX waiting ON items (place) WHERE answers < need;
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY, key TEXT NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL,
        at REAL NOT NULL
    );
    CREATE INDEX events_key ON events (key, who);
    CREATE TABLE leases (key TEXT PRIMARY KEY, who TEXT NOT NULL, until REAL NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID
    """,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An item to check: its text's key, its id, what a person sees, and what was predicted."""

    key: str
    id: str
    shown: Mapping[str, str]
    said: Mapping[str, Any]

    def as_json(self) -> str:
        """Return it as the page gets it."""
        value = {"key": self.key, "id": self.id, "shown": dict(self.shown), "said": self.said}
        return orjson.dumps(value).decode()


class Queue:
    """Items in the order of their worth, shared by any number of reviewers.

    Raises `JournalError` where the file cannot be used.
    """

    def __init__(self, path: Path, store: LabelStore, taxonomy: str) -> None:
        """`taxonomy` is its digest, which goes with each label."""
        self.path, self.store, self.taxonomy = path, store, taxonomy
        self._db = Database(path, MIGRATIONS, hint="move it away, or choose another --queue")

    # -- filling ---------------------------------------------------------------------------------

    def fill(self, entries: Sequence[Entry], *, share: float, source: str) -> int:
        """Put items into the queue, once; return how many it holds.

        `share` of them, chosen by their text, are shown to two reviewers. `source` says which
        predictions these are. Raises `InputError` for a queue of others.
        """
        known = self._db.rows("SELECT value FROM about WHERE name = 'source'")
        if known and known[0][0] != source:
            raise InputError(
                f"{self.path} is the queue of other predictions",
                hint="choose another --queue, or move it away",
            )
        with self._db.writing() as db:
            db.execute("INSERT OR REPLACE INTO about VALUES ('source', ?)", (source,))
            if not known:
                db.executemany(
                    "INSERT OR IGNORE INTO items (key, entry, need) VALUES (?, ?, ?)",
                    ((e.key, e.as_json(), 2 if twice(e.key, share) else 1) for e in entries),
                )
        self._catch_up()
        return int(self._db.rows("SELECT count(*) FROM items")[0][0])

    def _catch_up(self) -> None:
        """Count what people have said in the store: also what came just before a crash."""
        said = Counter[str]()
        seen = {(key, who) for key, who in self._db.rows(
            "SELECT key, who FROM events WHERE what = 'label'")}  # fmt: skip
        new = []
        keys = {key for (key,) in self._db.rows("SELECT key FROM items")}
        for label in self.store.words("person"):
            if label.key not in keys:
                continue
            said[label.key] += 1
            if (label.key, label.by) not in seen:
                new.append((label.key, label.by, "label", time.time()))
        with self._db.writing() as db:
            db.executemany("INSERT INTO events (key, who, what, at) VALUES (?, ?, ?, ?)", new)
            db.execute("UPDATE items SET answers = 0")
            db.executemany(
                "UPDATE items SET answers = ? WHERE key = ?", ((n, k) for k, n in said.items())
            )

    # -- reviewing -------------------------------------------------------------------------------

    def next(self, who: str) -> dict[str, Any] | None:
        """Return the next item for a reviewer, and keep it for them; None where none is left."""
        now = time.time()
        with self._db.writing() as db:
            found = db.execute(
                "SELECT entry, key FROM items WHERE answers < need AND key NOT IN "
                "(SELECT key FROM events WHERE who = ? AND what IN ('label', 'skip', 'opinion')) "
                "AND key NOT IN (SELECT key FROM leases WHERE who != ? AND until > ?) "
                "ORDER BY place LIMIT 1",
                (who, who, now),
            ).fetchone()
            if found is None:
                return None
            db.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (found[1], who, now + LEASE)
            )
        return dict(orjson.loads(found[0]))

    def label(self, who: str, key: str, label: str) -> None:
        """Store what a reviewer said of an item. Saying it again changes it.

        Raises `InputError` for an item that is not in the queue.
        """
        item = self._entry(key)
        self.store.add(
            [Label(key, label, "person", str(item["id"]), by=who, taxonomy=self.taxonomy)]
        )
        with self._db.writing() as db:
            again = db.execute(
                "SELECT 1 FROM events WHERE key = ? AND who = ? AND what = 'label'", (key, who)
            ).fetchone()
            db.execute("INSERT INTO events (key, who, what, at) VALUES (?, ?, 'label', ?)",
                       (key, who, time.time()))  # fmt: skip
            if not again:
                db.execute("UPDATE items SET answers = answers + 1 WHERE key = ?", (key,))
            db.execute("DELETE FROM leases WHERE key = ?", (key,))

    def note(self, who: str, key: str, what: str) -> None:
        """Note that a reviewer passes (`skip`), wants a second opinion, or doubts the taxonomy.

        A second opinion is another reviewer's turn. Raises `InputError` for an unknown item.
        """
        self._entry(key)
        with self._db.writing() as db:
            db.execute("INSERT INTO events (key, who, what, at) VALUES (?, ?, ?, ?)",
                       (key, who, what, time.time()))  # fmt: skip
            if what == "opinion":
                db.execute("UPDATE items SET need = need + 1 WHERE key = ? AND need < 3", (key,))
            db.execute("DELETE FROM leases WHERE key = ?", (key,))

    def undo(self, who: str) -> dict[str, Any] | None:
        """Take a reviewer's last word back; return its item, None where there is none."""
        last = self._db.rows(
            "SELECT seq, key, what FROM events WHERE who = ? ORDER BY seq DESC LIMIT 1", (who,)
        )
        if not last:
            return None
        ((seq, key, what),) = last
        if what == "label":
            self.store.retract(key, "person", who)
        with self._db.writing() as db:
            db.execute("DELETE FROM events WHERE seq = ?", (seq,))
            if what == "opinion":
                db.execute("UPDATE items SET need = need - 1 WHERE key = ? AND need > 1", (key,))
            left = db.execute(
                "SELECT 1 FROM events WHERE key = ? AND who = ? AND what = 'label'", (key, who)
            ).fetchone()
            if what == "label" and not left:
                db.execute("UPDATE items SET answers = answers - 1 WHERE key = ?", (key,))
            db.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (key, who, time.time() + LEASE)
            )
        return dict(self._entry(key))

    def _entry(self, key: str) -> Mapping[str, Any]:
        rows = self._db.rows("SELECT entry FROM items WHERE key = ?", (key,))
        if not rows:
            raise InputError(f"no item {key!r} is in the queue")
        found: Mapping[str, Any] = orjson.loads(rows[0][0])
        return found

    # -- looking ---------------------------------------------------------------------------------

    def progress(self) -> dict[str, Any]:
        """Return how many items are done, by whom, and how far reviewers agree."""
        ((total, done),) = self._db.rows(
            "SELECT count(*), coalesce(sum(answers >= need), 0) FROM items"
        )
        by = dict(self._db.rows(
            "SELECT who, count(DISTINCT key) FROM events WHERE what = 'label' GROUP BY who"
        ))  # fmt: skip
        doubts = self._db.rows("SELECT count(DISTINCT key) FROM events WHERE what = 'taxonomy'")
        agreed = kappa(self.store.words("person"))
        return {"total": total, "done": done, "by": by, "doubts": doubts[0][0], "kappa": agreed}

    def doubted(self) -> list[str]:
        """Return the ids of the first items for which somebody found the taxonomy wrong."""
        rows = self._db.rows(
            "SELECT DISTINCT entry FROM items JOIN events USING (key) WHERE what = 'taxonomy' "
            "LIMIT 20"
        )
        return [str(orjson.loads(entry)["id"]) for (entry,) in rows]

    def waiting(self, limit: int) -> list[dict[str, Any]]:
        """Return the first items that nobody has answered."""
        rows = self._db.rows(
            "SELECT entry FROM items WHERE answers < need ORDER BY place LIMIT ?", (limit,)
        )
        return [orjson.loads(entry) for (entry,) in rows]

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def twice(key: str, share: float) -> bool:
    """Tell whether a text is among the share that two reviewers see; the same ones every time."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) < share * 2**32


def in_order(
    entries: Iterable[Entry], order: str, *, counts: Mapping[str, int], seed: int = 0
) -> list[Entry]:
    """Return items by their worth: `unsure`, `disagree`, `cold` or `random`.

    `counts`: how many labels each category has. Sources disagree where retrieval alone would have
    answered otherwise. A random order makes the first n a random sample: the share of right ones
    among them estimates the file's.
    """
    every = list(entries)
    random.Random(seed).shuffle(every)

    def sure(entry: Entry) -> float:
        p = entry.said.get("confidence")
        return -1.0 if p is None else float(p)

    if order == "unsure":
        every.sort(key=sure)
    elif order == "disagree":
        every.sort(key=lambda e: (e.said.get("alone") in {None, e.said.get("label")}, sure(e)))
    elif order == "cold":
        every.sort(key=lambda e: (counts.get(e.said.get("label") or "none", 0), sure(e)))
    return every


def kappa(labels: Iterable[Label]) -> dict[str, Any] | None:
    """Return how far two people agree on what both have labelled; None where nothing is.

    Cohen's kappa (1960) over all pairs of answers to one text, each person's own habits taken for
    what chance would give: `{"items", "agreed", "kappa"}`.
    """
    by_key: dict[str, list[str]] = {}
    for label in labels:
        by_key.setdefault(label.key, []).append(label.label)
    pairs = [(said[0], said[1]) for said in by_key.values() if len(said) > 1]
    if not pairs:
        return None
    agreed = sum(a == b for a, b in pairs) / len(pairs)
    first, second = (Counter(side) for side in zip(*pairs, strict=True))
    chance = sum(first[name] * second[name] for name in first) / len(pairs) ** 2
    value = (agreed - chance) / (1 - chance) if chance < 1 else None
    return {"items": len(pairs), "agreed": round(agreed, 4),
            "kappa": None if value is None else round(value, 4)}  # fmt: skip
