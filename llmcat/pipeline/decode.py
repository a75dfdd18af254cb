"""Answers to scores: the one place where codes become labels again.

The posterior over the menu is the same whether the log-probabilities were taken after the
grammar's mask or before: P(code | menu) = exp(l_code) / sum(exp(l)). Before the mask, that sum
is the label mass. This module does not know prompts, engines or files.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Protocol

from llmcat.errors import ConstraintIgnored
from llmcat.records import NONE, Answer, Decided, Item, RowResult, Scores

if TYPE_CHECKING:
    from llmcat.taxonomy.tree import Taxonomy

__all__ = [
    "Decider",
    "Plain",
    "alternatives",
    "best",
    "chance_of",
    "level_of",
    "rationale",
    "read",
    "result",
]

_BEFORE = re.compile(r'^\{ ?"rationale" ?: ?"')
MASKED_SUM = 0.98
"""After a mask the menu's probabilities sum to 1; below this, no mask was there."""


def read(answer: Answer) -> Scores:
    """Turn log-probabilities (natural, shape `(len(menu.codes),)`, exit last) into scores.

    Where a list leaves codes out, each probability is a lower bound: the unseen ones are taken to
    have all that is `missing`. Ties go to the code that stands first on the menu. Raises
    `ConstraintIgnored` when the probabilities of a masked answer do not sum to one, or when a
    text is not on the menu.
    """
    menu = answer.request.menu
    if answer.text:
        if answer.text not in menu.codes:
            raise ConstraintIgnored(f"{answer.text!r} is not on the menu")
        at = menu.codes.index(answer.text)
        label = menu.nodes[at].id if at < len(menu.nodes) else NONE
        return Scores(label=label, p={}, p_none=None, kind="label_only")
    if answer.request.read in {"decide", "score"}:
        return _decided(answer)
    if len(answer.logprobs) != len(menu.codes):
        raise ValueError("one log-probability per code of the menu is needed")
    top, exp = max(answer.logprobs), math.exp
    weights = [exp(l - top) for l in answer.logprobs]  # noqa: E741
    seen = math.fsum(weights)
    mass = min(1.0, seen * math.exp(top))
    total = seen + answer.missing * math.exp(-top)
    if answer.masked and mass < MASKED_SUM:
        raise ConstraintIgnored(
            f"the menu's probabilities sum to {mass:.3f} under a constraint, not to 1",
            hint="the server does not apply `structured_outputs`; run `llmcat doctor`",
        )
    p = [w / total for w in weights]
    whole = dict(zip(menu.ids, p, strict=False))
    partial = answer.missing > 0 or (answer.masked is None and min(answer.logprobs) == -math.inf)
    best = p.index(max(p))
    label = menu.nodes[best].id if best < len(menu.nodes) else NONE
    return Scores(
        label=label,
        p={i: v for i, v in zip(menu.ids, p, strict=False) if v} if partial else whole,
        p_none=p[-1],
        kind="top" if partial else "full",
        mass=mass if answer.masked is False else None,
    )


def _decided(answer: Answer) -> Scores:
    """Return the scores of a decision model, which was not offered the exit: P(label | not none).

    Before any mask the probabilities sum to the label mass.
    """
    ids = answer.request.menu.ids
    if len(answer.logprobs) != len(ids):
        raise ValueError("one log-probability per category of the menu is needed")
    top = max(answer.logprobs)
    weights = [math.exp(each - top) for each in answer.logprobs]
    total = math.fsum(weights)
    mass = min(1.0, total * math.exp(top)) if answer.masked is False else None
    p = dict(zip(ids, (weight / total for weight in weights), strict=True))
    return Scores(max(p, key=p.__getitem__), p, None, mass=mass)


def level_of(scores: Scores, taxonomy: Taxonomy) -> float | None:
    """Return the expected level on a scale, from 1; None without a probability for each level.

    The mean of the levels under P(level | not none): the estimate with the least squared error.
    """
    if not taxonomy.ordered or scores.kind != "full":
        return None
    weights = [(scores.p.get(id_, 0.0), level) for id_, level in taxonomy.levels.items()]
    total = math.fsum(p for p, _ in weights)
    return math.fsum(p * level for p, level in weights) / total if total > 0 else None


def rationale(text: str) -> str:
    """Return what a rationale says; one that was cut at its length says what came until then."""
    try:
        return str(json.loads(text)["rationale"])
    except (ValueError, KeyError, TypeError):
        return _BEFORE.sub("", text)


def result(item: Item, decided: Decided) -> RowResult:
    """Return the result about an item whose text has been decided about."""
    scores = decided.scores
    reason = "; ".join(filter(None, (item.note, scores.note))) or None
    return RowResult(item, decided.decision, scores, reason, decided.held)


class Decider(Protocol):
    """What decides by scores: without a calibration, `Plain`."""

    @property
    def key(self) -> str:
        """What shapes its decisions, as a hash; empty for `Plain`."""

    def decide(self, item: Item, scores: Scores) -> Decided:
        """Decide about an item's text; equal texts are decided about once."""

    def watch(self, result: RowResult) -> None:
        """Be told of each result of a run."""

    def guarantees(self) -> list[str]:
        """Say in words what is promised of what is accepted; nothing without a line."""

    def remarks(self, mass: float | None = None) -> list[str]:
        """Say what is worth knowing of the results that were watched."""


class Plain:
    """Believes scores as they are: the best label, or `none`; what is less sure is for review."""

    def __init__(self, least: float = 0.0) -> None:
        """`least` is a confidence, not a chance that was measured."""
        self.least = least

    @property
    def key(self) -> str:
        """Which confidence is asked for; empty for none."""
        return f"min {self.least:g}" if self.least else ""

    def decide(self, item: Item, scores: Scores) -> Decided:  # noqa: ARG002
        """Decide without a gate."""
        if self.least and (scores.confidence is None or scores.confidence < self.least):
            return Decided("review", scores)
        return Decided("none" if scores.label == NONE else "labelled", scores)

    def watch(self, result: RowResult) -> None:
        """Nothing to learn from it."""

    def guarantees(self) -> list[str]:
        """Nothing is promised, and that is said where it could be thought."""
        if not self.least:
            return []
        return [
            f"rows below {self.least:g} are for review; no promise goes with it "
            "(llmcat calibrate draws a line that has one)"
        ]

    def remarks(self, mass: float | None = None) -> list[str]:  # noqa: ARG002
        """Nothing was watched for."""
        return []


def alternatives(scores: Scores, taxonomy: Taxonomy, count: int = 3) -> list[dict[str, object]]:
    """Return the labels that came next, best first, without those given and the exit."""
    given = {scores.label, *(scores.several or ())}
    others = [id_ for id_ in best(scores, count + len(given)) if id_ not in given][:count]
    return [chance_of(id_, scores, taxonomy) for id_ in others]


def chance_of(id_: str, scores: Scores, taxonomy: Taxonomy) -> dict[str, object]:
    """Return a label as rows show it: `{label, path, p}`."""
    return {"label": id_, "path": taxonomy.nodes[id_].label, "p": round(scores.p[id_], 6)}


def best(scores: Scores, count: int) -> list[str]:
    """Return the node ids with the highest probabilities, best first; ties as on the menu."""
    top = getattr(scores.p, "top", None)  # a posterior over thousands ranks itself
    if top is not None:
        return list(top(count))
    return sorted(scores.p, key=scores.p.__getitem__, reverse=True)[:count]
