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
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from llmcat.candidates.walks import offer
from llmcat.errors import Undecided
from llmcat.evidence import several
from llmcat.evidence.escalation import Escalation
from llmcat.evidence.place_prior import without
from llmcat.evidence.pool import Heard, Pool
from llmcat.evidence.posterior import Columns, Posterior, best_of
from llmcat.evidence.several import Several, Way
from llmcat.records import NONE, Menu, Scores, digest
from llmcat.retrieval.documents import clauses_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from llmcat.candidates.plan import Plan
    from llmcat.candidates.walks import Walk
    from llmcat.records import Item
    from llmcat.retrieval.scorers import Retriever, Signals

__all__ = ["BATCH", "Asked", "Evidence", "Gathered", "Tagging", "reading"]

Array = np.ndarray[Any, Any]
Reading: TypeAlias = "Generator[tuple[Menu, ...], Sequence[Scores], tuple[list[Scores], Asked]]"
"""As a walk, but it returns the answers as they came."""

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

    `foreign`: examples that were left out, since no item can get their category. `alike`: names
    that the reader gives one and the same probability, whatever the item.
    """

    items: int = 0
    blind: int = 0
    foreign: int = 0
    alike: list[list[str]] = field(default_factory=list)

    def remarks(self) -> list[str]:
        """Say where retrieval saw too little, nothing where it did not."""
        said = []
        if self.foreign:
            said.append(
                f"WARNING: {self.foreign:,} examples are labelled with an inner or a deprecated "
                "category, which no item can get: retrieval leaves them out"
            )
        if self.alike:
            count, named = sum(map(len, self.alike)), ", ".join(self.alike[0][:4])
            said.append(
                f"WARNING: the model cannot tell {count:,} categories apart by their names "
                f"({named}): it gives each the same probability, whatever the item; rename them, "
                "or use --prompt decide-described"
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
    log_s: dict[int, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What a reader said of one item, as it came.

    `chosen`: the candidates' columns, the likeliest first. Each turn: the order in which they stood
    (`places[i]` is which of `chosen` stood at place i), and log-probabilities by place, exit last.
    `singly`: turn i was about the i-th of `chosen` alone. `exit`: the reader was offered one.
    """

    chosen: tuple[int, ...]
    turns: tuple[tuple[tuple[int, ...], Array], ...] = ()
    singly: bool = False
    exit: bool = True

    def said(self, prior: Array | None) -> tuple[Array, Array]:
        """Return the candidates' columns and what the reader gives each, in nats.

        Asked singly, log-odds against the exit; on one menu, log P. (The odds against the exit,
        which would be the menu's restriction to the two, tell less: from item to item the exit
        varies more than what it stands beside.)
        """
        if self.singly:
            return np.array(self.chosen), np.array([said[0] - said[1] for _, said in self.turns])
        heard = self.heard(prior)
        return heard.columns, heard.log_p[:-1]

    def heard(self, prior: Array | None) -> Heard:
        """Return the mean over the turns, the preference for places taken off."""
        total = np.zeros(len(self.chosen) + 1)
        for places, said in self.turns:
            plain = without(said, prior)
            total[list(places)] += plain[:-1]
            total[-1] += plain[-1]
        total /= len(self.turns)
        if not self.exit:  # an even share, wherever the answer stood
            share = 1 / len(total)
            total[:-1] += np.log(1 - share) - np.logaddexp.reduce(total[:-1])
            total[-1] = np.log(share)
        return Heard(np.array(self.chosen), total - np.logaddexp.reduce(total))


@dataclass(frozen=True)
class Tagging:
    """How items get several labels: the way a reader is asked, and what its answers mean.

    `model` weighs retrieval and reader, `alone` retrieval where no reader was asked.
    """

    way: Way
    model: Several
    alone: Several

    @classmethod
    def default(cls, way: Way) -> Tagging:
        """Return what holds without labels."""
        return cls(way, several.default(way), several.default(None))

    @property
    def key(self) -> tuple[str, ...]:
        """What shapes decisions."""
        return self.way, self.model.digest, self.alone.digest


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
    several: Tagging | None = None
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
            *(self.several.key if self.several is not None else ()),
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
        if self.several is not None:
            return self._known_by_clause(items)
        signals = self.retriever(items)
        log_s = self.pool.scorers(signals)
        self.sight.items += len(items)
        self.sight.blind += int((np.ptp(log_s, axis=1) == 0).sum()) if log_s.shape[1] > 1 else 0
        return [Known(signals.some(slice(i, i + 1)), log_s[i]) for i in range(len(items))]

    def _known_by_clause(self, items: Sequence[Item]) -> list[Known]:
        """Return what retrieval says where an item may have several labels.

        A category goes by the clause that is most like it (as passages stand for a document in Dai
        and Callan 2019, section 3): of a text about several things each has its own.
        """
        clauses = [clauses_of(item) for item in items]
        signals = self.retriever([one for each in clauses for one in each])
        log_p, known, at = self.pool.scorers(signals), list[Known](), 0
        for each in clauses:
            best = log_p[at : at + len(each)].max(axis=0)
            known.append(Known(signals.some(slice(at, at + 1)), best - np.logaddexp.reduce(best)))
            self.sight.blind += len(best) > 1 and not np.ptp(best)
            at += len(each)
        self.sight.items += len(items)
        return known

    def known(self, item: Item) -> Known:
        """Return what retrieval says of an item."""
        found: Known | None = item.known
        return found if found is not None else self._known([item])[0]

    def walk(self, item: Item) -> Walk:
        """Offer the candidates, unless the scorers are sure, and add up what everyone says."""
        known = self.known(item)
        asked, answers, note = None, list[Scores](), None
        if self.reads and self.policy.needs_reader(float(np.exp(known.log_s.max()))):
            singly = self.several is not None and self.several.way == "each"
            try:
                answers, asked = yield from (
                    self._read_each(known) if singly else self._read(item, known)
                )
            except Undecided as exc:
                note = f"{exc}; retrieval decided"
            if asked is not None and not asked.turns:
                return answers[-1]  # a label without probabilities cannot be pooled
        if self.kept is not None:
            self.kept.signals[item.row], self.kept.asked[item.row] = known.signals, asked
            self.kept.log_s[item.row] = known.log_s
        if self.several is not None:
            return replace(self._tagged(self.several, known, asked, answers), note=note)
        heard = asked.heard(self.prior) if asked else None
        return replace(self.pooled(known, heard, answers), note=note)

    def _read(self, item: Item, known: Known) -> Reading:
        """Ask about the candidates, in as many orders as the policy wants."""
        asked = Asked(tuple(self.candidates(known)))
        answers: list[Scores] = []
        while True:
            turns = range(len(answers), len(answers) + self.policy.together(len(answers)))
            orders = [tuple(self.order(item, len(asked.chosen), turn)) for turn in turns]
            menus = tuple(self.menu([asked.chosen[i] for i in places]) for places in orders)
            said = yield menus
            answers += said
            if any(one.kind == "label_only" for one in said):
                return answers, replace(asked, turns=())
            heard_now = zip(orders, map(reading, said, menus), strict=True)
            offered = answers[-1].p_none is not None
            asked = replace(asked, turns=(*asked.turns, *heard_now), exit=offered)
            if len(answers) >= self.policy.orders:
                return answers, asked
            heard, log_s = asked.heard(self.prior), known.log_s[None]
            sure = float(np.exp(self.pool.labels(known.signals, [heard], log_s).max()))
            if not self.policy.needs_more(sure, len(answers)):
                return answers, asked

    def _read_each(self, known: Known) -> Reading:
        """Ask about each candidate by itself, beside the exit."""
        asked = Asked(tuple(self.candidates(known)), singly=True)
        menus = tuple(self.menu([column]) for column in asked.chosen)
        answers = list((yield menus))
        if any(one.kind == "label_only" for one in answers):
            return answers, asked
        said = map(reading, answers, menus)
        return answers, replace(asked, turns=tuple(((0,), one) for one in said))

    def candidates(self, known: Known) -> list[int]:
        """Return the columns of the likeliest categories, as many as are offered."""
        log_s = known.log_s
        if self.first is not None and self.several is None:
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
        scores = yield from offer(menu)
        if scores.kind != "label_only":
            readings.append(reading(scores, menu))
        return scores

    def _alone(self, known: Known) -> str:
        """Return what retrieval would have answered without the reader."""
        p, none = self.pool(known.signals, [None], known.log_s[None])
        best = int(p[0].argmax())
        return self.columns.ids[best] if p[0][best] >= none[0] else NONE

    def _tagged(
        self, tagging: Tagging, known: Known, asked: Asked | None, answers: Sequence[Scores]
    ) -> Scores:
        """Return the chance of each category by itself, and which are given."""
        ids, log_s = self.columns.ids, known.log_s[None]
        x = several.inputs(log_s, [asked.said(self.prior) if asked else None])
        model = tagging.model if asked else tagging.alone
        p = model(x, ids)[0]
        given = model.given(p)
        without = tagging.alone
        alone = without.given(without(several.inputs(log_s, [None]), ids)[0]) if asked else given
        top = [ids[i] for i in best_of(p, max(EXPLAINED, len(given)))]
        said: dict[str, Any] = {
            "sources": {
                name: {id_: round(float(v[self.columns.at[id_]]), 3) for id_ in top}
                for name, v in model.parts(x[0], ids).items()
            },
            "alone": [ids[i] for i in alone],
            "sure": round(float(np.exp(known.log_s.max())), 4),
        }
        if asked is not None:
            said["offered"] = [ids[i] for i in asked.chosen]
        chance = np.log1p(-np.minimum(p, 1 - LEAST))
        none = float(np.exp(chance.sum()))
        chance[given] = np.log(np.maximum(p[given], LEAST))
        masses = [a.mass for a in answers if a.mass is not None]
        return Scores(
            label=ids[given[0]] if given else NONE,
            p=Posterior(self.columns, p),
            p_none=none,
            kind="each",
            mass=min(masses, default=None),
            chance=float(np.exp(chance.sum())),
            order_disagreement=not (asked and asked.singly) and len({a.label for a in answers}) > 1,
            evidence=said,
            several=tuple(ids[i] for i in given),
        )

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
            if answers and answers[-1].p_none is None:
                said["none_offered"] = False
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

    Where a provider's list leaves codes out, each gets an even part of what is missing. A reader
    that was not offered the exit says nothing of it: it gets an even share.
    """
    if scores.p_none is None:
        inside = np.array([scores.p.get(id_, 0.0) for id_ in menu.ids])
        share = 1 / len(menu.codes)
        return np.asarray(np.log(np.maximum(np.append(inside * (1 - share), share), LEAST)))
    p = np.array([*(scores.p.get(id_, 0.0) for id_ in menu.ids), scores.p_none or 0.0])
    unseen = p <= 0
    if unseen.any():
        p[unseen] = max(LEAST, 1.0 - float(p.sum())) / int(unseen.sum())
    return np.asarray(np.log(np.maximum(p, LEAST)))
