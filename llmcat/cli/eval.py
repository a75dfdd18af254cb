"""`llmcat eval`."""

from __future__ import annotations

from llmcat.cli.evaluation_options import add_evaluation, check_evaluated, options_of, shown_of
from llmcat.cli.options import parser as make_parser
from llmcat.cli.options import refuse_several, settings
from llmcat.cli.results import run_evaluation

__all__ = ["command"]


EVAL_EPILOG = """\
examples:
  llmcat eval --file labeled.jsonl --taxonomy taxonomy.yaml --base-url http://localhost:8000
  llmcat eval --file labeled.jsonl --labels shoes,bags,toys --limit 500 --format md

The items need their known label in the column --label; `none` is one. --out names the folder
of the results (default: one in --runs). Run the same command again to go on after an
interruption: what was answered is not asked again. Exit codes: 0 done; 1 some rows are errors;
2 bad input; 3 no usable engine; 130 interrupted.
"""


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    parser = make_parser("eval", EVAL_EPILOG)
    add_evaluation(parser)
    parser.add_argument("--audit", action="store_true", help="list items whose gold label is "
                        "confidently contradicted")  # fmt: skip
    args = parser.parse_args(argv)
    config = settings(args)
    check_evaluated(config)
    from llmcat.evaluation import arms, label_audit, run_folder

    if args.audit:
        refuse_several(config, "--audit")
        label_audit.check()
    arm = arms.Arm(run_folder.SOLO, config)
    return run_evaluation([arm], options_of(args, ["eval", *argv]), shown_of(args))
