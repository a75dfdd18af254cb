"""Fixed rules that stand before the model: always this category, never that one, one a group.

rules:
- if: {brand: Acme, title: "*gift card*"}   # all must hold; case does not matter, * is anything
label: gift-cards                         # id, path or name of the taxonomy, or none
- if: {brand: Zeta}
never: [toys, bags]
- same: parent_sku                          # rows of one parent_sku get the first one's answer
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcat.errors import BadConfig
from llmcat.pipeline.decode import best
from llmcat.records import NONE, Decided, Scores, digest

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from llmcat.candidates.walks import Walk
    from llmcat.records import Item
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["Rules"]

KEYS = {"if", "label", "never", "same"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `when` maps columns to patterns; `label` or `never` holds node ids, or `none`."""

    number: int
    when: tuple[tuple[str, re.Pattern[str], str], ...] = ()
    label: str = ""
    never: frozenset[str] = frozenset()
    same: str = ""

    def fits(self, item: Item) -> bool:
        """Tell whether all its conditions hold."""
        return all(pattern.fullmatch(_value(item, name)) for name, pattern, _ in self.when)

    def __str__(self) -> str:
        """Say it in words, as a row's reason does."""
        when = " and ".join(f"{name} is {text}" for name, _, text in self.when)
        return f"rule {self.number}: {when}"


@dataclass(frozen=True)
class Rules:
    """The rules of a file, in their order. `fired` counts by rule how many rows it decided."""

    rules: tuple[Rule, ...]
    digest: str
    fired: Counter[int] = field(default_factory=Counter, compare=False)

    @classmethod
    def load(cls, path: str, taxonomy: Taxonomy) -> Rules:
        """Read a YAML file. Raises `BadConfig` for what is no rule, naming it."""
        import yaml

        try:
            text = Path(path).read_text("utf-8-sig")
            found = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  all as written
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise BadConfig(f"{path} cannot be read: {exc}") from exc
        if isinstance(found, dict) and set(found) == {"rules"}:
            found = found["rules"]
        if not isinstance(found, list) or not found:
            raise BadConfig(f"{path}: a list of rules is expected", hint=__doc__ or "")
        rules = tuple(_rule(path, n, value, taxonomy) for n, value in enumerate(found, 1))
        return cls(rules, digest(text))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the rules look at."""
        named = [name for rule in self.rules for name, _, _ in rule.when]
        return tuple(dict.fromkeys([*named, *(rule.same for rule in self.rules if rule.same)]))

    def fixed(self, item: Item) -> Decided | None:
        """Return what a rule decides about an item, None where the model is to be asked."""
        for rule in self.rules:
            if rule.label and rule.fits(item):
                self.fired[rule.number] += 1
                scores = Scores(rule.label, {}, None, "label_only", note=str(rule))
                return Decided("none" if rule.label == NONE else "labelled", scores)
        return None

    def touch(self, item: Item) -> bool:
        """Tell whether a rule may have had a say in an item's answer."""
        return any(_value(item, r.same) if r.same else r.fits(item) for r in self.rules)

    def key(self, item: Item) -> str:
        """Return what an answer is shared by: the group, else the text and what it may not be."""
        groups = ((rule.same, _value(item, rule.same)) for rule in self.rules if rule.same)
        shared = next(("\0".join(group) for group in groups if group[1]), item.content)
        return "\0".join([shared, *sorted(self._never(item))])

    def walk(self, item: Item, inner: Walk) -> Walk:
        """Walk as without rules; a category that an item may never get gives way to the next."""
        never = self._never(item)
        return inner if not never else self._without(inner, never)

    def _never(self, item: Item) -> dict[str, Rule]:
        return {
            id_: rule for rule in self.rules if rule.never and rule.fits(item) for id_ in rule.never
        }

    def _without(self, inner: Walk, never: Mapping[str, Rule]) -> Generator[Any, Any, Scores]:
        scores = yield from inner
        if scores.several is not None:
            kept = tuple(id_ for id_ in scores.several if id_ not in never)
            lost = [id_ for id_ in scores.several if id_ in never]
            made = replace(scores, several=kept, label=kept[0] if kept else NONE)
        else:
            lost = [scores.label] if scores.label in never else []
            ranked = best(scores, len(never) + 1) if scores.kind != "label_only" else []
            label = next((id_ for id_ in ranked if id_ not in never), NONE)
            if label != NONE and scores.p[label] < (scores.p_none or 0.0):
                label = NONE
            made = replace(scores, label=label, chance=None)
            if label == NONE and scores.kind != "label_only" and scores.p_none is None:
                made = replace(made, p_none=0.0)
        if not lost:
            return scores
        rule = never[lost[0]]
        self.fired[rule.number] += 1
        note = "; ".join(filter(None, [scores.note, f"not {lost[0]}: {rule}"]))
        return replace(made, note=note)

    def remarks(self) -> list[str]:
        """Say how often each rule decided."""
        return [f"{rule}: {self.fired[rule.number]:,} rows" for rule in self.rules if not rule.same]


def _rule(path: str, number: int, value: Any, taxonomy: Taxonomy) -> Rule:
    where = f"{path}: rule {number}"
    if not isinstance(value, dict) or not set(map(str, value)) <= KEYS:
        raise BadConfig(f"{where} is not one", hint=f"its keys are of {', '.join(sorted(KEYS))}")
    if "same" in value:
        if len(value) > 1 or not isinstance(value["same"], str):
            raise BadConfig(f"{where}: `same` names a column, and stands alone")
        return Rule(number, same=value["same"])
    when = value.get("if")
    if not isinstance(when, dict) or not when or ("label" in value) == ("never" in value):
        raise BadConfig(f"{where} needs `if: {{column: value}}`, and `label` or `never`")
    conditions = tuple(
        (str(name), re.compile(".*".join(map(re.escape, _folded(str(text)).split("*")))), str(text))
        for name, text in when.items()
    )
    named = value.get("label", value.get("never"))
    labels = named if isinstance(named, list) else [named]
    ids = [taxonomy.resolve(str(label)) for label in labels]
    if None in ids:
        lost = labels[ids.index(None)]
        raise BadConfig(f"{where}: {lost!r} is not in the taxonomy")
    if "label" in value:
        if len(ids) != 1:
            raise BadConfig(f"{where}: `label` is one category")
        return Rule(number, conditions, label=str(ids[0]))
    return Rule(number, conditions, never=frozenset(map(str, ids)) - {NONE})


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _value(item: Item, column: str) -> str:
    """Return what an item has in a column, as rules compare it."""
    return _folded(item.fields.get(column) or item.kept.get(column) or "")
