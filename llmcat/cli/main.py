"""The command line: arguments in, exit codes out. What a command does is done elsewhere.

Exit codes: 0 done; 1 done, but some rows are errors; 2 bad input or usage; 3 no usable engine;
70 a bug of ours; 130 interrupted, resumable. Errors are one line and a hint, never a traceback (set
LLMCAT_TRACEBACK=1 to see one).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from llmcat import __version__
from llmcat.cli.options import COMMANDS, LEARNING, add_settings, flags_of, settings
from llmcat.cli.options import parser as make_parser

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

DONE, BAD_INPUT, BUG, INTERRUPTED = 0, 2, 70, 130  # 70: EX_SOFTWARE of sysexits.h

TOP_HELP = """\
usage: llmcat COMMAND [options]

Zero- and few-shot classification with open language models.

commands:
{commands}

  llmcat COMMAND --help says more; llmcat --version says which this is.

first steps:
  echo "red running shoes" | llmcat classify --labels shoes,bags,toys --engine fake
  llmcat classify --file items.csv --taxonomy taxonomy.yaml --base-url http://localhost:8000
  llmcat ab --file labeled.csv --taxonomy taxonomy.yaml --a zero-shot --b definitions
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name, rest = (argv[0], argv[1:]) if argv else ("", [])
    if name in {"", "-h", "--help", "help"}:
        listing = "\n".join(f"  {c:<10} {what}" for c, what in COMMANDS.items())
        print(TOP_HELP.format(commands=listing), end="", file=sys.stdout if name else sys.stderr)
        return DONE if name else BAD_INPUT
    if name in {"-V", "--version"}:
        print(f"llmcat {__version__}")
        return DONE
    if name == "student" and rest[:1] in (["eval"], ["predict"]):
        name, rest = _by_student(rest)
    if level := os.environ.get("LLMCAT_LOG"):
        logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
        logging.getLogger("llmcat").setLevel(level.upper())
    command = _HANDLERS.get(name) or _learning(name) or _outside(name)
    if command is None:
        print(
            f"llmcat: error: no command {name!r}\n  hint: there are {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return BAD_INPUT
    return _guarded(command, rest)


def _guarded(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run a command; turn what goes wrong into a line and an exit code."""
    from llmcat.errors import LlmcatError

    try:
        code = command(argv)
        sys.stdout.flush()
        return code
    except LlmcatError as exc:
        if os.environ.get("LLMCAT_TRACEBACK"):
            raise
        _complain(str(exc), exc.hint)
        return exc.exit_code
    except KeyboardInterrupt:
        _complain("interrupted", "")
        return INTERRUPTED
    except BrokenPipeError:  # `llmcat ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as exc:  # standard output on a full disk, say
        if os.environ.get("LLMCAT_TRACEBACK"):
            raise
        _complain(f"{exc.filename or 'standard output'}: {exc.strerror or exc}", "")
        return BAD_INPUT
    except Exception as exc:
        if os.environ.get("LLMCAT_TRACEBACK"):
            raise
        _complain(
            f"internal error: {type(exc).__name__}: {exc}",
            "this is a bug; LLMCAT_TRACEBACK=1 shows where",
        )
        return BUG


def _complain(message: str, hint: str) -> None:
    print(f"llmcat: error: {message}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)


def _learning(name: str) -> Callable[[list[str]], int] | None:
    """Find a command of labels, students and the fallback labeler."""
    if name not in LEARNING:
        return None
    from llmcat.cli import learn

    return learn.HANDLERS[name]


def _by_student(argv: list[str]) -> tuple[str, list[str]]:
    """Return the command that `llmcat student eval` or `predict` stands for."""
    make = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    make.add_argument("--student", default="student")
    args, rest = make.parse_known_args(argv[1:])
    name = "eval" if argv[0] == "eval" else "classify"
    if {"-h", "--help"} & set(rest):
        print(f"llmcat student {argv[0]} --student FOLDER (default: student) stands for\n"
              f"llmcat {name} --engine student --model FOLDER:\n")  # fmt: skip
        return name, rest
    return name, [*rest, "--engine", "student", "--model", args.student]


def _outside(name: str) -> Callable[[list[str]], int] | None:
    """Find a command that another package offers."""
    from importlib.metadata import entry_points

    for point in entry_points(group="llmcat.commands", name=name):
        command: Callable[[list[str]], int] = point.load()
        return command
    return None


# -- classify -------------------------------------------------------------------------------

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


def _classify(argv: list[str]) -> int:
    parser = make_parser("classify", CLASSIFY_EPILOG)
    add_settings(parser, leave_out=frozenset({"runs"}))
    parser.add_argument("--preview", action="store_true", help="ask only the first few items "
                        "(--limit, default 20); show prompt, tokens, time and cost")  # fmt: skip
    parser.add_argument("--restart", action="store_true", help="start over instead of going on")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when the answers hardly "
                        "depend on the items")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress, no closing line")
    args = parser.parse_args(argv)
    config = settings(args)
    from llmcat.cli import terminal
    from llmcat.taxonomy import load

    load.taxonomy_of(config)  # what needs no engine is checked first
    if config.file == "-" and (sys.stdin is None or sys.stdin.isatty()):
        _complain("no items", "--file FILE, or pipe them in")
        return BAD_INPUT
    if args.preview:
        return terminal.run_preview(config)
    return terminal.run_classify(
        config, command=argv, restart=args.restart, quiet=args.quiet, strict=args.strict
    )


# -- the small commands ---------------------------------------------------------------------


def _show(argv: list[str]) -> int:
    parser = make_parser("show")
    parser.add_argument("predictions", help="a predictions file (.jsonl)")
    parser.add_argument(
        "--items", metavar="FILE", default="", help="the items, to show their titles"
    )
    parser.add_argument("--text", metavar="COLUMN", default="", help="the items' title column")
    parser.add_argument("--limit", type=int, default=20, help="how many rows (default: 20)")
    parser.add_argument("--decision", metavar="D", help="only rows with this decision")
    args = parser.parse_args(argv)
    from llmcat.cli import terminal

    return terminal.show(
        args.predictions,
        args.items,
        text=args.text,
        limit=args.limit,
        decision=args.decision,
    )


# -- eval, ab, runs ---------------------------------------------------------------------------

EVAL_EPILOG = """\
examples:
  llmcat eval --file labeled.jsonl --taxonomy taxonomy.yaml --base-url http://localhost:8000
  llmcat eval --file labeled.jsonl --labels shoes,bags,toys --limit 500 --format md

The items need their known label in the column --label; `none` is one. --out names the folder
of the results (default: one in --runs). Run the same command again to go on after an
interruption: what was answered is not asked again. Exit codes: 0 done; 1 some rows are errors;
2 bad input; 3 no usable engine; 130 interrupted.
"""

AB_EPILOG = """\
An arm is a prompt, or settings with commas between: --b "prompt=few-shot,examples=pool.jsonl".
All other flags hold for all arms. The first arm is what the others are compared with.

examples:
  llmcat ab --file labeled.jsonl --taxonomy taxonomy.yaml --a zero-shot --b definitions
  llmcat ab --file labeled.csv --labels a,b,c --a model=small --b model=large --non-inferior 1
  llmcat ab --arms question.toml --fail-if-worse --format md

B is shipped when the lower end of the paired 95 % interval of B - A is above 0 and the gain is
at least --min-effect; with --non-inferior M, when it is cheaper and the lower end is above -M.
Exit codes: as eval; 1 also when an arm is worse and --fail-if-worse is given.
"""

ARMS = "abcdef"


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
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


def _eval(argv: list[str]) -> int:
    parser = make_parser("eval", EVAL_EPILOG)
    _add_evaluation(parser)
    parser.add_argument("--audit", action="store_true", help="list items whose gold label is "
                        "confidently contradicted")  # fmt: skip
    args = parser.parse_args(argv)
    config = settings(args)
    _check_items(config)
    from llmcat.cli import terminal
    from llmcat.evaluation import arms, label_audit, run_folder

    if args.audit:
        label_audit.check()
    arm = arms.Arm(run_folder.SOLO, config)
    return terminal.run_evaluation([arm], _options(args, ["eval", *argv]), _shown(args))


CALIBRATE_EPILOG = """\
examples:
  llmcat calibrate --file labeled.jsonl --taxonomy t.yaml --base-url http://localhost:8000 \\
    --accept-precision 0.95
  llmcat classify --file items.jsonl --taxonomy t.yaml --base-url http://localhost:8000 \\
    --artifact artifact.json --accept-precision 0.95

One part of the items fits, the other draws the line. The file is bound to model, prompt and
categories. With --accept-precision it also says what would be promised, and how much would be
accepted. Exit codes: 0 done, also where it says that no line can be drawn; 2 bad input, or nothing
could be fitted that beats no calibration; 3 no usable engine; 130 interrupted.
"""


def _calibrate(argv: list[str]) -> int:
    parser = make_parser("calibrate", CALIBRATE_EPILOG)
    where = "what to write (default: artifact.json; calibration.json where nothing is added up)"
    add_settings(parser, leave_out=frozenset({"out_format", "calibration"}), told={"out": where})
    parser.add_argument("--share", type=float, help="how much of the items fits, the rest draws "
                        "lines (default: half; where weights are learnt a third)")  # fmt: skip
    parser.add_argument("--no-prior", action="store_true", help="leave the labels' prior in")
    parser.add_argument("--plain", action="store_true", help="keep probabilities as they are, only "
                        "draw a line")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress, no remarks")
    args = parser.parse_args(argv)
    config = settings(args)
    _check_items(config)
    from llmcat.cli import terminal
    from llmcat.errors import BadConfig

    if args.share is not None and not 0.1 <= args.share <= 0.9:  # noqa: PLR2004
        raise BadConfig("--share is between 0.1 and 0.9")
    if config.calibration:
        raise BadConfig("a calibration is fitted on what the model says, not on another one")
    return terminal.run_calibrate(
        config,
        command=["llmcat", "calibrate", *argv],
        share=args.share,
        prior=not args.no_prior,
        plain=args.plain,
        quiet=args.quiet,
    )


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


def _tune(argv: list[str]) -> int:
    parser = make_parser("tune", TUNE_EPILOG)
    where = "the artifact to write (default: artifact.json)"
    left_out = frozenset({"out_format", "calibration", "artifact", "skip_sure"})
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
    _check_items(config)
    from llmcat.cli import terminal
    from llmcat.errors import BadConfig
    from llmcat.evaluation.arms import definition

    if args.suppose is not None:
        if not 0 < args.suppose < 1:
            raise BadConfig("--suppose is a share between 0 and 1")
        return terminal.run_suppose(config, args.suppose)
    arms = definition(args.arms)[2] if args.arms else {}
    command = ["llmcat", "tune", *argv]
    return terminal.run_tune(
        config,
        arms=arms,
        max_requests=args.max_requests,
        max_minutes=args.max_minutes,
        command=command,
        quiet=args.quiet,
    )


def _ab(argv: list[str]) -> int:
    from llmcat.evaluation.comparison import METRICS

    parser = make_parser("ab", AB_EPILOG)
    group = parser.add_argument_group("arms")
    for name in ARMS:
        what = f"arm {name}" + (": a prompt, or setting=value,..." if name == "a" else "")
        group.add_argument(f"--{name}", metavar="ARM", help=what)
    group.add_argument("--arms", metavar="FILE", help="settings, [decision] and [arms.NAME] as "
                       "TOML; flags win")  # fmt: skip
    group = parser.add_argument_group("decision")
    group.add_argument("--metric", choices=METRICS, help="what decides (default: accuracy; "
                       "hierarchical_f1 where the taxonomy is a tree)")  # fmt: skip
    group.add_argument("--min-effect", type=float, metavar="POINTS", help="the least gain worth "
                       "shipping, in points: hundredths of the metric (default: 1)")  # fmt: skip
    group.add_argument("--non-inferior", type=float, metavar="POINTS", help="ship the cheaper arm "
                       "if it loses less than so many points")  # fmt: skip
    group.add_argument("--looks", type=int, metavar="K", help="plan to add items and look K times "
                       "in all")  # fmt: skip
    group.add_argument("--block", type=int, metavar="N", help="items an arm is asked about before "
                       "it is another's turn, at least 64 (default: 256)")  # fmt: skip
    group.add_argument("--fail-if-worse", action="store_true", help="exit with 1 when an arm is "
                       "worse than the first")  # fmt: skip
    group.add_argument("--explain", action="store_true", help="print the disagreements by confused "
                       "pair, with the lines of the prompts that show either")  # fmt: skip
    _add_evaluation(parser)
    args = parser.parse_args(argv)
    from llmcat.cli import terminal
    from llmcat.errors import BadConfig
    from llmcat.evaluation.arms import arms_of, definition

    common, decision, changes = definition(args.arms) if args.arms else ({}, {}, {})
    flags = flags_of(args)
    if {"labels", "taxonomy"} & flags.keys():  # given by a flag, categories replace the file's
        common = {k: v for k, v in common.items() if k not in {"labels", "taxonomy"}}
    common |= flags
    given = {name: getattr(args, name) for name in ARMS if getattr(args, name) is not None}
    found = arms_of({**changes, **given}, common)
    if len(found) < 2:  # noqa: PLR2004
        raise BadConfig("a comparison needs two arms", hint="--a zero-shot --b definitions")
    _check_items(found[0].config)
    options = _options(args, ["ab", *argv], _question(args, decision, found[0].config))
    return terminal.run_evaluation(found, options, _shown(args))


def _check_items(config: Any) -> None:
    """Raise `BadConfig` where nothing is there to read, or to write to."""
    from llmcat.errors import BadConfig

    if config.file == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise BadConfig("no items", hint="--file FILE, or pipe them in")
    if config.out == "-":
        raise BadConfig("--out - : an evaluation writes a folder")


def _question(args: argparse.Namespace, decision: dict[str, Any], config: Any) -> Any:
    """Return what is asked of a comparison: flags over the definition's [decision]."""
    from llmcat.errors import BadConfig
    from llmcat.evaluation.comparison import Question
    from llmcat.evaluation.paired import Rule
    from llmcat.taxonomy.load import taxonomy_of

    known = {"metric": str, "min_effect": float, "non_inferior": float, "looks": int, "block": int}
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
    return Question(
        metric=args.metric or ("hierarchical_f1" if tree else "accuracy"),
        rule=Rule(
            min_effect=(1.0 if args.min_effect is None else args.min_effect) / 100,
            non_inferior=None if margin is None else margin / 100,
        ),
        looks=args.looks or 0,
    )


def _options(args: argparse.Namespace, command: list[str], question: Any = None) -> Any:
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


def _shown(args: argparse.Namespace) -> dict[str, Any]:
    """What is shown of a result."""
    return {
        "form": args.format,
        "quiet": args.quiet,
        "explain": getattr(args, "explain", False),
        "fail_if_worse": getattr(args, "fail_if_worse", False),
    }


def _runs(argv: list[str]) -> int:
    parser = make_parser("runs")
    parser.add_argument("--runs", metavar="FOLDER", help="folder of the runs (default: runs)")
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="list|show|compare|export"
    )
    actions.add_parser("list", help="all runs, the latest first")
    shown = actions.add_parser("show", help="what a run found, and how to repeat it")
    shown.add_argument("run", help="its name, or the end of it, or its folder")
    shown.add_argument(
        "--format", choices=["text", "md"], default="text", help="tables or Markdown"
    )
    compared = actions.add_parser("compare", help="compare two finished runs on the same items")
    compared.add_argument("run", nargs=2, help="the first is what the second is compared with; "
                          "RUN:ARM for an arm of a comparison")  # fmt: skip
    compared.add_argument("--metric", default="", help="what decides (default: as for ab)")
    compared.add_argument("--out", default="", help="folder of the comparison")
    exported = actions.add_parser("export", help="all of a run, to repeat or archive it, as a .zip")
    exported.add_argument("run", help="its name, or the end of it, or its folder")
    exported.add_argument("file", help="the .zip to write")
    args = parser.parse_args(argv)
    from llmcat import config
    from llmcat.cli import terminal

    folder = args.runs or config.load().runs
    if args.action == "list":
        return terminal.list_runs(folder)
    if args.action == "show":
        return terminal.show_run(folder, args.run, form=args.format)
    if args.action == "export":
        return terminal.export_run(folder, args.run, args.file)
    command = ["llmcat", "runs", *argv]
    return terminal.compare_runs(
        folder, args.run, metric=args.metric, out=args.out, command=command
    )


def _prompts(argv: list[str]) -> int:
    parser = make_parser("prompts")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|render")
    actions.add_parser("list", help="the prompts that ship")
    shown = actions.add_parser("show", help="the text of one prompt")
    shown.add_argument("prompt", help="name, name@version or .jinja file")
    render = actions.add_parser("render", help="the messages a model would see for one item")
    render.add_argument("prompt", help="name, name@version or .jinja file")
    render.add_argument("item", help="the item's title")
    for name, what in {
        "labels": "the categories, comma-separated",
        "taxonomy": "file with the categories",
        "about": "what the items are",
        "examples": "labelled items for few-shot prompts",
        "select": "fixed or nearest",
        "shots": "how many examples are shown",
    }.items():
        render.add_argument(f"--{name}", help=what, default=None)
    args = parser.parse_args(argv)
    from llmcat.prompting import templates

    if args.action == "list":
        for prompt in templates.available():
            print(f"{prompt.ref:<18} {prompt.front.description}")
        return DONE
    if args.action == "show":
        print(templates.load(args.prompt).text, end="")
        return DONE
    from llmcat.pipeline import rendered

    for message in rendered.rendered(settings(args), args.item):
        print(f"--- {message['role']} ---\n{message['content']}")
    return DONE


def _init(argv: list[str]) -> int:
    parser = make_parser("init")
    parser.add_argument("folder", nargs="?", default=".", help="where (default: here)")
    args = parser.parse_args(argv)
    from llmcat.cli import starter

    written = starter.write(args.folder)
    for path in written:
        print(f"wrote {path}")
    print(starter.NEXT_STEPS, end="")
    return DONE


def _doctor(argv: list[str]) -> int:
    parser = make_parser(
        "doctor", "Exit codes: 0 all well; 1 warnings only; 3 something must be done."
    )
    add_settings(parser, leave_out=frozenset({"out", "limit", "runs"}))
    args = parser.parse_args(argv)
    from llmcat.cli import terminal

    return terminal.run_doctor(settings(args))


_HANDLERS: dict[str, Callable[[list[str]], int]] = {
    "classify": _classify,
    "show": _show,
    "eval": _eval,
    "ab": _ab,
    "calibrate": _calibrate,
    "tune": _tune,
    "runs": _runs,
    "prompts": _prompts,
    "init": _init,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
