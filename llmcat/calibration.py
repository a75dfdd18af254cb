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

from llmcat import conformal, gate
from llmcat.calibrate import (
    ConfidenceMap,
    Scaling,
    batch_prior,
    fit_confidence,
    fit_scaling,
    logs,
    without_prior,
)
from llmcat.drift import Drift, Reference
from llmcat.errors import BadConfig, InputError
from llmcat.records import NONE, Item, Scores, Verdict, digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.gate import Gate
    from llmcat.taxonomy import Taxonomy

__all__ = ["Calibrated", "Calibration", "Wanted", "bound_of", "fit", "scores_of_row"]

Array = np.ndarray[Any, Any]

BOUND = ("model", "prompt", "taxonomy", "examples", "about", "orders", "menu_size", "codes", "text")
"""What a calibration is good for: a run that differs in one of these refuses it."""
LEAST = 40
"""Items in each half, or nothing is fitted."""
ALL = ""
"""The branch of a line that is drawn for all branches together."""


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
        """Write it, whole or not at all. Raises `InputError`."""
        draft = path.with_name(f"{path.name}.part")
        try:
            draft.write_bytes(orjson.dumps(self.model_dump(mode="json")) + b"\n")
            draft.replace(path)
        except OSError as exc:
            raise InputError(f"{path}: {exc.strerror}") from exc

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
            if self.bound.get(key) != found.get(key)
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
    prior: bool = True,
    plain: bool = False,
    share: float = 0.5,
    seed: int = 0,
) -> Calibration:
    """Fit on one part of labelled items, and keep the other part for lines to be drawn.

    `p` has shape `(n, labels)`; `seen` tells which rows hold every label. `decided` is each item's
    label and confidence as they came, which is all there is where a row is not whole. Raises
    `InputError` where there are too few items to beat no calibration, and says how many would do.
    """
    n = len(gold)
    order = np.random.default_rng(seed).permutation(n)
    first = np.zeros(n, dtype=bool)
    first[order[: round(share * n)]] = True
    if min(first.sum(), n - first.sum()) < LEAST:
        raise InputError(
            f"{n} labelled items are too few to fit and to draw a line",
            hint=f"at least {2 * LEAST}; some hundreds are good",
        )
    at = {label: i for i, label in enumerate(labels)}
    column = np.array([at.get(label, -1) for label in gold])
    whole = bool(seen.all())
    scaling, off = Scaling.plain(), None
    report: dict[str, Any] = {"items": n, "fitting": int(first.sum())}
    q = logs(p) if whole else None
    if q is not None and not plain:
        usable = first & (column >= 0)
        if prior:
            off = batch_prior(q[usable])
            q = without_prior(q, off)
        scaling, losses = fit_scaling(q[usable], column[usable], seed=seed)
        report["cross_validated_log_loss"] = losses
        q = scaling(q)
    if q is not None:
        best = q.argmax(axis=1)
        given = [labels[i] for i in best]
        sure = np.exp(q[np.arange(n), best])
    else:
        given, sure = [label for label, _ in decided], np.array([c for _, c in decided])
    correct = np.array([a == b for a, b in zip(given, gold, strict=True)])
    chance = ConfidenceMap() if plain else fit_confidence(sure[first], correct[first])
    if not plain:
        raw = np.array([c for _, c in decided])
        came = np.array([a == b for (a, _), b in zip(decided, gold, strict=True)])
        _check_gain(raw[first], came[first], sure[first], correct[first], seed)
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
        prior=None if off is None else off.tolist(),
        scaling=scaling.kind,
        weights=scaling.weights.tolist(),
        bias=scaling.bias.tolist(),
        slope=chance.slope,
        intercept=chance.intercept,
        fitting=part(first),
        gating=part(~first),
        bounds=list(reference.bounds),
        counts=list(reference.counts),
        none=none,
        mass=mass,
        gating_rows=np.flatnonzero(~first).tolist(),
        report=report,
    )


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


def _check_gain(raw: Array, came: Array, sure: Array, correct: Array, seed: int) -> None:
    """Raise `InputError` unless, cross-validated, calibrated confidences beat those that came."""

    def loss(chance: Array, hit: Array) -> Array:
        chance = np.clip(chance, 1e-6, 1 - 1e-6)
        return -np.where(hit, np.log(chance), np.log1p(-chance))

    n = len(raw)
    before, after = loss(raw, came), np.zeros(n)
    fold = np.random.default_rng(seed + 1).permutation(n) % 5
    for k in range(5):
        out = fold == k
        after[out] = loss(fit_confidence(sure[~out], correct[~out])(sure[out]), correct[out])
    gain = before - after
    error = float(gain.std(ddof=1)) / math.sqrt(n)
    if gain.mean() > error:
        return
    if gain.mean() <= 0:
        raise InputError(
            f"no calibration is better than these confidences, by {n} items",
            hint="--plain keeps them as they are, and only lets you draw a line",
        )
    more = math.ceil(2 * n * ((error / gain.mean()) ** 2))
    raise InputError(
        f"{2 * n} labelled items are too few to beat no calibration",
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
    """The judge of a calibrated run (see `llmcat.decode.Judge`)."""

    calibration: Calibration
    taxonomy: Taxonomy
    wanted: Wanted
    gates: dict[str, Gate] = field(init=False)
    cut: float = field(init=False, default=math.inf)
    drift: Drift = field(init=False)
    depths: Counter[int] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        """Draw the lines. Raises `BadConfig` where something asked for cannot be had."""
        made, wanted = self.calibration, self.wanted
        self.drift = Drift(Reference(made.bounds, made.counts, made.none, made.mass))
        self._scaling = Scaling(made.scaling, np.array(made.weights), np.array(made.bias))
        self._prior = np.array(made.prior if made.prior is not None else 0.0)
        self._map = ConfidenceMap(made.slope, made.intercept)
        self._under = leaves_under(self.taxonomy)
        if (wanted.sets or wanted.back_off) and not made.labels:
            raise BadConfig(
                "--sets and --back-off need a probability of every label",
                hint="these categories take several menus",
            )
        if wanted.back_off and self.taxonomy.depth == 1:
            raise BadConfig("--back-off needs a tree of categories")
        self.gates = self._lines() if wanted.precision else {}
        if wanted.sets:
            known = [math.inf if s is None else s for s in made.gating.strangeness]
            self.cut = conformal.cut_off(np.array(known), wanted.sets)
            if self.cut == math.inf:
                most = sum(s is not None for s in made.gating.strangeness) / len(known)
                raise BadConfig(
                    f"sets cannot hold the right label in {wanted.sets:.0%}: of the gating items "
                    f"{most:.0%} have it on the menu at all",
                )

    def _lines(self) -> dict[str, Gate]:
        made, wanted = self.calibration, self.wanted
        precision, risk = wanted.precision, wanted.risk
        if wanted.back_off:
            return {ALL: self._line_of_policy(precision=precision, risk=risk)}
        sure, hit, branch = _arrays(made.fitting)
        other = _arrays(made.gating)
        if not wanted.by_branch:
            n = len(other[0])
            tried = gate.sequence(sure, hit, gating=n, precision=precision, risk=risk)
            return {ALL: gate.choose(other[0], other[1], tried, precision=precision, risk=risk)}
        sizes = {b: int((other[2] == b).sum()) for b in sorted(set(branch.tolist()))}
        tried_by = gate.sequences(
            sure, hit, branch.tolist(), gating=sizes, precision=precision, risk=risk
        )
        return gate.choose_by_branch(
            other[0], other[1], other[2].tolist(), tried_by, precision=precision, risk=risk
        )

    def _line_of_policy(self, *, precision: float, risk: float) -> Gate:
        """Draw one line for `answer the deepest category above it`."""
        made = self.calibration
        levels = np.unique([m for chain in made.fitting.depth for m, _ in chain])[::-1]
        tried = np.unique(np.quantile(levels, np.linspace(1, 0, gate.STEPS)))[::-1]
        counts = [gate.policy_counts(part.depth, tried) for part in (made.fitting, made.gating)]
        n = len(made.gating.depth)
        start, _ = gate.start_of(
            *counts[0], share=n / len(made.fitting.depth), precision=precision, risk=risk
        )
        if start is None:
            return gate.Gate(math.inf, 0, 0, n, 0.0, precision, risk)
        accepted, right = (part[start:] for part in counts[1])
        return gate.passed(tried[start:], accepted, right, n, precision=precision, risk=risk)

    def refine(self, scores: Scores) -> Scores:
        """Return calibrated probabilities, the label they say, and its chance to be right."""
        made = self.calibration
        if scores.kind == "label_only":
            raise BadConfig("this answer has no probabilities to calibrate")
        if not made.labels or scores.kind != "full":
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

    def verdict(self, item: Item, scores: Scores) -> Verdict:
        """Decide: accept, review or none behind a gate, else the best label."""
        reason = "; ".join(filter(None, (item.note, scores.note))) or None
        none = scores.label == NONE
        self.drift.add(scores.confidence, none=none)
        held = self.members(item, scores) if self.wanted.sets else None
        if not self.gates:
            return Verdict(item, "none" if none else "labelled", scores, reason, held)
        if self.wanted.back_off:
            return self._deepest(item, scores, reason, held)
        key = branch_of(scores.label, self.taxonomy) if self.wanted.by_branch else ALL
        line = self.gates.get(key)
        sure = line is not None and (scores.confidence or 0.0) >= line.threshold
        decision: Any = ("none" if none else "accept") if sure else "review"
        return Verdict(item, decision, scores, reason, held)

    def _deepest(
        self, item: Item, scores: Scores, reason: str | None, held: tuple[str, ...] | None
    ) -> Verdict:
        """Answer the deepest category whose probability is above the line."""
        line = self.gates[ALL].threshold
        if scores.label == NONE:
            return Verdict(item, "review", scores, reason, held)
        for node, mass in climb(scores.label, scores.p, self.taxonomy, self._under):
            if mass >= line:
                self.depths[len(self.taxonomy.nodes[node].path)] += 1
                p = {**scores.p, node: mass}
                return Verdict(
                    item, "accept", replace(scores, label=node, p=p, chance=mass), reason, held
                )
        return Verdict(item, "review", scores, reason, held)

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

    def reached(self) -> list[str]:
        """Say at which depth the answers of a run that backs off stand."""
        if not self.depths:
            return []
        levels = ", ".join(f"level {depth} {n:,}" for depth, n in sorted(self.depths.items()))
        return [f"answered at {levels}"]

    def promise(self) -> list[str]:
        """Say in words what is promised, or why nothing is."""
        if not self.gates:
            return []
        wanted, gates = self.wanted, self.gates
        said = []
        if wanted.back_off:
            what = "of what is answered, at whatever depth,"
        elif wanted.by_branch:
            what = "of what is accepted in each branch with a line,"
        else:
            what = "of what is accepted, all branches together,"
        if any(g.threshold < math.inf for g in gates.values()):
            said.append(
                f"promise: {what} at least {wanted.precision:.4g} is right; the chance that a line "
                f"was drawn too low is at most {wanted.risk:.4g}"
            )
        else:
            made = self.calibration.gating
            more = gate.more_labels(
                np.array(made.confidence), np.array(made.correct),
                precision=wanted.precision, risk=wanted.risk,
            )  # fmt: skip
            about = (
                f"label about {2 * more:,} more items"
                if more
                else "no confidence is that often right: no number of labels would do"
            )
            said.append(
                f"nothing is accepted: {len(made.confidence)} gating items prove no line at "
                f"precision {wanted.precision:.4g}; {about}"
            )
        if wanted.by_branch:
            without = sorted(name for name, g in gates.items() if g.threshold == math.inf)
            drawn = len(gates) - len(without)
            said.append(f"lines: {drawn} branches have one; what falls into others is to review")
        return said


def _arrays(part: Gating) -> tuple[Array, Array, Array]:
    return (
        np.array(part.confidence),
        np.array(part.correct, dtype=bool),
        np.array(part.branch, dtype=object),
    )
