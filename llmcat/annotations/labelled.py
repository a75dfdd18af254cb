"""Labelled items: read, checked against the taxonomy, sampled.

What a gold label means is settled here, before anything is asked: one that the taxonomy does not
have ends the run, with the nearest that it has. This module does not know engines or metrics.
"""

from __future__ import annotations

import difflib
import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmcat.errors import InputError
from llmcat.items.readers import Columns, ItemReader
from llmcat.records import NONE, SEVERAL, digest, each_of, readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.config import RunConfig
    from llmcat.records import Item
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["Labelled", "read_labelled"]

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Labelled:
    """Items with gold labels, in the order of their rows.

    `rows` is how many the input has, `unlabelled` how many of them have no label and are left
    out. `remarks` says what the reader of a result should know of these items.
    """

    items: list[Item]
    rows: int
    unlabelled: int
    remarks: tuple[str, ...]

    @property
    def digest(self) -> str:
        """A hash of rows, texts and labels."""
        return digest_of(self.items)


def digest_of(items: Sequence[Item]) -> str:
    """Return a hash of which items these are, and of their labels."""
    return digest(*(f"{item.row}\x1f{item.id}\x1f{item.gold}\x1f{item.content}" for item in items))


def read_labelled(config: RunConfig, taxonomy: Taxonomy, *, keep: tuple[str, ...] = ()) -> Labelled:
    """Read the labelled items of the settings; with a limit, a random sample of so many.

    A sample is nested in each larger one of the same seed, and stays in the order of the rows.
    `keep` names columns to keep beside the text. Raises `InputError` where no item has a label,
    or labels are not in the taxonomy.
    """
    reader = ItemReader(columns=replace(Columns.of(config), keep=keep), labelled=True)
    items, rows, broken, foreign = [], 0, 0, Counter[str]()
    for item in reader.read_for(config):
        rows += 1
        given = taxonomy.given(item.gold)
        if not given:
            broken += item.error is not None
            continue
        gold = taxonomy.resolve_all(given)
        if gold is None:
            each = given.split(SEVERAL)
            foreign.update(label for label in each if taxonomy.resolve(label) is None)
        items.append(replace(item, gold=gold))
    if foreign:
        raise InputError(_unknown(foreign, taxonomy), hint="mend the labels or the taxonomy")
    if not items:
        raise InputError(
            f"none of the {rows:,} items has a label",
            hint=f"the column {config.label!r} should hold it; --label names another",
        )
    unlabelled = rows - len(items)
    if 0 < config.limit < len(items):
        order = random.Random(config.seed).sample(range(len(items)), len(items))
        items = [items[i] for i in sorted(order[: config.limit])]
    remarks = _remarks(items, unlabelled - broken, broken, taxonomy)
    return Labelled(items, rows, unlabelled, tuple(remarks))


def _unknown(foreign: Counter[str], taxonomy: Taxonomy) -> str:
    """List labels that the taxonomy does not have, the frequent first, each with the nearest."""
    names: dict[str, str] = {}
    for node in taxonomy.leaves:
        for name in (node.id, node.name, node.label):
            names.setdefault(name.casefold(), node.id)
    lines = [
        f"{foreign.total():,} items have labels that are not in the taxonomy "
        f"({len(foreign):,} different ones):"
    ]
    for label, count in foreign.most_common(SHOWN):
        if same := [node.label for node in taxonomy.leaves if node.name == label][:3]:
            lines.append(f"{label!r}, {count:,} times; several are called so: {', '.join(same)}")
            continue
        near = difflib.get_close_matches(label.casefold(), names, n=1, cutoff=0.5)
        nearest = f"; nearest: {names[near[0]]!r}" if near else ""
        lines.append(f"{label!r}, {count:,} times{nearest}")
    if len(foreign) > SHOWN:
        lines.append(f"and {len(foreign) - SHOWN:,} others")
    return "\n  ".join(lines)


def _remarks(items: Sequence[Item], unlabelled: int, broken: int, taxonomy: Taxonomy) -> list[str]:
    """Say what is odd about labelled items."""
    said = []
    if broken:
        said.append(f"WARNING: {broken:,} rows cannot be read, or have neither text nor label")
    leaves = {node.id for node in taxonomy.leaves} | {NONE}
    inner = Counter(g for item in items for g in each_of(item.gold) if g not in leaves)
    if inner:
        named = ", ".join(map(repr, list(inner)[:5]))
        said.append(
            f"WARNING: {inner.total():,} items are labelled with a category that no menu offers, "
            f"an inner or a deprecated one ({named}): they count as wrong, and there is no log-loss"
        )
    if unlabelled:
        said.append(f"{unlabelled:,} items have no label and are left out")
    labels = Counter(item.gold for item in items)
    if len(labels) == 1:
        said.append(
            f"WARNING: every item has the label {readable(str(next(iter(labels))))!r}: this says "
            "nothing about any other, and nothing about how often it would be given wrongly"
        )
    by_text: dict[str, set[str | None]] = {}
    for item in items:
        if not item.error:
            by_text.setdefault(item.content, set()).add(item.gold)
    twice = sum(len(golds) > 1 for golds in by_text.values())
    if twice:
        said.append(f"{twice:,} texts stand in the file with different labels")
    return said
