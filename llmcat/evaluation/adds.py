"""What the model adds to retrieval alone, paired on the same items, and for how many tokens.

Retrieval costs nothing, so it is what a model has to beat. Read from the rows of a run, whoever
asked. This module does not know engines, prompts or the pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.evaluation.metrics import example_f1
from llmcat.evaluation.paired import difference_of_accuracy, difference_of_means, mcnemar
from llmcat.evaluation.predictions import label_in
from llmcat.items.values import several_in
from llmcat.records import each_of, joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["added", "sentence"]

POINTS = 20
"""Of the curve of accuracy against what is sent to the model."""


def added(rows: Iterable[Mapping[str, Any]], *, tokens: float | None) -> dict[str, Any] | None:
    """Measure the gain over retrieval alone from prediction rows, `tokens` a mean per item.

    Returns JSON: accuracies (where items may have several labels, means of their F1) and gain with
    its 95 % interval as shares, McNemar's exact p (Student's, of means), the share of gold labels
    that were among the candidates (`recall`) and of items that were sent to the model, and `curve`
    (see `_curve`; empty where items may have several labels). None where no row says what retrieval
    alone would have answered.
    """
    alone, both, offered, sent, sure = [], [], [], [], []
    candidates = 0
    for row in rows:
        said, gold = row.get("evidence"), row.get("gold")
        if not said or gold is None:
            continue
        several = "labels" in row
        if several:
            gold = joined(several_in(gold) or ())
        without = joined(said["alone"]) if several else said["alone"]
        both.append(_right(gold, label_in(row), several=several))
        alone.append(_right(gold, without, several=several))
        sent.append("offered" in said)
        sure.append(said["sure"])
        if "offered" in said:
            candidates = max(candidates, len(said["offered"]))
            offered += [label in said["offered"] for label in each_of(gold)]
    if not both or not any(sent):
        return None
    a, b = np.array(alone), np.array(both)
    shares = a.dtype == float
    gain = difference_of_means(a, b) if shares else difference_of_accuracy(a, b)
    return {
        "alone": float(a.mean()),
        "with_model": float(b.mean()),
        "gain": gain.value,
        "low": gain.low,
        "high": gain.high,
        "metric": "example_f1" if shares else "accuracy",
        "p": _p_of_mean(b - a) if shares else mcnemar(a, b).p,
        "n": len(both),
        "candidates": candidates,
        "recall": float(np.mean(offered)) if offered else None,
        "sent": float(np.mean(sent)),
        "tokens_per_item": tokens,
        "curve": [] if shares else _curve(a, b, np.array(sure), np.array(sent)),
    }


def _right(gold: str, label: str, *, several: bool) -> float | bool:
    """Return whether a label is right, of several how right: their F1."""
    return float(example_f1(np.array([gold]), np.array([label]))[0]) if several else gold == label


def _p_of_mean(differences: Any) -> float:
    """Return the two-sided p of a mean of paired differences (Student's t); 1 where all are 0."""
    from scipy.stats import ttest_1samp

    if not differences.any():
        return 1.0
    if not np.ptp(differences):  # all alike: by the sign test
        return min(1.0, 2 * 0.5 ** len(differences))
    return float(ttest_1samp(differences, 0.0).pvalue)


def _curve(alone: Any, both: Any, sure: Any, sent: Any) -> list[tuple[float, float]]:
    """Return pairs of a share of items sent to the model and the accuracy that would be had.

    Those on which retrieval is least sure are sent first, as `--skip-sure` does it; up to the share
    that was sent. Arrays have shape `(items,)`.
    """
    order = np.lexsort((sure, ~sent))
    gained = np.concatenate([[0.0], np.cumsum(both[order].astype(float) - alone[order])])
    n, most = len(order), int(sent.sum())
    counts = np.unique(np.linspace(0, most, POINTS + 1).round().astype(int)).tolist()
    return [(k / n, (float(alone.sum()) + float(gained[k])) / n) for k in counts]


def sentence(found: Mapping[str, Any]) -> str:
    """Say it in one line: the gain with its interval, and what it costs."""
    gain, low, high = (100 * found[name] for name in ("gain", "low", "high"))
    points = f"{gain:+.1f} points [{low:+.1f}, {high:+.1f}]"
    cost = ""
    if found["tokens_per_item"]:
        cost = f", for {found['tokens_per_item']:,.0f} tokens an item"
    to = f"to retrieval alone ({100 * found['alone']:.1f} %)"
    if found["high"] <= 0 or found["gain"] <= 0:
        return f"WARNING: the model adds nothing {to}: {points}{cost}; --engine retriever is free"
    if found["low"] <= 0:
        return f"the model adds {points} {to}{cost}; that may be chance"
    return f"the model adds {points} {to}{cost}"
