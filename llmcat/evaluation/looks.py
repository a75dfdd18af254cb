"""Looks at a question: a second one on the same items is no independent test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from llmcat.errors import BadConfig, JournalError
from llmcat.evaluation.comparison import Question
from llmcat.evaluation.paired import ALPHA
from llmcat.evaluation.run_folder import Look, Registry
from llmcat.records import digest
from llmcat.storage import now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.evaluation.opening import Opened
    from llmcat.evaluation.schema import RunRecord

__all__ = ["key_of", "noted", "planned", "rule_of", "second_look", "worn"]


def rule_of(question: Question) -> str:
    """Return what a question decides by, as the registry keeps it."""
    rule = question.rule
    return f"{question.metric} {rule.min_effect} {rule.non_inferior}"


def planned(
    registry: Registry, path: Path, record: RunRecord, question: Question, one: Opened
) -> tuple[Question, list[str]]:
    """Find the looks there were at this question; refuse one that the plan does not allow.

    Returns the question with the sizes so far, and remarks.
    """
    n, items, rule = len(one.labelled.items), one.labelled.digest, rule_of(question)
    every, others = registry.looks(key_of(record)), registry.others(key_of(record), items)
    if not question.looks:
        return question, second_look(every, items, rule) + worn(others)
    hint = "label new items, and compare the arms on these alone in another --runs folder"
    for look in every:
        if look.planned != question.looks or look.rule != rule:
            plan = f"with {look.planned} looks planned" if look.planned else "without a plan"
            was = "" if look.rule == rule else " by another rule"
            raise BadConfig(f"this question was looked at {plan}{was} on {look.at[:10]}", hint=hint)
    again = next((look for look in every if look.items == items), None)
    earlier = [look for look in every if again is None or look.n < again.n]
    for look in earlier:
        if look.n >= n or not _contains(one, path, look):
            raise BadConfig(
                f"the {look.n:,} items of the look of {look.at[:10]} are not all among these {n:,}",
                hint="a further look adds items to the same ones",
            )
    if len(earlier) >= question.looks:
        raise BadConfig(f"all {question.looks} looks have been taken", hint=hint)
    sizes = (*sorted(look.n for look in earlier), n)
    planned = replace(question, sizes=sizes)
    remark = (
        f"look {len(sizes)} of {question.looks}: the interval that decides is at "
        f"{100 * (1 - planned.level(ALPHA)):.2f} %"
    )
    return planned, [remark, *worn(others)]


def worn(others: int) -> list[str]:
    """Say what items are worth that other arms were compared on before."""
    if not others:
        return []
    times = f"{others:,} time{'s' * (others > 1)}"
    return [
        f"WARNING: other arms were compared on these items {times} before: an arm that was edited "
        "after seeing their mistakes looks better here than it is; decide on items kept back"
    ]


def second_look(every: Sequence[Look], items: str, rule: str) -> list[str]:
    """Say what an unplanned look is worth after others."""
    for look in reversed(every):
        when = f"({look.at[:10]}, {look.n:,} items)"
        if look.planned:
            return [
                f"WARNING: {look.planned} looks at this question were planned {when}; without "
                "--interim-looks this one is not among them, and errs more often than it says"
            ]
        if (look.items, look.rule) != (items, rule):
            how = "" if look.rule == rule else "by another rule "
            return [
                f"WARNING: this question was looked at before {how}{when}: unless all items are "
                "new ones, a second look is not a fresh test, and errs more often than 5 %; "
                "--interim-looks K plans several"
            ]
    return []


def _contains(one: Opened, path: Path, look: Look) -> bool:
    """Tell whether an earlier look's items are among these, by the folder it left."""
    folder = Path(look.run) if Path(look.run).is_dir() else path.parent / Path(look.run).name
    try:
        with (folder / "items.jsonl").open("rb") as lines:
            before = {_short(orjson.loads(line)) for line in lines}
    except OSError as exc:
        raise JournalError(f"the items of an earlier look are gone: {exc}") from exc
    these = {
        _short({"id": i.id, "gold": i.gold, "fields": dict(i.fields)}) for i in one.labelled.items
    }
    return before <= these


def _short(item: Mapping[str, Any]) -> str:
    return digest(item["id"], item["gold"], *item["fields"].values())


def noted(registry: Registry, path: Path, record: RunRecord, question: Question) -> None:
    """Note in the registry that a question was looked at."""
    n, items = record["items"]["n"], record["identity"]["items"]
    look = Look(rule_of(question), question.looks, n, items, str(path.resolve()), now())
    registry.look(key_of(record), look)


def key_of(record: RunRecord) -> str:
    """Return what makes two comparisons the same question: the arms, whatever they are called.

    Neither the items nor the rule: another rule is another look.
    """
    arms = (digest(*(f"{k}={v}" for k, v in sorted(arm["identity"].items())))
            for arm in record["arms"].values())  # fmt: skip
    return digest(*sorted(arms))
