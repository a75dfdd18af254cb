"""A probability for every category, as a mapping over one array: thousands of them stay cheap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Columns", "Posterior", "best_of"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Columns:
    """Category ids, and the column of each."""

    ids: tuple[str, ...]
    at: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the ids."""
        object.__setattr__(self, "at", {id_: i for i, id_ in enumerate(self.ids)})


class Posterior(Mapping[str, float]):
    """Category id -> probability; `p` has the shape `(categories,)`."""

    __slots__ = ("columns", "p")

    def __init__(self, columns: Columns, p: Array) -> None:
        """Wrap an array."""
        self.columns, self.p = columns, p

    def __getitem__(self, id_: str) -> float:
        """Return a category's probability."""
        return float(self.p[self.columns.at[id_]])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids."""
        return iter(self.columns.ids)

    def __len__(self) -> int:
        """Return the number of categories."""
        return len(self.columns.ids)

    def top(self, count: int) -> list[str]:
        """Return the ids with the highest probabilities, best first; ties in taxonomy order."""
        return [self.columns.ids[i] for i in best_of(self.p, count)]


def best_of(values: Array, count: int) -> list[int]:
    """Return the columns of the highest values, best first; ties in the order of the columns."""
    if count >= len(values):
        return [int(i) for i in np.argsort(-values, kind="stable")]
    least = np.partition(values, len(values) - count)[len(values) - count]
    some = np.flatnonzero(values >= least)
    return [int(i) for i in some[np.argsort(-values[some], kind="stable")][:count]]
