"""The report as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcat.evaluation.report import PAIRS, Result, joined, line, sections

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["markdown"]


def markdown(result: Result, *, items: bool = True) -> str:
    """Return the report for a pull request; without `items`, figures only."""
    parts = [f"## {line(result)}", ""]
    parts += [f"> {_md_text(remark)}\n" for remark in result.record["remarks"]]
    for section in sections(result):
        parts += [f"### {section.title}", ""]
        width = len(section.heads)
        bars = [":--" if i < section.text_columns else "--:" for i in range(width)]
        parts += [_row(section.heads), _row(bars)]
        parts += [_row([*row, *[""] * (width - len(row))]) for row in section.rows]
        parts += ["", *(f"{note}\n" for note in section.notes)]
    if items and result.comparison is not None:
        parts += _md_disagreements(result)
    return "\n".join(parts).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_md_text(str(cell)) for cell in cells) + " |"


def _md_text(text: str) -> str:
    """Keep text from being read as Markdown or HTML."""
    for mark in "\\`*[]|":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("<", "&lt;").replace("\n", " ")


def _md_disagreements(result: Result) -> list[str]:
    arms = list(result.metrics)
    parts = []
    for versus in result.comparison["versus"] if result.comparison else ():
        pair = (versus["base"], versus["arm"])
        for mine, theirs in (pair, pair[::-1]):
            shown = []
            for row in joined(result):
                labels = dict(zip(arms, row["labels"], strict=True))
                if labels[mine] == row["gold"] != labels[theirs]:
                    path = result.labels.path
                    shown.append([row["title"], path(row["gold"]), path(labels[theirs])])
                if len(shown) == PAIRS:
                    break
            if shown:
                parts += [f"### Right only in {mine} (the first {len(shown)})", ""]
                heads = ["item", f"gold, and {mine}", theirs]
                parts += [_row(heads), _row([":--"] * 3), *map(_row, shown), ""]
    return parts
