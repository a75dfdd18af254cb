"""`llmcat fallback`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from llmcat.cli.closing import closed, stream
from llmcat.cli.console import Bar, interruptible
from llmcat.cli.options import (
    BUDGET,
    STORE,
    add_settings,
    all_but,
    check_items,
    refuse_several,
    settings,
)
from llmcat.cli.options import parser as make_parser
from llmcat.pipeline import file_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.config import RunConfig
    from llmcat.fallback.assemble import Opened

__all__ = ["command"]


FALLBACK_EPILOG = """\
examples:
  llmcat fallback --file items.jsonl --taxonomy taxonomy.yaml --primary student \\
    --base-url http://localhost:8000
  llmcat fallback --file items.jsonl --taxonomy taxonomy.yaml --primary student \\
    --base-url http://localhost:8000 --max-items 1000
  llmcat fallback --redo degraded --file items.jsonl --taxonomy taxonomy.yaml \\
    --primary student --base-url http://localhost:8000
  llmcat fallback status --taxonomy taxonomy.yaml --primary student

The primary decides what it is sure of; the model is asked where it is unsure, where an item is
unlike its training items, and where a category without examples is near. --accept-precision
(default here: 0.9) is the primary's gate, and with it given rows are to accept or to review. What
each said stands in the row and in the label store. Where the model is away the primary's answer
is marked degraded. Exit codes: 0 done; 1 some rows are errors; 2 bad input; 130 interrupted.
"""


_FALLBACK_LEAVE = frozenset(
    {
        "max_requests",
        "max_tokens",
        "calibration",
        "by_branch",
        "back_off",
        "set_coverage",
        "orders",
        "runs",
        "out_format",
        "image",
        "multi",
    }
)


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    if argv[:1] == ["status"]:
        return _status(argv[1:])
    make = make_parser("fallback", FALLBACK_EPILOG)
    add_settings(make, leave_out=_FALLBACK_LEAVE, also=STORE | BUDGET | {"fallback"})
    make.add_argument("--redo", choices=["degraded"], help="ask again about the degraded rows of a "
                      "finished file")  # fmt: skip
    make.add_argument("--restart", action="store_true", help="start over instead of going on")
    make.add_argument("--quiet", action="store_true", help="no progress, no closing lines")
    args = make.parse_args(argv)
    config = settings(args)
    refuse_several(config, "fallback")
    from llmcat.annotations.store import LabelStore
    from llmcat.fallback import assemble
    from llmcat.taxonomy.load import taxonomy_of

    taxonomy = taxonomy_of(config)
    check_items(config)
    with LabelStore(Path(config.store)) as store:
        opened = assemble.open_route(config, taxonomy, store=store)
        if not args.quiet:
            for line in opened.remarks:
                print(line, file=sys.stderr)
        if args.redo:
            return run_redo(config, opened, quiet=args.quiet)
        return run_fallback(config, opened, command=argv, restart=args.restart, quiet=args.quiet)


def _status(argv: list[str]) -> int:
    """Print where each category stands."""
    make = make_parser("fallback")
    make.prog = "llmcat fallback status"
    names = ("labels", "taxonomy", "store", "primary", "primary_url", "primary_labelled",
             "features", "accept_precision", "risk", "label", "text", "id")  # fmt: skip
    add_settings(make, leave_out=all_but(*names), also=STORE | BUDGET | {"fallback"})
    config = settings(make.parse_args(argv))

    from llmcat.annotations.store import SOURCES, LabelStore
    from llmcat.fallback import assemble, status
    from llmcat.taxonomy.load import taxonomy_of

    taxonomy = taxonomy_of(config)
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("category", no_wrap=True, overflow="ellipsis")
    for head in (*SOURCES, "stands", "decides", "checks", "agree", "missing"):
        left = head in {"stands", "decides"}
        table.add_column(head, justify="left" if left else "right", no_wrap=True,
                         min_width=len(head))  # fmt: skip
    with LabelStore(Path(config.store), make=False) as store:
        opened = assemble.open_route(config, taxonomy, store=store)
        found = status.status(config, taxonomy, opened, store)
    for one in found:
        stands = one.standing
        state = stands.state
        if stands.alarm >= 0.5:  # noqa: PLR2004
            state = f"{state}, slipping"  # type: ignore[assignment]
        table.add_row(
            taxonomy.nodes[one.label].name,
            *(f"{one.labels.get(source, 0) or ''}" for source in SOURCES),
            state,
            "primary" if stands.decides else "model",
            f"{stands.right}/{stands.checks}" if stands.checks else "",
            f"{one.agree}/{one.both}" if one.both else "",
            f"{one.missing or ('' if stands.decides else 'train')}",
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    elif console.width < 110:  # noqa: PLR2004  the numbers whole, the categories as they fit
        table.padding, table.expand, table.columns[0].ratio = (0, 0, 0, 0), True, 1
    console.print(table)
    said = (
        *opened.remarks,
        "checks: how often the primary was right where it was sure of the category; agree: with "
        "the model's label; missing: right checks, or checked examples to train on, until it "
        "decides (train: there are enough, train the student anew)",
    )
    for line in said:
        console.print(line, markup=False, soft_wrap=not console.is_terminal)
    return 0


def run_fallback(
    config: RunConfig, opened: Opened, *, command: Sequence[str], restart: bool, quiet: bool
) -> int:
    """Label with a primary and a model; show how it goes and went; return the exit code."""
    from llmcat.fallback.file_run import fallback_file, opener

    out = config.out or file_run.default_out(config.file, "fallback")
    config = config.model_copy(update={"out": out})
    if out == "-":
        summary = file_run.Summary(out=out, price_per_hour=config.price_per_hour)
        interruptible(lambda stop: stream(config, summary, stop, opener(opened)))
    else:
        with Bar(quiet=quiet) as bar:
            summary = interruptible(
                lambda stop: fallback_file(
                    config, opened=opened, restart=restart, watch=bar, stop=stop
                )
            )
    if not quiet:
        for line in opened.route.counts.summary():
            print(line, file=sys.stderr)
    counts = opened.route.counts
    all_degraded = 0 < counts.decided.total() == counts.degraded
    return closed(summary, "fallback", command, quiet=quiet) or int(all_degraded)


def run_redo(config: RunConfig, opened: Opened, *, quiet: bool) -> int:
    """Ask again about degraded rows; say how many are left."""
    from llmcat.fallback.file_run import redo

    asked, left = interruptible(lambda stop: redo(config, opened=opened, stop=stop))
    if not quiet:
        print(f"{asked:,} degraded rows asked about again, {left:,} are still degraded",
              file=sys.stderr)  # fmt: skip
    return 0
