"""What the model adds to retrieval alone, paired on the same items, and for how many tokens.

Retrieval costs nothing, so it is what a model has to beat. Read from the rows of a run, whoever
asked. This module does not know engines, prompts or the pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.evaluation.paired import difference_of_accuracy, mcnemar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["added", "sentence"]

POINTS = 20
"""Of the curve of accuracy against what is sent to the model."""


def added(rows: Iterable[Mapping[str, Any]], *, tokens: float | None) -> dict[str, Any] | None:
    """Measure the gain over retrieval alone from prediction rows, `tokens` a mean per item.

    Returns JSON: accuracies and gain with its 95 % interval as shares, McNemar's exact p, the share
    of labelled items whose category was among the candidates (`recall`) and of items that were sent
    to the model, and `curve` (see `_curve`). None where no row says what retrieval alone would have
    answered.
    """
    alone, both, offered, sent, sure = [], [], [], [], []
    candidates = 0
    for row in rows:
        said, gold = row.get("evidence"), row.get("gold")
        if not said or gold is None:
            continue
        label = "none" if row["label"] is None else row["label"]
        right = row["decision"] != "error" and label == gold
        both.append(right)
        alone.append(said["alone"] == gold)
        sent.append("offered" in said)
        sure.append(said["sure"])
        if "offered" in said:
            candidates = max(candidates, len(said["offered"]))
            if gold != "none":
                offered.append(gold in said["offered"])
    if not both or not any(sent):
        return None
    a, b = np.array(alone), np.array(both)
    gain = difference_of_accuracy(a, b)
    return {
        "alone": float(a.mean()),
        "with_model": float(b.mean()),
        "gain": gain.value,
        "low": gain.low,
        "high": gain.high,
        "p": mcnemar(a, b).p,
        "n": len(both),
        "candidates": candidates,
        "recall": float(np.mean(offered)) if offered else None,
        "sent": float(np.mean(sent)),
        "tokens_per_item": tokens,
        "curve": _curve(a, b, np.array(sure), np.array(sent)),
    }


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
