"""Can this model read the menu? Asked about items whose right answers are known.

What is measured is the model's own part, before anything free is added to it: how often it is
right, whether it says the same of the same candidates in another order and in another layout, and
whether it is right more often than retrieval, which costs nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from llmcat.candidates.walks import offer
from llmcat.evaluation.adds import added as added_by
from llmcat.evaluation.adds import sentence
from llmcat.evaluation.metrics import accuracy
from llmcat.evidence.pool import Pool
from llmcat.pipeline.duplicates import Forgetful
from llmcat.pipeline.loop import classify
from llmcat.prompting import templates
from llmcat.prompting.builder import Task
from llmcat.records import NONE
from llmcat.retrieval.scorers import Retriever, encoders_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmcat.candidates.walks import Walk
    from llmcat.evidence.gather import Gathered
    from llmcat.pipeline.session import Session
    from llmcat.records import Item, Menu, RowResult

__all__ = ["AGAIN", "Reading", "read"]

AGAIN = 16
"""Items that are asked about in another order, and in the other layout."""
HALF = 0.5
"""A model that is right less than half as often as retrieval does not read its menu."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model does with items of known labels.

    `right` of `n` by its own word (95 % interval `low` to `high`), `alone` of them by retrieval;
    `favourite` is the most frequent code and `top` how many got it. `same_order` of `again` had
    the same answer in another order, `other_right` of them are right in layout `other`,
    `this_right` in the one that is used. `adds` says what it adds, where both are added up.
    """

    n: int
    right: int
    low: float
    high: float
    alone: int
    favourite: str
    top: int
    again: int
    same_order: int
    this_right: int
    other: str
    other_right: int
    adds: str

    @property
    def fails(self) -> bool:
        """Whether it certainly does not read the menu."""
        return self.high < HALF * self.alone / self.n

    def sentence(self) -> str:
        """Say what was found."""
        said = [
            f"right on {self.right} of {self.n} [{self.low:.0%}, {self.high:.0%}], retrieval alone "
            f"on {self.alone}; the code {self.favourite} got {self.top}"
        ]
        if self.again:
            said.append(
                f"the same answer in another order for {self.same_order} of {self.again}; with "
                f"--prompt {self.other} right on {self.other_right} of {self.again}, here on "
                f"{self.this_right}"
            )
        return "; ".join([*said, *filter(None, [self.adds])])

    def todo(self) -> str:
        """Say what is to be done about it, nothing if it reads."""
        if not self.fails:
            return ""
        other = f"try --prompt {self.other}, or a larger model"
        if self.again and self.other_right <= self.this_right:
            other = "try a larger model, or --engine retriever, which is free"
        return f"this model does not read the menu in this layout: {other}"


async def read(
    session: Session, items: Sequence[Item], results: Sequence[RowResult], kept: Gathered | None
) -> Reading | None:
    """Compare a session's results on items of known labels with its own other ways of asking.

    `kept` holds what the model said where evidence was added up. None where the answers say nothing
    of the model's own part (several menus for an item, labels without probabilities, no reader).
    """
    plan = session.task.plan
    if not plan.gives_all or session.engine.name == "retriever" or not items:
        return None
    own, here = _own(session, results, kept)
    if not own:
        return None
    known = [item for item in items if item.row in own]
    gold = {item.row: item.gold or "" for item in known}
    correct = np.array([own[row] == gold[row] for row in gold])
    estimate = accuracy(correct)
    favourite, top = Counter(code for code, _ in here.values()).most_common(1)[0]
    some = known[:AGAIN]
    turned = await _asked(session, session.task, some, lambda i: _menu(session, i, 1))
    prompt = session.task.prompt
    other = templates.WHOLE_MENU if prompt.item_first else templates.DEFAULT
    if prompt.decides:
        described = prompt.front.name.startswith(templates.DESCRIBED)
        other = templates.DECIDE if described else templates.DESCRIBED
    elsewhere = await _asked(session, _with_prompt(session, other), some,
                             lambda i: _menu(session, i, 0))  # fmt: skip
    both = [row for row in turned if row in here]
    rows = (
        {"evidence": v.scores.evidence, "gold": v.item.gold, "decision": v.decision,
         "label": None if v.scores.label == NONE else v.scores.label}
        for v in results if v.scores and v.scores.evidence and v.item.row in gold
    )  # fmt: skip
    adds = added_by(rows, tokens=None)
    return Reading(
        n=len(known),
        right=int(correct.sum()),
        low=float(estimate.low or 0.0),
        high=float(estimate.high if estimate.high is not None else 1.0),
        alone=_alone(session, known),
        favourite=favourite,
        top=top,
        again=len(both),
        same_order=sum(turned[row] == here[row][1] for row in both),
        this_right=sum(here[row][1] == gold[row] for row in both),
        other=other,
        other_right=sum(elsewhere.get(row) == gold[row] for row in both),
        adds="" if adds is None else sentence(adds).removeprefix("WARNING: "),
    )


def _own(
    session: Session, results: Sequence[RowResult], kept: Gathered | None
) -> tuple[dict[int, str], dict[int, tuple[str, str]]]:
    """Return the model's own answer by row, and the code that it gave, with the answer it means.

    The two answers differ where a preference for places was taken off the first.
    """
    alphabet, found = session.task.plan.alphabet, session.evidence
    answers: dict[int, str] = {}
    came: dict[int, tuple[str, str]] = {}
    if found is None:
        codes = {leaf.id: alphabet[i] for i, leaf in enumerate(session.taxonomy.leaves)}
        for v in results:
            if v.scores is not None and v.scores.kind == "full":
                label = answers[v.item.row] = v.scores.label
                came[v.item.row] = codes.get(label, alphabet[len(codes)]), label
        return answers, came
    for row, asked in (kept.asked if kept is not None else {}).items():
        if asked is None:
            continue
        ids = [*(found.columns.ids[i] for i in asked.chosen), NONE]
        answers[row] = ids[int(asked.heard(found.prior).log_p.argmax())]
        places, said = asked.turns[0]
        at = int(said.argmax())
        came[row] = alphabet[at], ids[[*places, len(places)][at]]
    return answers, came


def _menu(session: Session, item: Item, turn: int) -> Menu:
    """Return an item's menu in an order: candidates, or all categories, reversed in turn 1."""
    found, plan = session.evidence, session.task.plan
    if found is None:
        leaves = list(plan.taxonomy.leaves)
        return plan.fresh_menu(leaves[::-1] if turn else leaves)
    chosen = found.candidates(found.known(item))
    return found.menu([chosen[i] for i in found.order(item, len(chosen), turn)])


def _with_prompt(session: Session, ref: str) -> Task:
    """Return the session's task with another prompt."""
    task = session.task
    return Task(
        plan=task.plan,
        prompt=templates.load(ref),
        about=task.about,
        constraint=task.constraint,
        mass_sample=0,
        room=task.room,
        columns=task.columns,
    )


async def _asked(
    session: Session, task: Task, items: Sequence[Item], menu: Callable[[Item], Menu]
) -> dict[int, str]:
    """Ask one menu of each item; return the answers by row."""

    def walk(item: Item) -> Walk:
        return (yield from offer(menu(item)))

    found = classify(
        items, replace(task, mass_sample=0), session.engine, memory=Forgetful(), walks=walk
    )
    return {v.item.row: v.scores.label async for v in found if v.scores is not None}


def _alone(session: Session, items: Sequence[Item]) -> int:
    """Return how many retrieval alone has right."""
    found = session.evidence
    retriever = found.retriever if found is not None else None
    if retriever is None:
        retriever = Retriever(session.taxonomy, encoders_of("auto"))
    best = Pool().scorers(retriever(items)).argmax(axis=1)
    return sum(retriever.ids[k] == item.gold for k, item in zip(best.tolist(), items, strict=True))
