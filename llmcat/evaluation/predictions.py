"""One arm's predictions beside the gold labels, as arrays, and every metric of them.

Read from a run's folder, so that nothing depends on who asked. This module does not know prompts,
engines or other arms.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from llmcat.errors import InputError, JournalError
from llmcat.evaluation import f1, metrics
from llmcat.evaluation.metrics import Estimate, nothing
from llmcat.items.values import several_in
from llmcat.records import NONE, SEVERAL, each_of, joined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["ERROR", "Labels", "Scored", "at_level", "label_in", "measure", "same_items"]

Array = np.ndarray[Any, Any]

ERROR = "\x00error"
"""The label of a row that has none, which no category can be called: it counts as wrong."""
PRECISIONS = (0.90, 0.95, 0.99)
BINS = 15
POINTS = 200


class Labels:
    """The taxonomy as a run wrote it down: id to path and parent."""

    def __init__(self, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        """`nodes` maps an id to `{"path": [...], "parent": id or null}`."""
        self.nodes = nodes
        self._chains: dict[str, tuple[str, ...]] = {}

    @classmethod
    def read(cls, folder: Path) -> Labels:
        """Read those of a run's folder."""
        return cls(_json(folder / "labels.json"))

    @property
    def leaves(self) -> list[str]:
        """The ids under which nothing stands."""
        inner = {node["parent"] for node in self.nodes.values()}
        return [id_ for id_ in self.nodes if id_ not in inner]

    @property
    def depth(self) -> int:
        """The number of levels; 1 for a flat list."""
        return max((len(node["path"]) for node in self.nodes.values()), default=1)

    def chain(self, label: str) -> tuple[str, ...]:
        """Return the ids from the department down to the label; none for `none` and errors."""
        if label not in self._chains:
            found: list[str] = []
            at: str | None = label if label in self.nodes else None
            while at is not None:
                found.append(at)
                at = self.nodes[at]["parent"]
            self._chains[label] = tuple(reversed(found))
        return self._chains[label]

    def branch(self, label: str) -> str:
        """Return the department's path, of several labels that of the first; or `none`."""
        first = next(iter(each_of(label)), NONE)
        chain = self.chain(first)
        return self.path(chain[0]) if chain else NONE

    def chains(self, label: str) -> frozenset[str]:
        """Return the ids of the labels and all above them; see `chain`."""
        return frozenset(id_ for part in each_of(label) for id_ in self.chain(part))

    def names(self, label: str) -> list[str]:
        """Return the labels' own names, in each of their languages."""
        if label == NONE:
            return ["none of these", "以上都不是"]
        if SEVERAL in label:
            return [name for part in each_of(label) for name in self.names(part)]
        node = self.nodes.get(label)
        return [node["path"][-1], *node["names"].values()] if node else []

    def path(self, label: str) -> str:
        """Return the path as people read it; several of them with a plus between."""
        if label in {NONE, ERROR}:
            return "none of these" if label == NONE else "(error)"
        if SEVERAL in label:
            return " + ".join(map(self.path, each_of(label)))
        node = self.nodes.get(label)
        return " > ".join(node["path"]) if node else label


@dataclass(frozen=True)
class Scored:
    """Columns of shape `(n,)`, in the order of the rows.

    `label` is a node id, `none` or `ERROR`; with `several`, ids `joined`, `p_gold` is the
    probability of just these labels, and `loss` its negative logarithm. `confidence`, `p_gold`,
    `p_squares` and `rank` are NaN where the answer does not say. `level`: the expected level, where
    the categories are a scale.
    """

    row: Array
    gold: Array
    label: Array
    confidence: Array
    p_gold: Array
    p_squares: Array
    rank: Array
    errors: Counter[str]
    several: bool = False
    loss: Array | None = None
    level: Array | None = None

    @classmethod
    def read(cls, path: Path, *, several: bool = False) -> Scored:
        """Read a run's predictions, `several` if items may have several labels.

        Raises `JournalError` if they cannot be read.
        """
        columns: dict[str, list[Any]] = {name: [] for name in ("row", "gold", "label")}
        more = ("loss",) if several else ()
        numbers: dict[str, list[float]] = {
            name: [] for name in ("confidence", "p_gold", "p_squares", "rank", *more)
        }
        errors, levels = Counter[str](), list[float | None]()
        try:
            with path.open("rb") as lines:
                for line in lines:
                    row = orjson.loads(line)
                    failed = row["decision"] == "error"
                    if failed:
                        errors[row["reason"] or "?"] += 1
                    columns["row"].append(row["row"])
                    gold = joined(several_in(row["gold"]) or ()) if several else row["gold"]
                    columns["gold"].append(gold)
                    columns["label"].append(ERROR if failed else label_in(row))
                    if "level" in row:
                        levels.append(row["level"])
                    for name, column in numbers.items():
                        value = row.get(name) if name == "loss" else row[name]
                        column.append(math.nan if value is None else value)
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as exc:
            raise JournalError(f"{path} cannot be read: {exc}") from exc
        arrays = {name: np.array(column) for name, column in columns.items()}
        measured = {name: np.array(column) for name, column in numbers.items()}
        level = np.array(levels, float) if levels else None
        return cls(**arrays, **measured, errors=errors, several=several, level=level)

    @property
    def losses(self) -> Array:
        """Negative log-probability of each gold label, or of just these, shape `(n,)`."""
        return metrics.losses(self.p_gold) if self.loss is None else self.loss

    @cached_property
    def correct(self) -> Array:
        """Whether each label is the gold one, shape `(n,)`."""
        return np.asarray(self.gold == self.label)

    @cached_property
    def answered(self) -> Array:
        """Whether each row is no error, shape `(n,)`."""
        return np.asarray(self.label != ERROR)

    @property
    def lacks(self) -> str:
        """Why there are no losses, where some answer gives its gold label no probability."""
        if not self.answered.any():
            return "no answers"
        return (
            "some answers give no probability to every label"
            if np.isnan(self.p_gold[self.answered]).any()
            else ""
        )

    @property
    def classes(self) -> list[str]:
        """All labels that occur, without `none` and errors, in alphabetical order."""
        found = {*self.gold.tolist(), *self.label.tolist()} - {NONE, ERROR}
        return sorted({part for label in found for part in each_of(label)})

    def sets(self, labels: Labels) -> dict[metrics.Of, metrics.Ratio]:
        """Return the hierarchical ratios."""
        gold, given = (map(labels.chains, of.tolist()) for of in (self.gold, self.label))
        return metrics.hierarchical_ratios(gold, given)


def label_in(row: Mapping[str, Any]) -> str:
    """Return the label of a row of predictions or `none`; where there may be several, `joined`."""
    if "labels" in row:
        return joined(one["label"] for one in row["labels"])
    return row["label"] or NONE


def same_items(a: Scored, b: Scored) -> None:
    """Raise `InputError` if two arms do not have the same items with the same gold labels."""
    if a.several != b.several:
        raise InputError(
            "one arm gives an item one label, one several: they cannot be compared",
            hint="--multi for all arms, or for none",
        )
    if not (np.array_equal(a.row, b.row) and np.array_equal(a.gold, b.gold)):
        raise InputError(
            "the arms have different items or labels: they cannot be compared",
            hint="compare runs of the same file, --limit and --seed",
        )


def measure(
    scored: Scored,
    labels: Labels,
    *,
    costs: Mapping[tuple[str, str], float] | None = None,
    draws: int = 2000,
) -> dict[str, Any]:
    """Return every metric as JSON: `metrics` by name, `classes`, `confusions`, curves, `errors`.

    Rows that are errors count as wrong; they have no probabilities, and metrics of probabilities
    are over the others.
    """
    return {
        "n": len(scored.gold),
        "metrics": {name: asdict(e) for name, e in _estimates(scored, labels, draws).items()},
        "errors": dict(scored.errors.most_common()),
        "classes": [
            asdict(c) for c in f1.of_classes(scored.gold, scored.label, [*scored.classes, NONE])
        ],
        "confusions": [
            asdict(c) for c in metrics.confusions(scored.gold, scored.label, cost=costs)
        ],
        **_curves(scored),
    }


def _estimates(scored: Scored, labels: Labels, draws: int) -> dict[str, Estimate]:
    gold, label = scored.gold, scored.label
    found = {"accuracy": metrics.accuracy(scored.correct)}
    if scored.several:
        found = _of_several(scored, labels)
    for (how, of), estimate in f1.averages(gold, label, scored.classes, draws=draws).items():
        found[f"{how}_{of}"] = estimate
    depth = labels.depth
    if depth > 1:
        for of, ratio in scored.sets(labels).items():
            found[f"hierarchical_{of}"] = metrics.hierarchical(ratio, draws=draws)
    if scored.several:
        return found | _of_probabilities(scored) | _of_none(scored)
    found["kappa"] = metrics.kappa(gold, label)
    if scored.level is not None:
        found |= _of_levels(scored, labels.leaves)
    if depth > 1:
        for level in range(1, depth + 1):
            found[f"accuracy_level_{level}"] = metrics.accuracy(at_level(scored, labels, level))
    ok, why = scored.answered, scored.lacks
    p_gold, rank = scored.p_gold[ok], scored.rank[ok]
    for k in (3, 5):
        found[f"top_{k}"] = nothing(why) if why else metrics.top_k(rank, k)
    found["brier"] = nothing(why) if why else metrics.brier_score(p_gold, scored.p_squares[ok])
    return found | _of_probabilities(scored) | _of_none(scored)


def _of_levels(scored: Scored, leaves: Sequence[str]) -> dict[str, Estimate]:
    """Return how far levels are off: of the labels as kappa, of the expected levels on average.

    `none` and errors have no place on a scale: only items that have one twice are counted.
    """
    at = {label: level for level, label in enumerate(leaves, 1)}
    gold, label = scored.gold, scored.label
    placed = np.isin(gold, leaves) & np.isin(label, leaves)
    found = {"kappa_quadratic": metrics.kappa(gold[placed], label[placed], levels=np.array(leaves))}
    assert scored.level is not None  # noqa: S101  the caller has seen it
    known = np.isin(gold, leaves) & ~np.isnan(scored.level)
    off = scored.level[known] - np.array([at[each] for each in gold[known].tolist()], float)
    why = nothing("no answer has a probability for each level")
    found["level_error"] = metrics.mean(np.abs(off)) if known.any() else why
    return found


def _of_several(scored: Scored, labels: Labels) -> dict[str, Estimate]:
    """Return the metrics of sets of labels: each item's F1, all right, share of wrong decisions."""
    return {
        "example_f1": metrics.mean(metrics.example_f1(scored.gold, scored.label), shares=True),
        "subset_accuracy": metrics.accuracy(scored.correct),
        "hamming_loss": metrics.mean(
            metrics.hamming_losses(scored.gold, scored.label, len(labels.leaves)), shares=True
        ),
    }


def _of_probabilities(scored: Scored) -> dict[str, Estimate]:
    """Return the metrics of the answer's probability."""
    ok, why = scored.answered, scored.lacks
    found = {"log_loss": nothing(why) if why else metrics.mean(scored.losses[ok])}
    sure, right = confidences(scored)
    unsure = "" if len(sure) else "no answer has a confidence"
    ece = metrics.calibration_error(sure, right, bins=BINS)
    found["ece"], found["ece_debiased"] = (nothing(unsure),) * 2 if unsure else ece
    for precision in PRECISIONS:
        name = f"coverage_at_{precision:.0%}".rstrip("%")
        at = metrics.coverage_at(*taken(scored), precision=precision)
        found[name] = nothing(unsure) if unsure else at
    return found


def _of_none(scored: Scored) -> dict[str, Estimate]:
    given, wanted = scored.label == NONE, scored.gold == NONE
    never, nobody = nothing("none was never given"), nothing("no item belongs nowhere")
    return {
        "none_precision": metrics.accuracy(wanted[given]) if given.any() else never,
        "none_recall": metrics.accuracy(given[wanted]) if wanted.any() else nobody,
    }


def at_level(scored: Scored, labels: Labels, level: int) -> Array:
    """Return whether each label agrees with its gold label down to a level (1 is the top).

    Only items whose gold label goes that deep, shape `(m,)`.
    """
    chain = labels.chain
    return np.array(
        [
            chain(given)[:level] == chain(gold)[:level]
            for gold, given in zip(scored.gold.tolist(), scored.label.tolist(), strict=True)
            if len(chain(gold)) >= level
        ],
        dtype=bool,
    )


def confidences(scored: Scored) -> tuple[Array, Array]:
    """Return the confidences that there are, and whether each of these answers is right."""
    known = ~np.isnan(scored.confidence)
    return scored.confidence[known], scored.correct[known]


def taken(scored: Scored) -> tuple[Array, Array]:
    """Return confidences and correctness of all items; an error is what is taken last."""
    sure = np.where(scored.answered, scored.confidence, -1.0)
    known = ~np.isnan(sure)
    return sure[known], scored.correct[known]


def _curves(scored: Scored) -> dict[str, Any]:
    """Return the reliability diagram and the risk-coverage curve, thinned to `POINTS`."""
    sure, right = confidences(scored)
    if not len(sure):
        return {"reliability": [], "risk_coverage": []}
    share, mean, accuracy = metrics.reliability(sure, right, bins=BINS)
    coverage, risk = metrics.risk_coverage(*taken(scored))
    at = np.unique(np.linspace(0, len(coverage) - 1, min(POINTS, len(coverage))).astype(int))
    return {
        "reliability": np.stack([share, mean, accuracy], axis=1).round(6).tolist(),
        "risk_coverage": np.stack([coverage[at], risk[at]], axis=1).round(6).tolist(),
    }


def _json(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as exc:
        raise JournalError(f"{path} cannot be read: {exc}") from exc
