"""Do the answers of a run depend on the items? A watch over the posteriors, without labels.

A model that cannot read a menu in the layout it gets answers much the same whatever the item:
softmax(preference + a little noise). Its label mass is high, its constraint holds, nothing fails.
What gives it away is the information between item and answer: the entropy of the mean posterior
minus the mean entropy of the posteriors (mutual information, as in Houlsby et al. 2011, section 2,
there between parameters and answer). `LIMITS` says how little of it is called a collapse. Both as
nats and as a share of the most there could be, since either alone is fooled: where nine items in
ten have one label few nats can be had, but most of these are there, and flat posteriors over many
labels show a small share, of many nats. How often the favourite wins decides nothing alone, nine in
ten can be the truth; it only makes the limits wider. It is told beside its mean probability.

Menus may differ from item to item. One model prefers a place, whatever stands there, another a
label, wherever it stands. Places are watched always; labels from the second menu on, against what
earlier answers foretell for a menu: softmax of each label's mean log-odds against the exit. The
information is then what that cross-entropy has over the mean entropy.

What this cannot see without labels: a model that is sure of answers that come by chance. What it
cannot tell from a collapse: items that all belong to one label. It does not know engines, prompts
or the loop, and takes constant memory per place and label.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from operator import add, mul
from typing import TYPE_CHECKING, Any

from llmcat.records import NONE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmcat.records import Menu, Scores

__all__ = ["Collapse", "Watch"]

LIMITS = ((0.0, 0.15, 0.15), (0.9, 0.25, 0.15), (0.97, 0.08, 0.25))
"""From such a share of the favourite on: fewer nats, and less of the most there could be.

By simulation: `eval/simulate_collapse.py`."""
LEAST, KNOWN = 50, 3
"""With fewer answers nothing is said; a label offered less often foretells nothing."""
TINY = 1e-300
"""A probability of 0 counts as this, so that its logarithm is a number."""
EVERY = 4096
"""So many answers are all looked at, later ones one in `STRIDE`."""
STRIDE = 17
"""A prime: it does not keep step with the orders or levels that an item is asked in."""


@dataclass(frozen=True, slots=True)
class Collapse:
    """What is wrong: `top` of `n` answers got `favourite`, a code or, `by_label`, a label's id.

    `share` is that, `expected` the favourite's mean probability. `n` counts the answers looked at,
    of a label those that it could have got. `nats` is the information between item and answer,
    `most` what it could be at most, the entropy of the mean posterior.
    """

    favourite: str
    by_label: bool
    top: int
    n: int
    expected: float
    nats: float
    most: float

    @property
    def fallen(self) -> bool:
        """Whether this is a collapse, and no sound run."""
        return any(
            self.share >= share and self.nats < little and self.nats <= part * self.most
            for share, little, part in LIMITS
        )

    @property
    def share(self) -> float:
        """How much of the answers the favourite got."""
        return self.top / self.n

    @property
    def bits(self) -> float:
        """The information between item and answer in bits."""
        return self.nats / math.log(2)

    def sentence(self) -> str:
        """Say it in a line."""
        got = f"code {self.favourite}"
        if self.by_label:
            got = f"label {self.favourite}, wherever it stood"
        return (
            f"WARNING: the answers hardly depend on the item: {self.top:,} of {self.n:,} got the "
            f"{got}; {self.bits:.2f} bits of information between item and answer. Unless the "
            "items are all alike, this model does not read the menu in this layout: try another "
            "--prompt, or a larger model; `llmcat doctor` tells more"
        )

    def record(self) -> dict[str, Any]:
        """Return it for a run's record."""
        return asdict(self) | {"share": self.share, "bits": self.bits, "said": self.sentence()}


@dataclass(slots=True)
class _Label:
    """How a label fared where it was offered: `odds` sums log-odds against the exit."""

    offered: int = 0
    top: int = 0
    p: float = 0.0
    odds: float = 0.0


@dataclass(slots=True)
class Watch:
    """Running sums over a model's answers, each read from one menu.

    Of fewer than `least` nothing is said.
    """

    least: int = LEAST
    seen: int = 0
    n: int = 0
    p: list[float] = field(default_factory=list)
    entropy: float = 0.0
    tops: Counter[str] = field(default_factory=Counter)
    codes: Sequence[str] = ()
    labels: dict[str, _Label] = field(default_factory=dict)
    foretold: int = 0
    surprise: float = 0.0
    left: float = 0.0
    _first: Menu | None = None

    def add(self, scores: Scores, menu: Menu) -> None:
        """Take in an answer to a menu; one without probabilities is left out."""
        if not scores.p:
            return
        self.seen += 1
        if self.n >= EVERY and self.seen % STRIDE:
            return
        p = scores.p
        values = [*p.values()] if len(p) == len(menu.ids) else [p.get(i, 0.0) for i in menu.ids]
        values.append(scores.p_none or 0.0)
        if scores.kind == "top":  # lower bounds
            total = math.fsum(values) or 1.0
            values = [v / total for v in values]
        if len(values) > len(self.p):
            self.p += [0.0] * (len(values) - len(self.p))
            self.codes = menu.codes
        short = len(self.p) - len(values)
        self.p = [*map(add, self.p, values + [0.0] * short if short else values)]
        logs = [*map(math.log, values if all(values) else [v or TINY for v in values])]
        entropy = -sum(map(mul, values, logs))
        self.entropy += entropy
        self.tops[menu.codes[values.index(max(values))]] += 1
        self.n += 1
        if self._first is None:
            self._first = menu
        elif self.labels or (menu is not self._first and menu.ids != self._first.ids):
            self._add_labels(scores, menu, values, logs, entropy)

    def _add_labels(
        self,
        scores: Scores,
        menu: Menu,
        values: Sequence[float],
        logs: Sequence[float],
        entropy: float,
    ) -> None:
        """Foretell the answer from what earlier ones said of the labels on the menu; then learn."""
        labels = self.labels
        held = [labels.get(i) or labels.setdefault(i, _Label()) for i in (*menu.ids, NONE)]
        if all(one.offered >= KNOWN for one in held):
            odds = [one.odds / one.offered for one in held]
            top = max(odds)
            total = top + math.log(sum(math.exp(o - top) for o in odds))
            self.surprise += total - sum(map(mul, values, odds))
            self.left += entropy
            self.foretold += 1
        for id_, one, p, log in zip((*menu.ids, NONE), held, values, logs, strict=True):
            one.offered += 1
            one.top += id_ == scores.label
            one.p += p
            one.odds += log - logs[-1]

    def finding(self) -> Collapse | None:
        """Return what is wrong; None for a sound run, or one too short to tell."""
        return next((seen for seen in self.views() if seen.fallen), None)

    def views(self) -> Iterator[Collapse]:
        """Yield the run as seen by places, and by labels where menus differ; nothing of few."""
        if self.n >= self.least:
            yield self._by_place()
        if self.foretold >= self.least:
            yield self._by_label()

    def _by_place(self) -> Collapse:
        mean = [p / self.n for p in self.p]
        most = -math.fsum(p * math.log(p) for p in mean if p)
        code, top = self.tops.most_common(1)[0]
        expected = mean[self.codes.index(code)]
        nats = max(0.0, most - self.entropy / self.n)
        return Collapse(code, False, top, self.n, expected, nats, most)

    def _by_label(self) -> Collapse:
        known = [pair for pair in self.labels.items() if pair[1].offered >= KNOWN]
        id_, one = max(known, key=lambda pair: pair[1].top / pair[1].offered)
        most = self.surprise / self.foretold
        nats = max(0.0, most - self.left / self.foretold)
        return Collapse(id_, True, one.top, one.offered, one.p / one.offered, nats, most)
