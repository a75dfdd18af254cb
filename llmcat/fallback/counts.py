"""What the rows of a run came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


__all__ = ["Counts"]


@dataclass
class Counts:
    """Who decided how often in a run.

    `failed`, `answered`: batches that the primary could not answer, and that it did.
    """

    decided: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    degraded: int = 0
    failed: int = 0
    answered: int = 0

    def add(self, sources: Mapping[str, Any]) -> None:
        """Count a decision by what its sources said."""
        self.decided[sources["by"]] += 1
        self.asked += "model" in sources
        self.degraded += sources["degraded"]

    def summary(self) -> list[str]:
        """Say who decided."""
        total = self.decided.total()
        if not total:
            return []
        by = ", ".join(f"{name} {n:,}" for name, n in self.decided.most_common())
        said = [f"asked the model about {self.asked:,} of {total:,} ({self.asked / total:.1%}); "
                f"decided by {by}"]  # fmt: skip
        if self.degraded:
            said.append(
                f"WARNING: {self.degraded:,} rows are degraded, the model was away: "
                "--redo degraded asks again"
            )
        if self.failed:
            said.append(f"WARNING: the primary could not answer {self.failed:,} batches")
        return said
