"""`llmcat calibrate`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from llmcat.cli.console import figure
from llmcat.cli.evaluation_options import check_evaluated
from llmcat.cli.options import add_settings, settings
from llmcat.cli.options import parser as make_parser
from llmcat.cli.results import evaluated
from llmcat.errors import BadConfig
from llmcat.storage import wrote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.calibration.artifact import Calibration
    from llmcat.calibration.decider import Calibrated
    from llmcat.config import RunConfig
    from llmcat.evidence.artifact import Artifact

__all__ = ["command", "weights_line"]

LOST = 0.1
"""Of all items; so much less that can be accepted is worth a word."""


CALIBRATE_EPILOG = """\
examples:
  llmcat calibrate --file labeled.jsonl --taxonomy t.yaml --base-url http://localhost:8000 \\
    --accept-precision 0.95
  llmcat classify --file items.jsonl --taxonomy t.yaml --base-url http://localhost:8000 \\
    --artifact artifact.json --accept-precision 0.95

Weights of evidence are learnt from all items, and for the line each item is judged by what the
others teach (--share 0.5 parts them instead); where nothing is weighed one half fits, the other
draws the line. The file is bound to model, prompt and categories. With --accept-precision it also
says what would be promised, and how much would be accepted. Exit codes: 0 done, also where it says
that no line can be drawn; 2 bad input, or nothing could be fitted that beats no calibration; 3 no
usable engine; 130 interrupted.
"""


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    parser = make_parser("calibrate", CALIBRATE_EPILOG)
    where = "what to write (default: artifact.json; calibration.json where nothing is added up)"
    add_settings(parser, leave_out=frozenset({"out_format", "calibration"}), told={"out": where})
    parser.add_argument("--share", type=float, help="how much of the items fits, the rest draws "
                        "lines (default: half; where weights are learnt all do both)")  # fmt: skip
    parser.add_argument("--no-prior", action="store_true", help="leave the labels' prior in")
    parser.add_argument("--plain", action="store_true", help="keep probabilities as they are, only "
                        "draw a line")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress, no remarks")
    args = parser.parse_args(argv)
    config = settings(args)
    check_evaluated(config)

    if args.share is not None and not 0.1 <= args.share <= 0.9:  # noqa: PLR2004
        raise BadConfig("--share is between 0.1 and 0.9")
    if config.calibration:
        raise BadConfig("a calibration is fitted on what the model says, not on another one")
    return run_calibrate(
        config,
        command=["llmcat", "calibrate", *argv],
        share=args.share,
        prior=not args.no_prior,
        plain=args.plain,
        quiet=args.quiet,
    )


def run_calibrate(
    config: RunConfig,
    *,
    command: Sequence[str],
    share: float | None,
    prior: bool,
    plain: bool,
    quiet: bool,
) -> int:
    """Ask about labelled items, fit a calibration, say what it does and what it would promise."""
    from llmcat.calibration.decider import UNCALIBRATED, AcceptanceOptions, Calibrated, check
    from llmcat.evaluation import experiment, fitting
    from llmcat.evaluation.arms import Arm
    from llmcat.evaluation.run_folder import SOLO, load
    from llmcat.evidence.gather import Gathered
    from llmcat.taxonomy.load import taxonomy_of

    if config.multi:
        if share is not None or plain or not prior:
            raise BadConfig("--share, --plain and --no-prior are for items with one label")
        return _calibrate_several(config, command=command, quiet=quiet)
    kept = Gathered()
    taxonomy, wanted = taxonomy_of(config), AcceptanceOptions.of(config)
    check(wanted, taxonomy)
    arm = Arm(SOLO, config.model_copy(update={"out": "", **UNCALIBRATED}))
    options = experiment.Options(command=tuple(command), posteriors=True, kept=kept)

    folder = evaluated([arm], options, quiet=quiet)
    if folder is None:
        return 130
    if fallen := load(folder)["arms"][SOLO]["collapse"]:
        print(fallen["said"])
    fitted = fitting.fit_calibration(
        folder, taxonomy, share=share, prior=prior, plain=plain, seed=config.seed,
        kept=kept, group=config.group,
    )  # fmt: skip
    made, found = fitted.calibration, fitted.metrics
    out = Path(config.out or ("artifact.json" if fitted.artifact else "calibration.json"))
    done = wrote(out)
    if fitted.artifact is not None:
        fitted.artifact.save(out)
        print(weights_line(fitted.artifact))
    else:
        made.save(out)
    for text in [*_doubts(made, found["after"]["log_loss"]["value"], plain=plain), *_lost(found)]:
        print(text)
    _print_gain(made, found)
    _print_promise(Calibrated(made, taxonomy, wanted), sets=config.set_coverage)
    print(done, file=sys.stderr)
    return 0


def _calibrate_several(config: RunConfig, *, command: Sequence[str], quiet: bool) -> int:
    """Ask about labelled items, fit what the answers mean, say what that does."""
    from llmcat.evaluation import experiment
    from llmcat.evaluation.arms import Arm
    from llmcat.evaluation.fitting_several import fit_several
    from llmcat.evaluation.run_folder import SOLO
    from llmcat.evidence.gather import Gathered
    from llmcat.taxonomy.load import taxonomy_of

    kept = Gathered()
    arm = Arm(SOLO, config.model_copy(update={"out": "", "artifact": ""}))
    options = experiment.Options(command=tuple(command), kept=kept)
    folder = evaluated([arm], options, quiet=quiet)
    if folder is None:
        return 130
    assert config.multi  # noqa: S101  or this is not asked
    taught = fit_several(
        folder, taxonomy_of(config), kept, way=config.multi, seed=config.seed, group=config.group
    )
    out = Path(config.out or "artifact.json")
    done = wrote(out)
    taught.artifact.save(out)
    _print_columns(f"of {taught.n:,} items", taught.metrics)
    print("after: each item by what the other four fifths of the items teach")
    print(done, file=sys.stderr)
    return 0


def _print_columns(title: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print metrics as rows, and a column for each time they were measured."""
    console = Console(highlight=False)
    table = Table(show_edge=False, pad_edge=False)
    table.add_column(title)
    for when in found:
        table.add_column(when, justify="right")
    for name in next(iter(found.values())):
        table.add_row(name.replace("_", " "), *(figure(of[name]) for of in found.values()))
    console.print(table)


def _print_gain(made: Calibration, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what the items that draw the line say before and after."""
    _print_columns("on all items" if made.crossed else "on the gating part", found)
    draw = f"{len(made.gating.correct):,}"
    if made.crossed:
        print(f"learnt from all {draw} items; each is judged by what the other four fifths teach")
        return
    print(f"scaling: {made.scaling}; prior: {'taken off' if made.prior else 'left in'}; "
          f"{len(made.fitting.correct):,} items fit, {draw} draw lines")  # fmt: skip


def _print_promise(decider: Calibrated, *, sets: float) -> None:
    """Print what is promised, and each line."""
    for text in decider.guarantees():
        print(text)
    for name, line in decider.gates.items():
        if line.accepted:
            what = f"line of {name}" if name else "line"
            named = "" if name else " that name a category"
            print(f"{what}: {line.threshold:.4f}, accepts {line.coverage:.1%} of {line.n:,} answers"
                  f"{named}; of {line.accepted:,} accepted {line.right:,} are right, at least "
                  f"{line.bound:.1%}")  # fmt: skip
    if sets:
        print(f"sets hold the right label in {sets:.0%} on average")


def weights_line(artifact: Artifact) -> str:
    """Say what the sources weigh, and above which line the model is not missed."""
    weights = artifact.parts["pool"].learnt["weights"]
    said = ", ".join(f"{name} {w:.2f}" if w else f"{name} left out" for name, w in weights.items())
    line = artifact.parts.get("line")
    skip = f"; --skip-sure leaves the model out above {line.learnt['skip']:.3f}" if line else ""
    return f"weights: {said}{skip}"


def _lost(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say where calibration takes away from what can be accepted at a precision."""
    said = []
    for name, metric in found["before"].items():
        before, after = metric["value"], found["after"].get(name, metric)["value"]
        if name.startswith("coverage_at_") and before is not None and (after or 0) < before - LOST:
            said.append(
                f"WARNING: {name.replace('_', ' ')} falls from {before:.0%} to {after or 0:.0%} on "
                "these items: the order of the confidences is worse after it (--plain leaves them)"
            )
    return said


def _doubts(made: Calibration, loss: float, *, plain: bool) -> list[str]:
    """Say where a calibration is worth little: `loss` is the log-loss of what it gives or keeps."""
    from llmcat.calibration.fit import no_line

    parts = made.fitting, made.gating
    said = [
        no_line(
            [c for part in parts for c in part.confidence],
            [hit for part in parts for hit in part.correct],
        )
    ]
    even = math.log(max(1, len(made.labels)))
    if made.labels and loss > even:
        said.append(
            f"WARNING: {'kept as they are, ' if plain else ''}these probabilities are worse than "
            f"an even share: log loss {loss:.2f}, an even share over {len(made.labels)} labels has "
            f"{even:.2f}"
        )
    return [text for text in said if text]
