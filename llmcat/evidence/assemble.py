"""Settings to evidence: which sources there are, what they know, how they are weighed.

This module knows settings and items; it does not know engines, prompts' texts or the loop.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from llmcat import resources
from llmcat.errors import BadConfig, LlmcatNote
from llmcat.evidence import pool as pooling
from llmcat.evidence.pool import Pool
from llmcat.files.sources import expand
from llmcat.items.readers import Columns, ItemReader
from llmcat.records import NONE
from llmcat.retrieval.documents import duplicates_of, group_of, item_text
from llmcat.retrieval.scorers import Retriever, Signals, encoders_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.config import RunConfig
    from llmcat.records import Item
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["REFERENCE", "learnt_pool", "out_of_fold", "reference_items", "retriever_of", "wanted"]

REFERENCE = 64
"""Items that show what places the reader prefers."""
SHIPPED = ("items.jsonl", "pool.jsonl")


def wanted(
    config: RunConfig, taxonomy: Taxonomy, *, item_first: bool, whole_menus: bool, reader: bool
) -> bool:
    """Tell whether a run gathers evidence: by its settings, else with an item-first prompt.

    The levels of a scale are not told by the words they share with an item: a model reads them all,
    in their order. Raises `BadConfig` where nothing at all would decide.
    """
    if config.sources == "none":
        if not reader:
            raise BadConfig("--engine retriever and --sources none leave nobody to decide")
        if config.multi:
            raise BadConfig("--multi goes by retrieval, and --sources none leaves it out")
        return False
    if taxonomy.ordered and reader and not config.sources:
        return False
    return (
        bool(config.multi) or not reader or bool(config.sources) or (item_first and not whole_menus)
    )


def retriever_of(
    config: RunConfig,
    taxonomy: Taxonomy,
    examples: tuple[Sequence[Item], Sequence[str]] = ((), ()),
    judged: Sequence[Item] = (),
) -> tuple[Retriever, list[Item], list[str]]:
    """Return the retriever of the settings, and the examples it holds with their labels.

    Examples that are items to be judged, or nearly the same as one, are left out: no item is its
    own evidence; so are those of a category that no item can get. Raises `BadConfig` where a source
    cannot be had.
    """
    retriever = Retriever(
        taxonomy, encoders_of(config.sources or "auto"), supplied=config.source_category
    )
    assignable = {*retriever.ids, NONE}
    pairs = [(i, label) for i, label in zip(*examples, strict=True) if label in assignable]
    items, labels = [item for item, _ in pairs], [label for _, label in pairs]
    if items and judged:
        near = duplicates_of([item_text(i) for i in items], [item_text(i) for i in judged])
        names = {i.kept.get(config.group, "") for i in judged} - {""} if config.group else set()
        keep = [
            not double and item.kept.get(config.group, "") not in names
            for item, double in zip(items, near, strict=True)
        ]
        items = [item for item, there in zip(items, keep, strict=True) if there]
        labels = [label for label, there in zip(labels, keep, strict=True) if there]
        if not items:
            said = f"all {len(keep):,} examples are items to be judged, or nearly: none is shown"
            warnings.warn(said, LlmcatNote, stacklevel=2)
    if items:
        retriever = retriever.with_examples(items, labels)
    retriever.prepare()
    return retriever, items, labels


def out_of_fold(
    retriever: Retriever, items: Sequence[Item], groups: Sequence[int], *, seed: int = 0
) -> Signals:
    """Return what retrieval says of its own examples, each without its fold.

    `items` are the examples in their order. Groups stay together. Sources that some fold lacks (a
    probe that could not be trained) are left out.
    """
    part = pooling.folds_of(groups, seed)
    held = [np.flatnonzero(part == k) for k in range(pooling.FOLDS) if (part == k).any()]
    said = []
    for rows in held:
        rest = retriever.without(np.isin(np.arange(len(items)), rows))
        said.append(rest([items[i] for i in rows.tolist()]))
    return Signals.stacked(said).some(np.argsort(np.concatenate(held)))


def learnt_pool(
    retriever: Retriever,
    items: Sequence[Item],
    labels: Sequence[str],
    *,
    group: str = "",
    seed: int = 0,
) -> Pool:
    """Return weights learnt from a retriever's own examples, out of fold; the reader's stays.

    The only example of a category is left out: without it nothing speaks for its category, which
    no other item will meet. The defaults where too few are left.
    """
    start = Pool(weights=pooling.default_weights(retriever.sources))
    at = {id_: i for i, id_ in enumerate(retriever.ids)} | {NONE: -1}
    columns = np.array([at[label] for label in labels], dtype=int)
    each = np.bincount(columns[columns >= 0], minlength=len(retriever.ids))
    rows = np.flatnonzero((columns < 0) | (each[columns] > 1))
    if (columns[rows] >= 0).sum() < pooling.LEAST:
        return start
    given = [item.kept.get(group, "") for item in items] if group else None
    groups = group_of([item_text(item) for item in items], given)
    signals = out_of_fold(retriever, items, groups, seed=seed).some(rows)
    known, parted = columns[rows], [groups[i] for i in rows.tolist()]
    made = pooling.fit(signals, [None] * len(rows), known, parted, start=start, seed=seed)
    reader = {pooling.READER: pooling.READER_BESIDE_LEARNT}
    return replace(made, weights={**made.weights, **reader})


def reference_items(config: RunConfig, judged: Sequence[Item] = ()) -> list[Item]:
    """Return the items that show which places the reader prefers.

    Those of `--reference`, else of the shipped examples and few-shot pool, whatever the categories
    are; none that is to be judged. Raises `InputError`.
    """
    shipped = resources.folder("examples")
    files = expand(config.reference or "\n".join(str(shipped / name) for name in SHIPPED))
    columns = Columns() if not config.reference else Columns(redact=config.redact)
    known = {item.content for item in judged}
    rows = ItemReader(columns=columns).read(*files)
    usable = (item for item in rows if item.error is None and item.content not in known)
    return [replace(item, row=n) for n, item in enumerate(islice(usable, REFERENCE))]
