"""`llmcat show`."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console

from llmcat.cli.console import predictions_table
from llmcat.cli.options import parser as make_parser
from llmcat.config import load
from llmcat.errors import BadConfig
from llmcat.files.sources import expand
from llmcat.items.readers import Columns, ItemReader
from llmcat.items.values import as_text
from llmcat.pipeline.read_back import as_run, predictions_in, title_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["DECISIONS", "command"]

DECISIONS = ("labelled", "accept", "review", "none", "error", "corrected")
MOST = 100_000
"""Rows whose labels are remembered, for when none is asked for."""

SHOW_EPILOG = """\
examples:
  llmcat show out.csv                                  # any format that llmcat writes
  llmcat show out.jsonl --items items.csv --below 0.5 --sort confidence
  llmcat show out.xlsx --predicted shoes --where brand=Acme --limit 50
"""


def command(argv: list[str]) -> int:
    """Run `llmcat show`; return the exit code."""
    parser = make_parser("show", SHOW_EPILOG)
    parser.add_argument("predictions", help="a file that llmcat wrote: .jsonl, .csv, .tsv, .xlsx, "
                        ".parquet")  # fmt: skip
    parser.add_argument(
        "--items", metavar="FILE", default="", help="the items, where their titles are not beside"
    )
    parser.add_argument("--text", metavar="COLUMN", default="", help="the items' title column")
    parser.add_argument("--limit", type=int, default=20, help="how many rows (default: 20)")
    parser.add_argument("--decision", choices=DECISIONS, help="only rows with this decision")
    parser.add_argument("--predicted", metavar="LABEL", help="only rows with this label or path, "
                        "or `none`")  # fmt: skip
    parser.add_argument("--below", type=float, metavar="P", help="only rows less sure than this")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE",
                        help="only rows of which a column is this; may be repeated")  # fmt: skip
    parser.add_argument("--sort", choices=["confidence"], help="the least sure first")
    parser.add_argument("--id", metavar="COLUMN", help="column with the item's id (default: as in "
                        "the run)")  # fmt: skip
    args = parser.parse_args(argv)
    run = load(trust_env=False, **({"id": args.id} if args.id else {}))
    run = as_run(args.predictions, run)
    text = args.text or run.text.partition(",")[0]
    fits = _filter(args)
    shown: list[tuple[dict[str, Any], str]] = []
    total = met = 0
    there = Counter[str]()

    def every() -> Iterator[tuple[dict[str, Any], str]]:
        nonlocal total, met
        for row, title, kept in _titled(args.predictions, args.items, text, run.id):
            total += 1
            if total <= MOST:
                there[_name(row)] += 1
            if fits(row, kept):
                met += 1
                yield row, title

    if args.sort:
        shown = heapq.nsmallest(args.limit, every(), key=lambda pair: _sure(pair[0]))
    else:
        for pair in every():
            if len(shown) < args.limit:
                shown.append(pair)
    Console().print(predictions_table(shown))
    if not met and args.predicted and args.predicted not in there:
        known = ", ".join(name for name, _ in there.most_common(12))
        raise BadConfig(f"no row has {args.predicted!r}", hint=f"there are {known}")
    print(f"{len(shown)} of {total} rows" + (f"; {met} are like this" if met < total else ""))
    return 0


def _sure(row: Mapping[str, Any]) -> float:
    """Return how sure a row is; what has no confidence, as an error has none, comes last."""
    return 2.0 if row["confidence"] is None else float(row["confidence"])


def _name(row: Mapping[str, Any]) -> str:
    """Return what a row's label is shown as."""
    return str(row["path"] or row["label"] or "none").rpartition(" > ")[2]


def _titled(
    path: str, items: str, text: str, id_column: str
) -> Iterator[tuple[dict[str, Any], str, Mapping[str, Any]]]:
    """Yield each prediction with its item's title and the columns beside it."""
    columns = Columns(text=tuple(filter(None, [text])))
    titles = ItemReader(columns=columns).read(*expand(items)) if items else None
    for row, kept in predictions_in(path, id_column):
        if text and not items and text.casefold() not in map(str.casefold, kept):
            text = _no_column(path, text, kept)
        item = next(titles, None) if titles else None
        given = next(iter(item.fields.values()), "") if item else ""
        yield row, given or title_of(kept, text), kept


def _no_column(path: str, text: str, kept: Mapping[str, Any]) -> str:
    """Raise `BadConfig` for a column that a table has not; JSON lines hold no titles at all."""
    if path.endswith((".csv", ".tsv", ".xlsx")):
        raise BadConfig(f"{path}: no column {text!r}", hint=f"its columns: {', '.join(kept)}")
    return ""


def _filter(args: argparse.Namespace) -> Callable[[Mapping[str, Any], Mapping[str, Any]], bool]:
    """Return what tells whether a row is asked for. Raises `BadConfig`."""
    wanted: list[tuple[str, str]] = []
    for pair in args.where:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadConfig(f"--where {pair!r} is not COLUMN=VALUE")
        wanted.append((name.strip(), value.strip()))

    def fits(row: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
        if args.decision is not None and row["decision"] != args.decision:
            return False
        label = args.predicted
        if label is not None and label not in {row["label"] or "none", row["path"], _name(row)}:
            return False
        if args.below is not None and not _sure(row) < args.below:
            return False
        both = {**kept, **row}
        for name, value in wanted:
            if name not in both:
                raise BadConfig(f"--where: no column {name!r}", hint=f"there are {', '.join(both)}")
            if as_text(both[name]) != value:
                return False
        return True

    return fits
