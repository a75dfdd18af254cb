"""Verdicts to rows, and rows to JSONL, CSV, TSV (also gzip) and standard output.

The row is the public contract: `row`, `id`, `label`, `path`, `decision`, `confidence`, `kind`,
`alternatives`, `p_none`, `mass`, `reason`, and `gold` where the input had one.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson

from llmcat.decode import alternatives
from llmcat.errors import BadConfig, JournalError
from llmcat.records import NONE, Scores, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from llmcat.taxonomy import Taxonomy

__all__ = ["COLUMNS", "export", "row_of", "rows_in", "scores_in"]

COLUMNS = (
    "row",
    "id",
    "label",
    "path",
    "decision",
    "confidence",
    "kind",
    "alternatives",
    "p_none",
    "mass",
    "reason",
    "gold",
)
FORMATS = (".jsonl", ".csv", ".tsv")


def row_of(verdict: Verdict, taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the row of a verdict, its columns in the order of the contract."""
    item, scores = verdict.item, verdict.scores
    row: dict[str, Any] = dict.fromkeys(COLUMNS[:-1])
    row |= {"row": item.row, "id": item.id, "decision": verdict.decision, "reason": verdict.reason}
    row["alternatives"] = []
    if scores is not None:
        if scores.label != NONE:
            row["label"] = scores.label
            row["path"] = taxonomy.nodes[scores.label].label
        row["confidence"] = round(scores.confidence, 6)
        row["kind"] = scores.kind
        row["alternatives"] = alternatives(scores, taxonomy)
        row["p_none"] = round(scores.p_none, 6)
        row["mass"] = None if scores.mass is None else float(f"{scores.mass:.6g}")
    if item.gold is not None:
        row["gold"] = item.gold
    return row


def scores_in(row: dict[str, Any]) -> Scores | None:
    """Return what a written row still says of its scores; None for an error row."""
    if row["decision"] == "error":
        return None
    p = {other["label"]: other["p"] for other in row["alternatives"]}
    if row["label"] is not None:
        p[row["label"]] = row["confidence"]
    return Scores(row["label"] or NONE, p, row["p_none"], kind=row["kind"], mass=row["mass"])


def check_format(path: str) -> str:
    """Return the suffix of a predictions file without `.gz`. Raises `BadConfig`."""
    suffix = Path(path.lower().removesuffix(".gz")).suffix
    if suffix not in FORMATS:
        raise BadConfig(
            f"{path}: cannot write {suffix or 'a file without a suffix'}",
            hint=f"predictions are written as {', '.join(FORMATS)}, also .gz",
        )
    return suffix


def rows_in(journal: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a journal."""
    with journal.open("rb") as lines:
        for line in lines:
            yield orjson.loads(line)


def export(journal: Path, out: Path) -> None:
    """Make the predictions file from the journal, whole or not at all."""
    suffix = check_format(str(out))
    draft = out.with_name(f"{out.name}.part")
    try:
        with draft.open("wb") as raw:
            packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if out.suffix == ".gz" else raw
            if suffix == ".jsonl":
                for row in rows_in(journal):
                    packed.write(orjson.dumps(row) + b"\n")
            else:
                text = io.TextIOWrapper(cast("io.BufferedWriter", packed), "utf-8", newline="")
                delimiter = "\t" if suffix == ".tsv" else ","
                write_csv(text, rows_in(journal), delimiter=delimiter)
                text.flush()
                text.detach()
            if packed is not raw:
                packed.close()
            raw.flush()
            os.fsync(raw.fileno())
        draft.replace(out)
    except OSError as exc:
        raise JournalError(
            f"{out}: {exc.strerror}", hint=f"the results are safe in {journal}"
        ) from exc


def write_csv(text: io.TextIOBase, rows: Iterable[dict[str, Any]], *, delimiter: str) -> None:
    """Write rows as CSV; `alternatives` is JSON in its cell."""
    writer = csv.DictWriter(text, COLUMNS, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "alternatives": orjson.dumps(row["alternatives"]).decode()})
