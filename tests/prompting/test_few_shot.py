"""The examples that ship: whole, consistent, and what the documentation says they are."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from helpers import EXAMPLES, ROOT

from llmcat import Taxonomy
from llmcat.items.readers import ItemReader

TAXONOMY = Taxonomy.load(EXAMPLES / "taxonomy.yaml")
ITEMS = list(ItemReader().read(EXAMPLES / "items.jsonl"))
POOL = list(ItemReader().read(EXAMPLES / "pool.jsonl"))
DATA = Path(os.environ.get("LLMCAT_DATA", ROOT.parent / "shared" / "data"))
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def test_the_taxonomy() -> None:
    """Six departments, thirty leaves, each described, with synonyms and a Chinese name."""
    assert len(TAXONOMY.roots) == 6
    assert len(TAXONOMY.leaves) == 30
    for node in TAXONOMY.leaves:
        assert node.description
        assert node.synonyms
        assert node.names["zh"]


def test_the_items() -> None:
    """At least 240, about a fifth Chinese, about a tenth without a home, every leaf met."""
    assert len(ITEMS) >= 240
    assert not [i for i in ITEMS if i.error]
    assert len({i.id for i in ITEMS}) == len(ITEMS)
    chinese = sum(bool(CHINESE.search(i.fields["title"])) for i in ITEMS) / len(ITEMS)
    assert 0.15 < chinese < 0.25
    counts = Counter(i.gold for i in ITEMS)
    assert 0.08 < counts.pop("none") / len(ITEMS) < 0.12
    assert set(counts) == {n.id for n in TAXONOMY.leaves}
    assert min(counts.values()) >= 5


def test_the_pool() -> None:
    """At least three per leaf, and no text that the items have too."""
    counts = Counter(i.gold for i in POOL)
    assert set(counts) == {n.id for n in TAXONOMY.leaves} | {"none"}
    assert min(counts.values()) >= 3
    texts = {i.fields["title"].casefold() for i in ITEMS}
    assert not [i for i in POOL if i.fields["title"].casefold() in texts]


def test_the_intents() -> None:
    """A flat list and queries that resolve."""
    taxonomy = Taxonomy.load(EXAMPLES / "intents.yaml")
    assert taxonomy.depth == 1
    queries = list(ItemReader().read(EXAMPLES / "intents.jsonl"))
    assert len(queries) >= 30
    assert all(i.gold and taxonomy.resolve(i.gold) for i in queries)


@pytest.mark.parametrize("name", ["taxonomy_shopify/paths_en.txt", "shop32/categories.txt"])
def test_real_taxonomies_read(name: str) -> None:
    """Where the measuring data is at hand, its taxonomies load without a problem."""
    path = DATA / name
    if not path.exists():
        pytest.skip("the public sets are not here; LLMCAT_DATA names their folder")
    assert len(Taxonomy.load(path).leaves) > 30
