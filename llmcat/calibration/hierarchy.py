"""What a tree makes of probabilities: the branch of a label, and the deepest node that is sure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmcat.records import NONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["branch_of", "climb", "leaves_under"]


def branch_of(label: str, taxonomy: Taxonomy) -> str:
    """Return the department of a label, `none` for none."""
    node = taxonomy.nodes.get(label)
    return node.path[0] if node else NONE


def leaves_under(taxonomy: Taxonomy) -> dict[str, list[str]]:
    """Return the ids of the leaves under each category, a leaf's own for itself."""
    found: dict[str, list[str]] = {}
    for leaf in taxonomy.leaves:
        for node in (leaf, *taxonomy.ancestors(leaf)):
            found.setdefault(node.id, []).append(leaf.id)
    return found


def climb(
    label: str, p: Mapping[str, float], taxonomy: Taxonomy, under: Mapping[str, Sequence[str]]
) -> list[tuple[str, float]]:
    """Return a label and its ancestors, the deepest first, each with the probability under it."""
    node = taxonomy.nodes[label]
    return [
        (one.id, math.fsum(p.get(leaf, 0.0) for leaf in under.get(one.id, ())))
        for one in (node, *taxonomy.ancestors(node))
    ]
