"""`llmcat explain`."""

from __future__ import annotations

from pathlib import Path

from llmcat.cli.options import STORE, add_settings, all_but, settings
from llmcat.cli.options import parser as make_parser

__all__ = ["command"]


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    make = make_parser(
        "explain",
        "examples:\n  llmcat explain 00123 --run items.predictions.jsonl\n"
        "  llmcat explain '#0' --run out.csv\n\n"
        "JSONL holds all that is known of a row; a table what its columns hold.\n",
    )
    make.add_argument("row", metavar="ID", help="the row's id, or '#N' for row N")
    make.add_argument("--run", required=True, metavar="FILE", help="the predictions, in any format")
    add_settings(make, leave_out=all_but("store", "id"), also=STORE)
    args = make.parse_args(argv)
    from llmcat.fallback import explain

    config = settings(args)
    for line in explain.explain(Path(args.run), args.row, Path(config.store), config):
        print(line)
    return 0
