"""How a taxonomy is offered: which menus there are, and in which orders.

This module does not know prompts, engines or items.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from llmcat.errors import BadConfig, EngineUnsupported
from llmcat.records import MOST_LABELS, Menu, Node

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["Plan", "chunks", "design"]


@dataclass(frozen=True)
class Plan:
    """How a taxonomy is offered with an alphabet of codes, `size` labels at most per menu.

    `spelled`, when given, maps node id to a name that stands for the node instead of a code
    (read mode `text`), and `""` to the exit's. `orders`: a menu of all leaves is offered in so many
    orders; `auto`: only where the first answer is unsure. `candidates`: so many of the categories
    are offered of each item, whichever retrieval puts first; 0 for none of that.
    """

    taxonomy: Taxonomy
    alphabet: tuple[str, ...]
    size: int = MOST_LABELS
    spelled: Mapping[str, str] | None = None
    orders: int = 1
    auto: bool = False
    candidates: int = 0
    _menus: dict[tuple[str, ...], Menu] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a plan that the alphabet cannot spell, or names that are not distinct."""
        if self.spelled is not None:
            seen: dict[str, str] = {}
            for id_, name in self.spelled.items():
                if name in seen:
                    raise BadConfig(
                        f"{seen[name] or 'none of these'!r} and {id_!r} are both called "
                        f"{name!r}: an answer by name would not tell them apart",
                        hint="rename one, or use a prompt that reads codes",
                    )
                seen[name] = id_
            return
        if self.size + 1 > len(self.alphabet) and len(self.taxonomy.leaves) >= len(self.alphabet):
            object.__setattr__(self, "size", len(self.alphabet) - 1)
        if self.size < 2:  # noqa: PLR2004
            raise EngineUnsupported(
                f"only {len(self.alphabet)} codes are a single token in this model",
                hint="a menu of two labels and `none` needs three",
            )

    @cached_property
    def kind(self) -> Literal["candidates", "menu", "descend", "tournament"]:
        """Candidates if retrieval chooses, one menu if all leaves fit, else several menus.

        A descent for a tree, a tournament for a flat list.
        """
        if self.candidates:
            return "candidates"
        if len(self.taxonomy.leaves) <= self.size:
            return "menu"
        return "descend" if self.taxonomy.depth > 1 else "tournament"

    @property
    def gives_all(self) -> bool:
        """Whether every item gets a probability of every category."""
        return self.kind in {"candidates", "menu"}

    @property
    def widest(self) -> int:
        """The most labels that a menu holds."""
        return min(self.size, self.candidates or self.size)

    def fresh_menu(self, nodes: Sequence[Node]) -> Menu:
        """Return a menu that hardly comes again: it is not kept."""
        return Menu(nodes=tuple(nodes), codes=self.alphabet[: len(nodes) + 1])

    @cached_property
    def whole(self) -> Menu:
        """The menu of all leaves, where one menu holds them."""
        return self.menu(self.taxonomy.leaves)

    @cached_property
    def ordered(self) -> tuple[Menu, ...]:
        """The menu of all leaves in each of the orders, the taxonomy's own first."""
        leaves = self.taxonomy.leaves
        orders = design(len(leaves), self.orders)
        return tuple(self.menu([leaves[i] for i in order]) for order in orders)

    def menu(self, nodes: Sequence[Node], parent: Node | None = None) -> Menu:
        """Return the menu of these nodes; the same nodes give the same object."""
        key = (parent.id if parent else "", *(n.id for n in nodes))
        if key not in self._menus:
            if len(self._menus) >= 4096:  # noqa: PLR2004  finals of tournaments rarely repeat
                self._menus.clear()
            codes = self.alphabet[: len(nodes) + 1]
            if self.spelled is not None:
                codes = (*(self.spelled[n.id] for n in nodes), self.spelled[""])
            self._menus[key] = Menu(nodes=tuple(nodes), codes=codes, parent=parent)
        return self._menus[key]

    def first_menus(self) -> list[Menu]:
        """The menus every item meets first: one, or the opening round of a tournament."""
        if self.kind == "candidates":
            return [self.menu(self.taxonomy.leaves[: self.widest])]
        top = self.taxonomy.onward(None)
        nodes = self.taxonomy.children(top) if self.kind == "descend" else self.taxonomy.leaves
        return [self.menu(chunk) for chunk in chunks(nodes, self.size)]


def design(labels: int, orders: int) -> list[list[int]]:
    """Return the orders in which a menu is offered, each a permutation of `range(labels)`.

    An even number of orders: cyclic shifts, each with its reverse, so that every label stands at
    the same place on average. An odd one: cyclic shifts. With `labels` shifts every label stands
    everywhere equally often (a Latin square), and what a place or a letter adds cancels exactly.
    """
    turned = orders % 2 == 0
    shifts = orders // 2 if turned else orders  # more than labels are the same ones again
    found = []
    for k in range(shifts):
        start = round(k * labels / shifts) % labels
        order = [*range(start, labels), *range(start)]
        found += [order, order[::-1]] if turned else [order]
    return found


def chunks(nodes: Sequence[Node], size: int) -> list[Sequence[Node]]:
    """Split into the fewest parts of nearly equal length."""
    count = -(-len(nodes) // size)
    bounds = [round(i * len(nodes) / count) for i in range(count + 1)]
    return [nodes[a:b] for a, b in pairwise(bounds)]
