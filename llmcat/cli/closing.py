"""What a person hears at the end of a run: the closing line, and how it goes on."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from typing import TYPE_CHECKING

import orjson
from rich.console import Console

from llmcat.cli.console import predictions_table
from llmcat.pipeline import file_run
from llmcat.pipeline.loop import LOW_MASS
from llmcat.records import CORRECTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.config import RunConfig
    from llmcat.pipeline.file_run import Summary

__all__ = ["closed", "closing", "stream"]


HIGH_MASS = 0.8
"""Label mass from which it is called high."""
ALL_NONE = 10
"""So many items that all get `none` are worth a word."""


def closed(summary: file_run.Summary, name: str, command: Sequence[str], *, quiet: bool) -> int:
    """Say how a run went, and how it goes on; return the exit code."""
    out = summary.out
    if os.environ.get("LLMCAT_JSON"):
        told = {"out": out, "rows": summary.rows, **summary.record()}
        print(orjson.dumps(told, default=str).decode(), file=sys.stderr)
    elif not quiet:
        for line in closing(summary):
            print(line, file=sys.stderr)
    if summary.interrupted:
        if out == "-" or not summary.resumable:
            print("interrupted; items from a pipe, or results into one, cannot be resumed: "
                  "use --file and --out", file=sys.stderr)  # fmt: skip
        else:
            why = "the budget is used up; " if summary.spent else "interrupted; "
            kept = [word for word in command if word != "--restart"]
            print(f"{why}this goes on:", file=sys.stderr)
            print(f"  {shlex.join(['llmcat', name, *kept])}", file=sys.stderr)
        return 1 if summary.spent else 130
    return 1 if summary.decisions["error"] else 0


def closing(summary: Summary) -> list[str]:
    """Return the closing line, and a line each for what the user should know."""
    counts, tally = summary.decisions, summary.tally
    used = tally.usage
    fallen = [summary.collapse["said"]] if summary.collapse else []
    if summary.already_done:
        return [f"nothing to do: {summary.out} is complete, {summary.rows:,} rows", *fallen]
    accepted = f"{counts['accept']:,} accepted" if counts["accept"] else ""
    review = f"{counts['review']:,} to review" if counts["review"] else ""
    labelled = f"{counts['labelled']:,} labelled" if not (accepted or review) else ""
    people = f"{counts[CORRECTED]:,} by people" if counts[CORRECTED] else ""
    parts = [p for p in (accepted, review, labelled, people) if p]
    parts += [f"{counts['none']:,} none", f"{counts['error']:,} errors"]
    rate = summary.written / summary.seconds if summary.seconds > 0 else 0.0
    parts.append(f"{rate:,.0f} items/s" if rate >= 10 else f"{rate:.2g} items/s")  # noqa: PLR2004
    if used.prompt:
        parts.append(f"{used.cached / used.prompt:.0%} of prompt tokens cached")
    parts.append(f"{used.prompt:,} + {used.generated:,} tokens")
    if summary.cost is not None:
        parts.append(f"cost {summary.cost:,.4f}")
    lines = [f"{summary.rows:,} row{'s' * (summary.rows != 1)}: " + ", ".join(parts), *fallen]
    if (
        counts["none"] >= ALL_NONE
        and counts["none"] + counts["error"] == summary.rows
        and not fallen
    ):
        lines.append(
            "WARNING: no item fits any category: are they of one language, and are the categories "
            "at the top names that an item can be told by? --engine retriever compares"
        )
    steps = {**summary.cleaned, "cut to the context": tally.cut}
    cleaned = ", ".join(f"{step} {n:,}" for step, n in steps.items() if n)
    if cleaned:
        lines.append(f"cleaned: {cleaned}")
    if tally.again:
        lines.append(
            f"asked in several orders: {tally.again:,} items, {tally.order_disagreement:,} with "
            f"several answers; {tally.asked:,} requests in all"
        )
    lines += summary.promises
    if summary.copied:
        lines.append(f"copied from the earlier run, not asked: {summary.copied:,}")
    if twice := tally.duplicates - summary.copied:
        lines.append(f"exact duplicates, asked once: {twice:,}")
    if summary.double_ids:
        lines.append(f"duplicate ids: {summary.double_ids:,} (the first: {summary.double_id})")
    if summary.foreign_gold:
        lines.append(f"gold labels not in the taxonomy: {summary.foreign_gold:,}")
    if tally.mass is not None:
        lines.append(_mass(tally.mass, tally.mass_count))
    lines += [f"error: {n:,} x {reason}" for reason, n in summary.errors.most_common(5)]
    if summary.out != "-":
        lines.append(_made(summary))
    return lines


def _mass(mass: float, count: int) -> str:
    """Say what the label mass is, and what that means."""
    means = "high, it answers with codes, right or wrong"
    if mass < HIGH_MASS:
        means = "low, part of what it would say is no code; another prompt may mend it"
    if mass < LOW_MASS:
        means = "the model wants to say something else; try another prompt or model"
    return f"label mass {mass:.3g}, the mean of {count:,} sampled: {means}"


def _made(summary: Summary) -> str:
    """Say where the rows are."""
    if summary.interrupted and not summary.out.endswith(".jsonl"):
        return f"{summary.out} is made when the last row is there; till then a journal has them"
    return f"wrote {summary.out}"


async def stream(
    config: RunConfig,
    summary: Summary,
    stop: asyncio.Event,
    opener: file_run.Opener | None = None,
) -> None:
    """Print rows as they come: JSON lines into a pipe, a table on a terminal."""
    pairs = file_run.classify_stream(config, summary, stop=stop, opener=opener)
    if sys.stdout.isatty():
        shown = [(row, next(iter(item.fields.values()), "")) async for item, row in pairs]
        Console().print(predictions_table(shown))
        return
    async for _, row in pairs:
        sys.stdout.buffer.write(orjson.dumps(row) + b"\n")
        sys.stdout.buffer.flush()
