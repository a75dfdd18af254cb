"""Labelled answers to a calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.calibration import conformal, thresholds
from llmcat.calibration.artifact import Array, Calibration, HoldoutScores
from llmcat.calibration.drift import Reference
from llmcat.calibration.hierarchy import branch_of, climb, leaves_under
from llmcat.calibration.scaling import (
    ConfidenceMap,
    Posterior,
    Scaling,
    fit_confidence,
    fit_posterior,
    logs,
)
from llmcat.errors import EngineUnsupported, InputError
from llmcat.records import NONE, Scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.records import RowResult
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["distinct", "fit", "fit_crossed", "fit_results", "no_line", "scores_of_row"]


LEAST = 40
"""Items in each half, or nothing is fitted."""
USEFUL, FEW = 0.5, 10
"""Who accepts less than half of what is right, of so many items at least, accepts nothing."""


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
    first = _enough(_first(n, share, seed) if first is None else first)
    whole = bool(seen.all())
    posterior = Posterior(None, Scaling.plain(), {})
    if whole and not plain:
        posterior = _posterior(p, _columns(labels, gold), first, prior=prior, seed=seed)
    q = posterior(logs(p)) if whole else None
    given, sure = _best(q, labels, decided)
    correct = np.array([a == b for a, b in zip(given, gold, strict=True)])
    chance = ConfidenceMap() if plain else fit_confidence(sure[first], correct[first])
    if not plain and not posterior.changes:
        _check_gain(sure[first], correct[first], share, seed)
    return _made(
        q, labels, gold, given, sure, first, taxonomy, posterior=posterior, chance=chance,
        bound=bound, mass=mass, version=version, fields=fields, share=share,
    )  # fmt: skip


def fit_crossed(
    p: Array,
    labels: Sequence[str],
    gold: Sequence[str],
    taxonomy: Taxonomy,
    *,
    plain: bool = False,
    seed: int = 0,
    **about: Any,
) -> Calibration:
    """Let all labelled items draw the line, each judged by what others taught.

    `p` has shape `(n, labels)`, each row made by what the other folds teach (cross-fitting). Only
    the map is fitted, where it gains log-loss, cross-validated, by more than a standard error. With
    so few numbers learnt from all, a line drawn on rows of five ways that differ little holds for
    the sixth that learnt from all (docs/decisions/0017-labels-used-twice.md). Raises `InputError`
    where items are too few.
    """
    everything = np.zeros(len(gold), dtype=bool)
    if len(gold) < 2 * LEAST:
        _enough(everything)
    q = logs(p)
    given, sure = _best(q, labels, [])
    correct = np.array([a == b for a, b in zip(given, gold, strict=True)])
    gain, error = _gain(sure, correct, seed)
    chance = fit_confidence(sure, correct) if gain > error and not plain else ConfidenceMap()
    return _made(
        q, labels, gold, given, sure, everything, taxonomy,
        posterior=Posterior(None, Scaling.plain(), {}), chance=chance, share=0.0, **about,
    )  # fmt: skip


def _made(
    q: Array | None,
    labels: Sequence[str],
    gold: Sequence[str],
    given: Sequence[str],
    sure: Array,
    first: Array,
    taxonomy: Taxonomy,
    *,
    posterior: Posterior,
    chance: ConfidenceMap,
    bound: Mapping[str, str],
    mass: float | None,
    version: str,
    fields: Sequence[str],
    share: float,
) -> Calibration:
    """Put together what was fitted and what is kept of the items of each part."""
    rows = _rows(q, labels, gold, given, chance(sure), taxonomy)
    none = list(given).count(NONE)
    reference = Reference.of(rows.confidence, none, mass)
    return Calibration(
        llmcat=version,
        bound=dict(bound),
        labels=[] if q is None else list(labels),
        **_plain(posterior),
        slope=chance.slope,
        intercept=chance.intercept,
        fitting=rows.part(first),
        gating=rows.part(~first),
        bounds=list(reference.bounds),
        counts=list(reference.counts),
        none=none,
        mass=mass,
        gating_rows=np.flatnonzero(~first).tolist(),
        fields=sorted(fields),
        share=share,
        report={"items": len(gold), "fitting": int(first.sum())}
        | ({"cross_validated_log_loss": posterior.losses} if posterior.losses else {}),
    )


def _plain(posterior: Posterior) -> dict[str, Any]:
    """Return what is done to rows of probabilities, as the artifact has it."""
    return {
        "prior": None if posterior.prior is None else posterior.prior.tolist(),
        "scaling": posterior.scaling.kind,
        "weights": posterior.scaling.weights.tolist(),
        "bias": posterior.scaling.bias.tolist(),
    }


def _enough(first: Array) -> Array:
    """Return which items fit, if there are enough on either side."""
    n = len(first)
    if min(first.sum(), n - first.sum()) < LEAST:
        raise InputError(
            f"{n} labelled items are too few to fit and to draw a line",
            hint=f"at least {2 * LEAST}; some hundreds are good",
        )
    return first


def _columns(labels: Sequence[str], gold: Sequence[str]) -> Array:
    """Return each gold label's column, -1 where it has none."""
    at = {label: i for i, label in enumerate(labels)}
    return np.array([at.get(label, -1) for label in gold])


def _best(
    q: Array | None, labels: Sequence[str], decided: Sequence[tuple[str, float]]
) -> tuple[list[str], Array]:
    """Return each item's label and its confidence, before that is mapped."""
    if q is None:
        return [label for label, _ in decided], np.array([c for _, c in decided])
    best = q.argmax(axis=1)
    return [labels[i] for i in best], np.exp(q[np.arange(len(q)), best])


def _posterior(p: Array, column: Array, first: Array, *, prior: bool, seed: int) -> Posterior:
    """Return what is done to whole rows of probabilities, fitted on the first part."""
    usable = first & (column >= 0)
    if usable.sum() < LEAST:
        raise InputError(f"only {usable.sum()} items have a label that is on the menu")
    return fit_posterior(logs(p[usable]), column[usable], prior=prior, seed=seed)


@dataclass(frozen=True)
class _Rows:
    """What is kept of each labelled item: a list each, in their order."""

    confidence: Array
    correct: list[bool]
    branch: list[str]
    nonconformity: list[float | None]
    depth: list[list[tuple[float, bool]]]

    def part(self, mask: Array) -> HoldoutScores:
        """Return the items of one part."""
        rows = np.flatnonzero(mask).tolist()
        return HoldoutScores(
            confidence=[float(self.confidence[i]) for i in rows],
            correct=[self.correct[i] for i in rows],
            branch=[self.branch[i] for i in rows],
            nonconformity=[self.nonconformity[i] for i in rows],
            depth=[self.depth[i] for i in rows],
        )


def _rows(
    q: Array | None,
    labels: Sequence[str],
    gold: Sequence[str],
    given: Sequence[str],
    confidence: Array,
    taxonomy: Taxonomy,
) -> _Rows:
    """Return what is kept of each item, `q` its log-probabilities where rows are whole."""
    nonconformity: list[float | None] = [None] * len(given)
    chains: list[list[tuple[str, float]]] = [[] for _ in given]
    if q is not None:
        probabilities = np.exp(q)
        column = _columns(labels, gold)
        nonconformity = [_finite(x) for x in _nonconformity(probabilities, column, gold)]
        under = leaves_under(taxonomy)
        for i, label in enumerate(given):
            if label != NONE:
                p_of = dict(zip(labels, probabilities[i].tolist(), strict=True))
                chains[i] = climb(label, p_of, taxonomy, under)
    right = {label: {label, *(a.id for a in taxonomy.ancestors(taxonomy.nodes[label]))}
             for label in set(gold) if label in taxonomy.nodes}  # fmt: skip
    return _Rows(
        confidence=confidence,
        correct=[a == b for a, b in zip(given, gold, strict=True)],
        branch=[branch_of(label, taxonomy) for label in given],
        nonconformity=nonconformity,
        depth=[
            [(mass, node in right.get(g, set())) for node, mass in chain]
            for chain, g in zip(chains, gold, strict=True)
        ],
    )


def fit_results(
    results: Sequence[tuple[RowResult, Scores | None]],
    gold: Sequence[str],
    taxonomy: Taxonomy,
    shown: frozenset[str],
    **how: Any,
) -> Calibration:
    """Fit on results with the scores that count, each text once, none that the prompt shows.

    Those without scores are left out. Raises `EngineUnsupported` where answers have no
    probabilities, and what `fit` raises; `how` is passed on to it.
    """
    rows = distinct([result.item.content for result, _ in results], shown)
    found = [(i, scores) for i in rows if (scores := results[i][1]) is not None]
    if any(scores.kind == "label_only" for _, scores in found):
        raise EngineUnsupported("a calibration needs probabilities, these answers have none")
    ids = [node.id for node in taxonomy.leaves]
    return fit(
        np.array([[*(s.p.get(id_, 0.0) for id_ in ids), s.p_none or 0.0] for _, s in found]),
        np.array([s.kind == "full" for _, s in found]),
        [*ids, NONE],
        [gold[i] for i, _ in found],
        [(s.label, s.confidence or 0.0) for _, s in found],
        taxonomy,
        mass=None,
        fields=sorted({name for i, _ in found for name in results[i][0].item.fields}),
        **how,
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


def _gain(sure: Array, correct: Array, seed: int) -> tuple[float, float]:
    """Return how much less log-loss mapped confidences have, cross-validated; a standard error.

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
    return float(gain.mean()), float(gain.std(ddof=1)) / math.sqrt(n)


def _check_gain(sure: Array, correct: Array, share: float, seed: int) -> None:
    """Raise `InputError` unless mapped confidences beat those that came."""
    n = len(sure)
    gain, error = _gain(sure, correct, seed)
    if gain > error:
        return
    if gain <= 0:
        bad = no_line(sure, correct)
        raise InputError(
            f"no calibration is better than these confidences, by {n} items"
            + (f"; {bad}" if bad else ""),
            hint="--plain keeps them as they are, and only lets you draw a line"
            if not bad
            else "another --prompt, or a larger model",
        )
    more = math.ceil(n / share * ((error / gain) ** 2))
    raise InputError(
        f"{round(n / share)} labelled items are too few to beat no calibration",
        hint=f"about {more:,} would do; --plain keeps confidences as they are",
    )


def _nonconformity(p: Array, column: Array, gold: Sequence[str]) -> Array:
    u = np.array([conformal.uniform(str(i), g) for i, g in enumerate(gold)])
    return conformal.scores_of(p, column, u)
