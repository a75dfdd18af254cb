"""`llmcat diff`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmcat.cli.options import parser as make_parser
from llmcat.config import load
from llmcat.pipeline.read_back import as_run, predictions_in, title_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llmcat.config import RunConfig

__all__ = ["command"]

MOVES = 5

DIFF_EPILOG = """\
examples:
  llmcat diff last-week.jsonl this-week.jsonl
  llmcat diff before.csv after.csv --limit 100

Rows are matched by their id (one that comes twice in its order), without ids by their place.
Exit codes: 0 the same; 1 something differs; 2 bad input.
"""


def command(argv: list[str]) -> int:
    """Run `llmcat diff`; return the exit code: 1 where something differs."""
    parser = make_parser("diff", DIFF_EPILOG)
    parser.add_argument("before", help="a predictions file")
    parser.add_argument("after", help="another one, of the same items or some of them")
    parser.add_argument("--limit", type=int, default=20, help="changes shown (default: 20)")
    parser.add_argument("--id", metavar="COLUMN", help="column with the item's id (default: as in "
                        "the runs)")  # fmt: skip
    args = parser.parse_args(argv)
    run = load(trust_env=False, **({"id": args.id} if args.id else {}))
    run = as_run(args.after, as_run(args.before, run))
    before = {row["id"]: row for row, _ in _with_ids(args.before, run)}
    table = Table(show_edge=False, pad_edge=False, expand=True)
    for name in ("id", "item", "before", "after"):
        table.add_column(name, ratio=None if name == "id" else 1, overflow="ellipsis", no_wrap=True)
    table.add_column("p", justify="right")
    same = new = changed = 0
    moves = Counter[tuple[str, str]]()
    for row, title in _with_ids(args.after, run):
        old = before.pop(row["id"], None)
        if old is None:
            new += 1
            continue
        pair = _says(old), _says(row)
        if pair[0] == pair[1]:
            same += 1
            continue
        changed += 1
        moves[pair] += 1
        if changed <= args.limit:
            p = f"{_p(old)} > {_p(row)}"
            table.add_row(*map(Text, (row["id"], title, *pair, p)))
    if changed:
        Console().print(table)
        for (old_label, label), count in moves.most_common(MOVES):
            print(f"{count:,} x {old_label} -> {label}")
        if (rest := len(moves) - MOVES) > 0:
            print(f"and {rest:,} other kinds of change")
    print(f"{same:,} the same, {changed:,} changed, {new:,} only in {args.after}, "
          f"{len(before):,} only in {args.before}")  # fmt: skip
    return int(bool(changed or new or before))


def _with_ids(path: str, run: RunConfig) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield rows with ids that tell them apart: of one id that comes again, its number."""
    seen = Counter[str]()
    for row, kept in predictions_in(path, run.id):
        seen[row["id"]] += 1
        if (count := seen[row["id"]]) > 1:
            row["id"] = f"{row['id']}#{count}"
        yield row, title_of(kept, run.text.partition(",")[0]) or title_of(kept)


def _says(row: Mapping[str, Any]) -> str:
    if row["decision"] == "error":
        return "(error)"
    if row.get("labels"):
        return ", ".join(one["path"] or one["label"] for one in row["labels"])
    return str(row["path"] or row["label"] or "none of these")


def _p(row: Mapping[str, Any]) -> str:
    return "-" if row["confidence"] is None else f"{row['confidence']:.2f}"
