"""What the demo model is measured on, as menus with items: one definition for training and server.

`part` is `dev` for choices made while developing (shop32's train part, our pool of examples) and
`test` for what the model card reports (shop32's test part, our items, unseen labels).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Literal

import yaml
from data import EXAMPLES, UNSEEN_FOOD, Drawn, Held, Lexicon, held_out_leaf, lexicon, rows

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["trials"]

ORDERS = 8


def trials(data: Path, part: Literal["dev", "test"], *, seed: int = 0) -> dict[str, list[Drawn]]:
    """Return named lists of menus.

    `shop32` and `again`: the same items in two random menu orders. `left out`: the label of each
    item taken off the menu. `examples`: ours, in the taxonomy's order. `unseen`: menus of eight
    labels that training never showed.
    """
    draw = random.Random(seed)
    shop = rows(data / f"shop32/{'test' if part == 'test' else 'train'}.jsonl")
    labels = [r["label"] for r in rows(data / "shop32/categories.jsonl")]
    out: dict[str, list[Drawn]] = {}
    for name in ("shop32", "again"):
        out[name] = [shuffled(draw, labels, shop[i::ORDERS]) for i in range(ORDERS)]
    out["left out"] = [
        shuffled(draw, [x for x in labels if x != label], [r for r in shop if r["label"] == label])
        for label in labels
    ]
    tree = yaml.safe_load((EXAMPLES / "taxonomy.yaml").read_text("utf-8"))["labels"]
    leaf = {c["id"]: f"{d['name']} > {c['name']}" for d in tree for c in d["children"]}
    own = rows(EXAMPLES / ("items.jsonl" if part == "test" else "pool.jsonl"))
    names = list(leaf.values())
    index = {k: i for i, k in enumerate(leaf)}
    answers = [index.get(r["label"]) for r in own]
    out["examples"] = [Drawn("examples", names, [fields(r) for r in own], answers, zh=False)]
    if part == "dev":
        out["lexicon"] = [kept(draw) for _ in range(40)]
    else:
        out["unseen"] = unseen(draw, data)
    return out


def fields(row: dict[str, Any]) -> dict[str, str]:
    """The columns that llmcat shows: title, description and attributes."""
    found = {"title": row["title"]}
    if row.get("description"):
        found["description"] = row["description"]
    if row.get("attributes"):
        found["attributes"] = "; ".join(f"{k}: {v}" for k, v in row["attributes"].items())
    return found


def shuffled(draw: random.Random, labels: list[str], found: list[dict[str, Any]]) -> Drawn:
    """Put labels in random order; an item whose label is not among them belongs to the exit."""
    order = draw.sample(labels, len(labels))
    answers = [order.index(r["label"]) if r["label"] in order else None for r in found]
    return Drawn("shop32", order, [{"title": r["title"]} for r in found], answers, zh=False)


def kept(draw: random.Random) -> Drawn:
    """A menu of 30 groups of the lexicon, and fragments that training does not see."""
    groups = draw.sample(lexicon(Held([])).groups, 30)
    variant = draw.randrange(6)
    labels = [Lexicon.label(draw, g, whole=True, variant=variant).path for g in groups]
    answers = [draw.randrange(30) for _ in range(25)]
    items = [{"title": draw.choice(draw.choice(groups[a]).kept)} for a in answers]
    return Drawn("lexicon", [" > ".join(x) for x in labels], items, answers, zh=False)


def unseen(draw: random.Random, data: Path) -> list[Drawn]:
    """Menus of 8 held-out NAICS leaves with 8 items each, and of held-out foods among leaves."""
    found = [r for r in rows(data / "naics2022_index/items.jsonl.gz") if held_out_leaf(r["label"])]
    food = [r for r in rows(data / "usda_sr28_foods/items.jsonl.gz") if r["label"] in UNSEEN_FOOD]
    by: dict[str, list[str]] = {}
    for r in found + food:
        by.setdefault(r["label"].rsplit(" > ", 1)[-1], []).append(r["title"])
    names = sorted(by)
    out = []
    for _ in range(50):
        menu = draw.sample(names, 8)
        if draw.random() < 0.25 and not set(menu) & set(UNSEEN_FOOD):
            menu[draw.randrange(8)] = draw.choice(UNSEEN_FOOD)
        items, answers = [], []
        for _ in range(8):
            i = draw.randrange(8)
            items.append({"title": draw.choice(by[menu[i]])})
            answers.append(i)
        out.append(Drawn("unseen", menu, items, answers, zh=False))
    return out
