"""From Python: how good a classifier is on labelled items, and which of two is better.

    found = llmcat.evaluate(clf, titles, labels)
    found["metrics"]["accuracy"]                   # value, low, high: a 95 % interval
    llmcat.ab(first, second, titles, labels)["verdict"]

The measures and the decision are those of `llmcat eval` and `llmcat ab`; nothing is written down.
Whoever wants a folder, a report, answers that are not asked for twice, or looks planned ahead, uses
these commands.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.errors import InputError
from llmcat.evaluation.comparison import Question, compare_arms
from llmcat.evaluation.kept import judged, nodes_of
from llmcat.evaluation.paired import Rule
from llmcat.evaluation.predictions import ERROR, Labels, Scored, measure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmcat.classifier import Classifier
    from llmcat.estimator import Items
    from llmcat.evaluation.schema import Comparison

__all__ = ["ab", "evaluate"]


def evaluate(classifier: Classifier, X: Items, y: Iterable[Any]) -> dict[str, Any]:  # noqa: N803
    """Ask about labelled items and measure the answers.

    `y` has one label per item: an id, a path, a unique name or `none`; with `multi` a list of them.
    Returns what `metrics.json`
    of `llmcat eval` holds: `n`, `metrics` by name (each with value, low and high of a 95 %
    interval, or why there is none), `classes`, `confusions`, `errors`. Items that could not be
    answered count as wrong. Raises `InputError` for an unknown label, and any `EngineError`.
    """
    items, gold = _kept(X), list(y)
    scored = _scored(classifier, items, gold)
    return measure(scored, Labels(nodes_of(classifier.taxonomy)))


def ab(
    a: Classifier,
    b: Classifier,
    X: Items,  # noqa: N803
    y: Iterable[Any],
    *,
    metric: str = "",
    min_effect: float = 0.01,
    non_inferior: float | None = None,
    cheaper: bool = False,
) -> Comparison:
    """Compare two classifiers on the same labelled items, paired.

    `metric` decides: accuracy, with `multi` example_f1, where none is named. B is shipped where the
    interval of its gain lies above 0 and the gain is `min_effect` (0.01 is a point) at least;
    `non_inferior` is what may be lost where B is `cheaper`. Returns what `comparison.json` of
    `llmcat ab` holds: `verdict`, the decision in a line, and `versus`, the differences with their
    intervals. Raises as `evaluate` does, and where the two have other categories.
    """
    if a.taxonomy.digest != b.taxonomy.digest:
        raise InputError("the two have different categories: they cannot be compared")
    items, gold = _kept(X), list(y)
    arms = {"a": _scored(a, items, gold), "b": _scored(b, items, gold)}
    if arms["a"].several != arms["b"].several:
        raise InputError("one gives several labels, the other one: they cannot be compared")
    rule = Rule(min_effect, non_inferior)
    question = Question.of(metric, tree=False, several=arms["a"].several, rule=rule)
    costs = {"a": 1.0, "b": 0.0 if cheaper else 1.0}
    return compare_arms(arms, Labels(nodes_of(a.taxonomy)), question, columns={}, costs=costs)


def _kept(items: Items) -> Any:
    """Return items that can be gone through twice; a DataFrame stays one."""
    return items if hasattr(items, "iloc") else list(items)


def _scored(classifier: Classifier, items: Any, y: list[Any]) -> Scored:
    """Return a classifier's answers beside the gold labels, as arrays."""
    if len(items) != len(y):
        raise InputError(f"{len(items)} items and {len(y)} labels")
    several = bool(classifier.settings.multi)
    if several:
        y = classifier.joined_of(y)
    ids = (
        [classifier.id_of(label) for label in y]
        if not several
        else [classifier.taxonomy.resolve_all(labels) for labels in y]
    )
    unknown = sorted({str(label) for label, id_ in zip(y, ids, strict=True) if id_ is None})
    if unknown:
        raise InputError(f"labels that are not in the taxonomy: {', '.join(unknown[:5])}")
    label, sure, told = list[str](), list[float | None](), list[dict[str, Any]]()
    for result, gold in zip(classifier.results(items), ids, strict=True):
        told.append(judged(replace(result, item=replace(result.item, gold=gold))))
        label.append(ERROR if result.scores is None else classifier.label_of(result.scores))
        sure.append(None if result.scores is None else result.scores.confidence)
    failed = label.count(ERROR)

    def column(values: Iterable[float | None]) -> Any:
        return np.array([np.nan if value is None else value for value in values], dtype=float)

    return Scored(
        row=np.arange(len(ids)),
        gold=np.array(ids),
        label=np.array(label),
        confidence=column(sure),
        p_gold=column(one["p_gold"] for one in told),
        p_squares=column(one["p_squares"] for one in told),
        rank=column(one["rank"] for one in told),
        errors=Counter({"no answer": failed} if failed else {}),
        several=several,
        loss=column(one.get("loss") for one in told) if several else None,
    )
