"""Gold labels that are confidently contradicted (confident learning), by cleanlab.

This module does not know engines: it reads the probabilities that a run kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import util
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from llmcat.errors import BadConfig, InputError
from llmcat.evaluation.run_folder import named

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Audit", "audit", "check"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Audit:
    """`issues`: item, gold, label and what p says of each, the most doubtful first.

    `partial` counts answers that did not give every label a probability: what was left over is
    spread over the labels not seen. `left_out` counts items without any probabilities.
    `elsewhere`, as `issues`: items that the model gives a label that no item here has. Confident
    learning has nothing to say of these, however wrong their gold label is.
    """

    issues: list[dict[str, Any]]
    n: int
    partial: int
    left_out: int
    elsewhere: list[dict[str, Any]]


def check() -> None:
    """Raise `BadConfig` if cleanlab is not installed."""
    if util.find_spec("cleanlab") is None:
        raise BadConfig("--audit needs cleanlab", hint='pip install "llmcat[audit]"')


def audit(folder: Path, arm: str) -> Audit:
    """Find the items whose gold label the probabilities confidently contradict.

    Confident joint, pruned by class and by noise rate together (Northcutt, Jiang and Chuang 2021,
    section 3.2: `both`), ranked by the normalized margin. Raises `InputError` where no answer
    has probabilities.
    """
    from cleanlab.filter import find_label_issues

    kept = np.load(folder / named(arm, "posteriors.npz"))
    names, p, seen = kept["labels"], kept["p"].astype(np.float64), kept["seen"]
    items = [orjson.loads(line) for line in (folder / "items.jsonl").read_bytes().splitlines()]
    at = {name: i for i, name in enumerate(names.tolist())}
    gold = np.array([at.get(item["gold"], -1) for item in items])
    usable = (gold >= 0) & (p.sum(axis=1) > 0)
    if not usable.any():
        raise InputError("no answer has probabilities", hint="an audit needs a `code` prompt")
    p, gold_, seen = p[usable], gold[usable], seen[usable]
    unseen = p == 0
    left = np.clip(1.0 - p.sum(axis=1), 0.0, 1.0) / np.maximum(unseen.sum(axis=1), 1)
    p = np.where(unseen, left[:, None], p)
    p /= p.sum(axis=1, keepdims=True)
    # cleanlab wants each class to have an item: those without take no part.
    present = np.unique(gold_)
    if len(present) < 2:  # noqa: PLR2004
        raise InputError("every item has the same gold label: nothing can contradict it")
    rows = np.flatnonzero(usable)

    def said(i: int, p: Array, columns: Array, gold: int) -> dict[str, Any]:
        """Return what p says of the i-th usable item over some labels, gold the column of its."""
        item, best = items[rows[i]], int(p[i].argmax())
        return {
            "row": item["row"],
            "id": item["id"],
            "title": next(iter(item["fields"].values()), ""),
            "gold": item["gold"],
            "label": str(names[columns[best]]),
            "p_gold": round(float(p[i, gold]), 6),
            "p_label": round(float(p[i, best]), 6),
        }

    away = np.flatnonzero(~np.isin(p.argmax(axis=1), present))
    surest = away[np.argsort(-p[away].max(axis=1), kind="stable")]
    elsewhere = [said(i, p, np.arange(len(names)), gold_[i]) for i in surest.tolist()]
    p = p[:, present]
    p /= np.maximum(p.sum(axis=1, keepdims=True), 1e-12)
    labels = np.searchsorted(present, gold_)
    order = find_label_issues(
        labels,
        p,
        filter_by="both",
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,
    )
    issues = [said(i, p, present, labels[i]) for i in order.tolist()]
    return Audit(issues, len(labels), int((~seen).sum()), int((~usable).sum()), elsewhere)
