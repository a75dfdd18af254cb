"""The label store: every label that any source gave, in one SQLite file.

    gold      came with the items           model     the language model's answer
    person    somebody looked               primary   the trained classifier's answer

Nothing is overwritten: labels that disagree stay, and what holds is settled when it is asked for.
A person's latest word is above all, then gold, the model, the primary. Items are known by a
hash of their text; the text itself is kept only where that is asked for. This module does not
know engines, students or files of items.
"""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self

import orjson

from llmcat.errors import JournalError
from llmcat.records import digest
from llmcat.storage import Database, now

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = [
    "CHECKED",
    "SOURCES",
    "Check",
    "Label",
    "LabelStore",
    "Opinion",
    "Source",
    "key_of",
    "now",
]

Source = Literal["person", "gold", "model", "primary"]
SOURCES: tuple[Source, ...] = ("person", "gold", "model", "primary")
"""Whose label holds, the first that has one."""
CHECKED: tuple[Source, ...] = ("person", "gold")
"""Labels that others are measured by."""

MIGRATIONS = (
    # 1: labels
    """
    CREATE TABLE labels (
        seq INTEGER PRIMARY KEY,
        key TEXT NOT NULL, label TEXT NOT NULL,
        source TEXT NOT NULL CHECK (source IN ('person', 'gold', 'model', 'primary')),
        item TEXT NOT NULL, confidence REAL, at TEXT NOT NULL,
        by TEXT NOT NULL, prompt TEXT NOT NULL, taxonomy TEXT NOT NULL
    );
    CREATE INDEX labels_key ON labels (key, source);
    CREATE INDEX labels_item ON labels (item);
    """,
    # 2: texts, where they are asked for; what both sources said of an item that was asked about,
    # and which categories the primary could name then; whether a source would have decided by it
    """
    CREATE TABLE texts (key TEXT PRIMARY KEY, fields TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE primaries (id TEXT PRIMARY KEY, named TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE opinions (
        key TEXT NOT NULL, at TEXT NOT NULL, primary_id TEXT NOT NULL, said TEXT NOT NULL,
        PRIMARY KEY (key, at)
    ) WITHOUT ROWID;
    ALTER TABLE labels ADD COLUMN firm INTEGER;
    """,
)
"""Each brings a store from one version to the next; what was released never changes."""

_RANK = "CASE source WHEN 'person' THEN 0 WHEN 'gold' THEN 1 WHEN 'model' THEN 2 ELSE 3 END"
_LATEST = "at DESC, seq DESC"
_WORDS = (
    "SELECT * FROM (SELECT *, row_number() OVER "
    f"(PARTITION BY key, source ORDER BY {_LATEST}) AS place FROM labels) WHERE place = 1"
)
"""The latest word of each source about each text."""


def key_of(content: str) -> str:
    """Return the key of an item's text (`Item.content`): 64 bits of its SHA-256.

    A short text can be guessed from it: the hash keeps texts out of the file, not secrets.
    """
    return digest(content)


@dataclass(frozen=True, slots=True)
class Label:
    """One statement about one text. `label` is a node id or `none`.

    `item` is the id that the text came under, `confidence` the chance that the label is right as
    its source saw it, `by` the model, the student or the person, `prompt` and `taxonomy` under
    which versions. `at` is the time, UTC. `firm`: the source would have decided by it.
    """

    key: str
    label: str
    source: Source
    item: str = ""
    confidence: float | None = None
    at: str = ""
    by: str = ""
    prompt: str = ""
    taxonomy: str = ""
    firm: bool | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """What a source said of a text, beside what holds: `right` if they agree.

    `at` is when it was checked; `by` and `firm` as in `Label`.
    """

    key: str
    source: Source
    label: str
    confidence: float | None
    gold: str
    at: str
    by: str = ""
    firm: bool = False

    @property
    def right(self) -> bool:
        """Whether the source was right."""
        return self.label == self.gold


@dataclass(frozen=True, slots=True)
class Opinion:
    """What primary and model said of a text they were both asked about, and what holds.

    `said` is as the fallback labeler wrote it (see `llmcat.evidence.mixture`), `named` what the
    primary could name then.
    """

    key: str
    at: str
    named: frozenset[str]
    said: Mapping[str, Any]
    gold: str


_COLUMNS = ", ".join(field.name for field in fields(Label))


class LabelStore:
    """Labels in an SQLite file, written by any number of processes.

    Raises `JournalError` where the file cannot be used, or was written by a newer llmcat.
    """

    def __init__(self, path: Path, *, make: bool = True) -> None:
        """Open the file, bring it to today's version, or make it."""
        self.path = path
        if not make and not path.is_file():
            raise JournalError(f"{path}: no label store", hint="--store names another")
        hint = "move it away, or choose another --store"
        try:
            if path.is_file() and _foreign(path):
                raise JournalError(f"{path}: no label store", hint="--store names another")
        except sqlite3.Error as exc:
            raise JournalError(f"{path}: {exc}", hint=hint) from exc
        self._db = Database(path, MIGRATIONS, hint=hint, threads=True)

    @property
    def version(self) -> int:
        """How many of the migrations have been applied."""
        return self._db.version

    # -- writing --------------------------------------------------------------------------------

    def add(
        self,
        labels: Iterable[Label],
        *,
        texts: Mapping[str, Mapping[str, str]] | None = None,
        opinions: Mapping[str, Mapping[str, Any]] | None = None,
        primary: str = "",
    ) -> int:
        """Add labels, and by key the fields of texts to keep and what sources said; all or nothing.

        `primary` is whose opinions these are (see `name_primary`).

        A source that only repeats its latest word about a text adds nothing. Returns how many
        labels are new.
        """
        new = 0
        marks = ", ".join("?" * len(fields(Label)))
        with self._db.writing() as db:
            for label in labels:
                said = (label.label, label.confidence, label.by, label.prompt, label.taxonomy)
                last = db.execute(
                    "SELECT label, confidence, by, prompt, taxonomy FROM labels "
                    f"WHERE key = ? AND source = ? ORDER BY {_LATEST} LIMIT 1",
                    (label.key, label.source),
                ).fetchone()
                if last == said:
                    continue
                values = list(astuple(label))
                values[5] = label.at or now()
                db.execute(f"INSERT INTO labels ({_COLUMNS}) VALUES ({marks})", values)
                new += 1
            for key, shown in (texts or {}).items():
                text = orjson.dumps(dict(shown)).decode()
                db.execute("INSERT OR REPLACE INTO texts VALUES (?, ?)", (key, text))
            for key, what in (opinions or {}).items():
                opinion = (key, now(), primary, orjson.dumps(what).decode())
                db.execute("INSERT OR REPLACE INTO opinions VALUES (?, ?, ?, ?)", opinion)
        return new

    def name_primary(self, id_: str, named: Iterable[str]) -> None:
        """Note what a primary can name."""
        with self._db.writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO primaries VALUES (?, ?)",
                (id_, orjson.dumps(sorted(named)).decode()),
            )

    def forget(self, key: str) -> int:
        """Remove all that is known of a text; return how many labels there were."""
        with self._db.writing() as db:
            found = db.execute("DELETE FROM labels WHERE key = ?", (key,)).rowcount
            db.execute("DELETE FROM texts WHERE key = ?", (key,))
            db.execute("DELETE FROM opinions WHERE key = ?", (key,))
        return found

    def retract(self, key: str, source: Source, by: str) -> None:
        """Take back somebody's latest word about a text; the one before holds again."""
        with self._db.writing() as db:
            db.execute(
                "DELETE FROM labels WHERE seq = (SELECT seq FROM labels WHERE key = ? AND "
                f"source = ? AND by = ? ORDER BY {_LATEST} LIMIT 1)",
                (key, source, by),
            )

    # -- reading --------------------------------------------------------------------------------

    def holding(self, *sources: Source) -> list[Label]:
        """Return the label that holds of each text, by these sources (default: all of them)."""
        among = sources or SOURCES
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM (SELECT *, row_number() OVER "
            f"(PARTITION BY key ORDER BY {_RANK}, {_LATEST}) AS place FROM labels "
            f"WHERE source IN ({_marks(among)})) WHERE place = 1 ORDER BY key",
            among,
        )
        return [Label(*row) for row in rows]

    def words(self, source: Source) -> list[Label]:
        """Return everybody's latest word about each text, of one source, by key and time."""
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM (SELECT *, row_number() OVER (PARTITION BY key, by "
            f"ORDER BY {_LATEST}) AS place FROM labels WHERE source = ?) WHERE place = 1 "
            "ORDER BY key, at, seq",
            (source,),
        )
        return [Label(*row) for row in rows]

    def history(self, *, key: str = "", item: str = "") -> list[Label]:
        """Return every label of a text, or of an id, the earliest first."""
        where, value = ("key = ?", key) if key else ("item = ?", item)
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM labels WHERE {where} ORDER BY at, seq", (value,)
        )
        return [Label(*row) for row in rows]

    def conflicts(self) -> list[list[Label]]:
        """Return the texts whose sources' latest words differ, each with these words."""
        rows = self._db.rows(
            f"WITH latest AS ({_WORDS}) SELECT {_COLUMNS} FROM latest WHERE key IN "
            "(SELECT key FROM latest GROUP BY key HAVING count(DISTINCT label) > 1) "
            f"ORDER BY key, {_RANK}"
        )
        by_key: dict[str, list[Label]] = {}
        for row in rows:
            by_key.setdefault(row[0], []).append(Label(*row))
        return list(by_key.values())

    def checks(self, source: Source) -> list[Check]:
        """Return what a source said of each text before it was checked, by the time of that.

        What it said afterwards it may have learnt from the check.
        """
        held = {label.key: label.label for label in self.holding(*CHECKED)}
        rows = self._db.rows(
            "SELECT key, label, confidence, checked, by, firm FROM "
            "(SELECT l.*, c.checked, row_number() OVER "
            "(PARTITION BY l.key ORDER BY l.at DESC, l.seq DESC) AS place FROM labels l JOIN "
            "(SELECT key, min(at) AS checked FROM labels WHERE source IN ('person', 'gold') "
            "GROUP BY key) c ON c.key = l.key WHERE l.source = ? AND l.at < c.checked) "
            "WHERE place = 1 ORDER BY checked, key",
            (source,),
        )
        return [
            Check(key, source, label, sure, held[key], at, by, bool(firm))
            for key, label, sure, at, by, firm in rows
        ]

    def opinions(self) -> list[Opinion]:
        """Return what primary and model had last said of each text before it was checked."""
        held = {label.key: label.label for label in self.holding(*CHECKED)}
        named = {
            id_: frozenset(orjson.loads(labels))
            for id_, labels in self._db.rows("SELECT id, named FROM primaries")
        }
        rows = self._db.rows(
            "SELECT key, at, primary_id, said FROM (SELECT o.*, c.checked, row_number() OVER "
            "(PARTITION BY o.key ORDER BY o.at DESC) AS place FROM opinions o JOIN "
            "(SELECT key, min(at) AS checked FROM labels WHERE source IN ('person', 'gold') "
            "GROUP BY key) c ON c.key = o.key WHERE o.at < c.checked) WHERE place = 1 "
            "ORDER BY at, key"
        )
        return [
            Opinion(key, at, named.get(id_, frozenset()), orjson.loads(said), held[key])
            for key, at, id_, said in rows
        ]

    def agreement(self) -> dict[str, tuple[int, int]]:
        """Return by label of the model how often the primary agrees, of how many both labelled."""
        rows = self._db.rows(
            f"WITH latest AS ({_WORDS}) SELECT m.label, sum(m.label = p.label), count(*) "
            "FROM latest m JOIN latest p ON m.key = p.key "
            "WHERE m.source = 'model' AND p.source = 'primary' GROUP BY m.label"
        )
        return {label: (agree, both) for label, agree, both in rows}

    def unchecked(self, count: int, *, seed: int) -> list[Label]:
        """Return a random sample of what model or primary labelled and nobody checked."""
        self._db.connection.create_function(
            "mixed", 1, lambda key: digest(key, str(seed)), deterministic=True
        )
        rows = self._db.rows(
            f"WITH latest AS ({_WORDS}) SELECT {_COLUMNS} FROM (SELECT *, row_number() OVER "
            f"(PARTITION BY key ORDER BY {_RANK}) AS first FROM latest) WHERE first = 1 AND "
            "source IN ('model', 'primary') ORDER BY mixed(key) LIMIT ?",
            (count,),
        )
        return [Label(*row) for row in rows]

    def texts(self) -> dict[str, dict[str, str]]:
        """Return the fields of the texts that are kept, by key."""
        return {key: orjson.loads(text) for key, text in self._db.rows("SELECT * FROM texts")}

    def knows(self, key: str) -> bool:
        """Tell whether a text's key has come, with a label or for its text."""
        there = "SELECT 1 FROM {} WHERE key = ? LIMIT 1"
        return any(self._db.rows(there.format(table), (key,)) for table in ("labels", "texts"))

    def keys_of(self, item: str) -> list[str]:
        """Return the keys of the texts that came under an id, the latest first."""
        rows = self._db.rows(
            "SELECT key, max(seq) FROM labels WHERE item = ? GROUP BY key ORDER BY 2 DESC", (item,)
        )
        return [row[0] for row in rows]

    def counts(self) -> dict[str, dict[Source, int]]:
        """Return how many texts each source has labelled, by label; the sources' latest words."""
        rows = self._db.rows(
            f"SELECT label, source, count(*) FROM ({_WORDS}) GROUP BY label, source"
        )
        found: dict[str, dict[Source, int]] = {}
        for label, source, count in rows:
            found.setdefault(label, dict.fromkeys(SOURCES, 0))[source] = count
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def __enter__(self) -> Self:
        """Use as a context manager to close the file at the end."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file."""
        self.close()


def _foreign(path: Path) -> bool:
    """Tell whether a database has tables and is no label store; nothing is written."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        found = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        version = db.execute("PRAGMA user_version").fetchone()[0]
    finally:
        db.close()
    return bool(found) and (version == 0 or ("labels",) not in found)


def _marks(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)
