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

    from llmcat.evidence.gather import Asked, Gathered
    from llmcat.evidence.pool import Heard

__all__ = ["Learnt", "learn", "parted"]

Array = np.ndarray[Any, Any]

LEAST_READINGS = 40
"""Answers from which on the labelled items' own place prior replaces that of reference items."""


@dataclass(frozen=True)
class Learnt:
    """What was learnt, and what it, or what the other folds teach, makes of every item.

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


def learn(
    kept: Gathered,
    rows: Sequence[int],
    columns: Array,
    groups: Sequence[int],
    first: Array | None,
    *,
    start: Pool,
    prior: Array | None,
    seed: int = 0,
) -> Learnt:
    """Learn from the items of `first`, and judge all of them by that.

    With None for `first` everything is learnt from all items, and each is judged by what the folds
    teach that it is not in. `rows` names the items in `kept`; `columns` holds each one's category,
    -1 for none. `start` and `prior` are what was used while asking.
    """
    signals = Signals.stacked([kept.signals[row] for row in rows])
    asked = [kept.asked[row] for row in rows]

    def taught(by: Array) -> tuple[Pool, Array | None]:
        return _taught(signals, asked, columns, groups, by, start=start, prior=prior, seed=seed)

    every = np.arange(len(rows))
    if first is None:
        part = pool.folds_of(groups, seed)
        made, places = taught(every)
        judged = [(part == k, *taught(np.flatnonzero(part != k))) for k in np.unique(part)]
        drawn = every
    else:
        made, places = taught(np.flatnonzero(first))
        judged, drawn = [(np.ones(len(rows), dtype=bool), made, places)], np.flatnonzero(~first)
    p, alone = (
        np.zeros((len(rows), next(iter(signals.scores.values())).shape[1] + 1)) for _ in "ab"
    )
    for some, by, at in judged:
        here = signals.some(np.flatnonzero(some))
        said = [one for one, there in zip(asked, some, strict=True) if there]
        p[some] = _all(by, here, [one.heard(at) if one else None for one in said])
        alone[some] = _all(by, here, [None] * len(said))
    gold = np.where(columns >= 0, columns, p.shape[1] - 1)
    right, without = (of.argmax(axis=1) == gold for of in (p, alone))
    sure = np.exp(made.scorers(signals).max(axis=1))
    line = sure_line(sure[drawn], without[drawn], right[drawn])
    return Learnt(made, start, places, p, line)


def _taught(
    signals: Signals,
    asked: Sequence[Asked | None],
    columns: Array,
    groups: Sequence[int],
    by: Array,
    *,
    start: Pool,
    prior: Array | None,
    seed: int,
) -> tuple[Pool, Array | None]:
    """Return the pool and the place prior that the items of the rows `by` teach."""
    some = [asked[i] for i in by.tolist()]
    said = [one.turns[0][1] for one in some if one]
    if len(said) >= LEAST_READINGS and len({len(one) for one in said}) == 1:
        prior = place_prior.estimate(said)
    made = pool.fit(
        signals.some(by),
        [one.heard(prior) if one else None for one in some],
        columns[by],
        [groups[i] for i in by.tolist()],
        start=start,
        seed=seed,
    )
    return made, prior


def _all(made: Pool, signals: Signals, heard: Sequence[Heard | None]) -> Array:
    p, none = made(signals, heard)
    return np.column_stack([p, none])
