"""The one place where sources become a posterior: a logarithmic opinion pool over all labels.

    log P(label) = sum over sources of weight * score(label) - a constant

(Genest and Zidek 1986, section 3.) Retrieval scores every category; a reader (a model) scores the
candidates it was shown and its exit. What it gives to "none of these" is spread over the categories
it was not shown, as the scorers have them: it knows no more of these. Then the none rule decides
how much of everything is `none`. Pure functions of arrays: no items, engines or files.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.evidence import none_rule
from llmcat.evidence.none_rule import NoneRule
from llmcat.records import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.retrieval.scorers import Signals

__all__ = [
    "DECIDER",
    "DECIDER_BESIDE_LEARNT",
    "FOLDS",
    "LEAST",
    "READER",
    "READER_BESIDE_LEARNT",
    "Heard",
    "Pool",
    "default_weights",
    "fit",
    "folds_of",
]

Array = np.ndarray[Any, Any]

READER = "reader"
DEFAULTS = {
    "lexical": 0.4,
    "multilingual": 0.7,
    "minilm": 1.3,
    "supplied": 0.7,
    READER: 1.25,
}
"""Weights of little regret over the development parts (eval/results/evidence.md)."""
ENCODERS = ("lexical", "multilingual", "minilm")
DECIDER, DECIDER_BESIDE_LEARNT = 0.6, 0.3
"""A decision model's that reads all names: of sparrow-decider 0.2.0, over 384 development items of
shop32 and 385 of banking77 (eval/results/decision-models.md)."""
READER_BESIDE_LEARNT = 0.6
"""The reader's, where the others were learnt without it: a little less than what it is learnt to be
beside learnt others (eval/results/evidence.md)."""
OTHER, NEAREST, PROBE = 1.0, 0.1, 0.7
"""Of an embedding model that was not measured; of the nearest example, of a probe
(docs/decisions/0018-names.md)."""
HELD = 0.5
"""Spread of the normal prior that holds a fitted weight to its default."""
FOLDS = 5
LEAST = 30
"""Items with a category that weights are fitted on."""
FLOOR = -30.0


def default_weight(source: str) -> float:
    """Return the weight a source has before there are labels."""
    if source.endswith(".nearest"):
        return NEAREST
    if source.endswith(".probe"):
        return PROBE
    return DEFAULTS.get(source, OTHER)


def default_weights(sources: Sequence[str]) -> dict[str, float]:
    """Return the weights of some sources before there are labels.

    Where not all the encoders are there that the defaults were found with, those that are get more:
    by the square root of what is missing, between no change and full replacement.
    """
    weights = {name: default_weight(name) for name in sources}
    there = sum(weights[name] for name in ENCODERS if name in weights)
    if there:
        more = (sum(DEFAULTS[name] for name in ENCODERS) / there) ** 0.5
        weights |= {name: weights[name] * more for name in ENCODERS if name in weights}
    return weights


@dataclass(frozen=True)
class Heard:
    """What a reader said of one item.

    `columns`: the candidates' columns in the order of the menu; `log_p`: their log-probabilities
    and, last, the exit's, the place prior removed.
    """

    columns: Array
    log_p: Array

    @property
    def exit_odds(self) -> float:
        """Log-odds of the exit against everything on the menu, against an even share of it."""
        exit_, inside = self.log_p[-1], np.logaddexp.reduce(self.log_p[:-1])
        return float(np.clip(exit_ - inside, -12, 12) + np.log(len(self.columns)))


@dataclass(frozen=True)
class Pool:
    """Weights by source, the none rule, and how many labelled items both were fitted on."""

    weights: Mapping[str, float] = field(default_factory=dict)
    none: NoneRule = none_rule.DEFAULT
    n: int = 0

    def weight(self, source: str) -> float:
        """Return a source's weight: as fitted, else the default; 0 where it was dropped."""
        if source in self.weights:
            return self.weights[source]
        return default_weight(source)

    def read_by_decider(self) -> Pool:
        """Return the same with a decision model as the reader, its weight the usual one.

        Where not all the encoders are there it gets more, as what is there does: less, since a
        model that reads names says much the same as they do.
        """
        if self.weights.get(READER) == READER_BESIDE_LEARNT:
            return replace(self, weights={**self.weights, READER: DECIDER_BESIDE_LEARNT})
        whole = sum(DEFAULTS[name] for name in ENCODERS)
        models = [name for name in self.weights if name in ENCODERS or name not in DEFAULTS]
        there = sum(default_weight(name) for name in models) or whole
        weight = DECIDER * max(1.0, (whole / there) ** 0.35)
        return replace(self, weights={**self.weights, READER: round(weight, 4)})

    def record(self) -> dict[str, Any]:
        """Return it for a file."""
        weights = {name: round(value, 6) for name, value in sorted(self.weights.items())}
        return {"weights": weights, "none": self.none.record(), "n": self.n}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Pool:
        """Return what was recorded."""
        return cls(dict(record["weights"]), NoneRule.of(record["none"]), record["n"])

    @property
    def digest(self) -> str:
        """A hash of everything in it."""
        return digest(repr(self.record()))

    def scorers(self, signals: Signals) -> Array:
        """Return log P(label | the scorers), shape `(items, categories)`, rows normalised."""
        first = next(iter(signals.scores.values()))
        total = np.zeros(first.shape)
        for name, scores in signals.scores.items():
            if weight := self.weight(name):
                total += weight * scores
        return _rows(total)

    def labels(
        self, signals: Signals, heard: Sequence[Heard | None], log_s: Array | None = None
    ) -> Array:
        """Return log P(label | everything, it is not none), shape `(items, categories)`.

        `log_s` is what `scorers` gave, where that is known already.
        """
        log_s = self.scorers(signals) if log_s is None else log_s
        if all(one is None for one in heard):
            return log_s
        weight = self.weight(READER)
        out = log_s.copy()
        for i, one in enumerate(heard):
            if one is not None and weight:
                out[i] += weight * spread(one, log_s[i])
        return _rows(out)

    def none_odds(self, signals: Signals, log_p: Array, heard: Sequence[Heard | None]) -> Array:
        """Return the log-odds of none, shape `(items,)`."""
        odds = np.array([0.0 if one is None else one.exit_odds for one in heard])
        return self.none(none_rule.inputs(signals.similarity, log_p, odds))

    def __call__(
        self, signals: Signals, heard: Sequence[Heard | None], log_s: Array | None = None
    ) -> tuple[Array, Array]:
        """Return P(label), shape `(items, categories)`, and P(none), shape `(items,)`.

        Each row of the first and its element of the second sum to 1.
        """
        log_p = self.labels(signals, heard, log_s)
        none = 0.5 * (1 + np.tanh(0.5 * self.none_odds(signals, log_p, heard)))
        return np.exp(log_p) * (1 - none)[:, None], none

    def parts(
        self, signals: Signals, heard: Heard | None, columns: Sequence[int], log_s: Array
    ) -> dict[str, list[float]]:
        """Return what each source adds for some categories of one item: name -> nats.

        `log_s` is what `scorers` gave, shape `(categories,)`.
        """
        some = list(columns)
        found = {
            name: [float(x) for x in self.weight(name) * scores[0, some]]
            for name, scores in signals.scores.items()
        }
        if heard is not None:
            found[READER] = [float(x) for x in self.weight(READER) * spread(heard, log_s)[some]]
        return found


def spread(heard: Heard, log_s: Array) -> Array:
    """Return the reader's log P(label) over all categories, shape `(categories,)`.

    The exit's share goes to the categories that were not offered, as the scorers have them.
    """
    out = log_s.copy()
    out[heard.columns] = -np.inf
    if len(heard.columns) < len(out):
        rest = np.logaddexp.reduce(out)
        out += heard.log_p[-1] - (rest if np.isfinite(rest) else 0.0)
    out[heard.columns] = heard.log_p[:-1]
    return np.maximum(out, FLOOR)


def folds_of(groups: Sequence[int], seed: int) -> Array:
    """Return each item's fold, 0 to `FOLDS` - 1; a group is in one fold."""
    order = np.random.default_rng(seed).permutation(np.unique(groups)).tolist()
    fold = {group: i % FOLDS for i, group in enumerate(order)}
    return np.array([fold[group] for group in groups])


# -- fitting ----------------------------------------------------------------------------------


def fit(
    signals: Signals,
    heard: Sequence[Heard | None],
    columns: Array,
    groups: Sequence[int],
    *,
    start: Pool | None = None,
    seed: int = 0,
) -> Pool:
    """Fit weights by log loss, held to the defaults, and the none rule on top.

    `signals` are out-of-fold: no item is among the examples that speak of it. `columns` holds each
    item's category, -1 for none; `groups` what may not be parted between folds. Cross-validation
    tells which sources stay (see `_selected`). With fewer than `LEAST` items the defaults stay.
    """
    start = start or Pool()
    known = np.flatnonzero(columns >= 0)
    names = list(signals.scores)
    if len(known) >= LEAST:
        stacked = _stacked(start, signals, heard, names)
        names = names + ([READER] if any(one is not None for one in heard) else [])
        x, y = stacked[known], columns[known]
        parted = np.array(groups)[known]
        kept = _selected(x, y, names, parted, start, seed)
        weights = dict.fromkeys(names, 0.0)
        fitted = _weights(x[:, :, kept], y, [start.weight(names[k]) for k in kept])
        weights |= {names[k]: float(w) for k, w in zip(kept, fitted, strict=True)}
        start = replace(start, weights={**start.weights, **weights})
    log_p = start.labels(signals, heard)
    odds = np.array([0.0 if one is None else one.exit_odds for one in heard])
    rows = none_rule.inputs(signals.similarity, log_p, odds)
    rule = none_rule.fit(rows, columns < 0, start=start.none)
    return replace(start, none=rule, n=len(columns))


def _stacked(
    pool: Pool, signals: Signals, heard: Sequence[Heard | None], names: Sequence[str]
) -> Array:
    """Return all sources, shape `(items, categories, sources)`, the reader last if it spoke."""
    parts = [signals.scores[name] for name in names]
    if any(one is not None for one in heard):
        log_s = pool.scorers(signals)
        said = [
            np.zeros(log_s.shape[1]) if one is None else spread(one, log_s[i])
            for i, one in enumerate(heard)
        ]
        parts.append(np.stack(said))
    return np.stack(parts, axis=2).astype(np.float64)


def _weights(x: Array, y: Array, defaults: Sequence[float]) -> Array:
    """Return the weights of least penalised log loss, none below 0; shape `(sources,)`."""
    from scipy.optimize import minimize

    n, first = len(y), np.array(defaults)
    at = np.arange(n)

    def loss(w: Array) -> tuple[float, Array]:
        log_p = _rows(x @ w)
        off = (w - first) / HELD
        value = -float(log_p[at, y].sum()) + 0.5 * float((off**2).sum())
        expected = np.einsum("nl,nls->ns", np.exp(log_p), x)
        return value, (expected - x[at, y]).sum(axis=0) + off / HELD

    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=[(0.0, 20.0)] * len(first))
    return np.asarray(found.x)


def _selected(
    x: Array, y: Array, names: Sequence[str], groups: Array, start: Pool, seed: int
) -> list[int]:
    """Return the sources that cross-validation keeps, the least useful going first.

    One goes where the log loss without it is lower by more than one standard error; a reader, which
    costs requests, also where it is not higher by more than one (Breiman et al. 1984, section
    3.4.3).
    """
    part = folds_of(groups.tolist(), seed)

    def held_out(kept: list[int]) -> Array:
        losses = np.zeros(len(y))
        defaults = [start.weight(names[k]) for k in kept]
        for k in range(FOLDS):
            out = part == k
            if out.any() and not out.all():
                w = _weights(x[~out][:, :, kept], y[~out], defaults)
                log_p = _rows(x[out][:, :, kept] @ w)
                losses[out] = -log_p[np.arange(int(out.sum())), y[out]]
        return losses

    def margin(source: int, without: Array) -> float:
        """How much better it goes without a source than it has to for it to go."""
        lost = without - best
        error = float(lost.std(ddof=1) / np.sqrt(len(lost)))
        return (error if names[source] == READER else -error) - float(lost.mean())

    kept = list(range(len(names)))
    best = held_out(kept)
    while len(kept) > 1:
        tries = {k: held_out([j for j in kept if j != k]) for k in kept}
        least = max(tries, key=lambda k: margin(k, tries[k]))
        if margin(least, tries[least]) < 0:
            break
        kept.remove(least)
        best = tries[least]
    return kept


def _rows(z: Array) -> Array:
    top = z.max(axis=1, keepdims=True)
    return np.asarray(z - top - np.log(np.exp(z - top).sum(axis=1, keepdims=True)))
