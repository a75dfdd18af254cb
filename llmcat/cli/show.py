"""`llmcat show`."""

from __future__ import annotations

from typing import Any

import orjson
from rich.console import Console

from llmcat.cli.console import predictions_table
from llmcat.cli.options import parser as make_parser
from llmcat.errors import InputError
from llmcat.files.opened import bare, open_bytes
from llmcat.files.sources import expand
from llmcat.files.text import lines_of
from llmcat.items.readers import Columns, ItemReader

__all__ = ["command"]


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    parser = make_parser("show")
    parser.add_argument("predictions", help="a predictions file (.jsonl)")
    parser.add_argument(
        "--items", metavar="FILE", default="", help="the items, to show their titles"
    )
    parser.add_argument("--text", metavar="COLUMN", default="", help="the items' title column")
    parser.add_argument("--limit", type=int, default=20, help="how many rows (default: 20)")
    parser.add_argument("--decision", metavar="D", help="only rows with this decision")
    args = parser.parse_args(argv)

    return show(
        args.predictions,
        args.items,
        text=args.text,
        limit=args.limit,
        decision=args.decision,
    )


def show(path: str, items: str, *, text: str, limit: int, decision: str | None) -> int:
    """Print rows of a predictions file as a table, beside their titles if the items are given."""
    if not bare(path).endswith(".jsonl"):
        raise InputError(f"{path}: only .jsonl predictions can be shown")
    columns = Columns(text=tuple(filter(None, [text])))
    titles = ItemReader(columns=columns).read(*expand(items)) if items else None
    shown: list[tuple[dict[str, Any], str]] = []
    total = 0
    with open_bytes(path) as raw:
        for line in lines_of(raw):
            item = next(titles, None) if titles else None
            title = next(iter(item.fields.values()), "") if item else ""
            total += 1
            try:
                row = orjson.loads(line)
                fits = decision is None or row["decision"] == decision
                if fits and len(shown) < limit:
                    predictions_table([(row, title)])  # finds out whether it is a prediction
                    shown.append((row, title))
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as exc:
                raise InputError(f"{path}: line {total} is not a prediction") from exc
    Console().print(predictions_table(shown))
    print(f"{len(shown)} of {total} rows")
    return 0
