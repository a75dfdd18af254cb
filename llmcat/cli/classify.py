"""`llmcat classify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from llmcat.cli.closing import closed, stream
from llmcat.cli.console import Bar, interruptible, predictions_table
from llmcat.cli.options import BUDGET, RULES, STORE, add_settings, check_items, settings
from llmcat.cli.options import parser as make_parser
from llmcat.evaluation.speed import duration
from llmcat.pipeline import file_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.config import RunConfig

__all__ = ["command"]


CLASSIFY_EPILOG = """\
examples:
  llmcat classify --file items.csv --labels shoes,bags,toys --base-url http://localhost:8000
  llmcat classify -f items.jsonl -o out.csv --taxonomy taxonomy.yaml --prompt definitions
  llmcat classify --file shards/*.parquet -o labelled/ --out-format parquet --labels a,b,c
  cat titles.txt | llmcat classify --labels shoes,bags,toys > predictions.jsonl

Every flag is also an environment variable (LLMCAT_BASE_URL) and a key of llmcat.toml.
The key of a server stands in LLMCAT_API_KEY only. Run the same command again to go on
after an interruption. Exit codes: 0 done; 1 some rows are errors, or --strict and the
answers hardly depend on the items; 2 bad input; 3 no usable engine; 130 interrupted.
"""


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    parser = make_parser("classify", CLASSIFY_EPILOG)
    add_settings(
        parser,
        leave_out=frozenset({"runs"}),
        also=BUDGET | RULES | STORE,
        told={"store": "put the answers into this label store, too (default: nowhere)"},
    )
    parser.add_argument("--preview", action="store_true", help="ask only a few items, drawn at "
                        "random (--limit, default 20); show tokens, time and cost")  # fmt: skip
    parser.add_argument("--restart", action="store_true", help="start over instead of going on")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when the answers hardly "
                        "depend on the items")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="say how it went, and what goes wrong, "
                        "as an object on standard error")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress, no closing line")
    args = parser.parse_args(argv)
    config = settings(args)
    from llmcat.taxonomy import load

    load.taxonomy_of(config)  # what needs no engine is checked first
    check_items(config)
    if args.preview:
        return run_preview(config)
    return run_classify(
        config, command=argv, restart=args.restart, quiet=args.quiet, strict=args.strict
    )


def run_classify(
    config: RunConfig, *, command: Sequence[str], restart: bool, quiet: bool, strict: bool = False
) -> int:
    """Classify, show how it goes, say how it went; return the exit code.

    `strict`: 1 where the answers hardly depend on the items.
    """
    out = config.out or file_run.default_out(config.file)
    config = config.model_copy(update={"out": out})
    if out == "-":
        summary = file_run.Summary(out=out, price_per_hour=config.price_per_hour)
        interruptible(lambda stop: stream(config, summary, stop))
    else:
        with Bar(quiet=quiet) as bar:
            summary = interruptible(
                lambda stop: file_run.classify_file(config, restart=restart, watch=bar, stop=stop)
            )
    code = closed(summary, "classify", command, quiet=quiet)
    return code or int(strict and summary.collapse is not None)


def run_preview(config: RunConfig) -> int:
    """Print what a run would do and take."""
    count = config.limit or 20
    from llmcat.pipeline.preview import preview

    found = interruptible(lambda stop: preview(config, count=count), graceful=False)  # noqa: ARG005
    for message in found.messages:
        print(f"--- {message['role']} ---\n{message['content']}")
    print()
    shown = [(row, next(iter(item.fields.values()), "")) for item, row in found.shown]
    Console().print(predictions_table(shown))
    used, scale = found.usage, found.scale
    cost = "no price known (--price-per-hour)" if found.cost is None else f"{found.cost:,.4f}"
    print(f"\nmodel {found.served.model}; the whole file would take about:")
    print(f"  rows    {found.rows:>14,}")
    each = used.generated * scale / found.requests if found.requests else 0
    print(f"  requests {found.requests:>13,.0f}  of {each:.3g} generated tokens each")
    print(f"  tokens  {used.prompt * scale:>14,.0f}  of prompt, {used.cached * scale:,.0f} cached")
    if found.rate:
        print(
            f"  speed   {found.rate:>14,.0f}  tokens of prompt read in a second, cached ones aside"
        )
    drawn = f"drawn from {found.among:,} rows" if found.among else "the first"
    pace = f"at the pace of these {len(shown)} items, {drawn}"
    print(f"  time    {duration(found.seconds):>14}  {pace}")
    print(f"  cost    {cost:>14}")
    print("nothing was written")
    return 0
