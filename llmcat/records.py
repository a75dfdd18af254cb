"""The nouns of the data path: Item, Node, Menu, Request, Answer, Scores, Decided, RowResult.

Plain frozen values. This module does not know files, prompts, engines or the loop.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmcat.errors import EngineError

__all__ = [
    "CORRECTED",
    "MOST_LABELS",
    "NONE",
    "ROUTE",
    "SEVERAL",
    "Answer",
    "Decided",
    "Item",
    "Kind",
    "Menu",
    "Message",
    "Node",
    "Prefix",
    "Read",
    "Request",
    "RowResult",
    "Scores",
    "Usage",
    "digest",
    "each_of",
    "joined",
    "key_in",
    "key_out",
    "readable",
]

NONE = "none"
"""The label of an item that belongs to no category. No node may be called that."""

MOST_LABELS = 127
"""The most labels of a menu: vLLM takes at most 128 `logprob_token_ids`, and one is the exit's."""
ROUTE = "route"
"""What shapes a router's decisions is called so in a run's identity."""

SEVERAL = "\x1f"
"""Between the labels of an item that has several, where they are written as one."""

Decision = Literal["labelled", "accept", "review", "none", "error"]
CORRECTED = "corrected"
"""The decision of a row that a person labelled (`llmcat apply`)."""
Kind = Literal["full", "top", "label_only", "each"]
Read = Literal["code", "text", "reason", "decide", "score"]
"""How an answer is read: `code`, one token that stands for a label; `text`, the label's name,
spelled out; `reason`, a rationale as JSON, after which the code is asked for; `decide`, by a
decision model: a probability for each name, none for the exit, which it is not offered; `score`,
the same where the names are the levels of a scale."""
Message = dict[str, Any]
"""A chat message: `{"role": ..., "content": ...}`; the content is text, or parts of it."""


def digest(*parts: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of the parts, each closed by a NUL."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.encode("utf-8", "surrogatepass"))
        sha.update(b"\0")
    return sha.hexdigest()[:16]


def key_out(key: str) -> str:
    """Write a text's key as files have it: a spreadsheet would read 4672e15 as a number."""
    return f"k{key}"


def key_in(written: str) -> str:
    """Read a key as `key_out` wrote it, or as it is."""
    return written.removeprefix("k")


def joined(labels: Iterable[str]) -> str:
    """Return several labels as one, equal for equal sets; `none` where there are none."""
    return SEVERAL.join(sorted({*labels} - {NONE})) or NONE


def each_of(label: str | None) -> tuple[str, ...]:
    """Return the labels that `joined` wrote as one."""
    return () if label in {None, NONE} else tuple(label.split(SEVERAL))


def readable(label: str, *, several: bool = False) -> str:
    """Write labels as a cell holds them: `a|b`; as a JSON list where one of them has a `|`.

    `several`: also where it is one label that could be several.
    """
    parts = label.split(SEVERAL)
    if (several or len(parts) > 1) and any("|" in part for part in parts):
        return json.dumps(parts, ensure_ascii=False)
    return "|".join(parts)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to classify.

    `row` counts from 0 within a run and is the item's identity there. `id` is the user's, as
    given, or made from the content. `fields` maps column to cleaned text in the order the prompt
    shows them; `images` are addresses or paths. `note` says what was done to the text that the
    reader of the result should know (it was cut). An item with `error` is never asked; its row
    says why. `kept` holds columns that no prompt shows. `known` is what retrieval says of it, once
    it has been looked at. Where items may have several labels, `gold` is them `joined`.
    """

    row: int
    id: str
    fields: Mapping[str, str]
    gold: str | None = None
    note: str | None = None
    error: str | None = None
    id_given: bool = False
    images: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    known: Any = field(default=None, compare=False, repr=False)

    @property
    def content(self) -> str:
        """What the model sees, as one string: equal for exact duplicates."""
        text = "\x1f".join(f"{name}\x1e{text}" for name, text in self.fields.items())
        return "\x1d".join((text, *self.images)) if self.images else text


@dataclass(frozen=True, slots=True)
class Node:
    """A category. `path` holds the names from the department down to this node."""

    id: str
    name: str
    path: tuple[str, ...]
    parent: str | None = None
    children: tuple[str, ...] = ()
    description: str = ""
    synonyms: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    deprecated: bool = False

    @property
    def label(self) -> str:
        """The path as people read it: `Electronics > Headphones`."""
        return " > ".join(self.path)


@dataclass(frozen=True, slots=True)
class Menu:
    """What one request offers: `codes[i]` stands for `nodes[i]`, the last code for the exit.

    In read mode `text` the codes are the labels' names as the prompt shows them.
    `parent` is the inner node whose children are on offer, or None at the top.
    """

    nodes: tuple[Node, ...]
    codes: tuple[str, ...]
    parent: Node | None = None
    ids: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Hold the one-code-more-than-nodes shape that everything else relies on."""
        if len(self.codes) != len(self.nodes) + 1 or len(set(self.codes)) != len(self.codes):
            raise ValueError("a menu needs one distinct code per node and one for the exit")
        object.__setattr__(self, "ids", tuple(node.id for node in self.nodes))

    @property
    def exit(self) -> str:
        """The code of `none of these`."""
        return self.codes[-1]

    @property
    def digest(self) -> str:
        """A hash of everything that is on offer, in order."""
        pairs = (f"{c}={n.id}" for c, n in zip(self.codes, self.nodes, strict=False))
        return digest(self.parent.id if self.parent else "", *pairs, self.exit)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The messages that many requests share, and a key that is equal when they are."""

    messages: tuple[Message, ...]
    key: str


@dataclass(frozen=True, slots=True)
class Request:
    """One request: shared messages, this item's messages, the menu, its constraint, how to read.

    `constraint` is how the engine is told to stay on the menu: `outlines` (a grammar, which
    renormalises the log-probabilities over the menu) or `tokens` (a list of allowed tokens,
    which leaves them as they are, so that their sum is the label mass). `place`: which of the
    questions it is that are asked of the item at once.
    """

    item: Item
    menu: Menu
    prefix: Prefix
    tail: tuple[Message, ...]
    constraint: Literal["outlines", "tokens"] = "outlines"
    read: Read = "code"
    place: int = 0

    @property
    def messages(self) -> list[Message]:
        """The whole conversation."""
        return [*self.prefix.messages, *self.tail]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or many requests, as the server counted them; `cost` in US dollars.

    The cost is 0 where the engine knows no price.
    """

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    cost: float = 0.0

    @property
    def read(self) -> int:
        """Prompt tokens that the server had to read: those not in its cache."""
        return self.prompt - self.cached

    def __add__(self, other: Usage) -> Usage:
        """Sum, field by field."""
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.generated + other.generated,
            self.cost + other.cost,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: natural-log probabilities in menu order (the exit last), or an error.

    Where text is generated there are none, and `text` is what was generated. `masked` tells
    whether they were taken after the grammar's mask, None where nobody says. A code that a
    server's list leaves out has -inf, and `missing` bounds what all of these have together.
    `by` is the model that answered, where it is not the first of several. `seconds` is the time
    from asking to reading: where a server is asked less at a time than is allowed, waiting for
    one's turn counts.
    """

    request: Request
    logprobs: tuple[float, ...] = ()
    text: str = ""
    masked: bool | None = True
    missing: float = 0.0
    by: str = ""
    usage: Usage = Usage()
    seconds: float = 0.0
    error: EngineError | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """Probabilities of labels for one item.

    `p` maps node id to probability, `p_none` is the exit's. `kind` is `full` when these sum
    to 1, `top` when some labels were not looked at (a descent, a tournament, a provider's list
    of the likeliest: there each p is a lower bound), `label_only` when there are no
    probabilities: then `p` is empty and `p_none` None; `each` where an item may have several
    labels: there each p is the chance that this label applies, `p_none` that none does, and
    `several` holds the labels given, the likeliest first. `label` is the chosen node id or `none`.
    `mass` is the probability the model gave to the menu's codes before any constraint, or None
    where it was not sampled. `note` is what the row should say of how the answer came about:
    the model's reasons, or which other model stepped in. `order_disagreement`: asked in several
    orders, and not the same answer in all. `chance` is the calibrated chance that the label is
    right. `sources`: who decided and why, and what each said, where there are several (see
    `llmcat.fallback.router`). `evidence`: which categories were offered, and what each source adds
    for the likeliest (see `llmcat.evidence`). `level` is the expected level on a scale, as it was
    written; see `decode.level_of`.
    """

    label: str
    p: Mapping[str, float]
    p_none: float | None
    kind: Kind = "full"
    mass: float | None = None
    note: str | None = None
    order_disagreement: bool = False
    chance: float | None = None
    sources: Mapping[str, Any] | None = None
    evidence: Mapping[str, Any] | None = None
    several: tuple[str, ...] | None = None
    level: float | None = None

    @property
    def answer(self) -> str:
        """What is given as one string: the label, or several `joined`."""
        return self.label if self.several is None else joined(self.several)

    @property
    def confidence(self) -> float | None:
        """The chance that the label is right: as calibrated, else its probability, or None."""
        if self.kind == "label_only":
            return None
        if self.chance is not None:
            return self.chance
        return self.p_none if self.label == NONE else self.p[self.label]


@dataclass(frozen=True, slots=True)
class Decided:
    """What was decided about a text, whichever item has it. `held` is its set of labels, if any."""

    decision: Decision
    scores: Scores
    held: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RowResult:
    """The result for one item: one row of the predictions file.

    `held` is its set of labels, where sets are asked for.
    """

    item: Item
    decision: Decision
    scores: Scores | None = None
    reason: str | None = None
    held: tuple[str, ...] | None = None
