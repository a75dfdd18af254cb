"""What `eval`, `ab` and `runs` print of a result."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmcat.cli.console import Bar, interruptible
from llmcat.errors import SHOWN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.evaluation.arms import Arm
    from llmcat.evaluation.experiment import Options
    from llmcat.evaluation.report import Result

__all__ = ["evaluated", "print_result", "run_evaluation"]


def run_evaluation(arms: Sequence[Arm], options: Options, shown: Mapping[str, Any]) -> int:
    """Evaluate, print what was found, return the exit code."""
    folder = evaluated(arms, options, quiet=shown["quiet"])
    if folder is None:
        return 130
    return print_result(folder, options, shown)


def evaluated(arms: Sequence[Arm], options: Options, *, quiet: bool) -> Path | None:
    """Evaluate behind a bar; return the run's folder, or say how to go on and return None."""
    from llmcat.evaluation import experiment

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr)

    with Bar(quiet=quiet) as bar:
        folder = interruptible(
            lambda stop: experiment.evaluate(arms, options, watch=bar, stop=stop, say=say)
        )
    if folder is None:
        print("interrupted; this goes on, and asks nothing twice:", file=sys.stderr)
        print(f"  {shlex.join(options.command)}", file=sys.stderr)
    return folder


def print_result(folder: Path, options: Options | None, shown: Mapping[str, Any]) -> int:
    """Print a run's result; return 1 if rows are errors, or an arm is worse and that matters."""
    from llmcat.evaluation import report, report_explain, report_markdown

    found = report.read(folder)
    if shown["form"] == "md":
        print(report_markdown.markdown(found), end="")
    else:
        _print_tables(found)
    if shown["explain"]:
        print("\n".join(report_explain.explain(found)))
    if options is not None and options.audit:
        _print_audit(folder)
    if not shown["quiet"]:
        asked = sum(arm["asked_now"] for arm in found.record["arms"].values())
        requests = sum(arm["asks"] for arm in found.record["arms"].values())
        before = max(0, requests - asked)
        print(f"{requests:,} requests, {before:,} of them answered before", file=sys.stderr)
        print(f"wrote {folder / 'report.html'}", file=sys.stderr)
    worse = shown["fail_if_worse"] and found.comparison and found.comparison["worse"]
    return 1 if worse or any(m["errors"] for m in found.metrics.values()) else 0


def _print_tables(found: Result) -> None:
    """Print what decides, the metrics, the costs, and the segments in which the sign turns."""
    from llmcat.evaluation import report

    console = Console(highlight=False)
    console.print(Text(report.line(found), style="bold"))
    for name, arm in found.record["arms"].items():
        if fallen := arm.get("collapse"):
            of = f"arm {name}: " if found.comparison is not None else ""
            console.print(Text(of + fallen["said"]))
    for section in report.sections(found):
        rows = section.rows
        if section.title.startswith("Segments"):
            rows = [row for row in rows if row[-1]]
        if not rows or section.title == "Arms":
            continue
        table = Table(title=section.title, title_justify="left", show_edge=False, pad_edge=False)
        for at, head in enumerate(section.heads):
            table.add_column(Text(head), justify="left" if at < section.text_columns else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print()
        console.print(table)
        for note in section.notes:
            console.print(Text(note, style="dim"))


def _print_audit(folder: Path) -> None:
    from llmcat.evaluation import label_audit
    from llmcat.evaluation.run_folder import SOLO

    found = label_audit.audit(folder, SOLO)
    _print_issues("Doubtful gold labels", found.issues, folder / "audit.jsonl")
    print(f"{len(found.issues):,} of {found.n:,} gold labels are confidently contradicted; all in "
          f"{folder / 'audit.jsonl'}")  # fmt: skip
    if found.elsewhere:
        labels = list(dict.fromkeys(issue["label"] for issue in found.elsewhere))
        named = ", ".join(labels[:SHOWN]) + (", ..." if len(labels) > SHOWN else "")
        print()
        _print_issues("Not judged", found.elsewhere, folder / "not-judged.jsonl")
        print(f"not judged: {len(found.elsewhere):,} items get a label that no item here has, so "
              f"their own may be wrong unnoticed: {named}; all in "
              f"{folder / 'not-judged.jsonl'}")  # fmt: skip
    if found.partial:
        print(f"approximate: {found.partial:,} answers gave not every label a probability")
    if found.left_out:
        print(f"left out: {found.left_out:,} items without probabilities")


def _print_issues(title: str, issues: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Print the first of an audit's issues and write all."""
    out.write_bytes(b"".join(orjson.dumps(issue) + b"\n" for issue in issues))
    table = Table(title=title, title_justify="left", show_edge=False)
    for head, justify in (
        ("row", "right"), ("item", "left"), ("gold", "left"), ("p", "right"),
        ("rather", "left"), ("p", "right"),
    ):  # fmt: skip
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    for issue in issues[:20]:
        cells = (issue["row"], issue["title"], issue["gold"], f"{issue['p_gold']:.3f}",
                 issue["label"], f"{issue['p_label']:.3f}")  # fmt: skip
        table.add_row(*(Text(str(cell)) for cell in cells))
    Console(highlight=False).print(table)
