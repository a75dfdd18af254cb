"""What is known of each item, gathered: retrieval, candidates, the reader's answer, one posterior.

    items ─ ahead: scored in batches ─▶ walk: a menu of candidates ─ reader ─▶ pool ─▶ Scores

The walk is one of those that the loop carries (see `llmcat.candidates.walks`). What retrieval says
of an item travels with the item; nothing is kept by row number. This module does not know engines,
prompts or files.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcat.evidence.escalation import Escalation
from llmcat.evidence.place_prior import without
from llmcat.evidence.pool import Heard, Pool
from llmcat.evidence.posterior import Columns, Posterior, best_of
from llmcat.records import NONE, Menu, Scores, digest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from llmcat.candidates.plan import Plan
    from llmcat.candidates.walks import Walk
    from llmcat.records import Item
    from llmcat.retrieval.scorers import Retriever, Signals

__all__ = ["BATCH", "Asked", "Evidence", "Gathered", "reading"]

Array = np.ndarray[Any, Any]

BATCH = 64
EXPLAINED = 3
"""Of so many labels a row says what each source adds."""
LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Known:
    """What retrieval says of one item: its signals, and log P(category), shape `(categories,)`."""

    signals: Signals
    log_s: Array


@dataclass
class Sight:
    """How many items were looked at, and with how many no category had anything in common.

    `foreign`: examples that were left out, since no item can get their category.
    """

    items: int = 0
    blind: int = 0
    foreign: int = 0

    def remarks(self) -> list[str]:
        """Say where retrieval saw too little, nothing where it did not."""
        said = []
        if self.foreign:
            said.append(
                f"WARNING: {self.foreign:,} examples are labelled with an inner or a deprecated "
                "category, which no item can get: retrieval leaves them out"
            )
        if self.blind * 4 >= max(self.items, 4):
            said.append(
                f"WARNING: retrieval is blind to {self.blind:,} of {self.items:,} items: no "
                "category shares a word with them; describe the categories in the items' language, "
                'give --examples, or pip install "llmcat[multilingual]"'
            )
        return said


@dataclass
class Gathered:
    """What was said of labelled items, by row: kept where weights are to be fitted."""

    signals: dict[int, Signals] = field(default_factory=dict)
    asked: dict[int, Asked | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What a reader said of one item, as it came.

    `chosen`: the candidates' columns, the likeliest first. Each turn: the order in which they stood
    (`places[i]` is which of `chosen` stood at place i), and log-probabilities by place, exit last.
    """

    chosen: tuple[int, ...]
    turns: tuple[tuple[tuple[int, ...], Array], ...] = ()

    def heard(self, prior: Array | None) -> Heard:
        """Return the mean over the turns, the preference for places taken off."""
        total = np.zeros(len(self.chosen) + 1)
        for places, said in self.turns:
            plain = without(said, prior)
            total[list(places)] += plain[:-1]
            total[-1] += plain[-1]
        total /= len(self.turns)
        return Heard(np.array(self.chosen), total - np.logaddexp.reduce(total))


@dataclass(frozen=True)
class Evidence:
    """Retriever, pool and policy of a run. `reads`: a model reads `candidates` of the categories.

    `prior` is the reader's preference for places (see `place_prior`). `first` weighs the sources
    where candidates are chosen: weights learnt from answers must not change what is asked, or they
    would be used for other answers than they were learnt from. `kept`, when given, is filled as
    items pass.
    """

    plan: Plan
    retriever: Retriever
    pool: Pool = field(default_factory=Pool)
    reads: bool = True
    prior: Array | None = None
    first: Pool | None = None
    policy: Escalation = Escalation()
    kept: Gathered | None = None
    sight: Sight = field(default_factory=Sight, compare=False)

    @cached_property
    def columns(self) -> Columns:
        """The categories, in the order of all arrays."""
        return Columns(self.retriever.ids)

    @property
    def key(self) -> str:
        """What shapes decisions besides the reader's answers, as a hash.

        Not the place prior: it is measured anew by each session, and kept in a run's record.
        """
        return digest(
            self.retriever.key,
            self.pool.digest,
            repr(self.policy),
            str(self.reads),
            str(self.plan.candidates),
            self.first.digest if self.first is not None else "",
        )

    def ahead(self, items: Iterable[Item], *, batch_size: int = BATCH) -> Iterator[Item]:
        """Pass items on, each with what retrieval says of it; several are scored at once."""
        stream = iter(items)
        while batch := list(islice(stream, batch_size)):
            usable = [item for item in batch if item.error is None]
            known = iter(self._known(usable)) if usable else iter(())
            for item in batch:
                yield item if item.error is not None else replace(item, known=next(known))

    def _known(self, items: Sequence[Item]) -> list[Known]:
        signals = self.retriever(items)
        log_s = self.pool.scorers(signals)
        self.sight.items += len(items)
        self.sight.blind += int((np.ptp(log_s, axis=1) == 0).sum()) if log_s.shape[1] > 1 else 0
        return [Known(signals.some(slice(i, i + 1)), log_s[i]) for i in range(len(items))]

    def known(self, item: Item) -> Known:
        """Return what retrieval says of an item."""
        found: Known | None = item.known
        return found if found is not None else self._known([item])[0]

    def walk(self, item: Item) -> Walk:
        """Offer the candidates, unless the scorers are sure, and add up what everyone says."""
        known = self.known(item)
        asked, answers = None, list[Scores]()
        if self.reads and self.policy.needs_reader(float(np.exp(known.log_s.max()))):
            answers, asked = yield from self._read(item, known)
            if not asked.turns:
                return answers[-1]  # a label without probabilities cannot be pooled
        if self.kept is not None:
            self.kept.signals[item.row], self.kept.asked[item.row] = known.signals, asked
        return self.pooled(known, asked.heard(self.prior) if asked else None, answers)

    def _read(
        self, item: Item, known: Known
    ) -> Generator[Menu, Scores, tuple[list[Scores], Asked]]:
        """Ask about the candidates, in as many orders as the policy wants."""
        asked = Asked(tuple(self.candidates(known)))
        answers: list[Scores] = []
        while True:
            places = self.order(item, len(asked.chosen), len(answers))
            menu = self.menu([asked.chosen[i] for i in places])
            answers.append((yield menu))
            if answers[-1].kind == "label_only":
                return answers, replace(asked, turns=())
            turn = (tuple(places), reading(answers[-1], menu))
            asked = replace(asked, turns=(*asked.turns, turn))
            if len(answers) >= self.policy.orders:
                return answers, asked
            heard, log_s = asked.heard(self.prior), known.log_s[None]
            sure = float(np.exp(self.pool.labels(known.signals, [heard], log_s).max()))
            if not self.policy.needs_more(sure, len(answers)):
                return answers, asked

    def candidates(self, known: Known) -> list[int]:
        """Return the columns of the likeliest categories, as many as are offered."""
        log_s = known.log_s
        if self.first is not None:
            log_s = self.first.scorers(known.signals)[0]
        return best_of(log_s, min(self.plan.candidates, len(log_s)))

    def order(self, item: Item, size: int, turn: int) -> list[int]:
        """Return the order in which candidates stand: shuffled by the item, reversed every other.

        An order that depends on the candidates' ranks would mix up what places and ranks say.
        """
        key = hashlib.blake2b(f"{turn // 2}\0{item.content}".encode("utf-8", "surrogatepass"))
        places = list(range(size))
        random.Random(key.digest()).shuffle(places)
        return places[::-1] if turn % 2 else places

    def menu(self, columns: Sequence[int]) -> Menu:
        """Return the menu of some categories in this order."""
        leaves = self.plan.taxonomy.leaves
        return self.plan.fresh_menu([leaves[i] for i in columns])

    def reference_walk(self, item: Item, readings: list[Array]) -> Walk:
        """Ask about an item's candidates and only note what was said by place."""
        chosen = self.candidates(self.known(item))
        menu = self.menu([chosen[i] for i in self.order(item, len(chosen), 0)])
        scores = yield menu
        if scores.kind != "label_only":
            readings.append(reading(scores, menu))
        return scores

    def _alone(self, known: Known) -> str:
        """Return what retrieval would have answered without the reader."""
        p, none = self.pool(known.signals, [None], known.log_s[None])
        best = int(p[0].argmax())
        return self.columns.ids[best] if p[0][best] >= none[0] else NONE

    def pooled(self, known: Known, heard: Heard | None, answers: Sequence[Scores] = ()) -> Scores:
        """Return everything that was said of one item as scores over all categories."""
        p, none = self.pool(known.signals, [heard], known.log_s[None])
        posterior, p_none = Posterior(self.columns, p[0]), float(none[0])
        top = best_of(p[0], EXPLAINED)
        ids = [self.columns.ids[i] for i in top]
        label = ids[0] if p[0][top[0]] >= p_none else NONE
        parts = self.pool.parts(known.signals, heard, top, known.log_s)
        said: dict[str, Any] = {
            "sources": {
                name: {id_: round(x, 3) for id_, x in zip(ids, values, strict=True)}
                for name, values in parts.items()
            },
            "alone": label if heard is None else self._alone(known),
            "sure": round(float(np.exp(known.log_s.max())), 4),
        }
        if heard is not None:
            said["offered"] = [self.columns.ids[i] for i in heard.columns]
        masses = [a.mass for a in answers if a.mass is not None]
        return Scores(
            label=label,
            p=posterior,
            p_none=p_none,
            kind="full",
            mass=min(masses, default=None),
            order_disagreement=len({a.label for a in answers}) > 1,
            evidence=said,
        )


def reading(scores: Scores, menu: Menu) -> Array:
    """Return an answer's log-probabilities in menu order, the exit last, shape `(codes,)`.

    Where a provider's list leaves codes out, each gets an even part of what is missing.
    """
    p = np.array([*(scores.p.get(id_, 0.0) for id_ in menu.ids), scores.p_none or 0.0])
    unseen = p <= 0
    if unseen.any():
        p[unseen] = max(LEAST, 1.0 - float(p.sum())) / int(unseen.sum())
    return np.asarray(np.log(np.maximum(p, LEAST)))
