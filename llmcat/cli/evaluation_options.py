"""Flags that `eval` and `ab` share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from llmcat.cli.options import add_settings, check_items
from llmcat.errors import BadConfig

if TYPE_CHECKING:
    from llmcat.config import RunConfig

__all__ = ["add_evaluation", "check_evaluated", "options_of", "shown_of"]


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Add the settings, and what is asked of the results."""
    where = "folder of the results (default: one of its own in --runs)"
    add_settings(parser, leave_out=frozenset({"out_format"}), told={"out": where})
    group = parser.add_argument_group("results")
    group.add_argument("--segments", metavar="COLUMNS", help="columns of the file that part the "
                       "items, comma-separated")  # fmt: skip
    group.add_argument("--costs", metavar="FILE", help="what errors cost: CSV with the columns "
                       "gold, label, cost; others cost 1")  # fmt: skip
    group.add_argument("--speed", action="store_true", help="also measure rate and latency, each "
                       "arm alone, at most 1,000 items asked anew")  # fmt: skip
    group.add_argument("--format", choices=["text", "md"], default="text", help="what is printed: "
                       "tables, or the whole report as Markdown (default: text)")  # fmt: skip
    group.add_argument("--quiet", action="store_true", help="no progress, no remarks")


def options_of(args: argparse.Namespace, command: list[str], question: Any = None) -> Any:
    """Return the options of an evaluation. Raises `BadConfig` or `InputError`."""
    from llmcat.errors import BadConfig
    from llmcat.evaluation.collect import BLOCK, LEAST_BLOCK
    from llmcat.evaluation.costs import read_costs
    from llmcat.evaluation.experiment import Options

    block = getattr(args, "block", None) or BLOCK
    if block < LEAST_BLOCK:
        raise BadConfig(f"--block {block}: at least {LEAST_BLOCK}, so that prefixes stay warm")
    return Options(
        command=("llmcat", *command),
        question=question,
        block=block,
        speed=args.speed,
        audit=getattr(args, "audit", False),
        keep=tuple(n.strip() for n in (args.segments or "").split(",") if n.strip()),
        costs=read_costs(args.costs) if args.costs else None,
    )


def shown_of(args: argparse.Namespace) -> dict[str, Any]:
    """What is shown of a result."""
    return {
        "form": args.format,
        "quiet": args.quiet,
        "explain": getattr(args, "explain", False),
        "fail_if_worse": getattr(args, "fail_if_worse", False),
    }


def check_evaluated(config: RunConfig) -> None:
    """Raise `BadConfig` where there is nothing to read, or to write to."""
    check_items(config)
    if config.out == "-":
        raise BadConfig("--out - : an evaluation writes a folder")
