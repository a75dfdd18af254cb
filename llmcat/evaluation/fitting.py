"""What the labels of an evaluation teach: a calibration, an artifact."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from llmcat.calibration.artifact import Calibration, bound_of
from llmcat.calibration.decider import AcceptanceOptions, Calibrated
from llmcat.calibration.fit import distinct, fit, fit_crossed, scores_of_row
from llmcat.errors import InputError
from llmcat.evaluation import metrics
from llmcat.evaluation.predictions import Scored
from llmcat.evaluation.run_folder import SOLO, load
from llmcat.evidence.artifact import CHOICES, Artifact, Part
from llmcat.evidence.learn import Learnt, learn, parted
from llmcat.evidence.pool import Pool
from llmcat.records import NONE
from llmcat.retrieval.documents import group_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llmcat.evaluation.schema import ArmRecord
    from llmcat.evidence.gather import Gathered
    from llmcat.records import Scores
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["artifact_of", "fit_calibration", "fitting_rows", "groups_of", "reader_part"]

READER = ("model", "codes", "prompt", "layout", "candidates", "about", "taxonomy")
"""What has to be the same in every run that goes by what was learnt of a reader."""


def fit_calibration(
    path: Path,
    taxonomy: Taxonomy,
    *,
    share: float | None,
    prior: bool,
    plain: bool,
    seed: int,
    kept: Gathered | None = None,
    group: str = "",
) -> Fitted:
    """Fit a calibration from a run's folder; measure the items that draw the line before and after.

    With `kept`, what each source said of each item, weights are learnt first, and all of it makes
    an artifact: from a `share` of the items, or with None from all of them, each judged by what
    others teach. Raises `InputError` where it cannot be fitted.
    """
    record = load(path)
    arm = record["arms"][SOLO]
    scored = Scored.read(path / "predictions.jsonl")
    there = fitting_rows(path, scored, arm)
    decided, p, seen, labels = _answers(path, scored, there)
    gold = scored.gold[there].tolist()
    bound = bound_of(arm["identity"])
    about: Any = {"mass": arm["label_mass"], "version": record["llmcat"], "fields": _fields(path)}

    def came(i: int) -> Scores:
        return scores_of_row(p[i], bool(seen[i]), labels, decided[i])

    if kept is None or not kept.signals:
        made = fit(
            p, seen, labels, gold, decided, taxonomy,
            bound=bound, prior=prior, plain=plain, share=share or 0.5, seed=seed, **about,
        )  # fmt: skip
        return Fitted(made, _before_and_after(made, came, came, gold, taxonomy))
    rows, groups = scored.row[there].tolist(), groups_of(path, there, group)
    first = parted(groups, share, seed) if share else None
    learnt = _learnt(kept, rows, gold, labels, groups, first, arm, seed)
    about["bound"] = bound | {"pool": learnt.pool.digest}
    best = learnt.p.argmax(axis=1).tolist()
    chosen = [(labels[k], float(row[k])) for k, row in zip(best, learnt.p, strict=True)]
    if first is None:
        made = fit_crossed(learnt.p, labels, gold, taxonomy, plain=plain, seed=seed, **about)
    else:
        fitting = partial(
            fit, learnt.p, np.ones(len(rows), dtype=bool), labels, gold, chosen, taxonomy,
            first=first, prior=prior, share=share or 0.5, seed=seed, **about,
        )  # fmt: skip
        try:
            made = fitting(plain=plain)
        except InputError:
            made = fitting(plain=True)  # the weights are the gain: what they give is kept as it is

    def now(i: int) -> Scores:
        return scores_of_row(learnt.p[i], True, labels, chosen[i])

    found = _before_and_after(made, came, now, gold, taxonomy)
    artifact = artifact_of(arm["identity"], arm["settings"], learnt, made, record["llmcat"])
    return Fitted(made, found, artifact)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A calibration, metrics of the gating part `before` and `after` it, and the artifact."""

    calibration: Calibration
    metrics: dict[str, dict[str, Any]]
    artifact: Artifact | None = None


def _answers(
    path: Path, scored: Scored, there: Any
) -> tuple[list[tuple[str, float]], Any, Any, list[str]]:
    """Return what was decided of each item, its row of probabilities, and whether it is whole.

    Last the labels of the rows. Raises `InputError` where the answers have no probabilities.
    """
    if not len(there) or np.isnan(scored.confidence[there]).any():
        raise InputError("a calibration needs probabilities, these answers have none")
    decided = zip(scored.label[there].tolist(), scored.confidence[there].tolist(), strict=True)
    kept = np.load(path / "posteriors.npz")
    p = kept["p"].astype(float)[there]
    return list(decided), p, kept["seen"][there], kept["labels"].tolist()


def groups_of(path: Path, there: Any, group: str) -> list[int]:
    """Return which items belong together: near duplicates, and those of one group."""
    items = [orjson.loads(line) for line in (path / "items.jsonl").read_bytes().splitlines()]
    some = [items[i] for i in there.tolist()]
    names = [item["kept"].get(group, "") for item in some] if group else None
    return group_of([" ".join(item["fields"].values()) for item in some], names)


def _learnt(
    kept: Gathered,
    rows: Sequence[int],
    gold: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[int],
    first: Any,
    arm: ArmRecord,
    seed: int,
) -> Learnt:
    """Learn weights, none rule, place prior and line from what was kept of an arm's items."""
    at = {label: i for i, label in enumerate(labels[:-1])}
    evidence = arm.get("evidence")
    assert evidence  # noqa: S101  or nothing was kept
    known = evidence["place_prior"]
    return learn(
        kept,
        rows,
        np.array([at.get(label, -1) for label in gold]),
        groups,
        first,
        start=Pool(weights=evidence["sources"]),
        prior=None if known is None else np.array(known),
        seed=seed,
    )


def artifact_of(
    identity: Mapping[str, str],
    settings: Mapping[str, Any],
    learnt: Learnt | None,
    made: Calibration | None,
    version: str,
) -> Artifact:
    """Put together what was learnt, each part bound to what it holds for.

    `identity` is that of the session that answered; `settings` are its choices.
    """
    retrieval = ("sources", "source_category", "examples", "taxonomy")
    parts: dict[str, Part] = {}
    report: dict[str, Any] = {}
    if learnt is not None:
        bound = {key: identity[key] for key in retrieval}
        parts["pool"] = Part(bound=bound, learnt=learnt.pool.record())
        report["fitted_on"] = learnt.pool.n
        if learnt.prior is not None:
            parts["reader"] = reader_part(identity, learnt.prior, learnt.first)
            if math.isfinite(learnt.line):
                parts["line"] = Part(bound={}, learnt={"skip": learnt.line})
    if made is not None:
        parts["calibration"] = Part(bound={}, learnt=made.model_dump(mode="json"))
    kept = {name: settings[name] for name in CHOICES if settings.get(name)}
    if offered := int(identity.get("candidates") or 0):  # as many as there were, not as were asked
        kept["candidates"] = offered
    return Artifact(llmcat=version, settings=kept, parts=parts, report=report).sealed()


def reader_part(identity: Mapping[str, str], prior: Any, first: Pool) -> Part:
    """Return what binds an artifact to a reader: its place prior, and how candidates were chosen.

    `prior` is None where the reader saw no menu of places.
    """
    bound = {key: identity[key] for key in READER}
    places = None if prior is None else [float(x) for x in prior]
    learnt = {"place_prior": places, "chosen_by": dict(first.weights)}
    return Part(bound=bound, learnt=learnt)


def fitting_rows(path: Path, scored: Scored, arm: ArmRecord) -> Any:
    """Return which items to fit on: answered, each text once, none that the prompt shows."""
    texts = [
        "\x1f".join(orjson.loads(line)["fields"].values())
        for line in (path / "items.jsonl").read_bytes().splitlines()
    ]
    leaked = set(arm["leaked"])
    rows = np.array(distinct(texts), dtype=int)
    keep = [scored.answered[i] and int(scored.row[i]) not in leaked for i in rows.tolist()]
    return rows[np.array(keep, dtype=bool)]


def _fields(path: Path) -> list[str]:
    """Return the columns that the items show."""
    lines = (path / "items.jsonl").read_bytes().splitlines()
    return sorted({name for line in lines for name in orjson.loads(line)["fields"]})


def _before_and_after(
    made: Calibration,
    came: Callable[[int], Scores],
    learnt: Callable[[int], Scores],
    gold: Sequence[str],
    taxonomy: Taxonomy,
) -> dict[str, dict[str, Any]]:
    """Measure the items that draw the line: what came, and what is made of it now.

    `learnt` gives what the calibration is put on, by an item's place.
    """
    decider = Calibrated(made, taxonomy, AcceptanceOptions())
    found = {}
    for name in ("before", "after"):
        sure, right, p_gold = [], [], []
        for i in made.gating_rows:
            scores = came(i) if name == "before" else decider.refine(learnt(i))
            sure.append(scores.confidence or 0.0)
            right.append(scores.label == gold[i])
            there = scores.p_none if gold[i] == NONE else scores.p.get(gold[i])
            p_gold.append(math.nan if there is None or scores.kind != "full" else there)
        arrays = np.array(sure), np.array(right), np.array(p_gold)
        lacks = np.isnan(arrays[2]).any()
        found[name] = {
            "accuracy": asdict(metrics.accuracy(arrays[1])),
            "log_loss": asdict(
                metrics.nothing("labels without a probability")
                if lacks
                else metrics.log_loss(arrays[2])
            ),
            "ece_debiased": asdict(metrics.calibration_error(arrays[0], arrays[1])[1]),
            "coverage_at_95": asdict(metrics.coverage_at(arrays[0], arrays[1], precision=0.95)),
        }
    return found
