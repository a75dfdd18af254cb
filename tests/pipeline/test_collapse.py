"""Answers that hardly depend on the item: seen where they are, and only there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import Ran

from llmcat.candidates.codes import CANDIDATES
from llmcat.pipeline.collapse import EVERY, LEAST, STRIDE, Watch
from llmcat.records import Menu, Node, Scores

Cli = Callable[..., Ran]
FLAT = ("--labels", "shoes,bags,toys", "--engine", "fake", "--file", "x.jsonl")
DEAF = ("--engine-option", "accuracy=0.9", "--engine-option", "sharpness=0",
        "--engine-option", "noise=0.05")  # fmt: skip


def menu_of(*ids: str) -> Menu:
    nodes = tuple(Node(i, i, (i,)) for i in ids)
    return Menu(nodes, CANDIDATES[: len(ids) + 1])


def scores_of(menu: Menu, p: list[float]) -> Scores:
    best = int(np.argmax(p))
    return Scores([*menu.ids, "none"][best], dict(zip(menu.ids, p, strict=False)), p[-1])


def test_the_information_is_that_of_the_textbook() -> None:
    """Entropy of the mean minus mean of the entropies, as scipy has them; zeros are nothing."""
    from scipy.stats import entropy

    draw = np.random.default_rng(0)
    p = draw.dirichlet(np.full(5, 0.5), 80)
    p[7] = [1, 0, 0, 0, 0]
    menu, watch = menu_of("a", "b", "c", "d"), Watch()
    for row in p.tolist():
        watch.add(scores_of(menu, row), menu)
    (seen,) = watch.views()
    expected = entropy(p.mean(axis=0)) - entropy(p, axis=1).mean()
    assert seen.nats == pytest.approx(expected)
    assert seen.bits == pytest.approx(expected / np.log(2))
    assert seen.most == pytest.approx(entropy(p.mean(axis=0)))
    counts = np.bincount(p.argmax(axis=1))
    assert (seen.favourite, seen.top, seen.n) == ("ABCDE"[counts.argmax()], counts.max(), 80)
    assert seen.expected == pytest.approx(p.mean(axis=0)[counts.argmax()])


def test_one_code_whatever_the_item_is_said_in_a_line() -> None:
    """Not of fewer than fifty answers, and not of answers without probabilities."""
    menu, watch, draw = menu_of("a", "b"), Watch(), np.random.default_rng(0)
    for n in range(1, 65):
        z = np.array([0.0, 1.7, 0.5]) + draw.normal(0, 0.5, 3)
        watch.add(scores_of(menu, (np.exp(z) / np.exp(z).sum()).tolist()), menu)
        watch.add(Scores("a", {}, None, kind="label_only"), menu)
        assert n >= LEAST or watch.finding() is None
    found = watch.finding()
    assert found is not None
    assert found.sentence().startswith(
        f"WARNING: the answers hardly depend on the item: {found.top} of 64 got the code B; "
    )
    assert 58 <= found.top <= 63
    assert found.expected < 0.75
    assert found.record()["said"] == found.sentence()


def test_a_label_that_is_taken_wherever_it_stands() -> None:
    """Its place tells nothing then; its name is what is said."""
    watch, draw = Watch(), np.random.default_rng(1)
    for _ in range(120):
        ids = draw.permutation(["a", "b", "c", "d"]).tolist()
        z = np.array([3.0 * (i == "c") for i in ids] + [0.0]) + draw.normal(0, 0.2, 5)
        menu = menu_of(*ids)
        watch.add(scores_of(menu, (np.exp(z) / np.exp(z).sum()).tolist()), menu)
    found = watch.finding()
    assert found is not None
    assert (found.favourite, found.by_label) == ("c", True)
    assert "got the label c, wherever it stood" in found.sentence()


def test_menus_of_different_lengths_are_one_run() -> None:
    """A descent asks several menus in turn; the favourite of each, whatever the item, is seen."""
    top, inner, watch = menu_of("x", "y", "z"), menu_of("p", "q"), Watch()
    for _ in range(60):
        watch.add(scores_of(top, [0.1, 0.7, 0.1, 0.1]), top)
        watch.add(scores_of(inner, [0.9, 0.05, 0.05]), inner)
    found = watch.finding()
    assert found is not None
    assert found.by_label


def test_of_long_runs_a_part_is_looked_at() -> None:
    """All of the first, then one in so many; what an item is asked in turns is looked at alike."""
    menu, watch = menu_of("a", "b"), Watch()
    for i in range(EVERY + 10 * STRIDE):
        watch.add(scores_of(menu, [0.9, 0.05, 0.05] if i % 2 else [0.05, 0.9, 0.05]), menu)
    assert EVERY + 9 <= watch.n <= EVERY + 11
    assert watch.finding() is None


# -- on the command line ------------------------------------------------------------------------


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """A hundred and fifty labelled items."""
    draw = np.random.default_rng(2)
    path = tmp_path / "x.jsonl"
    labels = draw.choice(["shoes", "bags", "toys", "none"], 150)
    rows = [{"title": f"thing {i}", "label": label} for i, label in enumerate(labels.tolist())]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.usefixtures("items")
def test_classify_warns_and_strict_fails(llmcat: Cli, tmp_path: Path) -> None:
    """At the end, in the run's record, and again when there is nothing left to do."""
    ran = llmcat("classify", *FLAT, *DEAF, "--out", "out.jsonl")
    assert ran.code == 0, ran.err
    assert "WARNING: the answers hardly depend on the item: " in ran.err.splitlines()[1]
    session = json.loads((tmp_path / "out.jsonl.run.json").read_text())["sessions"][-1]
    assert session["collapse"]["n"] == 150
    assert session["collapse"]["said"] in ran.err
    assert "watch" not in session["asks"]
    ran = llmcat("classify", *FLAT, *DEAF, "--out", "out.jsonl", "--strict")
    assert ran.code == 1
    assert "nothing to do" in ran.err
    assert "WARNING" in ran.err
    ran = llmcat("classify", *FLAT, *DEAF, "--out", "-", "--strict")
    assert ran.code == 1
    sound = ("--engine-option", "accuracy=0.9", "--strict", "--out", "sound.jsonl")
    ran = llmcat("classify", *FLAT, *sound)
    assert (ran.code, "WARNING" in ran.err) == (0, False)


@pytest.mark.usefixtures("items")
def test_evaluations_say_it_first(llmcat: Cli) -> None:
    """In the first line, and for which arm; `calibrate` too."""
    ran = llmcat("eval", *FLAT, *DEAF)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("WARNING: the answers hardly depend on the item; accuracy ")
    assert "bits of information between item and answer" in " ".join(ran.out.split())
    arms = ("--a", "engine=fake,engine_option=accuracy=0.9", "--b", "prompt=zero-shot.zh")
    ran = llmcat("ab", *FLAT, *DEAF, *arms, "--format", "md")
    assert ran.out.startswith("## WARNING: the answers of b hardly depend on the item; "), ran.out
    assert "\n> arm b: WARNING: " in ran.out
    ran = llmcat("calibrate", *FLAT, *DEAF, "--plain")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("WARNING: the answers hardly depend on the item: ")


@pytest.mark.usefixtures("items")
def test_doctor_says_how_much_answers_depend_on_items(llmcat: Cli) -> None:
    """By the few it asks about: a warning, or a figure."""
    ran = llmcat("doctor", *FLAT, *DEAF)
    assert "warn menu: 0.0" in ran.out, ran.out
    assert "hardly depend on the item" in ran.out
    ran = llmcat("doctor", *FLAT, "--engine-option", "accuracy=0.9")
    assert "ok   menu: " in ran.out, ran.out
