"""Arms against the first one: every difference, the decision, the segments where the sign turns.

Scored arms in, one JSON value out, which terminal, Markdown and report all show. This module does
not know files, prompts or engines.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from llmcat.errors import BadConfig
from llmcat.evaluation import metrics, paired, testing
from llmcat.evaluation.bootstrap import DRAWS
from llmcat.evaluation.paired import Difference, Rule
from llmcat.evaluation.predictions import at_level, same_items
from llmcat.records import NONE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from llmcat.evaluation.paired import ArmDecision
    from llmcat.evaluation.predictions import Labels, Scored
    from llmcat.evaluation.schema import (
        Comparison,
        Decision,
        DifferenceRecord,
        McNemarRecord,
        Segment,
        Versus,
    )

__all__ = [
    "LOSSES",
    "METRICS",
    "OF_SEVERAL",
    "Question",
    "compare_arms",
    "detectable",
    "gained",
    "segments_of",
    "show",
]

Array = np.ndarray[Any, Any]

METRICS = ("accuracy", "micro_f1", "macro_f1", "hierarchical_f1", "log_loss", "brier")
"""What can decide. The last two are losses: less is better."""
OF_SEVERAL = ("example_f1", "micro_f1", "macro_f1", "subset_accuracy", "log_loss")
"""What can decide where items may have several labels."""
LOSSES = ("log_loss", "brier")
NAMED = ("accuracy", "subset_accuracy", "example_f1", "micro_f1", "macro_f1", "log_loss", "brier")
"""The differences whose intervals a simulation has checked; others are marked approximate."""
LEAST_OF_SEGMENT = 20
MOST_SEGMENTS = 60
MOST_LOST = 2
"""Segments that lose which the verdict names."""
NO_CATEGORY = "no category"
LONGEST = 60
"""Characters of a segment's name."""
_CJK = re.compile(r"[㐀-鿿぀-ヿ가-힯]")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a comparison. `looks` is how many looks are planned (0: this one only).

    `sizes` holds how many items each look so far had, this one last. `several`: items may have
    several labels.
    """

    metric: str = "accuracy"
    rule: Rule = field(default_factory=Rule)
    looks: int = 0
    sizes: tuple[int, ...] = ()
    several: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no metric."""
        can = OF_SEVERAL if self.several else METRICS
        if self.metric not in can:
            where = " where items may have several labels" if self.several else ""
            raise BadConfig(
                f"{self.metric!r} cannot decide{where}", hint=f"--metric is one of {', '.join(can)}"
            )

    @classmethod
    def of(cls, metric: str, *, tree: bool, several: bool, **rest: Any) -> Question:
        """Return the question with the usual metric where none is named."""
        usual = "example_f1" if several else "hierarchical_f1" if tree else "accuracy"
        return cls(metric or usual, several=several, **rest)

    def level(self, alpha: float) -> float:
        """Return what a comparison that may err with `alpha` in all may err with at this look."""
        return testing.spend(self.sizes, self.looks, alpha) if self.looks else alpha


def detectable(n: int, *, alpha: float = paired.ALPHA) -> str:
    """Say which difference in accuracy so many items can show, before they are asked about."""
    said = []
    for differing in (0.1, 0.2):
        effect = testing.smallest_effect(n, differing=differing, alpha=alpha)
        points = "none" if math.isnan(effect) else f"{100 * effect:.1f} points"
        said.append(f"{points} if the arms differ on {differing:.0%} of them")
    can = "; ".join(said)
    return f"the smallest difference in accuracy that {n:,} items show 8 times in 10: {can}"


def compare_arms(
    arms: Mapping[str, Scored],
    labels: Labels,
    question: Question,
    *,
    columns: Mapping[str, Sequence[str]],
    costs: Mapping[str, float | None],
    by: str = "",
    same: Collection[str] = (),
    seed: int = 0,
) -> Comparison:
    """Compare every arm with the first.

    `columns` holds segments: for each way to part the items, the part of each. `costs` is what
    each arm costs, by whatever `by` says. `same`: arms that ask what the first one asks. Raises
    `InputError` if the arms have different items.
    """
    base, *others = arms
    for other in others:
        same_items(arms[base], arms[other])
    # The further out an interval ends, the more draws it takes.
    draws = DRAWS * (5 if len(others) > 1 or question.looks > 1 else 1)
    found = {o: _differences(arms[base], arms[o], labels, draws, seed) for o in others}
    gains = {other: _gain(found[other][question.metric], question.metric) for other in others}
    cheap = {other: _cheaper(costs.get(other), costs.get(base)) for other in others}
    against = {o: -(question.rule.non_inferior or 0.0) if cheap[o] else 0.0 for o in others}
    levels = testing.step_down(gains, against=against, level=question.level)
    versus: list[Versus] = []
    for other in others:
        gain = gains[other]
        decision = paired.decide(gain, question.rule, alpha=levels[other], cheaper=cheap[other])
        decision = _alike(decision, base) if other in same else decision
        a, b = (arms[name].correct for name in (base, other))
        versus.append(
            {
                "arm": other,
                "base": base,
                "decision": cast("Decision", asdict(decision) | {"gain": gain.value}),
                "cheaper": cheap[other],
                "mcnemar": cast("McNemarRecord", asdict(paired.mcnemar(a, b))),
                "both_right": int(np.count_nonzero(a & b)),
                "both_wrong": int(np.count_nonzero(~a & ~b)),
                "differences": {name: _plain(d, name) for name, d in found[other].items()},
                "segments": _segments(a, b, columns),
            }
        )
    best = _best(versus)
    return {
        "metric": question.metric,
        "rule": asdict(question.rule),
        "looks": {"planned": question.looks, "sizes": list(question.sizes)},
        "n": len(arms[base].gold),
        "arms": list(arms),
        "costs": dict(costs),
        "cost_by": by,
        "versus": versus,
        "ship": best["arm"] if best else None,
        "worse": [v["arm"] for v in versus if v["decision"]["worse"]],
        "verdict": verdict_line(versus, best, question),
    }


def _alike(decision: ArmDecision, base: str) -> ArmDecision:
    """Ask for no more items where both arms ask the same."""
    if decision.verdict != "more":
        return decision
    why = f"it asks what {base} asks: more items will not tell them apart"
    return replace(decision, verdict="don't", why=why, more=None)


def _best(versus: Sequence[Versus]) -> Versus | None:
    shipped = [v for v in versus if v["decision"]["verdict"] == "ship"]
    return max(shipped, key=lambda v: v["decision"]["gain"] or 0.0) if shipped else None


def _cheaper(mine: float | None, theirs: float | None) -> bool:
    return mine is not None and theirs is not None and mine < theirs


def _gain(difference: Difference, metric: str) -> Difference:
    return difference.turned if metric in LOSSES else difference


def _plain(difference: Difference, name: str) -> DifferenceRecord:
    return {
        "value": difference.value,
        "low": difference.low,
        "high": difference.high,
        "n": difference.n,
        "why": difference.why,
        "differing": difference.differing,
        "classes": difference.classes,
        "approximate": name not in NAMED,
    }


def _differences(
    a: Scored, b: Scored, labels: Labels, draws: int, seed: int
) -> dict[str, Difference]:
    """Return every paired difference B - A by the metric's name."""

    def means(a: Array, b: Array) -> Difference:
        return paired.difference_of_means(a, b, draws=draws, seed=seed)

    def shares(a: Array, b: Array) -> Difference:
        return paired.difference_of_accuracy(a, b, draws=draws, seed=seed)

    right = shares(a.correct, b.correct)
    found = {"subset_accuracy" if a.several else "accuracy": right}
    classes = sorted({*a.classes, *b.classes})
    hows = paired.differences_of_f1(a.gold, a.label, b.label, classes, draws=draws, seed=seed)
    found |= {f"{how}_f1": difference for how, difference in hows.items()}
    if a.several:
        f1 = [metrics.example_f1(arm.gold, arm.label) for arm in (a, b)]
        found = {"example_f1": means(*f1), **found}
        if not (lacks := a.lacks or b.lacks):
            both = a.answered & b.answered
            found["log_loss"] = means(*(arm.losses[both] for arm in (a, b)))
            return found
        return found | {"log_loss": Difference(math.nan, math.nan, math.nan, 0, lacks)}
    if labels.depth > 1:
        ours, theirs = a.sets(labels), b.sets(labels)
        for of in get_args(metrics.Of):
            ratios = paired.difference_of_ratios(ours[of], theirs[of], draws=draws, seed=seed)
            found[f"hierarchical_{of}"] = ratios
        for level in range(1, labels.depth):
            one, other = (at_level(arm, labels, level) for arm in (a, b))
            found[f"accuracy_level_{level}"] = shares(one, other)
    else:
        nothing = Difference(math.nan, math.nan, math.nan, 0, "the categories are a flat list")
        found["hierarchical_f1"] = nothing
    both = a.answered & b.answered
    lacks = a.lacks or b.lacks
    if lacks:
        nothing = Difference(math.nan, math.nan, math.nan, 0, lacks)
        return found | dict.fromkeys(("log_loss", "brier", "top_3"), nothing)
    p = [arm.p_gold[both] for arm in (a, b)]
    found["log_loss"] = means(*map(metrics.losses, p))
    squares = [arm.p_squares[both] for arm in (a, b)]
    errors = [metrics.squared_errors(*pair) for pair in zip(p, squares, strict=True)]
    found["brier"] = means(*errors)
    found["top_3"] = shares(a.rank[both] <= 3, b.rank[both] <= 3)  # noqa: PLR2004
    return found


# -- segments ---------------------------------------------------------------------------------


def segments_of(
    gold: Sequence[str],
    titles: Sequence[str],
    labels: Labels,
    kept: Mapping[str, Sequence[str]],
) -> dict[str, list[str]]:
    """Return the ways to part items: branch, language, length of the title, columns kept.

    Also whether a category fits at all: accuracy where none does is the recall of `none`.
    """
    parts = {"gold": [NO_CATEGORY if g == NONE else "a category" for g in gold]}
    if labels.depth > 1:
        parts["branch"] = [labels.branch(g) for g in gold]
    parts["language"] = ["zh, ja, ko" if _CJK.search(t) else "other" for t in titles]
    sizes = [len(t) for t in titles]
    quarters = np.unique(np.quantile(sizes or [0], [0.25, 0.5, 0.75]).astype(int))
    names = _ranges(list(map(int, quarters)))
    parts["title length"] = [names[int(np.searchsorted(quarters, s))] for s in sizes]
    for name, values in kept.items():
        parts[name] = [" ".join(v.split())[:LONGEST] or "(empty)" for v in values]
    return {name: values for name, values in parts.items() if len(set(values)) > 1}


def _ranges(bounds: list[int]) -> list[str]:
    """Name what lies between bounds: up to the first, ..., above the last."""
    if not bounds:
        return [""]
    between = [f"{a + 1}-{b}" for a, b in pairwise(bounds)]
    return [f"to {bounds[0]}", *between, f"over {bounds[-1]}"]


def _segments(a: Array, b: Array, columns: Mapping[str, Sequence[str]]) -> list[Segment]:
    """Compare accuracy in every segment of enough items; p adjusted for there being several."""
    whole = float(b.mean() - a.mean()) if len(a) else 0.0
    found: list[Segment] = []
    for by, values in columns.items():
        part = np.array(values, dtype=object)
        names, counts = np.unique(part, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MOST_SEGMENTS]
        for name in names[order]:
            here = part == name
            if np.count_nonzero(here) < LEAST_OF_SEGMENT:
                continue
            mine, theirs = a[here], b[here]
            difference = paired.difference_of_proportions(mine, theirs)
            found.append(
                {
                    "by": by,
                    "value": str(name),
                    "n": int(np.count_nonzero(here)),
                    "a": float(mine.mean()),
                    "b": float(theirs.mean()),
                    "difference": difference.value,
                    "low": difference.low,
                    "high": difference.high,
                    "p": paired.mcnemar(mine, theirs).p,
                    "turned": difference.value * whole < 0,
                }
            )
    adjusted = testing.holm([segment["p"] for segment in found])
    for segment, p in zip(found, adjusted, strict=True):
        segment["p_adjusted"] = p
        segment["clear"] = p <= paired.ALPHA
    return found


# -- words ------------------------------------------------------------------------------------


def verdict_line(versus: Sequence[Versus], best: Versus | None, question: Question) -> str:
    """Return the decision in one line."""
    open_ = [v for v in versus if v["decision"]["verdict"] == "more"]
    shown = best or (open_[0] if open_ else None) or (versus[0] if len(versus) == 1 else None)
    if shown is None:
        return f"don't ship any of {', '.join(v['arm'] for v in versus)}: see each below"
    decision = shown["decision"]
    gain, low, high = (gained(question.metric, decision[k]) for k in ("gain", "low", "high"))
    level = 100 * (1 - decision["alpha"])
    at = "" if level == 95 else f" at {level:.4g} %"  # noqa: PLR2004
    span = f"{show(question.metric)} {gain} [{low}, {high}]{at} against {shown['base']}"
    if decision["verdict"] == "more":
        plan = "" if question.looks else " (all new ones, or planned with --interim-looks)"
        more = decision["more"] or 1
        items = f"{more:,} more item{'s' * (more > 1)}"
        return f"you need about {items}{plan}: {shown['arm']} {span}; {decision['why']}"
    word = "ship" if decision["verdict"] == "ship" else "don't ship"
    price = f"; but {lost}" if best and (lost := _lost(best["segments"])) else ""
    return f"{word} {shown['arm']}: {span}; {decision['why']}{price}"


def _lost(segments: Sequence[Segment]) -> str:
    """Say where an arm that gains as a whole clearly loses; the largest losses first."""
    clear = [s for s in segments if s.get("clear") and s["difference"] < 0]
    worst = sorted(clear, key=lambda s: s["difference"] * s["n"])
    said = [
        f"{100 * s['difference']:+.1f} on the {s['n']:,} items "
        + ("that belong nowhere" if (s["by"], s["value"]) == ("gold", NO_CATEGORY)
           else f"of {s['by']} {s['value']!r}")
        for s in worst[:MOST_LOST]
    ]  # fmt: skip
    more = len(worst) - len(said)
    return ", ".join(said) + (f", and in {more} more segments" if more else "")


def show(metric: str) -> str:
    """Return a metric's name as people write it."""
    if metric.startswith("coverage_at_"):
        return f"coverage at {metric.rpartition('_')[2]} % precision"
    return metric.replace("_", " ").replace("f1", "F1").replace("ece", "ECE")


def gained(metric: str, value: float | None) -> str:
    """Write a gain: in points, +1.2, or as it is for a loss, of which there is less."""
    if value is None or math.isnan(value):
        return "none"
    return f"{value:+.4f}" if metric in LOSSES else f"{100 * value:+.1f}"
