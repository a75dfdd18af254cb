"""Results to rows, and rows to JSONL, CSV, TSV (also gzip, zstd), Parquet and standard output.

The row is the public contract: `row`, `id`, `label`, `path`, `decision`, `confidence`, `kind`,
`alternatives`, `p_none`, `mass`, `reason`, `key` (a hash of the text), `gold` where the input had
one, and `set` where sets are asked for (in CSV and Parquet always a column). Where the categories
are a scale also `level`, the expected level. With `--multi` also `labels`: all that are given, as
`alternatives` has them; `label`, `path` are the likeliest of them, and `gold` may be `a|b`. Rows of
the fallback labeler also have `by`, `why`, `degraded` and `sources`.
"""

from __future__ import annotations

import csv
import gzip
import io
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson
from backports import zstd

from llmcat.errors import BadConfig, JournalError
from llmcat.files import excel, parquet
from llmcat.files.opened import bare
from llmcat.items.readers import CUT
from llmcat.pipeline.decode import alternatives, chance_of
from llmcat.pipeline.tables_out import safe, write_kept
from llmcat.records import NONE, SEVERAL, Decided, RowResult, Scores, digest, key_out, readable
from llmcat.storage import text_in, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from llmcat.pipeline.tables_out import Kept
    from llmcat.taxonomy.tree import Taxonomy

__all__ = [
    "COLUMNS",
    "FORMATS",
    "check_format",
    "decided_in",
    "export",
    "packing",
    "row_of",
    "rows_in",
]

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
    "key",
    "gold",
)
DECIDED_BY = ("by", "why", "degraded")
"""Columns of the fallback labeler's rows; `sources` is the fourth."""
FORMATS = (".jsonl", ".csv", ".tsv", ".xlsx", ".parquet")


def row_of(result: RowResult, taxonomy: Taxonomy, *, several: bool = False) -> dict[str, Any]:
    """Return the row of a result, its columns in the order of the contract.

    `several`: items may have several labels, so that every row has `labels`.
    """
    item, scores = result.item, result.scores
    row: dict[str, Any] = dict.fromkeys(COLUMNS[:-1])
    row |= {"row": item.row, "id": item.id, "decision": result.decision, "reason": result.reason}
    row["alternatives"] = []
    row["key"] = digest(item.content) if item.content else None  # of an error row
    if scores is not None:
        if scores.label != NONE:
            row["label"] = scores.label
            row["path"] = taxonomy.nodes[scores.label].label
        row["confidence"] = _rounded(scores.confidence)
        row["kind"] = scores.kind
        row["alternatives"] = alternatives(scores, taxonomy)
        row["p_none"] = _rounded(scores.p_none)
        row["mass"] = None if scores.mass is None else float(f"{scores.mass:.6g}")
    if several or (scores is not None and scores.several is not None):
        given = (scores.several or ()) if scores is not None else ()
        row["labels"] = [chance_of(id_, scores, taxonomy) for id_ in given if scores is not None]
    if taxonomy.ordered:
        row["level"] = None
        if scores is not None:
            row["level"] = _rounded(scores.level)
    if result.held is not None:
        row["set"] = list(result.held)
    if scores is not None and scores.evidence is not None:
        row["evidence"] = scores.evidence
    if scores is not None and scores.sources is not None:
        row |= {name: scores.sources[name] for name in DECIDED_BY}
        row["sources"] = {n: said for n, said in scores.sources.items() if n not in DECIDED_BY}
    if item.gold is not None:
        row["gold"] = readable(item.gold, several="labels" in row)
    return row


def _rounded(p: float | None) -> float | None:
    return None if p is None else round(p, 6)


def decided_in(row: dict[str, Any]) -> Decided | None:
    """Return what a written row still says of what was decided; None for an error row."""
    if row["decision"] == "error":
        return None
    p = {other["label"]: other["p"] for other in row["alternatives"]}
    sources = row["sources"] | {n: row[n] for n in DECIDED_BY} if "sources" in row else None
    several = None
    if "labels" in row:
        several = tuple(given["label"] for given in row["labels"])
        p |= {given["label"]: given["p"] for given in row["labels"]}
    elif row["confidence"] is not None and row["label"] is not None:
        p[row["label"]] = row["confidence"]
    said = (row["reason"] or "").removeprefix(CUT).removeprefix("; ") or None
    scores = Scores(
        row["label"] or NONE,
        p,
        row["p_none"],
        row["kind"],
        row["mass"],
        said,
        chance=row["confidence"],
        sources=sources,
        evidence=row.get("evidence"),
        several=several,
        level=row.get("level"),
    )
    return Decided(row["decision"], scores, tuple(row["set"]) if "set" in row else None)


def check_format(path: str) -> str:
    """Return the suffix of a predictions file without `.gz` or `.zst`. Raises `BadConfig`."""
    suffix = Path(bare(path)).suffix
    if suffix not in FORMATS or (suffix == ".parquet" and not path.lower().endswith(suffix)):
        raise BadConfig(
            f"{path}: cannot write {suffix or 'a file without a suffix'}",
            hint=f"predictions are written as {', '.join(FORMATS)}, but for Parquet also .gz, "
            ".zst, or into a folder/",
        )
    if suffix == ".parquet":
        parquet.check()
    if suffix == ".xlsx":
        excel.check()
    return suffix


def rows_in(journal: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a journal."""
    with journal.open("rb") as lines:
        for line in lines:
            yield orjson.loads(line)


def export(
    journal: Path, out: Path, parts: Mapping[Path, int] | None = None, kept: Kept | None = None
) -> None:
    """Make the predictions file from the journal, or several: `parts` maps each to its rows.

    `kept`: the input's columns come back; of several files those of each in its own. Each comes
    whole or not at all.
    """
    rows = rows_in(journal)
    for place, (path, count) in enumerate((parts or {out: -1}).items()):
        own = kept.only(kept.files[place]) if kept is not None and len(parts or ()) > 1 else kept
        hint = f"the results are safe in {journal}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise JournalError(f"{path}: {exc.strerror}", hint=hint) from exc
        with whole(path, hint=hint) as raw:
            _write(raw, path, rows if count < 0 else islice(rows, count), own)


def _write(
    raw: BinaryIO, path: Path, rows: Iterable[dict[str, Any]], kept: Kept | None = None
) -> None:
    suffix = check_format(str(path))
    if suffix != ".jsonl":  # what each source adds has no place in a table
        rows = ({k: v for k, v in row.items() if k != "evidence"} for row in rows)
    if suffix == ".parquet" and kept is None:
        parquet.write(raw, rows)
        return
    packed = packing(raw, path.suffix)
    if kept is not None:
        write_kept(packed, path, rows, kept)
    elif suffix == ".xlsx":
        names, cells = table_of(rows)
        excel.write(packed, names, cells)
    elif suffix == ".jsonl":
        for row in rows:
            packed.write(orjson.dumps(row) + b"\n")
    else:
        with text_in(packed) as text:
            write_csv(text, rows, delimiter="\t" if suffix == ".tsv" else ",")
    if packed is not raw:
        packed.close()


def packing(raw: BinaryIO, suffix: str) -> Any:
    """Return what compresses into an open file, or the file itself."""
    if suffix == ".gz":
        return gzip.GzipFile("", "wb", fileobj=raw, mtime=0)
    if suffix == ".zst":
        return zstd.ZstdFile(raw, "wb")
    return raw


def write_csv(text: io.TextIOBase, rows: Iterable[dict[str, Any]], *, delimiter: str) -> None:
    """Write rows as CSV; what is no text or number is JSON in its cell."""
    names, cells = table_of(rows)
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(map(safe, line) for line in cells)


def table_of(rows: Iterable[dict[str, Any]]) -> tuple[list[str], Iterator[list[Any]]]:
    """Return the columns of a table of predictions, and its cells by row."""
    rows = iter(rows)
    first = next(rows, None)
    names: tuple[str, ...] = (*COLUMNS, "set")
    if first is not None:
        names = (*names, *(name for name in ("labels", "level") if name in first))
    if first is not None and "sources" in first:
        names = (*names, *DECIDED_BY, "sources")
    every = chain([first] if first is not None else [], rows)
    return list(names), (list(map(_cells(row).get, names)) for row in every)


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    cells = dict(row)
    if row["key"]:
        cells["key"] = key_out(row["key"])
    for name in {"alternatives", "set", "sources"} & row.keys():
        cells[name] = orjson.dumps(row[name]).decode()
    if "labels" in row:
        ids = SEVERAL.join(given["label"] for given in row["labels"])
        cells["labels"] = readable(ids or NONE, several=True)
    return cells
