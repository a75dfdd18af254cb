"""Rows of a finished predictions file put anew, the rest as it is, byte for byte."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from llmcat.errors import JournalError
from llmcat.pipeline.journal import locked, record_path, write_record
from llmcat.storage import whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["finished", "replace_rows"]


def finished(out: Path) -> dict[str, Any]:
    """Return the record of a finished file. Raises `JournalError` for any other file.

    Where the last one to replace rows was killed the record is settled.
    """
    path = record_path(out)
    try:
        record = dict(orjson.loads(path.read_bytes()))
        if record.pop("becomes", None) is not None:
            record["bytes"] = out.stat().st_size
            write_record(path, record)
    except (OSError, ValueError, TypeError) as exc:
        raise JournalError(f"{out}: not the predictions of a run: {exc}") from exc
    if record.get("status") != "done":
        raise JournalError(f"{out} is not finished", hint="run it to its end first")
    return record


def replace_rows(out: Path, fresh: Mapping[int, dict[str, Any]]) -> None:
    """Put rows, by number, in the place of those of a finished file, and note it in its record.

    The record holds the file's size before and after while the one takes the place of the other:
    killed at any moment, the run is a finished one.
    """
    if not fresh:
        return
    path = record_path(out)
    decisions: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        with whole(out) as new:
            locked(new)  # nobody else has it before its record is written
            stack.enter_context(os.fdopen(os.dup(new.fileno())))
            record = orjson.loads(path.read_bytes())
            with out.open("rb") as old:
                for number, line in enumerate(old):
                    row = fresh.get(number) or orjson.loads(line)
                    decisions[row["decision"]] += 1
                    new.write(orjson.dumps(row) + b"\n" if number in fresh else line)
            write_record(path, record | {"becomes": new.tell()})
            record["bytes"] = new.tell()
        last = record["sessions"][-1]
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        redone = {"ended": ended, "redone": len(fresh), "decisions": dict(decisions)}
        record["sessions"].append({**last, **redone})
        write_record(path, record)
