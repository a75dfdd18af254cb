"""Sources added up: the pool, the place prior, the none rule, the line, the artifact, the walk."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers import EXAMPLES, read_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcat import config
from llmcat.candidates.codes import CANDIDATES
from llmcat.candidates.plan import Plan
from llmcat.errors import BadConfig
from llmcat.evaluation.adds import added
from llmcat.evidence import assemble, none_rule, place_prior
from llmcat.evidence import pool as pooling
from llmcat.evidence.artifact import Artifact, Part
from llmcat.evidence.escalation import Escalation, sure_line
from llmcat.evidence.gather import Asked, Evidence, Gathered, reading
from llmcat.evidence.learn import learn, parted
from llmcat.evidence.pool import READER, Heard, Pool, fit, folds_of, spread
from llmcat.evidence.posterior import Columns, Posterior, best_of
from llmcat.items.readers import ItemReader
from llmcat.records import NONE, Item, Menu, Scores
from llmcat.retrieval.scorers import Retriever, Signals
from llmcat.taxonomy.tree import Taxonomy

if TYPE_CHECKING:
    from pathlib import Path

    from helpers import Ran

SHOP = Taxonomy.load(EXAMPLES / "taxonomy.yaml")
DRAW = np.random.default_rng


def signals(*arrays: Any, similarity: float = 0.0) -> Signals:
    scores = {f"s{i}": np.asarray(a, dtype=np.float32) for i, a in enumerate(arrays)}
    n = len(next(iter(scores.values())))
    return Signals(scores, np.full((n, 1), similarity))


def even(places: int, exit_: float) -> np.ndarray[Any, Any]:
    p = np.append(np.full(places, (1 - exit_) / places), exit_)
    return np.asarray(np.log(p))


# -- posterior ------------------------------------------------------------------------------


def test_a_posterior_is_a_mapping_that_ranks_itself() -> None:
    """Ids to probabilities; ties in the order of the categories."""
    p = Posterior(Columns(("a", "b", "c", "d")), np.array([0.1, 0.4, 0.4, 0.1]))
    assert dict(p) == {"a": 0.1, "b": 0.4, "c": 0.4, "d": 0.1}
    assert p.top(3) == ["b", "c", "a"]
    assert p.get("x", 0.0) == 0.0


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), min_size=1, max_size=30), st.integers(1, 35))
def test_the_best_are_those_of_a_stable_sort(values: list[float], count: int) -> None:
    """The quick way and the plain way agree, ties and all."""
    plain = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    assert best_of(np.array(values), count) == plain


# -- pool -------------------------------------------------------------------------------------


def test_rows_of_the_pool_sum_to_one() -> None:
    """Labels and none together."""
    draw = DRAW(0)
    heard = [Heard(np.array([3, 1, 4]), even(3, 0.2)), None]
    p, none = Pool()(signals(draw.normal(size=(2, 9)), draw.normal(size=(2, 9))), heard)
    np.testing.assert_allclose(p.sum(axis=1) + none, 1)


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(6)), st.integers(0, 99))
def test_permuting_categories_permutes_the_posterior(order: list[int], seed: int) -> None:
    """No category is favoured for where it stands."""
    draw = DRAW(seed)
    scores = draw.normal(size=(1, 6))
    log_p = np.log(draw.dirichlet(np.ones(4)))
    at = {old: new for new, old in enumerate(order)}
    chosen = np.array([0, 2, 5])
    moved = np.array([at[c] for c in chosen])
    p, none = Pool()(signals(scores), [Heard(chosen, log_p)])
    q, none_too = Pool()(signals(scores[:, order]), [Heard(moved, log_p)])
    np.testing.assert_allclose(q[0], p[0][order], rtol=1e-6)
    np.testing.assert_allclose(none, none_too)


def test_a_reader_that_says_the_same_of_all_adds_nothing() -> None:
    """An even answer over all categories leaves what retrieval says."""
    scores = signals(DRAW(1).normal(size=(1, 5)))
    alone = Pool().labels(scores, [None])
    with_it = Pool().labels(scores, [Heard(np.arange(5), even(5, 0.1))])
    np.testing.assert_allclose(with_it, alone, atol=1e-9)


def test_the_exit_goes_to_what_was_not_offered() -> None:
    """As retrieval has it: the likelier of those outside gets more."""
    log_s = np.log(np.array([0.4, 0.3, 0.2, 0.1]))
    said = spread(Heard(np.array([0, 1]), np.log(np.array([0.1, 0.1, 0.8]))), log_s)
    np.testing.assert_allclose(np.exp(said), [0.1, 0.1, 0.8 * 2 / 3, 0.8 / 3])


def test_a_menu_of_everything_leaves_nobody_outside() -> None:
    """The exit's share then goes to no category."""
    log_s = np.log(np.full(3, 1 / 3))
    said = spread(Heard(np.arange(3), np.log(np.array([0.2, 0.2, 0.2, 0.4]))), log_s)
    np.testing.assert_allclose(np.exp(said), 0.2)


def noisy(n: int = 300, labels: int = 8, seed: int = 0) -> tuple[Any, Any, Any]:
    """Gold, a source that knows something, a source that is noise."""
    draw = DRAW(seed)
    gold = draw.integers(labels, size=n)
    good = draw.normal(size=(n, labels))
    good[np.arange(n), gold] += 1.5
    return gold, good, draw.normal(size=(n, labels))


def test_a_source_that_is_noise_is_left_out() -> None:
    """Cross-validation keeps what tells, and drops what does not."""
    gold, good, noise = noisy()
    made = fit(signals(good, noise), [None] * 300, gold, range(300))
    assert made.weights["s1"] == 0
    assert made.weights["s0"] > 0.5
    assert made.n == 300


def test_a_reader_that_answers_blindly_gets_no_weight() -> None:
    """The same letter whatever the item: its learnt weight is 0."""
    gold, good, _ = noisy()
    draw = DRAW(3)
    blind = [
        Heard(draw.permutation(8)[:4], np.log([0.85, 0.05, 0.05, 0.03, 0.02])) for _ in range(300)
    ]
    made = fit(signals(good), blind, gold, range(300))
    assert made.weights[READER] == 0


def test_few_labels_leave_the_defaults() -> None:
    """Below thirty nothing is fitted."""
    gold, good, noise = noisy(20)
    made = fit(signals(good, noise), [None] * 20, gold, range(20))
    assert not made.weights
    assert made.weight("minilm") == Pool().weight("minilm")


def test_a_pool_comes_back_from_its_record() -> None:
    """As written into an artifact."""
    gold, good, noise = noisy()
    made = fit(signals(good, noise), [None] * 300, gold, range(300))
    again = Pool.of(json.loads(json.dumps(made.record())))
    assert again.digest == made.digest


# -- place prior, none rule, line -----------------------------------------------------------


def test_the_place_prior_is_what_a_reader_says_of_nothing() -> None:
    """A reader that likes place 2, taken off: what it said of the item remains."""
    draw = DRAW(5)
    liking = np.array([0.0, 2.0, 0.0, 0.0, -1.0])
    truth = draw.normal(size=(400, 5))
    prior = place_prior.estimate(list(truth + liking))
    clean = [place_prior.without(row, prior) for row in truth + liking]
    raw = [place_prior.without(row, None) for row in truth + liking]
    best = truth[:, :4].argmax(axis=1)
    mended = np.mean([c[:4].argmax() for c in clean] == best)
    assert mended > 0.8
    assert np.mean([r[:4].argmax() for r in raw] == best) < 0.55


def test_a_prior_of_another_length_is_left_alone() -> None:
    """A shorter menu has other places."""
    said = np.log([0.5, 0.3, 0.2])
    np.testing.assert_allclose(place_prior.without(said, np.zeros(9)), said)


def test_what_is_like_nothing_is_none() -> None:
    """The default rule: less alike, likelier none; far from everything, more likely than not."""
    rule = none_rule.DEFAULT
    like = np.array([-4.0, -1.5, 0.0, 2.0])
    log_p = np.log(np.full((4, 10), 0.1))
    odds = rule(none_rule.inputs(like[:, None], log_p, np.zeros(4)))
    assert (np.diff(odds) < 0).all()
    assert odds[0] > 0 > odds[2]


def test_the_none_rule_is_learnt_from_outsiders() -> None:
    """Where the reader's exit tells and similarity does not, its weight grows."""
    draw = DRAW(2)
    none = draw.random(400) < 0.2
    exit_odds = np.where(none, 2, -2) + draw.normal(size=400)
    x = np.column_stack([np.full(400, 3.0), np.zeros(400), exit_odds])
    made = none_rule.fit(x, none)
    assert made.exit > none_rule.DEFAULT.exit
    assert np.mean((made(x) > 0) == none) > 0.93


def test_the_line_stands_where_the_reader_is_not_missed() -> None:
    """Above it the scorers alone are as right; where they never are, there is none."""
    sure = np.linspace(0.99, 0.2, 100)
    both = np.ones(100, dtype=bool)
    alone = sure > 0.6
    assert 0.6 <= sure_line(sure, alone, both) <= 0.62
    assert sure_line(sure, ~both, both) == math.inf


def test_more_is_asked_only_if_unsure() -> None:
    """One policy for the reader and for further orders."""
    policy = Escalation(skip=0.95, orders=4, again=0.9)
    assert policy.needs_reader(0.94)
    assert not policy.needs_reader(0.96)
    assert policy.needs_more(0.5, 1)
    assert not policy.needs_more(0.5, 4)
    assert not policy.needs_more(0.91, 1)
    assert Escalation().needs_reader(1.0)


# -- artifact ---------------------------------------------------------------------------------


def artifact() -> Artifact:
    parts = {
        "reader": Part(bound={"model": "m"}, learnt={"place_prior": [0.0, 0.0]}),
        "pool": Part(bound={"taxonomy": "t"}, learnt=Pool().record()),
    }
    return Artifact(llmcat="0", settings={"prompt": "p"}, parts=parts).sealed()


def test_an_artifact_that_was_changed_is_refused(tmp_path: Path) -> None:
    """Each part's hash covers what it holds and all before it."""
    artifact().save(tmp_path / "a.json")
    assert Artifact.load(str(tmp_path / "a.json")).hash == artifact().hash
    value = json.loads((tmp_path / "a.json").read_text())
    value["parts"]["reader"]["learnt"]["place_prior"] = [1.0, 0.0]
    (tmp_path / "b.json").write_text(json.dumps(value))
    with pytest.raises(BadConfig, match="changed after it was written"):
        Artifact.load(str(tmp_path / "b.json"))
    with pytest.raises(BadConfig, match="not an artifact"):
        Artifact.load(str(tmp_path / "none.json"))


def test_a_part_says_what_it_was_learnt_for() -> None:
    """Another model is named, and what to do."""
    with pytest.raises(BadConfig, match="model: m then, n now"):
        artifact().learnt("reader", {"model": "n"})
    assert artifact().learnt("line", {}) is None


# -- the walk ---------------------------------------------------------------------------------


def evidence(**settings: Any) -> Evidence:
    plan = Plan(SHOP, CANDIDATES[:128], candidates=6)
    return Evidence(plan, Retriever(SHOP), **settings)


def item(title: str, row: int = 0) -> Item:
    return Item(row=row, id=str(row), fields={"title": title})


def answered(menu: Menu, best: str | None) -> Scores:
    p = dict.fromkeys(menu.ids, 0.5 / len(menu.ids))
    if best in p:
        p[best] = 0.5
    return Scores(best or NONE, p, 1.0 - sum(p.values()))


def test_candidates_are_offered_in_an_order_of_the_items_own() -> None:
    """Shuffled by the item, the same each time, another for another item, reversed in turn 2."""
    one = evidence()
    orders = {tuple(one.order(item(f"thing {i}"), 6, 0)) for i in range(20)}
    assert len(orders) > 15
    assert one.order(item("x"), 6, 0) == one.order(item("x", row=9), 6, 0)
    assert one.order(item("x"), 6, 1) == one.order(item("x"), 6, 0)[::-1]


def test_the_walk_offers_candidates_and_adds_up() -> None:
    """One menu of six, and a posterior over all thirty; the reader's word counts."""
    walk = evidence().walk(item("wireless earbuds with charging case"))
    (menu,) = next(walk)
    assert len(menu.nodes) == 6
    assert "headphones" in menu.ids
    with pytest.raises(StopIteration) as end:
        walk.send([answered(menu, "headphones")])
    scores = end.value.value
    assert scores.label == "headphones"
    assert len(scores.p) == len(SHOP.leaves)
    assert scores.p_none + sum(scores.p.values()) == pytest.approx(1)
    assert set(scores.evidence["offered"]) == set(menu.ids)
    assert set(scores.evidence["sources"]) == {"lexical", "reader"}


def test_no_reader_no_menu() -> None:
    """Retrieval alone ends its walk at once; so does an item that is sure enough."""
    for one in (evidence(reads=False), evidence(policy=Escalation(skip=0.0))):
        with pytest.raises(StopIteration) as end:
            next(one.walk(item("soundbar with subwoofer")))
        assert end.value.value.label == "speakers"
        assert "offered" not in end.value.value.evidence


def test_a_label_without_probabilities_stands() -> None:
    """It cannot be added up: a provider that gives labels only decides."""
    walk = evidence().walk(item("soundbar"))
    (menu,) = next(walk)
    with pytest.raises(StopIteration) as end:
        walk.send([Scores(menu.ids[2], {}, None, kind="label_only")])
    assert end.value.value.label == menu.ids[2]


def test_orders_are_asked_until_sure() -> None:
    """Twice, the second time reversed; the place prior of the reader cancels by itself.

    Both at once where the second does not wait for what the first gives.
    """
    walk = evidence(policy=Escalation(orders=2, again=1.0)).walk(item("earbuds"))
    (first,) = next(walk)
    (second,) = walk.send([answered(first, first.ids[0])])
    assert second.ids == first.ids[::-1]
    both = next(evidence(policy=Escalation(orders=2)).walk(item("earbuds")))
    assert [menu.ids for menu in both] == [first.ids, second.ids]


def test_what_a_list_leaves_out_shares_what_is_missing() -> None:
    """A provider's list of the likeliest codes still gives a reading."""
    menu = evidence().menu([0, 1, 2])
    said = reading(Scores(menu.ids[0], {menu.ids[0]: 0.9}, 0.0, kind="top"), menu)
    np.testing.assert_allclose(np.exp(said), [0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3])


def test_items_are_scored_ahead_in_batches() -> None:
    """What retrieval says travels with the item; a bad item passes untouched."""
    one = evidence()
    bad = Item(row=1, id="1", fields={}, error="no text")
    found = list(one.ahead([item("earbuds"), bad, item("soundbar", 2)]))
    assert [i.row for i in found] == [0, 1, 2]
    assert found[1].known is None
    np.testing.assert_allclose(
        found[2].known.signals.scores["lexical"],
        one.retriever([item("soundbar")]).scores["lexical"],
    )


def test_learning_parts_groups_from_each_other() -> None:
    """A group fits or draws the line, never both."""
    groups = [i // 3 for i in range(300)]
    first = parted(groups, 0.5, seed=1)
    assert 120 < first.sum() < 180
    for g in range(100):
        assert len(set(first[3 * g : 3 * g + 3].tolist())) == 1


def asked_about(seed: int, n: int = 200) -> tuple[Gathered, list[int]]:
    """Gather what was said of n items by a reader that likes the third place, and their columns."""
    draw, kept, columns = DRAW(seed), Gathered(), []
    one = evidence()
    liking = np.array([0.0, 0.0, 3.0, 0.0, 0.0, 0.0, -1.0])
    for row in range(n):
        leaf = SHOP.leaves[row % 30]
        thing = item(f"{leaf.name} {draw.integers(1000)}", row)
        known = one.known(thing)
        chosen = one.candidates(known)
        places = one.order(thing, 6, 0)
        said = liking + draw.normal(scale=0.3, size=7)
        if row % 30 in chosen:
            said[places.index(chosen.index(row % 30))] += 2.0
        said -= np.logaddexp.reduce(said)
        kept.signals[row] = known.signals
        kept.asked[row] = Asked(tuple(chosen), ((tuple(places), said),))
        columns.append(row % 30)
    return kept, columns


def test_everything_is_learnt_from_what_was_kept() -> None:
    """Weights, place prior and none rule, from one round of answers; nothing is asked again."""
    kept, columns = asked_about(4)
    first = parted(range(200), 0.5, seed=0)
    made = learn(kept, range(200), np.array(columns), range(200), first, start=Pool(), prior=None)
    assert made.prior is not None
    assert made.prior[:6].argmax() == 2
    assert made.p.shape == (200, 31)
    np.testing.assert_allclose(made.p.sum(axis=1), 1)
    assert np.mean(made.p[~first].argmax(axis=1) == np.array(columns)[~first]) > 0.9


def test_an_items_own_label_is_not_in_what_it_is_judged_by() -> None:
    """Another label of one item changes the rows of other folds, never those of its own."""
    kept, columns = asked_about(5, 150)
    groups = [row // 2 for row in range(150)]
    wrong = [(column + 11) % 30 if row == 7 else column for row, column in enumerate(columns)]
    one, other = (
        learn(kept, range(150), np.array(gold), groups, None, start=Pool(), prior=None, seed=3)
        for gold in (columns, wrong)
    )
    same = np.all(one.p == other.p, axis=1)
    fold = folds_of(groups, 3)
    assert same[fold == fold[7]].all()
    assert not same[fold != fold[7]].any()
    assert one.pool != other.pool
    np.testing.assert_allclose(one.p.sum(axis=1), 1)
    assert np.mean(one.p.argmax(axis=1) == np.array(columns)) > 0.9


# -- by the command line --------------------------------------------------------------------


def test_calibrate_writes_an_artifact_that_classify_uses(llmcat: Ran, tmp_path: Path) -> None:
    """Labels to weights, calibration and a line; then the promise holds for other items."""
    rows = read_rows(EXAMPLES / "items.jsonl")
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = (
        "--taxonomy", EXAMPLES / "taxonomy.yaml", "--engine", "retriever", "--sources", "lexical",
    )  # fmt: skip
    ran = llmcat("calibrate", "--file", "l.jsonl", *flags, "--accept-precision", "0.6")
    assert ran.code == 0, ran.err
    assert "weights: lexical" in ran.out
    made = json.loads((tmp_path / "artifact.json").read_text())
    assert set(made["parts"]) == {"calibration", "pool"}
    assert "each is judged by what the other four fifths teach" in ran.out
    assert len(made["parts"]["calibration"]["learnt"]["gating"]["correct"]) > 200
    ran = llmcat(
        "classify", "--file", "l.jsonl", "--out", "o.jsonl", *flags, "--artifact", "artifact.json",
        "--accept-precision", "0.6",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = read_rows(tmp_path / "o.jsonl")
    taken = [r for r in found if r["decision"] == "accept"]
    assert len(taken) > 20
    assert sum(r["label"] == r["gold"] for r in taken) > 0.55 * len(taken)
    other = llmcat("classify", "--file", "l.jsonl", "--out", "p.jsonl", "--labels", "shoes,bags",
                   "--engine", "retriever", "--artifact", "artifact.json")  # fmt: skip
    assert other.code == 2
    assert "learnt for something else" in other.err


def test_skip_sure_without_a_line_is_refused(llmcat: Ran) -> None:
    """Nothing is guessed: labels draw the line."""
    ran = llmcat("classify", "--labels", "shoes,bags", "--engine", "fake", "--sources", "lexical",
                 "--skip-sure", stdin="x\n")  # fmt: skip
    assert ran.code == 2
    assert "a line that labels have drawn" in ran.err


def test_a_reader_with_candidates_in_a_whole_run(llmcat: Ran, tmp_path: Path) -> None:
    """Evaluation says what the model adds to retrieval alone, paired, and the recall."""
    ran = llmcat(
        "eval", "--file", EXAMPLES / "items.jsonl", "--taxonomy", EXAMPLES / "taxonomy.yaml",
        "--engine", "fake", "--sources", "lexical", "--prompt", "zero-shot-item-first",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "the model adds" in ran.out
    assert "what the model adds to retrieval alone" in ran.out
    assert "accuracy against what is sent" in ran.out
    (record,) = (tmp_path / "runs").glob("*/run.json")
    (arm,) = json.loads(record.read_text())["arms"].values()
    adds = arm["adds"]
    assert adds["candidates"] == 8
    assert 0.8 < adds["recall"] <= 1
    assert adds["n"] == 256


def test_an_interrupted_run_goes_on_with_evidence(llmcat: Ran, tmp_path: Path) -> None:
    """The journal goes on; rows are those of an unbroken run."""
    flags = (
        "--file", EXAMPLES / "items.jsonl", "--taxonomy", EXAMPLES / "taxonomy.yaml",
        "--engine", "fake", "--sources", "lexical", "--prompt", "zero-shot-item-first",
    )  # fmt: skip
    assert llmcat("classify", *flags, "--out", "a.jsonl").code == 0
    whole = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:100]))
    record = json.loads((tmp_path / "a.jsonl.run.json").read_text())
    record["status"] = "interrupted"
    (tmp_path / "a.jsonl.run.json").write_text(json.dumps(record))
    assert llmcat("classify", *flags, "--out", "a.jsonl").code == 0
    assert (tmp_path / "a.jsonl").read_bytes() == whole


def test_the_loop_is_none_the_wiser() -> None:
    """The evidence walk through the real loop, with an engine that matches words."""
    from llmcat.engines.fake import FakeEngine
    from llmcat.pipeline.duplicates import PlainMemory
    from llmcat.pipeline.loop import classify
    from llmcat.prompting.builder import Task
    from llmcat.prompting.templates import load

    async def run() -> list[str]:
        engine, one = FakeEngine(), evidence()
        served = await engine.open()
        plan = Plan(SHOP, served.alphabet, candidates=6)
        task = Task(plan, load("zero-shot-item-first"), mass_sample=0)
        made = Evidence(plan, one.retriever)
        things = [item("headphones and earphones", 0), item("kitchen knife set", 1)]
        found = classify(made.ahead(things), task, engine, memory=PlainMemory(), walks=made.walk)
        return [str(v.scores and v.scores.label) async for v in found]

    assert asyncio.run(run()) == ["headphones", "cookware"]


def test_what_is_sent_buys_accuracy_where_retrieval_is_least_sure() -> None:
    """Nothing sent is retrieval alone, all sent the model's; between them by sureness."""
    sure = [0.2, 0.4, 0.6, 0.9]
    alone, both = ["y", "y", "x", "x"], ["x", "y", "x", "y"]
    rows = [
        {
            "gold": "x", "label": both[i], "decision": "labelled",
            "evidence": {"alone": alone[i], "sure": sure[i], "offered": ["x", "y"]},
        }
        for i in (2, 0, 3, 1)
    ]  # fmt: skip
    found = added(rows, tokens=100)
    assert found is not None
    assert found["curve"] == [(0, 0.5), (0.25, 0.75), (0.5, 0.75), (0.75, 0.75), (1, 0.5)]
    del rows[2]["evidence"]["offered"]  # it was not sent: nobody knows what the model had said
    rows[2]["label"] = "x"
    found = added(rows, tokens=75)
    assert found is not None
    assert found["curve"][-1] == (0.75, 0.75)


def test_no_item_that_is_judged_shows_which_places_are_preferred(tmp_path: Path) -> None:
    """Neither of the shipped examples nor of a file of one's own; what is left is enough."""
    every = list(ItemReader().read(str(EXAMPLES / "items.jsonl")))
    plain = assemble.reference_items(config.load(labels="a,b"))
    assert [i.content for i in plain] == [i.content for i in every[: assemble.REFERENCE]]
    left = assemble.reference_items(config.load(labels="a,b"), every)
    assert len(left) == assemble.REFERENCE
    assert not {i.content for i in left} & {i.content for i in every}
    (tmp_path / "mine.txt").write_text("red shoes\nhand bags\n")
    mine = config.load(labels="a,b", reference=str(tmp_path / "mine.txt"))
    assert len(assemble.reference_items(mine)) == 2
    (one,) = assemble.reference_items(mine, assemble.reference_items(mine)[:1])
    assert one.fields["title"] == "hand bags"


def test_a_decision_model_weighs_more_where_retrieval_knows_less() -> None:
    """0.6 beside all encoders, more beside a part of them, 0.3 beside weights that were learnt."""

    def weight(*names: str) -> float:
        return Pool(weights=pooling.default_weights(names)).read_by_decider().weight(READER)

    assert weight("lexical", "multilingual", "minilm") == 0.6
    assert 0.6 < weight("lexical", "multilingual") < weight("lexical") < 1.25
    assert weight("lexical", "minilm", "./my-embeddings") == 0.6
    learnt = Pool(weights={"lexical": 0.5, READER: pooling.READER_BESIDE_LEARNT})
    assert learnt.read_by_decider().weight(READER) == 0.3
