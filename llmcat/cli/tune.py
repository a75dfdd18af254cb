"""`llmcat tune`."""

from __future__ import annotations

import asyncio
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from llmcat.cli.calibrate import weights_line
from llmcat.cli.console import figure, interruptible
from llmcat.cli.evaluation_options import check_evaluated
from llmcat.cli.options import add_settings, refuse_several, settings
from llmcat.cli.options import parser as make_parser
from llmcat.errors import BadConfig, InputError
from llmcat.pipeline import file_run
from llmcat.storage import wrote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.checks.tune import Tuned
    from llmcat.config import RunConfig

__all__ = ["command"]


TUNE_EPILOG = """\
examples:
  llmcat tune --file labeled.jsonl --taxonomy t.yaml --base-url http://localhost:8000
  llmcat tune --file labeled.jsonl --taxonomy t.yaml --base-url http://localhost:8000 \\
    --max-requests 2000 --arms arms.toml
  llmcat tune --file items.jsonl --taxonomy t.yaml --base-url http://localhost:8000 \\
    --suppose 0.8 --accept-precision 0.95

Most items choose, the rest is held back and checks the choice. --arms names a file with
[arms.NAME] tables, as for ab; without it the usual arms are tried, retrieval alone among them.
What is written (default: artifact.json) goes into llmcat.toml: artifact = "artifact.json".
With --suppose nothing needs a label: 200 items are asked about, and about how many labels a line
at --accept-precision would take is said, if so many answers are right.
Exit codes: 0 done; 1 done, but an arm answers nothing or the same label throughout; 2 bad input;
3 no usable engine; 130 interrupted.
"""


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    parser = make_parser("tune", TUNE_EPILOG)
    where = "the artifact to write (default: artifact.json)"
    left_out = frozenset({"out_format", "calibration", "artifact", "skip_sure", "multi"})
    add_settings(parser, leave_out=left_out, told={"out": where})
    group = parser.add_argument_group("tuning")
    group.add_argument("--arms", metavar="FILE", help="what is tried: [arms.NAME] tables as TOML")
    group.add_argument("--max-requests", type=int, default=0, metavar="N",
                       help="ask so many requests at most (default: no bound)")  # fmt: skip
    group.add_argument("--max-minutes", type=float, default=0.0, metavar="N",
                       help="ask for so many minutes at most (default: no bound)")  # fmt: skip
    group.add_argument("--suppose", type=float, metavar="SHARE", help="say how many labels a line "
                       "takes if this share of the answers is right")  # fmt: skip
    group.add_argument("--quiet", action="store_true", help="no progress")
    args = parser.parse_args(argv)
    config = settings(args)
    refuse_several(config, "tune")
    check_evaluated(config)
    from llmcat.evaluation.arms import definition

    if args.suppose is not None:
        if not 0 < args.suppose < 1:
            raise BadConfig("--suppose is a share between 0 and 1")
        return run_suppose(config, args.suppose)
    arms = definition(args.arms)[2] if args.arms else {}
    command = ["llmcat", "tune", *argv]
    return run_tune(
        config,
        arms=arms,
        max_requests=args.max_requests,
        max_minutes=args.max_minutes,
        command=command,
        quiet=args.quiet,
    )


def run_tune(
    config: RunConfig,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    max_requests: int,
    max_minutes: float,
    command: Sequence[str],
    quiet: bool,
) -> int:
    """Try arms on labelled items, show the table, write the winner's artifact."""
    from llmcat.checks import tune as tuning
    from llmcat.evaluation.adds import sentence

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr)

    options = tuning.Options(max_requests, max_minutes, arms)
    found = interruptible(lambda stop: tuning.tune(config, options, stop=stop, say=say))
    Console(highlight=False).print(_tune_table(found))
    if found.stopped == tuning.INTERRUPTED:
        print("interrupted: nothing is chosen; this goes on, and asks nothing twice:",
              file=sys.stderr)  # fmt: skip
        print(f"  {shlex.join(command)}", file=sys.stderr)
        return 130
    if found.stopped:
        print(f"stopped early: {found.stopped}")
    print(f"chosen: {found.winner.name}; on {found.checked.n:,} held-back items "
          f"{figure(asdict(found.checked))} right")  # fmt: skip
    if found.adds is not None:
        print(sentence(found.adds))
    if found.winner.name == tuning.ALONE:
        print("retrieval alone is as good as any model here: use --engine retriever")
    out = Path(config.out or "artifact.json")
    done = wrote(out)
    found.artifact.save(out)
    if "pool" in found.artifact.parts:
        print(weights_line(found.artifact))
    print(f"{done}; in llmcat.toml: artifact = {str(out)!r}; then llmcat calibrate with these "
          "settings draws lines", file=sys.stderr)  # fmt: skip
    return 1 if any(one.fate.startswith("ERROR") for one in found.tried) else 0


def _tune_table(found: Tuned) -> Table:
    """Return what tuning found as a table, an arm a line."""
    from llmcat.checks import tune as tuning

    best = tuning.pareto(found.tried)
    whole = found.stopped != tuning.INTERRUPTED
    table = Table(show_edge=False, pad_edge=False)
    for head in ("arm", "items", "accuracy", "tokens an item", "against alone", ""):
        table.add_column(head, justify="left" if head in {"arm", ""} else "right")
    alone = next((one for one in found.tried if one.name == tuning.ALONE), None)
    for one in found.tried:
        gain = ""
        if alone is not None and one is not alone and one.rows:
            step = tuning.against(one, alone)
            gain = f"{100 * step.value:+.1f} [{100 * step.low:+.1f}, {100 * step.high:+.1f}]"
        pareto = "Pareto" if one.name in best else ""
        notes = [one.fate, *(["chosen" if one.best else "", pareto] if whole else [])]
        table.add_row(
            one.name,
            f"{len(one.rows):,}",
            figure(asdict(one.accuracy)) if one.rows else "",
            f"{one.tokens:,.0f}",
            gain,
            ", ".join(filter(None, notes)),
        )
    return table


def run_suppose(config: RunConfig, supposed: float) -> int:
    """Say how many labels a promise would take, by unlabelled items' confidences."""
    from llmcat.calibration.decider import UNCALIBRATED
    from llmcat.checks.tune import labels_for_a_promise

    precision = config.accept_precision or 0.95
    limited = config.model_copy(update=UNCALIBRATED | {"limit": config.limit or 200, "out": "-"})
    summary, sure = file_run.Summary(out="-"), list[float]()

    async def ask(stop: asyncio.Event) -> None:
        async for _, row in file_run.classify_stream(limited, summary, stop=stop):
            if row["confidence"] is not None:
                sure.append(row["confidence"])

    interruptible(ask)
    if not sure:
        raise InputError("no item got an answer with a probability")
    found = labels_for_a_promise(sure, supposed=supposed, precision=precision, risk=config.risk)
    if found is None:
        print(f"if {supposed:.0%} of the answers are right, no number of labels would draw a line "
              f"at precision {precision:g}")  # fmt: skip
    else:
        print(f"if {supposed:.0%} of the answers are right, about {2 * found:,} labels draw a line "
              f"at precision {precision:g}: half of them fit, half draw it "
              f"(by the confidences of {len(sure):,} items)")  # fmt: skip
    return 0
