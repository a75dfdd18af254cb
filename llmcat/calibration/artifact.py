"""A calibration: fitted once on labelled items, kept in a file, bound to what it was fitted for.

    scores ─ prior off ─ scaling ─▶ probabilities ─ confidence map ─▶ chance to be right
           ─ gate ─▶ accept, review or none

The file also holds the confidences of the gating items, so that a line can be drawn for any
precision without asking again. This module does not know engines or the loop.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from llmcat.calibration import conformal, thresholds
from llmcat.calibration.drift import Drift, Reference
from llmcat.calibration.scaling import (
    ConfidenceMap,
    Posterior,
    Scaling,
    fit_confidence,
    fit_posterior,
    logs,
    without_prior,
)
from llmcat.errors import BadConfig, InputError
from llmcat.records import NONE, Decided, Item, Scores, Verdict, digest
from llmcat.storage import whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.calibration.thresholds import Gate
    from llmcat.config import RunConfig
    from llmcat.taxonomy.tree import Taxonomy

__all__ = [
    "UNCALIBRATED",
    "Calibrated",
    "Calibration",
    "Wanted",
    "bound_of",
    "check",
    "distinct",
    "fit",
    "no_line",
    "scores_of_row",
]

Array = np.ndarray[Any, Any]

BOUND = ("model", "codes", "prompt", "examples", "about", "taxonomy", "menu_size", "orders", "text",
         "image", "candidates", "sources", "source_category", "pool")  # fmt: skip
"""What a calibration is good for: a run that differs in one of these refuses it."""
LEAST = 40
"""Items in each half, or nothing is fitted."""
UNCALIBRATED = {
    "artifact": "",
    "skip_sure": False,
    "calibration": "",
    "accept_precision": 0.0,
    "by_branch": False,
    "back_off": False,
    "sets": 0.0,
}
"""The settings of a run that is to be calibrated."""
USEFUL, FEW = 0.5, 10
"""Who accepts less than half of what is right, of so many items at least, accepts nothing."""
ALL = ""
"""The group of all labels together, where branches have no lines of their own."""


class Gating(BaseModel):
    """Items that fitted nothing: confidence of the decision, whether right, branch, gold rank."""

    model_config = ConfigDict(frozen=True)

    confidence: list[float]
    correct: list[bool]
    branch: list[str]
    strangeness: list[float | None]
    depth: list[list[tuple[float, bool]]]


class Calibration(BaseModel):
    """What `llmcat calibrate` writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    llmcat: str
    bound: dict[str, str]
    labels: list[str]
    prior: list[float] | None
    scaling: Literal["none", "temperature", "vector"]
    weights: list[float]
    bias: list[float]
    slope: float
    intercept: float
    fitting: Gating
    gating: Gating
    bounds: list[float]
    counts: list[int]
    none: int
    mass: float | None
    gating_rows: list[int]
    fields: list[str]
    share: float
    report: dict[str, Any]

    @classmethod
    def load(cls, path: str) -> Calibration:
        """Read a file. Raises `BadConfig` if it is none."""
        try:
            return cls.model_validate(orjson.loads(Path(path).read_bytes()))
        except (OSError, orjson.JSONDecodeError, ValidationError) as exc:
            first = str(exc).splitlines()[0]
            raise BadConfig(
                f"{path} is no calibration: {first}", hint="llmcat calibrate writes one"
            ) from exc

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises `JournalError`."""
        with whole(path) as raw:
            raw.write(orjson.dumps(self.model_dump(mode="json")) + b"\n")

    @property
    def digest(self) -> str:
        """A hash of everything in it."""
        return digest(orjson.dumps(self.model_dump(mode="json")).decode())

    def check(self, identity: Mapping[str, str]) -> None:
        """Raise `BadConfig` if it was fitted for something else, naming each difference."""
        found = bound_of(identity)
        other = [
            f"{key}: {self.bound.get(key, '(not set)')} then, {found.get(key, '(not set)')} now"
            for key in BOUND
            if self.bound.get(key, "") != found.get(key, "")
        ]
        if other:
            raise BadConfig(
                "\n  ".join(["the calibration was fitted for something else:", *other]),
                hint="fit one for these settings: llmcat calibrate",
            )


def bound_of(identity: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an identity that a calibration is bound to."""
    return {key: identity[key] for key in BOUND if key in identity}


# -- fitting ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """What a run asks of its calibration: see the settings of the same names."""

    precision: float = 0.0
    risk: float = 0.05
    by_branch: bool = False
    back_off: bool = False
    sets: float = 0.0

    @classmethod
    def of(cls, config: RunConfig) -> Wanted:
        """Return what the settings ask for."""
        return cls(
            config.accept_precision, config.risk, config.by_branch, config.back_off, config.sets
        )


def fit(
    p: Array,
    seen: Array,
    labels: Sequence[str],
    gold: Sequence[str],
    decided: Sequence[tuple[str, float]],
    taxonomy: Taxonomy,
    *,
    bound: Mapping[str, str],
    mass: float | None,
    version: str,
    fields: Sequence[str] = (),
    prior: bool = True,
    plain: bool = False,
    share: float = 0.5,
    seed: int = 0,
    first: Array | None = None,
) -> Calibration:
    """Fit on one part of labelled items, and keep the other part for lines to be drawn.

    The items are different ones, and none is an example that the prompt shows (see `distinct`). `p`
    has shape `(n, labels)`; `seen` tells which rows hold every label. `decided` is each item's
    label and confidence as they came, which is all there is where a row is not whole. `first` says
    which items fit, where that was decided already (groups are not parted). Raises
    `InputError` where neither posteriors nor the decisions' confidences get a smaller log-loss,
    cross-validated, by more than a standard error, and says how many items would do.
    """
    n = len(gold)
    first = _first(n, share, seed) if first is None else first
    if min(first.sum(), n - first.sum()) < LEAST:
        raise InputError(
            f"{n} labelled items are too few to fit and to draw a line",
            hint=f"at least {2 * LEAST}; some hundreds are good",
        )
    at = {label: i for i, label in enumerate(labels)}
    column = np.array([at.get(label, -1) for label in gold])
    whole = bool(seen.all())
    posterior = Posterior(None, Scaling.plain(), {})
    report: dict[str, Any] = {"items": n, "fitting": int(first.sum())}
    q = logs(p) if whole else None
    if q is not None and not plain:
        usable = first & (column >= 0)
        if usable.sum() < LEAST:
            raise InputError(f"only {usable.sum()} items have a label that is on the menu")
        posterior = fit_posterior(q[usable], column[usable], prior=prior, seed=seed)
        report["cross_validated_log_loss"] = posterior.losses
        q = posterior(q)
    if q is not None:
        best = q.argmax(axis=1)
        given = [labels[i] for i in best]
        sure = np.exp(q[np.arange(n), best])
    else:
        given, sure = [label for label, _ in decided], np.array([c for _, c in decided])
    correct = np.array([a == b for a, b in zip(given, gold, strict=True)])
    chance = ConfidenceMap() if plain else fit_confidence(sure[first], correct[first])
    if not plain and not posterior.changes:
        _check_gain(sure[first], correct[first], share, seed)
    confidence = chance(sure)
    probabilities = np.exp(q) if q is not None else None
    strange = _strangeness(probabilities, column, gold) if probabilities is not None else None
    under = leaves_under(taxonomy)
    chains: list[list[tuple[str, float]]] = [[] for _ in given]
    if probabilities is not None:
        for i, label in enumerate(given):
            if label != NONE:
                p_of = dict(zip(labels, probabilities[i].tolist(), strict=True))
                chains[i] = climb(label, p_of, taxonomy, under)
    right = {label: {label, *(a.id for a in taxonomy.ancestors(taxonomy.nodes[label]))}
             for label in set(gold) if label in taxonomy.nodes}  # fmt: skip
    paths = [
        [(mass_, node in right.get(g, set())) for node, mass_ in chain]
        for chain, g in zip(chains, gold, strict=True)
    ]

    def part(mask: Array) -> Gating:
        rows = np.flatnonzero(mask).tolist()
        return Gating(
            confidence=[float(confidence[i]) for i in rows],
            correct=[bool(correct[i]) for i in rows],
            branch=[branch_of(given[i], taxonomy) for i in rows],
            strangeness=[None if strange is None else _finite(strange[i]) for i in rows],
            depth=[paths[i] for i in rows],
        )

    none = sum(label == NONE for label in given)
    reference = Reference.of(confidence, none, mass)
    return Calibration(
        llmcat=version,
        bound=dict(bound),
        labels=list(labels) if whole else [],
        prior=None if posterior.prior is None else posterior.prior.tolist(),
        scaling=posterior.scaling.kind,
        weights=posterior.scaling.weights.tolist(),
        bias=posterior.scaling.bias.tolist(),
        slope=chance.slope,
        intercept=chance.intercept,
        fitting=part(first),
        gating=part(~first),
        bounds=list(reference.bounds),
        counts=list(reference.counts),
        none=none,
        mass=mass,
        gating_rows=np.flatnonzero(~first).tolist(),
        fields=sorted(fields),
        share=share,
        report=report,
    )


def _first(n: int, share: float, seed: int) -> Array:
    """Return which of n items fit, drawn by the seed."""
    first = np.zeros(n, dtype=bool)
    first[np.random.default_rng(seed).permutation(n)[: round(share * n)]] = True
    return first


def distinct(texts: Sequence[str], shown: frozenset[str] = frozenset()) -> list[int]:
    """Return which items to fit on: the first of each text, and none that the prompt shows."""
    seen = set(shown)
    return [i for i, text in enumerate(texts) if not (text in seen or seen.add(text))]  # type: ignore[func-returns-value]


def scores_of_row(
    p: Array, seen: bool, labels: Sequence[str], decided: tuple[str, float]
) -> Scores:
    """Return the scores that a kept row of probabilities was made of."""
    label, confidence = decided
    if not seen:
        found = {} if label == NONE else {label: confidence}
        return Scores(label, found, confidence if label == NONE else None, kind="top")
    values = dict(zip(labels[:-1], p[:-1].tolist(), strict=True))
    return Scores(label, values, float(p[-1]))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def no_line(confidence: Sequence[float] | Array, correct: Sequence[bool] | Array) -> str:
    """Say that at no confidence half of the decisions are right, where that is so; else nothing.

    Looked at are the surest `FEW` items, and all larger shares of the surest.
    """
    hit = np.asarray(correct, dtype=bool)
    accepted, right = thresholds.counts(np.asarray(confidence, dtype=float), hit)
    enough = accepted >= min(FEW, len(hit))
    if (right[enough] >= USEFUL * accepted[enough]).any():
        return ""
    return (
        f"right on {100 * hit.mean():.0f} % of {len(hit):,} items: no line can be drawn, at no "
        "confidence half of the decisions are right"
    )


def _check_gain(sure: Array, correct: Array, share: float, seed: int) -> None:
    """Raise `InputError` unless mapped confidences, cross-validated, beat those that came.

    For decisions that stay as they came: the losses of others are no measure, since rarely being
    right is easier to foretell than being right more often.
    """

    def loss(chance: Array, hit: Array) -> Array:
        chance = np.clip(chance, 1e-6, 1 - 1e-6)
        return np.asarray(-np.where(hit, np.log(chance), np.log1p(-chance)))

    n = len(sure)
    before, after = loss(sure, correct), np.zeros(n)
    fold = np.random.default_rng(seed + 1).permutation(n) % 5
    for k in range(5):
        out = fold == k
        after[out] = loss(fit_confidence(sure[~out], correct[~out])(sure[out]), correct[out])
    gain = before - after
    error = float(gain.std(ddof=1)) / math.sqrt(n)
    if gain.mean() > error:
        return
    if gain.mean() <= 0:
        bad = no_line(sure, correct)
        raise InputError(
            f"no calibration is better than these confidences, by {n} items"
            + (f"; {bad}" if bad else ""),
            hint="--plain keeps them as they are, and only lets you draw a line"
            if not bad
            else "another --prompt, or a larger model",
        )
    more = math.ceil(n / share * ((error / gain.mean()) ** 2))
    raise InputError(
        f"{round(n / share)} labelled items are too few to beat no calibration",
        hint=f"about {more:,} would do; --plain keeps confidences as they are",
    )


def _strangeness(p: Array, column: Array, gold: Sequence[str]) -> Array:
    u = np.array([_u(str(i), g) for i, g in enumerate(gold)])
    return conformal.scores_of(p, column, u)


def _u(*parts: str) -> float:
    """Return a number in [0, 1) that depends on the parts only."""
    return random.Random("\0".join(parts)).random()


def branch_of(label: str, taxonomy: Taxonomy) -> str:
    """Return the department of a label, `none` for none."""
    node = taxonomy.nodes.get(label)
    return node.path[0] if node else NONE


def leaves_under(taxonomy: Taxonomy) -> dict[str, list[str]]:
    """Return the ids of the leaves under each category, a leaf's own for itself."""
    found: dict[str, list[str]] = {}
    for leaf in taxonomy.leaves:
        for node in (leaf, *taxonomy.ancestors(leaf)):
            found.setdefault(node.id, []).append(leaf.id)
    return found


def climb(
    label: str, p: Mapping[str, float], taxonomy: Taxonomy, under: Mapping[str, Sequence[str]]
) -> list[tuple[str, float]]:
    """Return a label and its ancestors, the deepest first, each with the probability under it."""
    node = taxonomy.nodes[label]
    return [
        (one.id, math.fsum(p.get(leaf, 0.0) for leaf in under.get(one.id, ())))
        for one in (node, *taxonomy.ancestors(node))
    ]


# -- using ------------------------------------------------------------------------------------


@dataclass
class Calibrated:
    """The judge of a calibrated run (see `llmcat.pipeline.decode.Judge`)."""

    calibration: Calibration
    taxonomy: Taxonomy
    wanted: Wanted
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
        if (wanted.sets or wanted.back_off) and not made.labels:
            raise BadConfig(
                "--sets and --back-off need a probability of every label",
                hint="these categories take several menus",
            )
        self.gates = self._lines() if wanted.precision else {}
        if wanted.sets:
            known = [math.inf if s is None else s for s in made.gating.strangeness]
            self.cut = conformal.cut_off(np.array(known), wanted.sets)
            least = math.ceil(wanted.sets / (1 - wanted.sets))
            if self.cut == math.inf and len(known) < least:
                raise BadConfig(f"--sets {wanted.sets:g} needs {least:,} gating items or more")
            if self.cut == math.inf:
                most = sum(s is not None for s in made.gating.strangeness) / len(known)
                raise BadConfig(
                    f"--sets {wanted.sets:g} cannot be: the right label of only {most:.1%} of the "
                    "gating items is on the menu",
                )

    def _lines(self) -> dict[str, Gate]:
        made, wanted = self.calibration, self.wanted
        precision, risk = wanted.precision, wanted.risk
        if wanted.back_off:
            return {ALL: self._line_of_policy(precision=precision, risk=risk)}
        sure, hit, branch = self._arrays(made.fitting)
        other, right, place = self._arrays(made.gating)
        sizes = {name: place.count(name) for name in set(branch)}
        tried = thresholds.sequences(
            sure, hit, branch, gating=sizes, precision=precision, risk=risk
        )
        return thresholds.choose_by_branch(
            other, right, place, tried, precision=precision, risk=risk
        )

    def _arrays(self, part: Gating) -> tuple[Array, Array, list[str]]:
        groups = [self._group(branch) for branch in part.branch]
        return np.array(part.confidence), np.array(part.correct, dtype=bool), groups

    def _group(self, branch: str) -> str:
        """Return whose line a decision in a branch is held to: none has one of its own."""
        return branch if self.wanted.by_branch or branch == NONE else ALL

    def _line_of_policy(self, *, precision: float, risk: float) -> Gate:
        """Draw one line for `answer the deepest category above it`."""
        made = self.calibration
        levels = np.unique([m for chain in made.fitting.depth for m, _ in chain])
        if not len(levels):
            return thresholds.Gate(math.inf, 0, 0, len(made.gating.depth), 0.0, precision, risk)
        tried = np.unique(np.quantile(levels, np.linspace(1, 0, thresholds.STEPS)))[::-1]
        counts = [
            thresholds.policy_counts(part.depth, tried) for part in (made.fitting, made.gating)
        ]
        n = len(made.gating.depth)
        said = [[(p, p) for p, _ in chain] for chain in made.fitting.depth]
        start, _ = thresholds.start_of(
            *counts[0],
            thresholds.policy_counts(said, tried)[1],
            share=n / len(made.fitting.depth),
            precision=precision,
            risk=risk,
        )
        if start is None:
            return thresholds.Gate(math.inf, 0, 0, n, 0.0, precision, risk)
        accepted, right = (part[start:] for part in counts[1])
        return thresholds.passed(tried[start:], accepted, right, n, precision=precision, risk=risk)

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
        return f"{self.calibration.digest} {asked} {wanted.sets}"

    def decide(self, item: Item, scores: Scores) -> Decided:
        """Decide: accept, review or none behind a gate, else the best label."""
        raw, scores = scores, self.refine(scores)
        none = scores.label == NONE
        whole = raw.kind == "full" or not self.calibration.labels
        held = self.members(item, scores) if self.wanted.sets and whole else None
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

    def watch(self, verdict: Verdict) -> None:
        """Count a decision, for drift and for the depth reached."""
        scores = verdict.scores
        if scores is None:
            return
        sure = scores.confidence
        if not self.other_fields:
            self.other_fields = set(verdict.item.fields) - set(self.calibration.fields)
        if self.wanted.back_off and verdict.decision == "accept":
            self.depths[len(self.taxonomy.nodes[scores.label].path)] += 1
            leaf = max(scores.p.get(label, 0.0) for label in self.calibration.labels[:-1])
            sure = float(self._map([leaf])[0])  # as it was when the calibration was fitted
        self.drift.add(sure, none=scores.label == NONE)

    def members(self, item: Item, scores: Scores) -> tuple[str, ...]:
        """Return an item's set: whole branches by their own id, the likeliest label always in."""
        ids = self.calibration.labels
        p = np.array([[*(scores.p.get(i, 0.0) for i in ids[:-1]), scores.p_none or 0.0]])
        inside = conformal.members(p, np.array([_u(item.content)]), self.cut)[0]
        inside[int(p.argmax())] = True
        held = {id_ for id_, there in zip(ids, inside, strict=True) if there}
        for node in self.taxonomy.nodes.values():
            under = set(self._under.get(node.id, ()))
            if len(under) > 1 and under <= held:
                held = held - under | {node.id}
        order = [*self.taxonomy.nodes, NONE]
        return tuple(id_ for id_ in order if id_ in held)

    def seen(self, mass: float | None = None) -> list[str]:
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

    def promise(self) -> list[str]:
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


def check(wanted: Wanted, taxonomy: Taxonomy) -> None:
    """Raise `BadConfig` for what cannot be asked of any calibration."""
    if (wanted.by_branch or wanted.back_off) and not wanted.precision:
        raise BadConfig("--by-branch and --back-off need --accept-precision")
    if wanted.by_branch and wanted.back_off:
        raise BadConfig("--back-off draws one line for all branches", hint="leave one out")
    if wanted.back_off and taxonomy.depth == 1:
        raise BadConfig("--back-off needs a tree of categories")
