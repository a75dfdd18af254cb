"""Items and menus to asks: the prompt, the examples and the room for text, put together.

This module does not know files, engines or the loop.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from llmcat.candidates.codes import REASON_TOKENS, most_tokens
from llmcat.errors import BadConfig, BadItem, BadPrompt
from llmcat.items.cleaning import cut_to
from llmcat.items.images import with_images
from llmcat.items.readers import CUT, TEXT_COLUMNS
from llmcat.prompting.templates import Fields, Names, Specimen
from llmcat.records import Answer, Item, Menu, Message, Node, Prefix, Read, Request, digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.candidates.plan import Plan
    from llmcat.prompting.few_shot import Pool
    from llmcat.prompting.templates import Prompt

__all__ = ["Task"]

LEVELS = 10
"""Levels that a decision model's `score` question has at most."""
LEAST_ROOM = 64
"""Tokens an item must have left, or the menu is too large for the context."""


@dataclass(frozen=True)
class Task:
    """Everything about a run that does not change from item to item.

    `room` is the most UTF-8 bytes of an item's own text (a token is at least one byte).
    `columns`: those that an item may have. `mass_sample`: one ask in this many is constrained by
    tokens, which shows the label mass.
    """

    plan: Plan
    prompt: Prompt
    pool: Pool | None = None
    about: str = ""
    constraint: Literal["outlines", "tokens"] = "outlines"
    mass_sample: int = 16
    room: int = 1 << 30
    columns: tuple[str, ...] = TEXT_COLUMNS
    _names: Names = field(default_factory=Names, repr=False)
    _prefixes: dict[int, tuple[Menu, Prefix]] = field(default_factory=dict, repr=False)
    _questions: dict[str, Message] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check that what the prompt needs is there; name the nodes in its language."""
        needs = self.prompt.front.needs
        taxonomy = self.plan.taxonomy
        if "examples" in needs and self.pool is None:
            raise BadConfig(f"prompt {self.prompt.ref} needs examples", hint="give --examples FILE")
        if self.pool is not None and "examples" not in needs:
            raise BadConfig(
                f"prompt {self.prompt.ref} shows no examples", hint="use --prompt few-shot"
            )
        described = any(n.description or n.synonyms for n in taxonomy.leaves)
        if "definitions" in needs and not described:
            raise BadConfig(
                f"prompt {self.prompt.ref} needs descriptions or synonyms in the taxonomy",
                hint="add them, or leave out --prompt",
            )
        if not self._names:
            self._names.update(Names.of(taxonomy.nodes, self.prompt.front.language))

    def fit(self, item: Item) -> tuple[Item, Message]:
        """Return the item's message, and the item: noted as cut where it was too long.

        Raises `BadItem` if the prompt cannot show this item.
        """
        fields = dict(item.fields)
        try:
            user = self._own(fields)
            # No character takes more than four bytes: most items need no counting.
            if len(user["content"]) * 4 > self.room:
                # The room is beyond the template's own words, which `fitted` has counted.
                frame = len(self._own(Specimen(""))["content"].encode())
                over = len(user["content"].encode()) - frame - self.room
                if over > 0:
                    size = sum(len(text.encode()) for text in fields.values())
                    fields = cut_to(fields, max(0, size - over))
                    user = self._own(fields)
                    item = replace(item, note=CUT)
                    if self.prompt.item_first:
                        item = replace(item, fields=fields)
        except BadPrompt as exc:
            raise BadItem(str(exc)) from exc
        if not fields:
            raise BadItem("no room for the item's text: its field names take it all")
        return item, user

    def ask(self, item: Item, user: Message, menu: Menu) -> Request:
        """Return the question about an item, by its message from `fit`, over a menu.

        Raises `BadItem` if one of its images cannot be shown.
        """
        if self.prompt.decides:
            question = self._question(user, menu)
            scale = self.plan.taxonomy.ordered and len(menu.nodes) <= LEVELS
            read: Read = "score" if scale else "decide"
            return Request(item, menu, self._prefix(menu), question, read=read)
        if self.prompt.item_first:
            user = self._own(item.fields, menu)
        if item.images:
            user = with_images(user, item.images)
        tail: tuple[Message, ...] = (user,)
        if self.pool is not None and self.pool.select == "nearest":
            tail = (*self._turns(self.pool.nearest(item, menu)), user)
        read = self.prompt.front.read
        sampled = self.mass_sample and item.row % self.mass_sample == 0
        constraint = "tokens" if sampled else self.constraint
        if read != "code":  # a list of tokens can spell neither names nor reasons
            constraint = "outlines"
        return Request(item, menu, self._prefix(menu), tail, constraint, read)

    def after(self, reasons: Answer) -> Request:
        """Return the question for the code, the reasons before it."""
        request, item = reasons.request, reasons.request.item
        said: Message = {"role": "assistant", "content": reasons.text}
        sampled = self.mass_sample and item.row % self.mass_sample == 0
        return replace(
            request,
            tail=(*request.tail, said, self.prompt.last()),
            constraint="tokens" if sampled else self.constraint,
            read="code",
        )

    def widest(self) -> list[Message]:
        """Return the longest conversation this task can have, with an empty item."""
        system = max(map(self._prefix, self._menus()), key=lambda p: len(str(p.messages).encode()))
        shown: list[Message] = []
        if self.pool is not None and self.pool.select == "nearest":
            longest = sorted(self.pool.items, key=lambda i: -len(i.content))[: self.pool.shots]
            shown = self._turns([(i, "A") for i in longest])
        if self.prompt.decides:
            (menu,) = self._menus()[:1]
            return list(self._question(self._own(Specimen("")), menu))
        menus = self._menus() if self.prompt.item_first else [None]
        own = [self._own(Specimen(""), menu) for menu in menus]
        return [*system.messages, *shown, max(own, key=lambda m: len(m["content"].encode()))]

    def fitted(self, *, used: int, context: int) -> Task:
        """Return the task with the room that is left when the widest ask takes `used` tokens.

        Raises `BadConfig` when hardly any is.
        """
        room = context - used - self.reserve
        if room < LEAST_ROOM:
            raise BadConfig(
                f"the menu and rules take {used} of the model's {context} tokens: "
                "no room for the item",
                hint="serve with a larger --max-model-len, lower --candidates, --menu-size or "
                "--shots, or use a shorter prompt",
            )
        return replace(self, room=room)

    @property
    def reserve(self) -> int:
        """The most tokens that come after the item."""
        read = self.prompt.front.read
        if read == "reason":  # and the turns around what asks for the code
            return REASON_TOKENS + len(self.prompt.last()["content"].encode()) + 64
        spelled = self.plan.spelled or self._names
        return most_tokens(list(spelled.values()), read)

    def _question(self, state: Message, menu: Menu) -> tuple[Message, ...]:
        """Return what a decision model is asked; no two options are called nearly the same."""
        parent = menu.parent.id if menu.parent else ""
        question = self._questions.get(parent)
        if question is None:  # whatever the item
            question = self.prompt.question(menu, names=self._names, about=self.about)
            self._questions[parent] = question
        return state, question, {"role": "options", "content": self.options(menu.nodes)}

    def options(self, nodes: Sequence[Node]) -> list[dict[str, str | None]]:
        """Return categories as a decision model reads them."""
        kept, prompt = self._alone, self.prompt
        return [kept.get(node.id) or prompt.option(node, self._names) for node in nodes]

    @cached_property
    def _alone(self) -> dict[str, dict[str, str | None]]:
        """Options by id whose names would be another's but for case or form: paths, numbered."""
        nodes = self.plan.taxonomy.nodes.values()
        named = {node.id: self.prompt.option(node, self._names) for node in nodes}
        seen = Counter(_folded(option["name"]) for option in named.values())
        found: dict[str, dict[str, str | None]] = {}
        for node in nodes:
            option = named[node.id]
            if seen[_folded(option["name"])] > 1:
                found[node.id] = {**option, "name": self._names[node.id]}
        taken = {_folded(option["name"]) for id_, option in named.items() if id_ not in found}
        for option in found.values():
            name, number = option["name"], 1
            while _folded(option["name"]) in taken:  # a path may be another's, too
                number += 1
                option["name"] = f"{name} ({number})"
            taken.add(_folded(option["name"]))
        return found

    def _menus(self) -> list[Menu]:
        """The largest menus that a walk can come to: of siblings, or of a tournament's winners."""
        plan, taxonomy = self.plan, self.plan.taxonomy
        if plan.kind != "descend":
            return [plan.menu(self._longest(taxonomy.leaves))]
        inner = [None, *(n for n in taxonomy.nodes.values() if taxonomy.children(n))]
        return [plan.menu(self._longest(taxonomy.children(n)), n) for n in inner]

    def _longest(self, nodes: tuple[Node, ...]) -> list[Node]:
        """Return the nodes that take the most text on a menu, as many as it holds."""

        def size(node: Node) -> int:
            text = (self._names[node.id], node.description, *node.synonyms)
            return len(" ".join(text).encode())

        return sorted(nodes, key=size, reverse=True)[: self.plan.widest]

    def _own(self, fields: Mapping[str, str], menu: Menu | None = None) -> Message:
        """Render an item's own part."""
        if not isinstance(fields, Specimen):
            fields = Fields(fields, self.columns)
        return self.prompt.own(fields, menu, names=self._names, about=self.about)

    def _prefix(self, menu: Menu) -> Prefix:
        """Return what every item with this menu shares; kept, since most menus come again.

        Where the item comes first that is the same for all menus.
        """
        place = 0 if self.prompt.item_first else id(menu)
        kept = self._prefixes.get(place)
        if kept is not None and (not place or kept[0] is menu):
            return kept[1]
        messages = list(self.prompt.shared(menu, names=self._names, about=self.about))
        if self.pool is not None and self.pool.select == "fixed":
            messages += self._turns(self.pool.fixed(menu))
        key = digest(*(text for m in messages for text in m.values()))
        prefix = Prefix(tuple(messages), key)
        if len(self._prefixes) >= 512:  # noqa: PLR2004
            self._prefixes.clear()
        self._prefixes[place] = (menu, prefix)
        return prefix

    def _turns(self, shown: list[tuple[Item, str]]) -> list[Message]:
        """Examples as turns: the item, then its code."""
        turns: list[Message] = []
        for item, code in shown:
            turns += [self._own(item.fields), {"role": "assistant", "content": code}]
        return turns


def _folded(name: str | None) -> str:
    """Return a name as a server may compare it: without case, in one normal form."""
    return unicodedata.normalize("NFKD", name or "").casefold()
