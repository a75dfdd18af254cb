"""What a run did, counted while it runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llmcat.pipeline.loop import Tally

if TYPE_CHECKING:
    from llmcat.annotations.answers import Answers
    from llmcat.pipeline.session import Session
    from llmcat.records import RowResult

__all__ = ["Summary"]

KINDS = 100
"""Reasons of errors that are counted apart."""


@dataclass(slots=True)
class Summary:
    """What a run did. `seconds` and `asked` are this session's, `decisions` the whole file's.

    `collapse` is set where the answers hardly depended on the items (`llmcat.pipeline.collapse`).
    """

    out: str
    decisions: Counter[str] = field(default_factory=Counter)
    cleaned: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)
    resumed: int = 0
    copied: int = 0
    written: int = 0
    seconds: float = 0.0
    double_ids: int = 0
    double_id: str = ""
    foreign_gold: int = 0
    price_per_hour: float = 0.0
    interrupted: bool = False
    spent: bool = False
    already_done: bool = False
    resumable: bool = True
    promises: list[str] = field(default_factory=list)
    collapse: dict[str, Any] | None = None
    parts: dict[str, int] = field(default_factory=dict)

    def count(self, result: RowResult) -> None:
        """Count a decision, and an error by its reason: of ever new ones the first hundred."""
        self.decisions[result.decision] += 1
        reason = result.reason or ""
        if result.decision == "error" and (reason in self.errors or len(self.errors) < KINDS):
            self.errors[reason] += 1

    @property
    def rows(self) -> int:
        """All rows of the file."""
        return self.decisions.total()

    @property
    def cost(self) -> float | None:
        """The server's price for this session's time, and what a provider took for its tokens.

        None if no price is known.
        """
        return self.price_per_hour * self.seconds / 3600 + self.tally.usage.cost or None

    def conclude(self, session: Session, answers: Answers | None) -> None:
        """Note what a calibrated run promises, whether it has drifted, and whether it collapsed.

        `answers` went into a label store, which is closed.
        """
        decider, rules = session.decider, session.rules
        decided = self.decisions.total() - self.decisions["error"]
        said = decider.guarantees()
        if said and decided:
            share = 1 - self.decisions["review"] / decided
            said.append(f"coverage {share:.1%}: {self.decisions['review']:,} items to review")
        said += rules.remarks() if rules is not None else []
        said += session.evidence.sight.remarks() if session.evidence is not None else []
        seen = decider.remarks(self.tally.mass)
        self.promises = said + [
            f"{text} (of this session)" if self.resumed else text for text in seen
        ]
        if answers is not None:
            self.promises.append(f"{answers.count:,} answers are in {answers.store.path}")
            answers.store.close()
        found = self.tally.watch.finding()
        self.collapse = found.record() if found else None

    def record(self) -> dict[str, Any]:
        """Return this session for the run's record."""
        return {
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "resumed_at_row": self.resumed,
            "rows_written": self.written,
            "rows_copied": self.copied,
            "seconds": round(self.seconds, 3),
            "decisions": dict(self.decisions),
            "cleaned": dict(self.cleaned),
            "duplicate_ids": self.double_ids,
            "cost": self.cost,
            "promises": self.promises,
            "collapse": self.collapse,
            "asks": self.tally.record(),
            "files": self.parts,
        }
