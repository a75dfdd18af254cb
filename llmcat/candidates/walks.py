"""Which labels are offered: one menu, a descent down the tree, or a tournament of a flat list.

`walk` is a generator that yields menus, is sent the scores of each, and returns the scores
over labels. Menus that do not wait for one another are yielded together. It does not know prompts,
engines or items: the loop carries menus out and scores back. With beam width one,
log P(path) = sum of log P(child | node).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from llmcat.candidates.plan import Plan, chunks
from llmcat.records import NONE, Menu, Node, Scores

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

__all__ = ["SURE", "Walk", "averaged", "choose", "offer", "walk"]

SURE = 0.9
"""With `auto`, an answer at least as likely is not asked for again."""
LEAST = 1e-12
"""A probability of 0 counts as this when logarithms are averaged."""

Walk: TypeAlias = "Generator[tuple[Menu, ...], Sequence[Scores], Scores]"
"""Yields menus that are asked at once, is sent the scores of each, returns those of them all."""


def offer(menu: Menu) -> Walk:
    """Yield one menu; return its scores."""
    (scores,) = yield (menu,)
    return scores


def walk(plan: Plan) -> Walk:
    """Yield menus, receive their scores, return the scores of the whole walk."""
    if plan.kind == "menu":
        return (yield from _in_orders(plan))
    if plan.kind == "tournament":
        return (yield from choose(plan, plan.taxonomy.leaves, None))
    return (yield from _descend(plan))


def _in_orders(plan: Plan) -> Walk:
    """Offer all leaves, in several orders if that is the plan, and average log-probabilities."""
    if plan.orders > 1 and not plan.auto:
        answers = yield plan.ordered
        first = answers[0]
        return first if first.confidence is None else averaged(answers)
    first = yield from offer(plan.whole)
    sure = first.confidence
    if plan.orders == 1 or sure is None or sure >= SURE:
        return first
    return averaged([first, *(yield plan.ordered[1:])])


def averaged(answers: Sequence[Scores]) -> Scores:
    """Return the normalised geometric mean of answers to one question.

    Where an answer does not list every label, the mean of the lower bounds.
    """
    ids = list(dict.fromkeys(id_ for a in answers for id_ in a.p))
    if any(a.kind == "top" for a in answers):  # lower bounds: their mean is one
        p = {i: math.fsum(a.p.get(i, 0.0) for a in answers) / len(answers) for i in ids}
        p_none = math.fsum(a.p_none or 0.0 for a in answers) / len(answers)
        return _chosen(answers, p, p_none)
    logs = {
        id_: math.fsum(math.log(max(a.p.get(id_, 0.0), LEAST)) for a in answers) / len(answers)
        for id_ in ids
    }
    none = math.fsum(math.log(max(a.p_none or 0.0, LEAST)) for a in answers) / len(answers)
    top = max(none, *logs.values())
    weights = {id_: math.exp(log - top) for id_, log in logs.items()}
    total = math.fsum([*weights.values(), math.exp(none - top)])
    p = {id_: weight / total for id_, weight in weights.items()}
    made = _chosen(answers, p, math.exp(none - top) / total)
    unoffered = all(a.p_none is None for a in answers)
    return replace(made, p_none=None) if unoffered else made


def _chosen(answers: Sequence[Scores], p: Mapping[str, float], p_none: float) -> Scores:
    """Return averaged probabilities with the label they say."""
    best = max(p, key=p.__getitem__)
    masses = [a.mass for a in answers if a.mass is not None]
    return Scores(
        label=best if p[best] >= p_none else NONE,
        p=p,
        p_none=p_none,
        kind="top" if any(a.kind == "top" for a in answers) else "full",
        mass=min(masses, default=None),
        order_disagreement=len({a.label for a in answers}) > 1,
    )


def _descend(plan: Plan) -> Walk:
    """Go down greedily. The exit at the top answers `none`, at an inner node that node.

    A level with one node is walked through: there is nothing to ask. The top is what the first menu
    is below.
    """
    taxonomy = plan.taxonomy
    top = here = taxonomy.onward(None)
    reached, none, mass = 1.0, 0.0, None
    found: dict[str, float] = {}
    plain = False  # one level without probabilities leaves the path without
    while True:
        scores = yield from choose(plan, taxonomy.children(here), here)
        plain = plain or scores.kind == "label_only"
        left = NONE if here is top or here is None else here.id
        if plain:
            bare = Scores(left, {}, None, kind="label_only")
            if scores.label == NONE:
                return bare
            here = taxonomy.onward(taxonomy.nodes[scores.label])
            if here is not None and not taxonomy.children(here):
                return replace(bare, label=here.id)
            continue
        mass = min((m for m in (mass, scores.mass) if m is not None), default=None)
        if here is top or here is None:
            none = scores.p_none or 0.0
        else:
            found[here.id] = reached * (scores.p_none or 0.0)  # the rest goes to its children
        last = {id_: taxonomy.onward(taxonomy.nodes[id_]) for id_ in scores.p}
        found |= {node.id: reached * scores.p[id_] for id_, node in last.items() if node}
        if scores.label == NONE:
            return Scores(left, found, none, kind="top", mass=mass)
        here = last[scores.label]
        reached *= scores.p[scores.label]
        if here is not None and not taxonomy.children(here):
            return Scores(here.id, found, none, kind="top", mass=mass)


def choose(plan: Plan, nodes: Sequence[Node], parent: Node | None) -> Walk:
    """Choose among any number of nodes: one menu, or rounds until the rest fits one.

    In a round each menu sends on its best nodes, at most as many as the final menu has room
    for, and only those that beat the menu's exit.
    """
    mass, kind = None, "full"
    while len(nodes) > plan.size:
        kind = "top"
        parts = chunks(nodes, plan.size)
        most = max(1, plan.size // len(parts))
        winners: set[str] = set()
        none = 1.0
        for scores in (yield tuple(plan.menu(chunk, parent) for chunk in parts)):
            if scores.kind == "label_only":
                winners |= {scores.label} - {NONE}
                continue
            mass = min((m for m in (mass, scores.mass) if m is not None), default=None)
            none_here = scores.p_none or 0.0
            ranked = sorted(scores.p.items(), key=lambda pair: -pair[1])[:most]
            winners |= {id_ for id_, p in ranked if p > none_here}
            none = min(none, none_here)
        nodes = [n for n in nodes if n.id in winners]
        if not nodes and scores.kind == "label_only":
            return scores
        if not nodes:
            return Scores(NONE, {}, none, kind="top", mass=mass)
    scores = yield from offer(plan.menu(nodes, parent))
    if scores.kind == "label_only":
        return scores
    mass = min((m for m in (mass, scores.mass) if m is not None), default=None)
    return Scores(
        scores.label,
        scores.p,
        scores.p_none,
        kind="top" if kind == "top" else scores.kind,
        mass=mass,
    )
