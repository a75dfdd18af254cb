"""Calibration, orders, lines, sets, drift: against references, and by what must not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import binomtest
from sklearn.calibration import _SigmoidCalibration

from llmcat.calibration import conformal, scaling, thresholds
from llmcat.calibration.drift import Drift, Reference, psi
from llmcat.candidates.codes import CANDIDATES
from llmcat.candidates.plan import Plan, design
from llmcat.candidates.walks import averaged, walk
from llmcat.records import NONE, Scores
from llmcat.taxonomy.tree import Taxonomy


def world(n: int, seed: int, *, labels: int = 6, hot: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Log-posteriors that are `hot` times too sure, and gold labels drawn from the true ones."""
    draw = np.random.default_rng(seed)
    true = scaling.normalised(draw.normal(0, 1.5, (n, labels)))
    gold = (np.exp(true).cumsum(axis=1) > draw.random(n)[:, None]).argmax(axis=1)
    return scaling.normalised(hot * true), gold


# -- temperature, vector, confidence ------------------------------------------------------------


def test_the_temperature_is_scipys_optimum() -> None:
    """By another method, from another start; and near the one that was put in."""
    log_p, gold = world(4000, 0)

    def loss(t: np.ndarray) -> float:
        return scaling.log_loss_of(scaling.normalised(log_p / t[0]), gold)

    found = scaling.fit_temperature(log_p, gold)
    theirs = minimize(loss, [1.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    assert found == pytest.approx(theirs.x[0], rel=1e-4)
    assert found == pytest.approx(2.0, rel=0.06)


def test_the_confidence_map_is_scikit_learns() -> None:
    """Platt's method on the logits of the confidences."""
    log_p, gold = world(2000, 1)
    sure, right = np.exp(log_p.max(axis=1)), log_p.argmax(axis=1) == gold
    found = scaling.fit_confidence(sure, right)
    theirs = _SigmoidCalibration().fit(scaling.logit(sure), right)
    grid = np.array([0.05, 0.3, 0.6, 0.9, 0.99])
    assert found(grid) == pytest.approx(theirs.predict(scaling.logit(grid)), abs=2e-3)
    worse = scaling.fit_confidence(sure, ~right)  # the surer, the more often wrong
    assert worse(grid).std() < 0.02


def test_the_scaling_is_chosen_by_cross_validation() -> None:
    """Temperature where that is what is wrong, vector where labels differ, else next to nothing."""
    chosen, losses = scaling.fit_scaling(*world(1500, 2))
    assert chosen.kind == "temperature"
    assert losses["temperature"] < losses["none"]
    log_p, gold = world(4000, 3, hot=1.0)
    chosen, losses = scaling.fit_scaling(log_p, gold)
    assert chosen.kind != "vector"
    assert abs(losses["temperature"] - losses["none"]) < 0.002
    biased = scaling.normalised(log_p + np.array([2.5, 0, 0, 0, 0, -2.0]))
    chosen, losses = scaling.fit_scaling(biased, gold)
    assert chosen.kind == "vector"
    assert scaling.log_loss_of(chosen(biased), gold) == pytest.approx(
        scaling.log_loss_of(log_p, gold), abs=0.02
    )


# -- priors -------------------------------------------------------------------------------------


def test_batch_calibration_takes_a_labels_prior_off() -> None:
    """A constant that a label's logit was given; what is left is what was there before."""
    draw = np.random.default_rng(4)
    log_p = scaling.normalised(draw.normal(0, 1.5, (5000, 5)))
    pushed = scaling.normalised(log_p + np.array([2.0, 0, 0, 0, -1.0]))
    prior = scaling.batch_prior(pushed)
    assert prior[0] - prior[2] > 1
    found = scaling.without_prior(pushed, prior)
    agree = (found.argmax(axis=1) == log_p.argmax(axis=1)).mean()
    assert agree > (pushed.argmax(axis=1) == log_p.argmax(axis=1)).mean() + 0.1
    assert scaling.content_free_prior(pushed[:3]) == pytest.approx(
        np.log(np.exp(pushed[:3]).mean(axis=0))
    )
    assert np.exp(found).sum(axis=1) == pytest.approx(np.ones(5000))


def test_a_prior_is_taken_off_only_where_that_gains() -> None:
    """Letters that are preferred; not the one label that most items truly have."""
    draw = np.random.default_rng(8)
    log_p, gold = world(400, 8, hot=1.0)
    pushed = scaling.normalised(log_p + np.array([3.0, 0, 0, 1.0, 0, -2.0]))
    found = scaling.fit_posterior(pushed, gold)
    assert found.changes
    right = (found(pushed).argmax(axis=1) == gold).mean()
    assert right > (pushed.argmax(axis=1) == gold).mean() + 0.1
    assert scaling.log_loss_of(found(pushed), gold) < scaling.log_loss_of(pushed, gold) - 0.3
    assert scaling.fit_posterior(pushed, gold, prior=False).prior is None
    gold = np.where(draw.random(400) < 0.9, 0, draw.integers(1, 6, 400))
    logits = draw.normal(0, 1, (400, 6)) + np.log([0.9, *[0.02] * 5])
    logits[np.arange(400), gold] += 2.0
    sound = scaling.normalised(logits)
    found = scaling.fit_posterior(sound, gold)
    assert found.prior is None
    assert found.losses["prior off, none"] > found.losses["prior left in, none"] + 0.3


def test_position_priors_are_found_by_turning_menus() -> None:
    """Logit = label's + place's: the places' part comes out, exactly, up to a constant."""
    draw = np.random.default_rng(5)
    places, items = np.array([1.0, 0.2, 0.0, -0.5]), draw.normal(0, 1, (300, 4))
    shifts = [np.roll(np.arange(4), -k) for k in range(4)]
    order_disagreement = [[row[order] + places for order in shifts] for row in items]
    log_p = scaling.normalised(np.array(order_disagreement).reshape(-1, 4)).reshape(300, 4, 4)
    prior = scaling.position_prior(log_p)
    assert prior - prior[0] == pytest.approx(places - places[0], abs=1e-9)


# -- orders -------------------------------------------------------------------------------------


@given(st.integers(2, 40), st.integers(1, 12))
def test_the_design_is_balanced(labels: int, orders: int) -> None:
    """Each order is a permutation; an even number puts every label at the same place on average."""
    found = design(labels, orders)
    assert len(found) == orders
    assert all(sorted(order) == list(range(labels)) for order in found)
    if orders % 2 == 0:
        at = np.array([np.argsort(order) for order in found])
        assert at.mean(axis=0) == pytest.approx(np.full(labels, (labels - 1) / 2))
    if orders == labels and labels % 2:
        at = np.array([np.argsort(order) for order in found])
        assert all(sorted(column) == list(range(labels)) for column in at.T)


def plan_of(names: list[str], orders: int) -> Plan:
    return Plan(Taxonomy.from_labels(names), CANDIDATES[:128], orders=orders)


def asked(plan: Plan, logit: dict[str, float], place: np.ndarray) -> Scores:
    """Walk a plan with a model whose logits are the label's and the place's, added."""
    steps = walk(plan)
    menus = next(steps)
    while True:
        said = []
        for menu in menus:
            z = np.array([logit[i] + place[k] for k, i in enumerate(menu.ids)] + [logit[NONE]])
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            best = int(p.argmax())
            label = menu.ids[best] if best < len(menu.ids) else NONE
            values = dict(zip(menu.ids, p[:-1].tolist(), strict=True))
            said.append(Scores(label, values, float(p[-1])))
        try:
            menus = steps.send(said)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([3, 5, 7]))
def test_what_places_add_cancels_over_the_whole_design(seed: int, labels: int) -> None:
    """Permuting the menu, and with it the codes, leaves the averaged answer as it is."""
    draw = np.random.default_rng(seed)
    names = [f"l{i}" for i in range(labels)]
    logit = dict(zip([*names, NONE], draw.normal(0, 1, labels + 1), strict=True))
    place = draw.normal(0, 1, labels)
    one = asked(plan_of(names, labels), logit, place)
    other = asked(plan_of(list(draw.permutation(names)), labels), logit, place)
    assert one.label == other.label
    for name in names:
        assert one.p[name] == pytest.approx(other.p[name])
        odds = math.log(one.p[name] / one.p[names[0]])
        assert odds == pytest.approx(logit[name] - logit[names[0]])
    assert one.p_none == pytest.approx(other.p_none)


def test_a_label_that_is_never_right_raises_no_other() -> None:
    """One more label on the menu: all others' probabilities go down, or stay."""
    draw = np.random.default_rng(6)
    names = [f"l{i}" for i in range(6)]
    logit = dict(zip([*names, NONE, "never"], draw.normal(0, 1, 8), strict=True))
    place = np.zeros(7)
    without = asked(plan_of(names, 2), logit, place)
    among = asked(plan_of([*names, "never"], 2), logit, place)
    assert all(among.p[name] <= without.p[name] for name in names)
    assert among.p_none is not None
    assert without.p_none is not None
    assert among.p_none <= without.p_none


def test_auto_asks_again_only_where_it_is_unsure() -> None:
    """A sure first answer is left alone; answers that differ are told."""
    plan = Plan(Taxonomy.from_labels(["a", "b"]), CANDIDATES[:128], orders=4, auto=True)
    steps = walk(plan)
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send([Scores("a", {"a": 0.95, "b": 0.03}, 0.02)])
    assert end.value.value.p["a"] == 0.95
    steps = walk(plan)
    next(steps)
    answers = [("a", 0.6), ("b", 0.3), ("a", 0.6), ("b", 0.3)]
    first, *others = [Scores(label, {"a": p, "b": 0.9 - p}, 0.1) for label, p in answers]
    assert len(steps.send([first])) == len(others)
    with pytest.raises(StopIteration) as end:
        steps.send(others)
    assert end.value.value.order_disagreement
    assert averaged([first, first]).p == pytest.approx(first.p)


# -- lines --------------------------------------------------------------------------------------


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_bound_is_clopper_and_pearsons(right: int, accepted: int) -> None:
    """As scipy has it, one-sided."""
    right = min(right, accepted)
    test = binomtest(right, accepted, alternative="greater")
    expected = test.proportion_ci(0.95, method="exact").low
    assert thresholds.lower_bound(right, accepted, 0.05) == pytest.approx(expected, abs=1e-9)


def test_how_few_can_prove_it() -> None:
    """59 items, all right, prove 95 % at 5 %; 58 do not."""
    assert thresholds.least_accepted(0.95, 0.05) == 59
    assert thresholds.lower_bound(59, 59, 0.05) >= 0.95
    assert thresholds.lower_bound(58, 58, 0.05) < 0.95


def items(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and right as often as these say."""
    draw = np.random.default_rng(seed)
    sure = np.clip(draw.beta(4, 0.8, n), 0.01, 0.999)
    return sure, draw.random(n) < sure


def test_the_promise_is_kept() -> None:
    """300 shops: the line is drawn too low in at most 5 % of them."""
    sure, _ = items(400_000, 10**6)
    order = np.sort(sure)[::-1]
    precision = np.cumsum(order) / np.arange(1, len(order) + 1)
    broken = drawn = 0
    for seed in range(300):
        fit, other = items(500, 2 * seed), items(500, 2 * seed + 1)
        tried = thresholds.sequence(*fit, gating=500, precision=0.9, risk=0.05)
        line = thresholds.choose(*other, tried, precision=0.9, risk=0.05)
        count = int(np.searchsorted(-order, -line.threshold, side="right"))
        broken += count > 0 and precision[count - 1] < 0.9
        drawn += line.accepted > 0
    assert broken <= 24
    assert drawn > 250


def test_the_promise_is_kept_where_confidences_alone_say_where_to_begin() -> None:
    """The gating items' own, with no item's correctness looked at: nor is it broken more often."""
    sure, _ = items(400_000, 10**6)
    order = np.sort(sure)[::-1]
    precision = np.cumsum(order) / np.arange(1, len(order) + 1)
    broken = drawn = 0
    for seed in range(300):
        own, right = items(300, seed)
        tried = thresholds.sequence(own, own, gating=300, precision=0.9, risk=0.05)
        line = thresholds.choose(own, right, tried, precision=0.9, risk=0.05)
        count = int(np.searchsorted(-order, -line.threshold, side="right"))
        broken += count > 0 and precision[count - 1] < 0.9
        drawn += line.accepted > 0
    assert broken <= 24
    assert drawn > 250


def test_nothing_accepted_is_a_result() -> None:
    """Where half is right nothing is promised, and no number of labels would do; or it is said."""
    sure = np.linspace(0.5, 0.9, 300)
    coin = np.random.default_rng(0).random(300) < 0.5
    tried = thresholds.sequence(sure, coin, gating=300, precision=0.95, risk=0.05)
    line = thresholds.choose(sure, coin, tried, precision=0.95, risk=0.05)
    assert (line.threshold, line.accepted) == (math.inf, 0)
    how = {"precision": 0.95, "risk": 0.05}
    assert thresholds.labels_needed(*thresholds.counts(sure, coin), 300, **how) is None
    good = np.random.default_rng(0).random(300) < 0.97
    needed = thresholds.labels_needed(*thresholds.counts(sure, good), 300, **how)
    assert needed is not None
    assert 300 < needed < 10_000
    assert not len(thresholds.sequence(sure[:20], good[:20], gating=20, precision=0.95, risk=0.05))


def test_branches_share_the_risk() -> None:
    """Each line holds at its share; a branch of a handful gets none."""
    draw = np.random.default_rng(2)
    branch = np.array(["big"] * 800 + ["small"] * 10)
    sure = draw.uniform(0.6, 1.0, 810)
    right = draw.random(810) < 0.99
    sizes = {"big": 800, "small": 10}
    tried = thresholds.sequences(
        sure, right, branch.tolist(), gating=sizes, precision=0.95, risk=0.05
    )
    assert set(tried) == {"big"}
    lines = thresholds.choose_by_branch(
        sure, right, branch.tolist(), tried, precision=0.95, risk=0.05
    )
    assert lines["big"].risk == 0.05
    assert lines["big"].accepted > 700


def test_the_policy_counts_the_deepest_category_above_the_line() -> None:
    """The leaf where it is sure, else its parent; an ancestor of the gold label is right."""
    chains = [
        [(0.9, True), (0.95, True)],
        [(0.4, False), (0.8, True)],
        [(0.2, False), (0.3, False)],
    ]
    accepted, right = thresholds.policy_counts(chains, np.array([0.99, 0.85, 0.5, 0.1]))
    assert accepted.tolist() == [0, 1, 2, 3]
    assert right.tolist() == [0, 1, 2, 1]


# -- sets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["aps", "lac"])
def test_sets_hold_the_label_as_often_as_promised(method: str) -> None:
    """Within the band of theory: between 90 % and 90 % + 1 / (n + 1), over many fits."""
    found = []
    for seed in range(400):
        log_p, gold = world(300, seed)
        p, u = np.exp(log_p), np.random.default_rng(seed).random(300)
        strange = conformal.scores_of(p, gold, u, method=method)  # type: ignore[arg-type]
        cut = conformal.cut_off(strange[:150], 0.9)
        inside = conformal.members(p[150:], u[150:], cut, method=method)  # type: ignore[arg-type]
        found.append(inside[np.arange(150), gold[150:]].mean())
    error = np.std(found) / math.sqrt(len(found))
    assert 0.9 - 3 * error <= np.mean(found) <= 0.9 + 1 / 151 + 3 * error


def test_ties_count_the_same_for_old_and_new_items() -> None:
    """Probabilities in coarse steps: sets still hold the label as often as promised."""
    found = []
    for seed in range(300):
        draw = np.random.default_rng(seed)
        logits = np.round(draw.normal(0, 2, (400, 16)) * 2) / 2
        p = np.exp(scaling.normalised(logits))
        gold = (p.cumsum(axis=1) > draw.random(400)[:, None]).argmax(axis=1)
        u = draw.random(400)
        cut = conformal.cut_off(conformal.scores_of(p[:200], gold[:200], u[:200]), 0.9)
        inside = conformal.members(p[200:], u[200:], cut)
        found.append(inside[np.arange(200), gold[200:]].mean())
    assert 0.893 <= np.mean(found) <= 0.915


def test_a_set_cannot_cover_more_than_the_menu_holds() -> None:
    """Labels that are never offered count as uncovered; then 90 % cannot be promised."""
    p = np.full((50, 4), 0.25)
    gold = np.where(np.arange(50) < 10, -1, 0)
    strange = conformal.scores_of(p, gold, np.full(50, 0.5))
    assert np.isinf(strange[:10]).all()
    assert conformal.cut_off(strange, 0.9) == math.inf
    assert conformal.cut_off(strange, 0.7) < math.inf
    assert conformal.cut_off(np.zeros(5), 0.95) == math.inf


# -- drift --------------------------------------------------------------------------------------


def test_a_run_that_moved_says_so() -> None:
    """The same distribution is quiet, another is not; a handful of items says nothing."""
    draw = np.random.default_rng(7)
    reference = Reference.of(draw.beta(6, 2, 2000), 100, 0.9)

    def run(sure: np.ndarray, none: float, mass: float | None = 0.9) -> list[str]:
        drift = Drift(reference)
        for p, empty in zip(sure, draw.random(len(sure)) < none, strict=True):
            drift.add(float(p), none=bool(empty))
        return drift.remarks(mass)

    assert run(draw.beta(6, 2, 5000), 0.05) == []
    (said,) = run(draw.beta(3, 3, 5000), 0.05)
    assert "PSI" in said
    (said,) = run(draw.beta(6, 2, 5000), 0.15)
    assert said.startswith("the share of items called none has moved")
    (said,) = run(draw.beta(6, 2, 5000), 0.05, 0.3)
    assert said.startswith("label mass has moved")
    assert run(draw.beta(1, 9, 20), 0.9) == []
    everything = Drift(Reference([0.5], [100, 100], 200))
    for p in np.linspace(0, 1, 100):
        everything.add(float(p), none=True)
    assert everything.remarks() == []
    same = np.array([10.0, 20.0, 30.0])
    assert psi(same, 7 * same) == pytest.approx(0.0, abs=1e-3)
