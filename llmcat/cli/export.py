"""`llmcat export`."""

from __future__ import annotations

import sys

from llmcat.cli.options import add_settings, all_but, not_over, settings
from llmcat.cli.options import parser as make_parser

__all__ = ["command"]

EXPORT_EPILOG = """\
examples:
  llmcat export out.csv                          # an interrupted run: to out.partial.csv
  llmcat export out.csv -o so-far.xlsx
  llmcat export out.jsonl -o out.csv --keep sku,title    # finished; with columns of the input

The run is left as it is: the same llmcat classify goes on. Rows that are not answered yet are not
there. Of a finished run only .jsonl without --keep can be written anew: any other is the file.
"""


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    parser = make_parser("export", EXPORT_EPILOG)
    parser.add_argument("run", help="the --out of a classify or fallback run")
    add_settings(parser, leave_out=all_but("out", "keep"))
    parser.add_argument("--replace", action="store_true", help="write over a file that is there")
    args = parser.parse_args(argv)
    config = settings(args)
    from llmcat.pipeline.partial import Partial

    found = Partial(args.run)
    to = config.out or found.usual()
    not_over(to, [args.run], replace=args.replace)
    found.write(to, config.keep)
    print(f"{found.rows:,} rows to {to}", file=sys.stderr)
    return 0
