"""Items with several labels: what an answer means for each category, and what labels teach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmcat.candidates.codes import CANDIDATES
from llmcat.candidates.plan import Plan
from llmcat.errors import InputError
from llmcat.evaluation.kept import loss_of_set
from llmcat.evidence import several
from llmcat.evidence.gather import Asked, Evidence, Tagging
from llmcat.evidence.several import Several
from llmcat.records import NONE, Item, Scores
from llmcat.retrieval.scorers import Retriever
from llmcat.taxonomy.tree import Taxonomy

IDS = [f"c{i}" for i in range(12)]
TRUE = Several({"retrieval": 0.5, "reader": 0.8, "unread": -1.0}, bias=-1.0)


def made(
    n: int, seed: int, offsets: dict[str, float] | None = None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Inputs of items of which the reader saw six categories, and labels drawn from `TRUE`."""
    draw = np.random.default_rng(seed)
    log_s = draw.normal(0, 2, (n, len(IDS)))
    log_s -= np.logaddexp.reduce(log_s, axis=1, keepdims=True)
    asked = [(draw.permutation(len(IDS))[:6], draw.normal(0, 2, 6)) for _ in range(n)]
    x = several.inputs(log_s, asked)
    model = Several(TRUE.weights, TRUE.bias, offsets=offsets or {})
    return x, draw.random((n, len(IDS))) < model(x, IDS)


def test_the_inputs_of_a_category() -> None:
    """Log P by retrieval, what the reader gives, unread or not; none further out than FAR."""
    log_s = np.log(np.array([[0.5, 0.25, 0.25]]))
    x = several.inputs(log_s, [(np.array([0, 2]), np.array([1.5, -99.0]))])
    assert x[0, 0] == pytest.approx([np.log(0.5), 1.5, 0.0])
    assert x[0, 1] == pytest.approx([np.log(0.25), 0.0, 1.0])
    assert x[0, 2, 1] == -several.FAR
    assert not several.inputs(log_s, [None])[0, :, 1:].any()


def test_a_fit_finds_what_the_labels_were_drawn_from() -> None:
    """Weights, bias, and the offset of a category that applies far more often than it seems to."""
    x, applies = made(1500, 1, {"c3": 2.0, "c7": -2.0})
    groups = list(range(len(x)))
    found = several.fit(x, applies, IDS, groups, start=several.default("menu"), seed=0)
    for name, weight in TRUE.weights.items():
        assert found.model.weights[name] == pytest.approx(weight, abs=0.2), name
    assert found.model.offsets["c3"] - found.model.offsets["c7"] == pytest.approx(4.0, abs=0.8)
    other, truth = made(1500, 2, {"c3": 2.0, "c7": -2.0})
    p = found.model(other, IDS)
    assert p.mean(axis=0) == pytest.approx(truth.mean(axis=0), abs=0.05)
    assert Several.of(found.model.record()).digest == found.model.digest


def test_what_is_out_of_fold_knows_nothing_of_its_item() -> None:
    """Labels that have nothing to do with the inputs are not learnt: no F1 comes of them."""
    x, applies = made(200, 3)
    shuffled = np.random.default_rng(0).permuted(applies, axis=0) & (x[:, :, 0] > 99)
    shuffled[:, 0] = np.random.default_rng(4).random(200) < 0.5
    found = several.fit(x, shuffled, IDS, list(range(200)), start=several.default("menu"), seed=0)
    right = (found.given == shuffled).all(axis=1).mean()
    assert 0.35 < right < 0.65
    with pytest.raises(InputError, match="30 at least"):
        several.fit(x[:29], applies[:29], IDS, list(range(29)), start=TRUE, seed=0)


def test_a_line_is_where_the_items_f1_is_best() -> None:
    """A rare category's own threshold is its offset: one line serves all."""
    x, applies = made(800, 5)
    found = several.fit(x, applies, IDS, list(range(800)), start=TRUE, seed=0)
    p = found.model(x, IDS)

    def f1(line: float) -> float:
        given = p >= line
        both, sizes = (given & applies).sum(axis=1), given.sum(axis=1) + applies.sum(axis=1)
        return float(np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0).mean())

    assert f1(found.model.line) > max(f1(0.05), f1(0.8)) + 0.02
    assert f1(found.model.line) > max(map(f1, several.LINES)) - 0.01
    given = found.model.given(p[0])
    assert given == sorted(np.flatnonzero(p[0] >= found.model.line), key=lambda i: -p[0][i])


def walked(
    way: several.Way, said: dict[str, float], answer: str = "full"
) -> tuple[Scores, list[int]]:
    """Ask about one item, the reader giving each category these odds against the exit."""
    taxonomy = Taxonomy.from_labels(["red shoes", "leather bags", "wooden toys"])
    plan = Plan(taxonomy, CANDIDATES, candidates=3)
    evidence = Evidence(plan, Retriever(taxonomy, ("lexical",)), several=Tagging.default(way))
    item = Item(0, "x", {"title": "red shoes in leather bags"})
    walk, sizes = evidence.walk(item), []
    menus = next(walk)
    while True:
        answers = []
        for menu in menus:
            sizes.append(len(menu.nodes))
            odds = np.array([*(said[id_] for id_ in menu.ids), 0.0])
            p = np.exp(odds) / np.exp(odds).sum()
            values = dict(zip(menu.ids, p.tolist(), strict=False))
            full = Scores(menu.ids[0], values, float(p[-1]))
            bare = Scores(menu.ids[0], {}, None, kind="label_only")
            answers.append(full if answer == "full" else bare)
        try:
            menus = walk.send(answers)
        except StopIteration as end:
            return end.value, sizes


@pytest.mark.parametrize(("way", "sizes"), [("menu", [3]), ("each", [1, 1, 1])])
def test_an_item_gets_all_the_labels_that_apply(way: several.Way, sizes: list[int]) -> None:
    """One menu, or each category by itself; the chance of a set is that of each decision."""
    scores, asked = walked(way, {"red shoes": 5.0, "leather bags": 4.5, "wooden toys": -5.0})
    assert asked == sizes
    assert scores.several == ("red shoes", "leather bags")
    assert scores.label == "red shoes"
    assert scores.kind == "each"
    p = dict(scores.p)
    assert p["wooden toys"] < 0.1
    assert scores.p_none == pytest.approx(np.prod([1 - v for v in p.values()]))
    loss = loss_of_set(p, scores.several)
    assert loss is not None
    assert scores.confidence == pytest.approx(np.exp(-loss))
    assert scores.evidence is not None
    assert scores.evidence["offered"] != []
    for name, parts in scores.evidence["sources"].items():
        assert set(parts) == set(p), name
    logit = sum(parts["red shoes"] for parts in scores.evidence["sources"].values())
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(p["red shoes"], abs=2e-3)


def test_an_item_may_get_no_label() -> None:
    """Then it is `none`, as sure as it is that none applies."""
    scores, _ = walked("each", dict.fromkeys(("red shoes", "leather bags", "wooden toys"), -8.0))
    assert scores.several == ()
    assert scores.label == NONE
    assert scores.confidence == pytest.approx(scores.p_none)


def test_answers_without_probabilities_are_passed_on() -> None:
    """What gives a label alone says nothing about the others."""
    odds = dict.fromkeys(("red shoes", "leather bags", "wooden toys"), 0.0)
    for way in ("menu", "each"):
        scores, _ = walked(way, odds, answer="bare")  # type: ignore[arg-type]
        assert scores.kind == "label_only"


def test_what_a_reader_gives_each_candidate() -> None:
    """Of one menu log P; asked singly log-odds against the exit."""
    turn = ((1, 0), np.log(np.array([0.2, 0.6, 0.2])))
    columns, said = Asked((4, 2), (turn,)).said(None)
    assert columns.tolist() == [4, 2]
    assert said == pytest.approx(np.log([0.6, 0.2]))
    singly = Asked((4, 2), (((0,), np.log([0.9, 0.1])), ((0,), np.log([0.5, 0.5]))), singly=True)
    assert singly.said(None)[1] == pytest.approx([np.log(9), 0.0])
