"""What the demo model is measured on is not in what it learns from."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("LLMCAT_DATA", ROOT.parent / "shared" / "data"))

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="the public sets are not here; LLMCAT_DATA names their folder"
)


@pytest.fixture(scope="module")
def data() -> Any:
    """The module that draws the training menus; scripts under eval are no package."""
    sys.path.insert(0, str(ROOT / "eval" / "demo_model"))
    try:
        import data as module
    finally:
        sys.path.pop(0)
    return module


@pytest.fixture(scope="module")
def drawn(data: Any) -> list[Any]:
    """Fifteen hundred training menus."""
    stream = data.menus(random.Random(7), data.worlds(DATA), per_menu=24)
    return [menu for menu, _ in zip(stream, range(1500), strict=False)]


def test_no_measured_title_or_near_duplicate_can_be_drawn(data: Any) -> None:
    """Every text of every world, not only those that happen to be drawn."""
    test = [r["title"] for r in data.rows(DATA / "shop32/test.jsonl")]
    test += [r["title"] for r in data.rows(data.EXAMPLES / "items.jsonl")]
    sets = [data.words(t) for t in test]
    held = data.Held(test)
    assert all(held.holds(t) for t in test)
    for world in data.worlds(DATA):
        if world.name not in {"shop32", "naics"}:
            continue
        texts = {t for label in world.labels for t in label.texts}
        assert texts.isdisjoint(test)
        for text in sorted(texts)[::40]:  # by brute force, the definition written out again
            mine = data.words(text)
            assert max(len(mine & s) / len(mine | s) for s in sets) < 0.8


def test_held_out_labels_never_stand_on_a_training_menu(data: Any, drawn: list[Any]) -> None:
    """A tenth of the NAICS leaves, three food groups, and the names of our own taxonomy."""
    leaves = {r["label"] for r in data.rows(DATA / "naics2022_index/items.jsonl.gz")}
    unseen = {x.rsplit(" > ", 1)[-1] for x in leaves if data.held_out_leaf(x)}
    assert 60 < len(unseen) < 140
    shown = {label for menu in drawn for label in menu.labels}
    parts = {p for label in shown for p in label.split(" > ")}
    naics = {x.rsplit(" > ", 1)[-1] for m in drawn if m.world == "naics" for x in m.labels}
    assert naics
    assert naics.isdisjoint(unseen)
    assert parts.isdisjoint(data.UNSEEN_FOOD)
    assert {p.lower() for p in parts}.isdisjoint(data.own_names())


def test_a_menu_holds_the_answer_of_each_item_or_is_left(drawn: list[Any]) -> None:
    """Answers point at a label; the exit is asked for too, and Chinese."""
    assert all(a is None or 0 <= a < len(m.labels) for m in drawn for a in m.answers)
    assert all(2 <= len(m.labels) == len(set(m.labels)) for m in drawn)
    left = sum(a is None for m in drawn for a in m.answers) / sum(len(m.answers) for m in drawn)
    assert 0.05 < left < 0.2
    assert any(m.zh for m in drawn)


def test_the_same_seed_draws_the_same_menus(data: Any, drawn: list[Any]) -> None:
    """Training repeats by seed."""
    again = data.menus(random.Random(7), data.worlds(DATA), per_menu=24)
    assert [next(again) for _ in range(50)] == drawn[:50]
