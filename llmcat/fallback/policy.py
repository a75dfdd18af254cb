"""What the router decides by: the policy, the primary's line, where each category stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.calibration import thresholds
from llmcat.fallback import promotion
from llmcat.students.model import OutOfFold, Student

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.annotations.store import LabelStore
    from llmcat.fallback.promotion import Standing
    from llmcat.students.novelty import Novelty
    from llmcat.taxonomy.tree import Taxonomy

__all__ = [
    "PLENTY",
    "PRECISION",
    "SURE",
    "Background",
    "Line",
    "Policy",
    "line_of",
    "standings",
]


PRECISION = 0.9
"""The precision asked of the primary, and of a category before it is promoted."""


PLENTY = 10
"""With so many checked examples in training a category begins with the primary's trust."""


SURE = "sure"
"""Why the model is not asked, where there is no reason to."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When the model is asked: see the settings of the same names."""

    precision: float = PRECISION
    risk: float = 0.05
    max_distance: float = 0.98
    cold_threshold: float = 0.2

    @property
    def key(self) -> str:
        """What it is in a run's identity, where the words of 0.1 stay."""
        return (
            f"Policy(precision={self.precision!r}, risk={self.risk!r}, "
            f"unlike={self.max_distance!r}, near={self.cold_threshold!r})"
        )


@dataclass(frozen=True)
class Background:
    """What is known of a primary beside its answers.

    `held`: what it said of labelled items that it was not trained on. `checked`: its checked
    training examples by category, None if that is unknown.
    """

    held: OutOfFold | None = None
    novelty: Novelty | None = None
    checked: Mapping[str, int] | None = None

    @classmethod
    def of_student(cls, student: Student) -> Background:
        """Return what a student keeps of its training."""
        return cls(student.held, student.novelty, student.manifest.checked)


@dataclass(frozen=True, slots=True)
class Line:
    """Above which confidence the primary decides; `promise` says what that is worth."""

    threshold: float
    promise: str
    proved: bool = False


def line_of(held: OutOfFold | None, policy: Policy) -> Line:
    """Return above which confidence the primary decides, and what is promised of it.

    By what it said of items that it was not trained on: of its answers above the line, to items of
    categories that it knows, at least the precision is right (see `llmcat.calibration.thresholds`).
    Where nothing proves a line, the precision itself is one, and nothing is promised.
    """
    if held is None:
        return Line(policy.precision, "the primary's confidence is believed as it is")
    sure = np.array(held.confidence)
    right = np.array([a == b for a, b in zip(held.label, held.gold, strict=True)], dtype=bool)
    half = np.random.default_rng(0).permutation(len(sure)) % 2 == 0
    options: dict[str, Any] = {"precision": policy.precision, "risk": policy.risk}
    tried = thresholds.sequence(sure[half], right[half], gating=int((~half).sum()), **options)
    line = thresholds.choose(sure[~half], right[~half], tried, **options)
    if math.isinf(line.threshold):
        return Line(
            policy.precision,
            f"no line is proved by {len(sure):,} items it was not trained on: the primary decides "
            f"above {policy.precision:.4g}, and nothing is promised",
        )
    return Line(
        line.threshold,
        f"of what the primary decides in its categories at least {policy.precision:.4g} is right "
        f"(risk {policy.risk:.4g}), by {line.n:,} items it was not trained on; items of other "
        "categories that look like its own are not counted",
        proved=True,
    )


def standings(
    known: Sequence[str],
    checked: Mapping[str, int] | None,
    taxonomy: Taxonomy,
    store: LabelStore | None,
    policy: Policy,
    by: str = "",
) -> dict[str, Standing]:
    """Return where each category stands with the primary (see `promotion.State`).

    `known` are the categories it can name, `checked` as in `Background`. By the checks of what this
    primary (`by`) would have decided; the rest, and another's, say nothing of it.
    """
    hits: dict[str, list[bool]] = {}
    for check in store.checks("primary") if store else ():
        if check.firm and check.by == by:
            hits.setdefault(check.label, []).append(check.right)
    return {
        node.id: promotion.standing(
            hits.get(node.id, ()),
            gate=policy.precision,
            risk=policy.risk,
            known=node.id in known,
            trusted=checked is None or checked.get(node.id, 0) >= PLENTY,
        )
        for node in taxonomy.leaves
    }
