"""A trained classifier decides what it knows, the language model what it does not.

    item ─ primary ─▶ probabilities ─ sure enough, like its training items, nothing cold near?
                                       ├─ yes ─▶ the primary decides
                                       └─ no ──▶ menu of the cold and the primary's best
                                                 ─▶ model ─▶ mixture of both ─▶ result

The whole is a walk (`llmcat.candidates.walks`): the loop that classifies files carries it, and
knows nothing of it. When the model is away the walk ends with the primary's answer, marked
`degraded`.
This module does not know files of items or HTTP.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.annotations.store import Label, key_of
from llmcat.candidates.walks import choose
from llmcat.errors import BadConfig, EngineDown, EngineError
from llmcat.evidence.escalation import Escalation
from llmcat.evidence.mixture import Mixture, ModelOutputs
from llmcat.fallback.counts import Counts
from llmcat.fallback.decider import labels_of
from llmcat.fallback.policy import SURE, Policy
from llmcat.records import NONE, Item, RowResult, Scores, digest
from llmcat.students.model import text_of
from llmcat.students.training import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.annotations.store import LabelStore
    from llmcat.candidates.plan import Plan
    from llmcat.candidates.walks import Walk
    from llmcat.fallback.primary import Placed
    from llmcat.students.novelty import Novelty
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["PrimaryAssessment", "Router"]

Array = np.ndarray[Any, Any]

BEST = 5
"""The primary's best labels are on the menu beside the cold ones, so many at least ..."""
COVER = 0.99
"""... and as many as it takes for the right one to be among them so often, by its word."""
BATCH = 256
LEAST = 1e-4
"""What the primary gives less to is left out of its answer."""

HOPELESS = 5
"""Batches without any answer after which a primary that never answered ends the run."""


@dataclass(frozen=True, slots=True)
class PrimaryAssessment:
    """What is known of an item before the model is asked.

    `p`: the primary's probabilities of the categories that it can name, summing to 1; empty if it
    is away. `novelty`: the chance that it can name none that is right; `cold`: that the right one
    is not its to decide. `distance_quantile`: how far the item is from the training items, as a
    quantile of theirs. `nearest`: the categories it cannot name with the nearest names, as many as
    a menu may need. `why` says why the model should be asked; empty if it need not be.
    `expected_gain` is what asking may bring, in right answers. `would_decide`: if its category
    were trusted, the primary would decide.
    """

    p: Mapping[str, float]
    novelty: float
    cold: float
    distance_quantile: float
    nearest: tuple[str, ...]
    why: str
    expected_gain: float
    would_decide: bool = False

    @property
    def best(self) -> str:
        """The primary's label."""
        return max(self.p, key=self.p.__getitem__) if self.p else NONE

    @property
    def sure(self) -> float:
        """The chance that it is right."""
        return (1.0 - self.novelty) * max(self.p.values(), default=0.0)


@dataclass(frozen=True)
class Router:
    """Sends each item to the primary or the model, and puts together what they say.

    `trusted`: the categories that the primary decides. `line`: see `line_of`. `most`: how many
    texts the model is asked about at most, None for no bound; `chosen`: which these are, by the
    store's keys. `bound`: the bounds as they were asked for, empty for none. `origin`: what labels
    in the store are to say of model, prompt and taxonomy.

    Nothing of an item is kept here: what is known of it travels with it, so any number of callers
    can use one router at once. `counts` alone goes on, for whoever wants to tell.
    """

    taxonomy: Taxonomy
    placed: Placed
    trusted: frozenset[str]
    line: float
    mixture: Mixture = field(default_factory=Mixture)
    policy: Policy = Policy()
    novelty: Novelty | None = None
    most: int | None = None
    chosen: frozenset[str] | None = None
    bound: str = ""
    store: LabelStore | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    keep_text: bool = False
    counts: Counts = field(default_factory=Counts, compare=False)

    @cached_property
    def named(self) -> tuple[str, ...]:
        """The categories that the primary can name, in the order of its columns."""
        return tuple(self.placed.labels[i] for i in self._columns)

    @cached_property
    def escalation(self) -> Escalation:
        """Where the primary is sure enough, no model is asked for want of sureness."""
        return Escalation(skip=self.line)

    @cached_property
    def unnamed(self) -> tuple[str, ...]:
        """The categories that it cannot name."""
        return tuple(n.id for n in self.taxonomy.leaves if n.id not in self.named)

    @cached_property
    def _columns(self) -> list[int]:
        return [i for i, label in enumerate(self.placed.labels) if label != NONE]

    @cached_property
    def _is_trusted(self) -> Array:
        return np.array([label in self.trusted for label in self.named])

    @cached_property
    def _names(self) -> tuple[Any, Any]:
        """The vectors of the names that the primary cannot say, and of those it can."""
        assert self.novelty is not None  # noqa: S101  asked for where something is compared
        represent = self.novelty.represent
        names = [name_of(id_, self.taxonomy) for id_ in self.unnamed]
        named = represent([name_of(id_, self.taxonomy) for id_ in self.named])
        return represent(names or [""])[: len(names)], named

    @property
    def key(self) -> str:
        """What shapes its decisions, as a hash; under a bound also what was learnt by checks.

        Without one a run goes on by what has been checked meanwhile; with one it would ask about
        more than the bound.
        """
        learnt: tuple[str, ...] = ()
        if self.bound:
            learnt = (*sorted(self.trusted), repr(self.line), self.mixture.digest)
        return digest(self.placed.key, self.policy.key, self.bound, *learnt)

    # -- before the model is asked ----------------------------------------------------------------

    def ahead(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items on, each with what is known of it; the primary sees them in batches."""
        for batch in _batches(items):
            known = iter(self.assessments([item for item in batch if item.error is None]))
            for item in batch:
                yield item if item.error is not None else replace(item, known=next(known))

    def choosing(self, items: Iterable[Item]) -> Router:
        """Return the router that asks about the texts whose asking brings most, `most` of them.

        Each counts once.

        Also among those that would not be asked about without a bound.
        """
        assert self.most is not None  # noqa: S101  called for a bound
        best: list[tuple[float, int, str]] = []
        held: set[str] = set()
        for batch in _batches(items):
            for item, assessment in zip(batch, self.assessments(batch), strict=True):
                key = key_of(item.content)
                if key in held:
                    continue
                held.add(key)
                heapq.heappush(best, (assessment.expected_gain, -item.row, key))
                if len(best) > self.most:
                    held.discard(heapq.heappop(best)[2])
        return replace(self, chosen=frozenset(held))

    @property
    def by(self) -> str:
        """What the store calls the primary: its name and its version."""
        return f"{self.placed.name}@{self.placed.key[:8]}"

    def would_ask(self, item: Item) -> bool:
        """Tell whether a text is among the chosen ones."""
        return self.chosen is not None and key_of(item.content) in self.chosen

    def assessments(self, items: Sequence[Item]) -> list[PrimaryAssessment]:
        """Look at items: what the primary says of them, and how new they look."""
        texts = [text_of(item) for item in items]
        if not texts:
            return []
        try:
            p = self.placed.probabilities(texts)
        except EngineError as exc:
            self.counts.failed += 1
            if self.counts.failed >= HOPELESS and not self.counts.answered:
                raise EngineDown(
                    f"the primary never answered: {exc}",
                    hint="llmcat classify asks the model alone",
                ) from exc
            why = f"the primary is away: {exc}"
            return [PrimaryAssessment({}, 1.0, 1.0, 1.0, (), why, 1.0) for _ in items]
        self.counts.answered += 1
        p_none = 1.0 - p[:, self._columns].sum(axis=1)
        p = p[:, self._columns]
        p = p / np.maximum(p.sum(axis=1, keepdims=True), 1e-12)
        sure, n = p.max(axis=1), len(texts)
        unlike, chance = np.zeros(n), np.zeros(n)
        nearest = np.zeros((n, 0), dtype=int)
        if self.novelty is not None:
            looked = self.novelty.look(texts, sure, *self._names)
            unlike, nearest, chance = looked.unlike, looked.nearest, looked.chance
        novelty = 1.0 - (1.0 - chance) * (1.0 - np.clip(p_none, 0.0, 1.0))
        cold = 1.0 - (1.0 - novelty) * p[:, self._is_trusted].sum(axis=1)
        found = []
        for i in range(n):
            near = tuple(self.unnamed[j] for j in nearest[i].tolist())
            found.append(
                PrimaryAssessment(
                    dict(zip(self.named, p[i].tolist(), strict=True)),
                    float(novelty[i]),
                    float(cold[i]),
                    float(unlike[i]),
                    near,
                    self._why(sure[i], novelty[i], cold[i], unlike[i], near),
                    self.mixture.gain(float(novelty[i]), float(sure[i])),
                    not self._why(sure[i], novelty[i], novelty[i], unlike[i], near),
                )
            )
        return found

    def _why(
        self, sure: float, novelty: float, cold: float, unlike: float, near: Sequence[str]
    ) -> str:
        """Say why the model should be asked, nothing if it need not be."""
        policy, said = self.policy, []
        if self.escalation.needs_reader(sure):
            said.append(f"unsure {sure:.2f} < {self.line:.2f}")
        if self.novelty is not None and unlike > policy.max_distance:
            said.append(f"distance {unlike:.2f} > {policy.max_distance:.2f}")
        if novelty >= policy.cold_threshold:
            said.append(f"cold near {cold:.2f}" + (f" ({near[0]})" if near else ""))
        elif cold >= policy.cold_threshold:
            said.append(f"not the primary's yet {cold:.2f}")
        return "; ".join(said)

    def keep(self, results: Sequence[RowResult]) -> None:
        """Count who decided, and put what each source said into the store."""
        for result in results:
            if result.scores is not None and result.scores.sources is not None:
                self.counts.add(result.scores.sources)
        if self.store is None:
            return
        labels: list[Label] = []
        opinions: dict[str, Any] = {}
        texts: dict[str, Mapping[str, str]] = {}
        for result in results:
            words, said = labels_of(result, primary=self.by, **self.origin)
            labels += words
            opinions |= said
            if words and self.keep_text:
                texts[words[0].key] = result.item.fields
        self.store.add(labels, texts=texts, opinions=opinions, primary=self.placed.key)

    # -- the walk ---------------------------------------------------------------------------------

    def walk(self, plan: Plan, item: Item) -> Walk:
        """Return an item's walk: no menu if the primary decides, else one, and one more by `none`.

        Raises nothing: an error of the engine ends it with the primary's answer.
        """
        assessment = (
            item.known if isinstance(item.known, PrimaryAssessment) else self.assessments([item])[0]
        )
        if self.chosen is not None and assessment.p and not self.would_ask(item):
            why = f"{assessment.why}; not asked: the bound is reached" if assessment.why else SURE
            return self._alone(assessment, why)
        if self.chosen is None and not assessment.why:
            return self._alone(assessment, SURE)
        if not assessment.why:
            assessment = replace(
                assessment, why=f"worth a request: {assessment.expected_gain:+.2f} right answers"
            )
        offered = self.offered(assessment, plan.size)
        nodes = self.taxonomy.nodes
        try:
            scores = yield from choose(plan, [nodes[id_] for id_ in offered], None)
            q = _distribution(scores)
            there, leaves = set(offered), self.taxonomy.leaves
            # The exit of a shortlist widens it, but where requests are counted.
            if scores.label == NONE and len(there) < len(leaves) and self.most is None:
                rest = [n for n in leaves if n.id not in there]
                wider = yield from choose(plan, rest, None)
                none = q.pop(NONE, 0.0)
                q |= {label: none * x for label, x in _distribution(wider).items()}
        except EngineError as exc:
            if not assessment.p:
                raise
            return self._alone(
                assessment, f"{assessment.why}; the model is away: {exc}", degraded=True
            )
        new = sum(id_ not in assessment.p for id_ in offered)
        said = ModelOutputs(assessment.novelty, assessment.p, q, len(offered), new)
        return self._together(assessment, said, scores, offered)

    def offered(self, assessment: PrimaryAssessment, size: int) -> list[str]:
        """Return the ids on the menu: the cold ones first, so that menus begin alike.

        Of the primary's own as many as it takes to hold what is right, by its word. Where there
        are more than fit, the cold ones with the nearest names; without names to compare, the walk
        takes several menus.
        """
        if not assessment.p:
            return [n.id for n in self.taxonomy.leaves]
        ranked = sorted(assessment.p, key=assessment.p.__getitem__, reverse=True)
        covered = np.cumsum([assessment.p[label] for label in ranked])
        count = max(BEST, int((covered < COVER).sum()) + 1)
        cold = {*self.unnamed, *(label for label in ranked if label not in self.trusted)}
        if len(cold.union(ranked[:count])) > size:
            count = min(count, max(size // 2, size - len(cold)))
            if assessment.nearest or not self.unnamed:
                trial = [label for label in ranked[count:] if label not in self.trusted]
                share = (size - count) / max(1, len(trial) + len(self.unnamed))
                cold = {*assessment.nearest[: round(share * len(self.unnamed))]}
                cold.update(trial[: size - count - len(cold)])
                others = [label for label in ranked[count:] if label not in cold]
                cold.update(others[: size - count - len(cold)])
        offered = cold.union(ranked[:count])
        leaves = [n.id for n in self.taxonomy.leaves if n.id in offered]
        return sorted(leaves, key=self.trusted.__contains__)

    def _alone(self, assessment: PrimaryAssessment, why: str, *, degraded: bool = False) -> Scores:
        """Return the primary's answer."""
        sources = self._sources(assessment, "primary", why, degraded=degraded)
        p = {
            label: (1.0 - assessment.novelty) * x for label, x in assessment.p.items() if x >= LEAST
        }
        return Scores(assessment.best, p, 0.0, kind="top", chance=assessment.sure, sources=sources)

    def _together(
        self,
        assessment: PrimaryAssessment,
        said: ModelOutputs,
        scores: Scores,
        offered: Sequence[str],
    ) -> Scores:
        """Return the mixture of both answers."""
        p = self.mixture(said)
        label = max(p, key=p.__getitem__)
        of_model = max(said.q, key=said.q.__getitem__)
        first = assessment.best
        by = "both" if label == of_model == first else "mixture"
        if by == "mixture" and label in {of_model, first}:
            by = "model" if label == of_model else "primary"
        sources = self._sources(assessment, by, assessment.why)
        sources |= {
            "model": {
                "label": of_model,
                "p": round(said.q[of_model], 6),
                "chance": round(p.get(of_model, 0.0), 6),
                "top": _top(said.q),
            },
            "offered": list(offered),
            "new": round(self.mixture.new(said), 6),
            "said": said.record(),
        }
        none = p.pop(NONE, 0.0)
        return Scores(
            label,
            p,
            none,
            kind="top" if scores.kind == "top" else "full",
            mass=scores.mass,
            note=scores.note,
            chance=none if label == NONE else p[label],
            sources=sources,
        )

    def _sources(
        self, assessment: PrimaryAssessment, by: str, why: str, *, degraded: bool = False
    ) -> dict[str, Any]:
        primary = None
        if assessment.p:
            primary = {
                "label": assessment.best,
                "p": round(assessment.sure, 6),
                "top": _top(assessment.p),
                "firm": assessment.would_decide,
            }
        return {
            "by": by,
            "why": why,
            "degraded": degraded,
            "novelty": round(assessment.novelty, 6),
            "cold": round(assessment.cold, 6),
            "unlike": round(assessment.distance_quantile, 6),
            "primary": primary,
        }


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    items = iter(items)
    while batch := list(islice(items, BATCH)):
        yield batch


def _top(p: Mapping[str, float], count: int = 3) -> dict[str, float]:
    """Return the likeliest labels."""
    return {label: round(p[label], 6) for label in sorted(p, key=lambda k: -p[k])[:count]}


def _distribution(scores: Scores) -> dict[str, float]:
    """Return the model's probabilities, `none` included, summing to 1. Raises `BadConfig`."""
    if scores.kind == "label_only":
        raise BadConfig(
            "the fallback labeler needs probabilities, these answers have none",
            hint="use a prompt that reads codes",
        )
    q = {**scores.p, NONE: scores.p_none or 0.0}
    total = math.fsum(q.values())
    return {label: x / total for label, x in q.items()} if total > 0 else {NONE: 1.0}
