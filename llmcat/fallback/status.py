"""Where each category stands."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcat.annotations.store import LabelStore
from llmcat.fallback.assemble import Opened, policy_of
from llmcat.fallback.policy import PLENTY

if TYPE_CHECKING:
    from llmcat.config import RunConfig
    from llmcat.fallback.promotion import Standing
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["status"]


@dataclass(frozen=True, slots=True)
class Status:
    """Where a category stands. Labels by source; agreement of primary and model, of how many.

    `examples` are the checked ones that a student can learn from; `missing` how many of them, or
    right checks, it takes until the primary decides.
    """

    label: str
    standing: Standing
    labels: dict[str, int]
    agree: int
    both: int
    examples: int
    missing: int


def status(
    config: RunConfig, taxonomy: Taxonomy, opened: Opened, store: LabelStore
) -> list[Status]:
    """Return where each category stands."""
    from llmcat.fallback.promotion import still_needed

    policy = policy_of(config)
    counts = store.counts()
    agreement = store.agreement()
    checked = Counter(label.label for label in store.holding("person", "gold"))
    found = []
    for node in taxonomy.leaves:
        one = opened.standings[node.id]
        agree, both = agreement.get(node.id, (0, 0))
        missing = 0
        if one.state == "no_examples":
            missing = max(0, PLENTY - checked[node.id])
        elif not one.decides:
            by_checks = still_needed(one.checks, one.right, gate=policy.precision, risk=policy.risk)
            by_examples = max(0, PLENTY - checked[node.id])
            missing = min(by_checks, by_examples) if one.state == "probation" else by_checks
        found.append(
            Status(
                node.id,
                one,
                {source: n for source, n in counts.get(node.id, {}).items() if n},
                agree,
                both,
                checked[node.id],
                missing,
            )
        )
    return found
