"""When a category is the classifier's: by checks that come one after the other, at any time.

A category is promoted when its checks are evidence that the classifier's precision is above the
gate: a test martingale, valid however often it is looked at (Ville 1939; Robbins 1970: a mixture
of likelihood ratios over precisions above the gate). It is demoted on an alarm of Page's CUSUM
(Page 1954) for twice the errors that the gate allows. Pure functions: this module does not
know students, stores or engines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Standing", "evidence", "standing", "still_needed"]

ALARM = 1000.0
"""Checks between two false alarms, at least, on average (Lorden 1971, theorem 2)."""
State = Literal["no_examples", "probation", "trusted", "promoted", "demoted"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a category stands. `right` of `checks` since the last change were right.

    `evidence` is how far it is on its way to promotion, 1 when it is there; `alarm` on its way to
    demotion.
    """

    state: State
    checks: int = 0
    right: int = 0
    evidence: float = 0.0
    alarm: float = 0.0

    @property
    def decides(self) -> bool:
        """Whether the classifier decides."""
        return self.state in {"trusted", "promoted"}


def evidence(right: int, wrong: int, gate: float) -> float:
    """Return the log of a test martingale against `precision <= gate`.

    The mean of the likelihood ratios of all precisions above the gate, each counting alike, to
    the gate's own: it reaches `log(1 / risk)` ever with a chance of at most `risk` if the precision
    is the gate or less.
    """
    from scipy.special import betainc, betaln

    a, b = right + 1.0, wrong + 1.0
    above = 1.0 - float(betainc(a, b, gate))
    if above <= 0:
        return -math.inf
    mean = float(betaln(a, b)) + math.log(above) - math.log(1.0 - gate)
    return mean - right * math.log(gate) - wrong * math.log1p(-gate)


def standing(
    checks: Iterable[bool], *, gate: float, risk: float, known: bool, trusted: bool
) -> Standing:
    """Return where a category stands after checks of the classifier's word for it, in their order.

    `known`: the classifier can name it. `trusted`: it was trained on enough checked examples to
    begin as trusted; it can be demoted.
    """
    if not known:
        return Standing("no_examples")
    state: State = "trusted" if trusted else "probation"
    right = wrong = 0
    alarm, reached = 0.0, 0.0
    bad = min(2 * (1 - gate), (1 + (1 - gate)) / 2)
    step = {True: math.log((1 - bad) / gate), False: math.log(bad / (1 - gate))}
    for hit in checks:
        right, wrong = right + hit, wrong + (not hit)
        if state in {"trusted", "promoted"}:
            alarm = max(0.0, alarm + step[bool(hit)])
            if alarm >= math.log(ALARM):
                state, right, wrong, alarm = "demoted", 0, 0, 0.0
        elif evidence(right, wrong, gate) >= math.log(1 / risk):
            state, right, wrong, alarm = "promoted", 0, 0, 0.0
    if state not in {"trusted", "promoted"} and right + wrong:
        reached = max(0.0, evidence(right, wrong, gate)) / math.log(1 / risk)
    return Standing(state, right + wrong, right, reached, alarm / math.log(ALARM))


def still_needed(checks: int, right: int, *, gate: float, risk: float) -> int:
    """Return how many more checks promote a category, if all of them are right."""
    wrong = checks - right
    more = 0
    while evidence(right + more, wrong, gate) < math.log(1 / risk):
        more += 1
    return more
