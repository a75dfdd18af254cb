"""A bound on what a session may use, which requests in flight cannot pass.

Each request in flight is taken to use as much as the dearest one so far; until the first answer has
come, one is asked at a time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcat.config import RunConfig
    from llmcat.records import Answer, Usage

__all__ = ["Budget"]


@dataclass(slots=True)
class Budget:
    """At most so many requests, tokens (read and generated) and US dollars; 0 is no bound.

    `price_per_hour` is the server's, which goes on while it answers.
    """

    requests: int = 0
    tokens: int = 0
    cost: float = 0.0
    price_per_hour: float = 0.0
    dearest: tuple[float, float] = (0.0, 0.0)
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, config: RunConfig) -> Budget | None:
        """Return the bounds of the settings, None where there are none."""
        if not (config.max_requests or config.max_tokens or config.max_cost):
            return None
        return cls(config.max_requests, config.max_tokens, config.max_cost, config.price_per_hour)

    def allows(self, asked: int, flying: int, used: Usage) -> bool:
        """Tell whether another request may begin: so many are answered, so many in flight."""
        if self.requests and asked + flying >= self.requests:
            return False
        spent = (used.prompt + used.generated, used.cost + self._rent())
        for bound, so_far, most in zip((self.tokens, self.cost), spent, self.dearest, strict=True):
            if bound and flying and not asked:
                return False
            if bound and so_far + (flying + 1) * most > bound:
                return False
        return True

    def note(self, answer: Answer) -> None:
        """Note what a request used."""
        used = answer.usage
        rent = self.price_per_hour * answer.seconds / 3600
        tokens, cost = self.dearest
        self.dearest = max(tokens, used.prompt + used.generated), max(cost, used.cost + rent)

    def _rent(self) -> float:
        return self.price_per_hour * (time.monotonic() - self.started) / 3600
