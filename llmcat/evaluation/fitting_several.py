"""What labels teach where items may have several: weights, an offset per category, a line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.evaluation import metrics
from llmcat.evaluation.f1 import averages
from llmcat.evaluation.fitting import artifact_of, fitting_rows, groups_of, reader_part
from llmcat.evaluation.predictions import Scored
from llmcat.evaluation.run_folder import SOLO, load
from llmcat.evidence import several
from llmcat.evidence.artifact import Part
from llmcat.evidence.learn import Learnt
from llmcat.evidence.pool import Pool
from llmcat.records import each_of, joined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from llmcat.evidence.artifact import Artifact
    from llmcat.evidence.gather import Gathered
    from llmcat.evidence.several import Way
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["Taught", "fit_several"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Taught:
    """An artifact, and metrics of the items as they were answered and as they are out of fold."""

    artifact: Artifact
    n: int
    metrics: Mapping[str, Mapping[str, Any]]


def fit_several(
    path: Path, taxonomy: Taxonomy, kept: Gathered, *, way: Way, seed: int, group: str = ""
) -> Taught:
    """Fit what the answers of a run mean, from its folder and what was kept of each item.

    Raises `InputError` where there are too few items.
    """
    record = load(path)
    arm = record["arms"][SOLO]
    scored = Scored.read(path / "predictions.jsonl", several=True)
    there = fitting_rows(path, scored, arm)
    leaves = {node.id for node in taxonomy.leaves}
    there = there[
        [  # an inner category is none that anything can be learnt of
            int(scored.row[i]) in kept.log_s and leaves.issuperset(each_of(str(scored.gold[i])))
            for i in there.tolist()
        ]
    ]
    rows, groups = scored.row[there].tolist(), groups_of(path, there, group)
    ids = [node.id for node in taxonomy.leaves]
    applies = _matrix(scored.gold[there].tolist(), ids)
    evidence = arm.get("evidence")
    assert evidence  # noqa: S101  --multi always goes by retrieval
    used, known = Pool(weights=evidence["sources"]), evidence["place_prior"]
    prior = None if known is None else np.array(known)
    log_s = np.stack([kept.log_s[row] for row in rows])
    asked = [kept.asked[row] for row in rows]
    without = several.fit(
        several.inputs(log_s, [None] * len(rows)), applies, ids, groups,
        start=several.default(None), seed=seed,
    )  # fmt: skip
    both = without
    if any(asked):
        heard = [one.said(prior) if one else None for one in asked]
        both = several.fit(
            several.inputs(log_s, heard), applies, ids, groups,
            start=several.default(way), seed=seed,
        )  # fmt: skip
    part = Part(
        bound={"multi": way},
        learnt={
            "model": both.model.record() if any(asked) else None,
            "alone": without.model.record(),
        },
    )
    identity, settings = arm["identity"], arm["settings"]
    learnt = Learnt(used, used, None, np.zeros((0, 0)), np.inf)
    made = artifact_of(identity, settings, learnt, None, record["llmcat"])
    parts = {**made.parts, "several": part}
    if any(asked):
        parts["reader"] = reader_part(identity, prior, used)
    artifact = made.model_copy(update={"parts": parts}).sealed()
    gold = scored.gold[there]
    found = {
        "before": _metrics(gold, scored.label[there], ids),
        "after": _metrics(gold, _labels(both.given, ids), ids),
        "retrieval alone": _metrics(gold, _labels(without.given, ids), ids),
    }
    return Taught(artifact, len(rows), found)


def _matrix(gold: Sequence[str], ids: Sequence[str]) -> Array:
    """Return which categories each item has, shape `(items, categories)`."""
    at = {id_: i for i, id_ in enumerate(ids)}
    applies = np.zeros((len(gold), len(ids)), dtype=bool)
    for row, labels in zip(applies, gold, strict=True):
        row[[at[label] for label in each_of(labels) if label in at]] = True
    return applies


def _labels(given: Array, ids: Sequence[str]) -> Array:
    """Return the labels of each row of a matrix, `joined`."""
    return np.array([joined(ids[i] for i in np.flatnonzero(row).tolist()) for row in given])


def _metrics(gold: Array, label: Array, ids: Sequence[str]) -> dict[str, Any]:
    found = averages(gold, label, ids, draws=0)
    return {
        "example_f1": asdict(metrics.mean(metrics.example_f1(gold, label))),
        "micro_f1": asdict(found["micro", "f1"]),
        "macro_f1": asdict(found["macro", "f1"]),
        "subset_accuracy": asdict(metrics.accuracy(gold == label)),
    }
