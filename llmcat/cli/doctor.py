"""`llmcat doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from llmcat.cli.console import interruptible
from llmcat.cli.options import add_settings, settings
from llmcat.cli.options import parser as make_parser

if TYPE_CHECKING:
    from llmcat.config import RunConfig

__all__ = ["command"]

DOCTOR_EPILOG = """\
examples:
  llmcat doctor                                        # what is on this machine
  llmcat doctor --base-url http://localhost:8000 --taxonomy taxonomy.yaml
  llmcat doctor --base-url http://localhost:8000 --taxonomy taxonomy.yaml --file labeled.jsonl

With --file it also measures the rate, and whether answers depend on the items. Exit codes: 0 all
well; 1 warnings only; 3 something must be done.
"""


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    parser = make_parser("doctor", DOCTOR_EPILOG)
    add_settings(parser, leave_out=frozenset({"out", "limit", "runs", "multi"}))
    args = parser.parse_args(argv)

    return run_doctor(settings(args).model_copy(update={"multi": ""}))


def run_doctor(config: RunConfig) -> int:
    """Print the findings; return 0, 1 with warnings, 3 with failures."""
    from llmcat.checks import doctor

    findings = interruptible(lambda stop: doctor.examine(config), graceful=False)  # noqa: ARG005
    marks = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(f"{marks[finding.level]} [bold]{finding.what}[/]: ", end="")
        console.print(finding.found, markup=False)
        if finding.todo:
            console.print(f"       -> {finding.todo}", markup=False)
    levels = {finding.level for finding in findings}
    return 3 if "fail" in levels else 1 if "warn" in levels else 0
