"""A calibration to decisions: accept, review, a set of labels."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from llmcat.calibration import conformal, thresholds
from llmcat.calibration.drift import Drift, Reference
from llmcat.calibration.hierarchy import branch_of, climb, leaves_under
from llmcat.calibration.scaling import (
    ConfidenceMap,
    Scaling,
    logs,
    without_prior,
)
from llmcat.errors import BadConfig
from llmcat.records import NONE, Decided, Item, RowResult, Scores

if TYPE_CHECKING:
    from llmcat.calibration.thresholds import Gate
    from llmcat.config import RunConfig
    from llmcat.taxonomy.tree import Taxonomy
from llmcat.calibration.artifact import ALL, Array, Calibration, HoldoutScores

__all__ = ["UNCALIBRATED", "AcceptanceOptions", "Calibrated", "check"]


UNCALIBRATED = {
    "artifact": "",
    "skip_sure": False,
    "calibration": "",
    "accept_precision": 0.0,
    "by_branch": False,
    "back_off": False,
    "set_coverage": 0.0,
}
"""The settings of a run that is to be calibrated."""


@dataclass(frozen=True)
class AcceptanceOptions:
    """What a run asks of its calibration: see the settings of the same names."""

    precision: float = 0.0
    risk: float = 0.05
    by_branch: bool = False
    back_off: bool = False
    set_coverage: float = 0.0

    @classmethod
    def of(cls, config: RunConfig) -> AcceptanceOptions:
        """Return what the settings ask for."""
        return cls(
            config.accept_precision,
            config.risk,
            config.by_branch,
            config.back_off,
            config.set_coverage,
        )


@dataclass
class Calibrated:
    """The decider of a calibrated run (see `llmcat.pipeline.decode.Decider`)."""

    calibration: Calibration
    taxonomy: Taxonomy
    wanted: AcceptanceOptions
    gates: dict[str, Gate] = field(init=False)
    cut: float = field(init=False, default=math.inf)
    drift: Drift = field(init=False)
    depths: Counter[int] = field(init=False, default_factory=Counter)
    other_fields: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        """Draw the lines. Raises `BadConfig` where something asked for cannot be had."""
        made, wanted = self.calibration, self.wanted
        self.drift = Drift(Reference(made.bounds, made.counts, made.none, made.mass))
        self._scaling = Scaling(made.scaling, np.array(made.weights), np.array(made.bias))
        self._prior = np.array(made.prior if made.prior is not None else 0.0)
        self._map = ConfidenceMap(made.slope, made.intercept)
        self._under = leaves_under(self.taxonomy)
        check(wanted, self.taxonomy)
        if (wanted.set_coverage or wanted.back_off) and not made.labels:
            raise BadConfig(
                "--set-coverage and --back-off need a probability of every label",
                hint="these categories take several menus",
            )
        self.gates = self._lines() if wanted.precision else {}
        if wanted.set_coverage:
            known = [math.inf if s is None else s for s in made.gating.nonconformity]
            self.cut = conformal.cut_off(np.array(known), wanted.set_coverage)
            least = math.ceil(wanted.set_coverage / (1 - wanted.set_coverage))
            if self.cut == math.inf and len(known) < least:
                raise BadConfig(
                    f"--set-coverage {wanted.set_coverage:g} needs {least:,} gating items or more"
                )
            if self.cut == math.inf:
                most = sum(s is not None for s in made.gating.nonconformity) / len(known)
                raise BadConfig(
                    f"--set-coverage {wanted.set_coverage:g} cannot be: the right label of "
                    f"only {most:.1%} of the gating items is on the menu",
                )

    def _lines(self) -> dict[str, Gate]:
        made, wanted = self.calibration, self.wanted
        precision, risk = wanted.precision, wanted.risk
        if wanted.back_off:
            return {ALL: self._line_of_policy(precision=precision, risk=risk)}
        other, right, place = self._arrays(made.gating)
        sure, hit, branch = self._arrays(made.fitting)
        if made.crossed:  # how likely each is right, not whether it is, says where to begin
            sure, hit, branch = other, other, place
        sizes = {name: place.count(name) for name in set(branch)}
        tried = thresholds.sequences(
            sure, hit, branch, gating=sizes, precision=precision, risk=risk
        )
        return thresholds.choose_by_branch(
            other, right, place, tried, precision=precision, risk=risk
        )

    def _arrays(self, part: HoldoutScores) -> tuple[Array, Array, list[str]]:
        groups = [self._group(branch) for branch in part.branch]
        return np.array(part.confidence), np.array(part.correct, dtype=bool), groups

    def _group(self, branch: str) -> str:
        """Return whose line a decision in a branch is held to: none has one of its own."""
        return branch if self.wanted.by_branch or branch == NONE else ALL

    def _line_of_policy(self, *, precision: float, risk: float) -> Gate:
        """Draw one line for `answer the deepest category above it`."""
        made = self.calibration
        chains = made.gating.depth if made.crossed else made.fitting.depth
        levels = np.unique([m for chain in chains for m, _ in chain])
        if not len(levels):
            return thresholds.Gate(math.inf, 0, 0, len(made.gating.depth), 0.0, precision, risk)
        tried = np.unique(np.quantile(levels, np.linspace(1, 0, thresholds.STEPS)))[::-1]
        said = [[(p, p) for p, _ in chain] for chain in chains]
        n, expected = len(made.gating.depth), thresholds.policy_counts(said, tried)[1]
        counts, right = thresholds.policy_counts(chains, tried)
        start, _ = thresholds.start_of(
            counts,
            expected if made.crossed else right,
            expected,
            share=n / len(chains),
            precision=precision,
            risk=risk,
        )
        if start is None:
            return thresholds.Gate(math.inf, 0, 0, n, 0.0, precision, risk)
        tried = tried[start:]
        counts, right = thresholds.policy_counts(made.gating.depth, tried)
        return thresholds.passed(tried, counts, right, n, precision=precision, risk=risk)

    def refine(self, scores: Scores) -> Scores:
        """Return calibrated probabilities, the label they say, and its chance to be right."""
        made = self.calibration
        if scores.kind == "label_only":
            raise BadConfig("this answer has no probabilities to calibrate")
        if made.labels and scores.kind != "full":
            note = "; ".join(filter(None, (scores.note, "not calibrated: labels are missing")))
            return replace(scores, note=note)
        if not made.labels:
            confidence = scores.confidence or 0.0
            return replace(scores, chance=float(self._map([confidence])[0]))
        p = [scores.p.get(label, 0.0) for label in made.labels[:-1]]
        q = logs(np.array([[*p, scores.p_none or 0.0]]))
        if made.prior is not None:
            q = without_prior(q, self._prior)
        values = np.exp(self._scaling(q))[0]
        best = int(values.argmax())
        found = dict(zip(made.labels[:-1], values[:-1].tolist(), strict=True))
        chance = float(self._map([values[best]])[0])
        label = made.labels[best]
        return replace(scores, label=label, p=found, p_none=float(values[-1]), chance=chance)

    @property
    def key(self) -> str:
        """What shapes its decisions: the calibration, and what is asked of it."""
        wanted = self.wanted
        asked = f"{wanted.precision} {wanted.risk} {wanted.by_branch} {wanted.back_off}"
        return f"{self.calibration.digest} {asked} {wanted.set_coverage}"

    def decide(self, item: Item, scores: Scores) -> Decided:
        """Decide: accept, review or none behind a gate, else the best label."""
        raw, scores = scores, self.refine(scores)
        none = scores.label == NONE
        whole = raw.kind == "full" or not self.calibration.labels
        held = self.members(item, scores) if self.wanted.set_coverage and whole else None
        if not self.wanted.precision:
            return Decided("none" if none else "labelled", scores, held)
        if not whole:
            return Decided("review", scores, held)
        if self.wanted.back_off:
            return self._deepest(scores, held)
        line = self.gates.get(self._group(branch_of(scores.label, self.taxonomy)))
        if line is None or (scores.confidence or 0.0) < line.threshold:
            return Decided("review", scores, held)
        return Decided("none" if none else "accept", scores, held)

    def _deepest(self, scores: Scores, held: tuple[str, ...] | None) -> Decided:
        """Answer the deepest category whose probability is above the line."""
        line = self.gates[ALL].threshold
        if scores.label != NONE:
            for node, mass in climb(scores.label, scores.p, self.taxonomy, self._under):
                if mass >= line:
                    return Decided("accept", replace(scores, label=node, chance=mass), held)
        return Decided("review", scores, held)

    def watch(self, result: RowResult) -> None:
        """Count a decision, for drift and for the depth reached."""
        scores = result.scores
        if scores is None:
            return
        sure = scores.confidence
        if not self.other_fields:
            self.other_fields = set(result.item.fields) - set(self.calibration.fields)
        if self.wanted.back_off and result.decision == "accept":
            self.depths[len(self.taxonomy.nodes[scores.label].path)] += 1
            leaf = max(scores.p.get(label, 0.0) for label in self.calibration.labels[:-1])
            sure = float(self._map([leaf])[0])  # as it was when the calibration was fitted
        self.drift.add(sure, none=scores.label == NONE)

    def members(self, item: Item, scores: Scores) -> tuple[str, ...]:
        """Return an item's set: whole branches by their own id, the likeliest label always in."""
        ids = self.calibration.labels
        p = np.array([[*(scores.p.get(i, 0.0) for i in ids[:-1]), scores.p_none or 0.0]])
        inside = conformal.members(p, np.array([conformal.uniform(item.content)]), self.cut)[0]
        inside[int(p.argmax())] = True
        held = {id_ for id_, there in zip(ids, inside, strict=True) if there}
        for node in self.taxonomy.nodes.values():
            under = set(self._under.get(node.id, ()))
            if len(under) > 1 and under <= held:
                held = held - under | {node.id}
        order = [*self.taxonomy.nodes, NONE]
        return tuple(id_ for id_ in order if id_ in held)

    def remarks(self, mass: float | None = None) -> list[str]:
        """Say what was seen of a run: the depth of its answers, other columns, drift."""
        said = []
        if self.depths:
            levels = ", ".join(f"level {depth} {n:,}" for depth, n in sorted(self.depths.items()))
            said.append(f"answered at {levels}")
        if self.other_fields and self.calibration.fields:
            said.append(
                f"WARNING: items show {', '.join(sorted(self.other_fields))}, which those of the "
                "calibration did not: its promises may not hold"
            )
        return said + self.drift.remarks(mass)

    def guarantees(self) -> list[str]:
        """Say in words what is promised, or why nothing is."""
        wanted, gates = self.wanted, self.gates
        if not wanted.precision:
            return []
        what = "of what is accepted"
        if wanted.back_off:
            what = "of what is accepted, at whatever depth"
        elif wanted.by_branch:
            what = "of what is accepted, in each branch that has a line"
        if any(line.accepted for name, line in gates.items() if name == NONE):
            what += ", and of what is called none"
        if any(line.threshold < math.inf for line in gates.values()):
            said = [
                f"promise: {what}, at least {wanted.precision:.4g} is right; "
                f"the chance that a line was drawn too low is at most {wanted.risk:.4g}"
            ]
            if wanted.by_branch:
                drawn = sum(line.threshold < math.inf for line in gates.values())
                said.append(
                    f"lines: {drawn} branches have one; what falls into others is to review"
                )
            return said
        n = len(self.calibration.gating.confidence)
        return [
            f"nothing is accepted: {n} gating items prove no line at precision "
            f"{wanted.precision:.4g}; {self._more()}"
        ]

    def _more(self) -> str:
        """Say about how many more labels would let something through, by all labels there are."""
        made, wanted = self.calibration, self.wanted
        n = len(made.gating.confidence)
        if wanted.back_off:
            levels = np.linspace(1, 0, 50)
            accepted, right = thresholds.policy_counts(
                [*made.fitting.depth, *made.gating.depth], levels
            )
        else:
            sure = np.array([*made.fitting.confidence, *made.gating.confidence])
            hit = np.array([*made.fitting.correct, *made.gating.correct])
            accepted, right = thresholds.counts(sure, hit)
        every = n + len(made.fitting.confidence)
        needed = thresholds.labels_needed(
            accepted, right, every, precision=wanted.precision, risk=wanted.risk
        )
        if needed is None:
            return "no confidence is that often right: no number of labels would do"
        if needed <= n:
            return "as many would have done 8 times in 10: label about half as many again"
        about = f"label about {math.ceil((needed - n) / (1 - made.share)):,} more items"
        return f"{about}; without --by-branch fewer do" if wanted.by_branch else about


def check(wanted: AcceptanceOptions, taxonomy: Taxonomy) -> None:
    """Raise `BadConfig` for what cannot be asked of any calibration."""
    if (wanted.by_branch or wanted.back_off) and not wanted.precision:
        raise BadConfig("--by-branch and --back-off need --accept-precision")
    if wanted.by_branch and wanted.back_off:
        raise BadConfig("--back-off draws one line for all branches", hint="leave one out")
    if wanted.back_off and taxonomy.depth == 1:
        raise BadConfig("--back-off needs a tree of categories")
