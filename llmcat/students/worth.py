"""Whether a student is worth having: beside what no training is needed for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.retrieval.vectors import TFIDF, representation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.students.model import OutOfFold

__all__ = ["warning"]

Array = np.ndarray[Any, Any]
ALPHA = 0.05


def warning(
    held: OutOfFold, texts: Sequence[str], names: Mapping[str, str], *, features: str
) -> str:
    """Return what to say of a student that is of no use; empty where nothing shows that it is not.

    It is of none where it is not surely above the commonest category for all, or surely below the
    category whose name is nearest by `features`: both are free. Sure is a one-sided sign test on
    the items that only one of both gets right (McNemar 1947). `texts` are those of the items in
    `held`, `names` the categories'.
    """
    if not texts:
        return ""
    gold = np.array(held.gold)
    right = np.array(held.label) == gold
    usual, _ = Counter(held.gold).most_common(1)[0]
    vectors = representation(features).fit([*texts, *names.values()])
    alike = vectors(texts) @ vectors(list(names.values())).T
    nearest = np.asarray(alike.argmax(axis=1)).ravel()
    of_names = np.array(list(names))[nearest] == gold
    if _above(of_names, right):
        what, free = "the category whose name is nearest", of_names
    elif not _above(right, gold == usual):
        what, free = f"{usual!r} for all", gold == usual
    else:
        return ""
    help_ = "more labels help"
    if features == TFIDF:
        help_ += ', or --features multilingual (pip install "llmcat[multilingual]"): meanings, '
        help_ += "where tfidf reads letters"
    return (
        f"WARNING: this student is of no use yet: out of fold it gets {right.sum():,} of "
        f"{len(texts):,} items right, and {what} gets {free.sum():,}; {help_}"
    )


def _above(one: Array, other: Array) -> bool:
    """Tell whether the one surely gets more right than the other, of the same items."""
    from scipy.stats import binomtest

    more, less = int((one & ~other).sum()), int((other & ~one).sum())
    return more > less and binomtest(more, more + less, alternative="greater").pvalue < ALPHA
