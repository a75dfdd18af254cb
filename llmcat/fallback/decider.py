"""The decider of a fallback run; what it adds to the store, and the mixture fitted on that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.annotations.store import Label, key_of
from llmcat.calibration import thresholds
from llmcat.evidence import mixture
from llmcat.evidence.mixture import MIN_STORED_P, Mixture, ModelOutputs
from llmcat.fallback.policy import SURE, Line
from llmcat.records import NONE, Decided, Item, RowResult, Scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.annotations.store import Opinion

__all__ = ["FallbackDecider", "fitted", "labels_of"]

Array = np.ndarray[Any, Any]


LEAST_CHECKS = 40
"""Checked opinions in all, or no line is drawn for what the model had a say in."""


def fitted(opinions: Iterable[Opinion], named: Iterable[str]) -> Mixture:
    """Return the mixture that checked opinions make for a primary that can name these."""
    return mixture.fit(list(_usable(opinions, frozenset(named))))


def _usable(
    opinions: Iterable[Opinion], named: frozenset[str]
) -> Iterator[tuple[ModelOutputs, str]]:
    """Yield what was said of checked texts, as a primary that can name these would have it."""
    for opinion in opinions:
        said, gold = ModelOutputs.of(opinion.said).among(named), opinion.gold
        if not said.p or (gold in named and gold not in opinion.named):
            continue  # nothing is left of it, or its category has become known since
        faint = ({gold, *said.q} & named & opinion.named) - said.p.keys()
        if faint:  # so little that it was not written down
            said = replace(said, p={**said.p, **dict.fromkeys(sorted(faint), MIN_STORED_P / 2)})
        yield said, gold


@dataclass
class FallbackDecider:
    """Decides in a fallback run (see `pipeline.decode.Decider`); without a line all is labelled.

    `alone`: what the primary decides is accepted, its line is proved. `together` is the line of the
    mixture's answers, inf for none. What is degraded is never accepted.
    """

    lined: bool = False
    alone: bool = False
    together: float = math.inf
    said: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        named: Iterable[str],
        first: Line,
        opinions: Iterable[Opinion],
        *,
        precision: float,
        risk: float,
    ) -> tuple[FallbackDecider, Mixture | None]:
        """Draw the line of what the model had a say in, by checked opinions.

        Also returns the mixture that the line is drawn for, fitted on half of them only; None where
        they are too few. `named` are the categories that the primary can name.
        """
        pairs = list(_usable(opinions, frozenset(named)))
        line, made = math.inf, None
        if len(pairs) >= LEAST_CHECKS:
            fit, other = pairs[::2], pairs[1::2]
            options: dict[str, Any] = {"precision": precision, "risk": risk}
            made = mixture.fit(fit)
            tried = thresholds.sequence(*_results(made, fit), gating=len(other), **options)
            line = thresholds.choose(*_results(made, other), tried, **options).threshold
        mixed = (
            f"of what the model had a say in, {precision:.4g} too, by {len(pairs):,} checks"
            if math.isfinite(line)
            else f"what the model had a say in is to review: {len(pairs):,} checks prove no line"
        )
        return cls(True, first.proved, line, (first.promise, mixed)), made

    @property
    def key(self) -> str:
        """What shapes its decisions."""
        return "lined" if self.lined else ""

    def decide(self, item: Item, scores: Scores) -> Decided:  # noqa: ARG002
        """Decide: accept, review or none behind a line, else the best label."""
        none = scores.label == NONE
        if not self.lined:
            return Decided("none" if none else "labelled", scores)
        sources = scores.sources or {}
        line = self.together
        if "model" not in sources:
            line = -math.inf if self.alone and sources.get("why") == SURE else math.inf
        if sources.get("degraded") or (scores.confidence or 0.0) < line:
            return Decided("review", scores)
        return Decided("none" if none else "accept", scores)

    def watch(self, result: RowResult) -> None:
        """Nothing to learn from it."""

    def guarantees(self) -> list[str]:
        """Say what is promised of what is accepted."""
        return list(self.said)

    def remarks(self, mass: float | None = None) -> list[str]:  # noqa: ARG002
        """Nothing was watched for."""
        return []


def _results(made: Mixture, pairs: Sequence[tuple[ModelOutputs, str]]) -> tuple[Array, Array]:
    """Return the mixture's confidence in each item, and whether it is right."""
    sure, right = [], []
    for said, gold in pairs:
        p = made(said)
        label = max(p, key=p.__getitem__)
        sure.append(p[label])
        right.append(label == gold)
    return np.array(sure), np.array(right, dtype=bool)


def labels_of(
    result: RowResult, *, model: str, primary: str, prompt: str, taxonomy: str
) -> tuple[list[Label], dict[str, Any]]:
    """Return what a result adds to the store: each source's word, and what both said.

    The confidence of the model's word is the chance that it is right by the mixture: calibrated.
    """
    scores, item = result.scores, result.item
    if scores is None or scores.sources is None or scores.sources["degraded"]:
        return [], {}
    key = key_of(item.content)
    common = Label(key, "", "primary", item.id, prompt=prompt, taxonomy=taxonomy)
    found = []
    said = scores.sources
    if (first := said["primary"]) is not None:
        found.append(
            replace(
                common, label=first["label"], confidence=first["p"], by=primary, firm=first["firm"]
            )
        )
    opinions = {}
    if "model" in said:
        found.append(
            replace(
                common,
                source="model",
                label=said["model"]["label"],
                confidence=said["model"]["chance"],
                by=model,
            )
        )
        opinions[key] = said["said"]
    return found, opinions
