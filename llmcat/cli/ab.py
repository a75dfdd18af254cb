"""`llmcat ab`."""

from __future__ import annotations

import argparse
from typing import Any

from llmcat.cli.evaluation_options import add_evaluation, check_evaluated, options_of, shown_of
from llmcat.cli.options import flags_of
from llmcat.cli.options import parser as make_parser
from llmcat.cli.results import run_evaluation
from llmcat.errors import BadConfig

__all__ = ["command"]


AB_EPILOG = """\
An arm is a prompt, or settings with commas between: --b "prompt=few-shot,examples=pool.jsonl".
All other flags hold for all arms. The first arm is what the others are compared with.

examples:
  llmcat ab --file labeled.jsonl --taxonomy taxonomy.yaml --a candidates=8 --b prompt=mine.jinja
  llmcat ab --file labeled.csv --labels a,b,c --a model=small --b model=large --non-inferior 1
  llmcat ab --arms question.toml --fail-if-worse --format md

B is shipped when the lower end of the paired 95 % interval of B - A is above 0 and the gain is
at least --min-effect; with --non-inferior M, when it is cheaper and the lower end is above -M.
Exit codes: as eval; 1 also when an arm is worse and --fail-if-worse is given.
"""


ARMS = "abcdef"


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    from llmcat.evaluation.comparison import METRICS, OF_SEVERAL

    parser = make_parser("ab", AB_EPILOG)
    group = parser.add_argument_group("arms")
    for name in ARMS:
        what = f"arm {name}" + (": a prompt, or setting=value,..." if name == "a" else "")
        group.add_argument(f"--{name}", metavar="ARM", help=what)
    group.add_argument("--arms", metavar="FILE", help="settings, [decision] and [arms.NAME] as "
                       "TOML; flags win")  # fmt: skip
    group = parser.add_argument_group("decision")
    group.add_argument("--metric", choices=list(dict.fromkeys((*METRICS, *OF_SEVERAL))),
                       help="what decides (default: accuracy; hierarchical_f1 where the taxonomy "
                       "is a tree; example_f1 with --multi)")  # fmt: skip
    group.add_argument("--min-effect", type=float, metavar="POINTS", help="the least gain worth "
                       "shipping, in points: hundredths of the metric (default: 1)")  # fmt: skip
    group.add_argument("--non-inferior", type=float, metavar="POINTS", help="ship the cheaper arm "
                       "if it loses less than so many points")  # fmt: skip
    group.add_argument("--interim-looks", type=int, metavar="K", help="plan to add items and "
                       "look K times in all")  # fmt: skip
    group.add_argument("--block", type=int, metavar="N", help="items an arm is asked about before "
                       "it is another's turn, at least 64 (default: 256)")  # fmt: skip
    group.add_argument("--fail-if-worse", action="store_true", help="exit with 1 when an arm is "
                       "worse than the first")  # fmt: skip
    group.add_argument("--explain", action="store_true", help="print the disagreements by confused "
                       "pair, with the lines of the prompts that show either")  # fmt: skip
    add_evaluation(parser)
    args = parser.parse_args(argv)
    from llmcat.evaluation.arms import arms_of, definition

    common, decision, changes = definition(args.arms) if args.arms else ({}, {}, {})
    flags = flags_of(args)
    if {"labels", "taxonomy"} & flags.keys():  # given by a flag, categories replace the file's
        common = {k: v for k, v in common.items() if k not in {"labels", "taxonomy"}}
    common |= flags
    given = {name: getattr(args, name) for name in ARMS if getattr(args, name) is not None}
    found = arms_of({**changes, **given}, common)
    if len(found) < 2:  # noqa: PLR2004
        raise BadConfig("a comparison needs two arms", hint="--a candidates=8 --b candidates=16")
    check_evaluated(found[0].config)
    options = options_of(args, ["ab", *argv], _question(args, decision, found[0].config))
    return run_evaluation(found, options, shown_of(args))


def _question(args: argparse.Namespace, decision: dict[str, Any], config: Any) -> Any:
    """Return what is asked of a comparison: flags over the definition's [decision]."""
    from llmcat.config import say_renamed
    from llmcat.evaluation.comparison import Question
    from llmcat.evaluation.paired import Rule
    from llmcat.taxonomy.load import taxonomy_of

    known = {
        "metric": str,
        "min_effect": float,
        "non_inferior": float,
        "interim_looks": int,
        "block": int,
    }
    if "looks" in decision:
        say_renamed("looks", "interim_looks")
        decision["interim_looks"] = decision.pop("looks")
    for name, kind in known.items():
        value = getattr(args, name)
        if value is None and name in decision:
            value = decision[name]
            if not isinstance(
                value, int if kind is int else (int, float) if kind is float else str
            ):
                raise BadConfig(f"[decision] {name} = {value!r}: not a {kind.__name__}")
        if isinstance(value, float | int) and not 0 <= value < 1e6:  # noqa: PLR2004
            raise BadConfig(f"{name} = {value} is out of range")
        setattr(args, name, value)
    if unknown := set(decision) - set(known):
        raise BadConfig(f"[decision] has no {', '.join(sorted(unknown))}")
    tree = taxonomy_of(config).depth > 1
    margin = args.non_inferior
    return Question.of(
        args.metric,
        tree=tree,
        several=bool(config.multi),
        rule=Rule(
            min_effect=(1.0 if args.min_effect is None else args.min_effect) / 100,
            non_inferior=None if margin is None else margin / 100,
        ),
        looks=args.interim_looks or 0,
    )
