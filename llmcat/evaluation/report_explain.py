"""Why the items of a run came out as they did: the prompt's lines that mention their labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcat.evaluation.predictions import ERROR, Labels
from llmcat.evaluation.report import Result, joined, shared_messages

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["explain"]


LEAST_NAME = 4
"""Characters a name needs to be looked for in running text."""


def explain(result: Result, *, most: int = 8) -> list[str]:
    """Group the disagreements by confused pair; print the lines of each prompt that show either.

    So that who writes the prompt sees what to change. Returns lines of text.
    """
    arms = list(result.metrics)
    found: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
    for row in joined(result):
        right = [label == row["gold"] for label in row["labels"]]
        if any(right) and not all(right):
            for arm, label in zip(arms, row["labels"], strict=True):
                if label not in {row["gold"], ERROR}:
                    found.setdefault((row["gold"], label), []).append((arm, row))
    lines = []
    order = sorted(found.items(), key=lambda pair: -len(pair[1]))
    texts = {arm: _lines(result.path, arm) for arm in arms}
    path = result.labels.path
    for (gold, label), cases in order[:most]:
        by = ", ".join(f"{arm} {n}" for arm in arms if (n := sum(a == arm for a, _ in cases)))
        times = "once" if len(cases) == 1 else f"{len(cases)} times"
        lines.append(f"{path(gold)}  taken for  {path(label)}: {times} ({by})")
        lines += [f"    e.g. {row['title'][:90]}" for _, row in cases[:3]]
        for arm in arms:
            shown = _lines_with(texts[arm], gold, label, result.labels)
            lines += [f"    in {arm}: {text}" for text in shown]
        lines.append("")
    if len(order) > most:
        lines.append(f"and {len(order) - most} other pairs")
    return lines or ["the arms are right on the same items"]


def _lines(path: Path, arm: str) -> list[str]:
    """Return the different lines of all messages that requests share."""
    return list(
        dict.fromkeys(
            text.strip()
            for _, messages in shared_messages(path, arm)
            for message in messages
            if isinstance(message["content"], str)
            for text in message["content"].splitlines()
        )
    )


def _lines_with(texts: Sequence[str], gold: str, label: str, labels: Labels) -> list[str]:
    """Return the lines that show either label: those of the menu, then those that mention it."""
    names = [name.casefold() for one in (gold, label) for name in labels.names(one)]
    menu, mention = [], []
    for text in texts:
        said = text.casefold()
        shown = said.partition(". ")[2].partition(": ")[0].rpartition(" > ")[2]
        if shown in names:
            menu.append(text)
        elif any(len(name) >= LEAST_NAME and name in said for name in names):
            mention.append(text)
    return [*menu, *mention][:8]
