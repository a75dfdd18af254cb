"""Labels to an artifact: place prior, weights, none rule and the line above which nobody is asked.

All from what was kept of labelled items while they were asked about once: nothing is asked again.
This module does not know engines, prompts or files of items.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.evidence import place_prior, pool
from llmcat.evidence.escalation import sure_line
from llmcat.evidence.pool import Pool
from llmcat.retrieval.scorers import Signals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.evidence.gather import Gathered
    from llmcat.evidence.pool import Heard

__all__ = ["Learnt", "learn", "parted", "usual_share"]

Array = np.ndarray[Any, Any]

LEAST_READINGS = 40
"""Answers from which on the labelled items' own place prior replaces that of reference items."""


@dataclass(frozen=True)
class Learnt:
    """What was learnt, and what it makes of every item.

    `p` has shape `(items, categories + 1)`, `none` last. `line`: the scorers' best probability
    above which the reader was not missed. `first`: the weights by which candidates were chosen.
    """

    pool: Pool
    first: Pool
    prior: Array | None
    p: Array
    line: float


def parted(groups: Sequence[int], share: float, seed: int) -> Array:
    """Return which items fit, about `share` of them; a group is on one side."""
    order = np.random.default_rng(seed).permutation(np.unique(groups)).tolist()
    sizes = Counter(groups)
    wanted, taken, first = share * len(groups), 0, set()
    for group in order:
        if taken + sizes[group] / 2 <= wanted:
            first.add(group)
            taken += sizes[group]
    return np.array([group in first for group in groups], dtype=bool)


def usual_share(n: int) -> float:
    """Return how much of n labelled items weights are learnt from, where nobody says.

    About a third, of few items up to a half: drawing a line takes more labels than learning weights
    that are held to defaults (docs/decisions/0012-lines.md).
    """
    return min(0.5, max(0.35, 100 / n))


def learn(
    kept: Gathered,
    rows: Sequence[int],
    columns: Array,
    groups: Sequence[int],
    first: Array,
    *,
    start: Pool,
    prior: Array | None,
    seed: int = 0,
) -> Learnt:
    """Learn from the items of `first`; draw the line on the others.

    `rows` names the items in `kept`; `columns` holds each one's category, -1 for none. `start` and
    `prior` are what was used while asking.
    """
    signals = Signals.stacked([kept.signals[row] for row in rows])
    asked = [kept.asked[row] for row in rows]
    said = [one.turns[0][1] for one, fits in zip(asked, first, strict=True) if one and fits]
    if len(said) >= LEAST_READINGS and len({len(one) for one in said}) == 1:
        prior = place_prior.estimate(said)
    heard: list[Heard | None] = [one.heard(prior) if one else None for one in asked]
    fitting = np.flatnonzero(first)
    made = pool.fit(
        signals.some(fitting),
        [heard[i] for i in fitting.tolist()],
        columns[fitting],
        [groups[i] for i in fitting.tolist()],
        start=start,
        seed=seed,
    )
    p, alone = _all(made, signals, heard), _all(made, signals, [None] * len(rows))
    gold = np.where(columns >= 0, columns, p.shape[1] - 1)
    sure = np.exp(made.scorers(signals).max(axis=1))
    rest = ~first
    line = sure_line(
        sure[rest], alone.argmax(axis=1)[rest] == gold[rest], p.argmax(axis=1)[rest] == gold[rest]
    )
    return Learnt(made, start, prior, p, line)


def _all(made: Pool, signals: Signals, heard: Sequence[Heard | None]) -> Array:
    p, none = made(signals, heard)
    return np.column_stack([p, none])
