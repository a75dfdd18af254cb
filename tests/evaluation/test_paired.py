"""Paired comparisons against scipy, statsmodels and simulated data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, norm
from sklearn.metrics import f1_score

from llmcat.evaluation import paired, testing
from llmcat.evaluation.metrics import Ratio
from llmcat.records import joined


def two_arms(n: int, seed: int, *, a: float = 0.7, b: float = 0.7, same: float = 0.5) -> tuple[
    np.ndarray, np.ndarray
]:  # fmt: skip
    """Right and wrong in two arms that share `same` of their luck."""
    draw = np.random.default_rng(seed)
    mine, theirs = draw.random(n), draw.random(n)
    theirs = np.where(draw.random(n) < same, mine, theirs)
    return mine < a, theirs < b


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_mcnemar_is_that_of_statsmodels(pairs: list[tuple[bool, bool]]) -> None:
    """The exact test; two arms that never differ have p = 1."""
    from statsmodels.stats.contingency_tables import mcnemar

    a, b = map(np.array, zip(*pairs, strict=True))
    found = paired.mcnemar(a, b)
    table = [
        [np.sum(a & b), np.sum(a & ~b)],
        [np.sum(~a & b), np.sum(~a & ~b)],
    ]
    assert (found.only_a, found.only_b) == (table[0][1], table[1][0])
    expected = mcnemar(table, exact=True).pvalue if found.only_a + found.only_b else 1.0
    assert found.p == pytest.approx(float(expected))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    """In the order they came."""
    from statsmodels.stats.multitest import multipletests

    expected = multipletests(p_values, method="holm")[1]
    assert testing.holm(p_values) == pytest.approx(list(expected))


@pytest.mark.parametrize("skewed", [False, True])
def test_the_interval_is_that_of_scipy(skewed: bool) -> None:
    """BCa, also where the differences are far from symmetric."""
    draw = np.random.default_rng(5)
    a = draw.exponential(1.0, 150)
    b = a + (draw.lognormal(0, 1.2, 150) - 1 if skewed else draw.normal(0.1, 0.5, 150))
    found = paired.difference_of_means(a, b, draws=40_000)
    rng = np.random.default_rng(1)
    theirs = bootstrap((b - a,), np.mean, n_resamples=40_000, method="BCa", rng=rng)
    width = found.high - found.low
    assert found.value == pytest.approx((b - a).mean())
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.02 * width)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


@pytest.mark.parametrize("how", ["micro", "macro", "weighted"])
def test_f1_is_that_of_scikit_learn(how: str) -> None:
    """Micro over the labels but `none`; macro over those with at least ten items."""
    draw = np.random.default_rng(3)
    gold = draw.choice(["a", "b", "c", "rare", "none"], 400, p=[0.4, 0.3, 0.2, 0.02, 0.08])
    arms = [np.where(draw.random(400) < q, gold, draw.permutation(gold)) for q in (0.5, 0.8)]
    labels = ["a", "b", "c", "rare"]

    def difference(one: np.ndarray, other: np.ndarray) -> paired.Difference:
        return paired.differences_of_f1(gold, one, other, labels, draws=1000)[how]  # type: ignore[index]

    found = difference(*arms)
    counted = [c for c in labels if how == "micro" or np.count_nonzero(gold == c) >= 10]
    assert ("rare" in counted) == (how == "micro")
    a, b = (f1_score(gold, arm, labels=counted, average=how) for arm in arms)
    assert found.value == pytest.approx(b - a)
    assert 0 < found.low < found.value < found.high
    assert difference(*arms) == found
    assert difference(*arms[::-1]).value == pytest.approx(-found.value)
    gain = found.turned
    assert (gain.value, gain.low, gain.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )
    assert gain.interval(0.05) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize("how", ["micro", "macro"])
def test_f1_of_sets_of_labels_is_that_of_scikit_learn(how: paired.How) -> None:
    """Differences over items that have several labels, with an interval around them."""
    draw = np.random.default_rng(0)
    gold, a, b = (draw.random((300, 5)) < p for p in (0.4, 0.5, 0.5))
    b |= gold & (draw.random(gold.shape) < 0.5)
    columns = [np.array([joined(f"c{i}" for i in np.flatnonzero(row)) for row in of])
               for of in (gold, a, b)]  # fmt: skip
    found = paired.differences_of_f1(*columns, [f"c{i}" for i in range(5)], draws=500)[how]
    truth = f1_score(gold, b, average=how) - f1_score(gold, a, average=how)
    assert found.value == pytest.approx(truth)
    assert 0 < found.low < found.value < found.high


def test_ratios_are_those_of_their_sums() -> None:
    """Hierarchical F1: the difference of two ratios of sums, its interval by paired draws."""
    draw = np.random.default_rng(4)
    below = draw.integers(2, 6, 300).astype(float)
    above = [np.minimum(draw.integers(0, 6, 300) + extra, below) for extra in (0, 1)]
    a, b = (Ratio(one, below) for one in above)
    found = paired.difference_of_ratios(a, b, draws=40_000)
    expected = above[1].sum() / below.sum() - above[0].sum() / below.sum()
    assert found.value == pytest.approx(expected)
    theirs = bootstrap(
        (*above, below),
        lambda a, b, n, axis: (b.sum(axis) - a.sum(axis)) / n.sum(axis),
        paired=True, method="BCa", n_resamples=9999, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=3e-3)


def test_the_closed_form_holds_the_truth_where_few_items_differ() -> None:
    """40 items, of which about two differ."""
    hits = 0
    for seed in range(2000):
        draw = np.random.default_rng(seed).random(40)
        a, b = draw > 0.02, (draw > 0.02) & (draw < 0.95)
        found = paired.difference_of_proportions(a, b)
        hits += found.low <= -0.05 <= found.high
    assert hits / 2000 >= 0.94


def test_intervals_hold_the_truth() -> None:
    """About 95 of 100: accuracy of 300 items, the true difference 5 points."""
    hits = 0
    for seed in range(300):
        a, b = two_arms(300, seed, a=0.70, b=0.75)
        found = paired.difference_of_means(a, b, draws=1000, seed=seed)
        hits += found.low <= 0.05 <= found.high
    assert 0.91 <= hits / 300 <= 0.985


def test_power_is_as_predicted() -> None:
    """With as many items as are needed, McNemar's test finds the effect eight times in ten."""
    differing = 0.5 * (0.7 * 0.25 + 0.3 * 0.75) + 0.5 * 0.05
    n = math.ceil(testing.items_needed(0.05, differing=differing))
    found = [paired.mcnemar(*two_arms(n, seed, a=0.70, b=0.75)).p < 0.05 for seed in range(400)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.07)
    assert testing.smallest_effect(n, differing=differing) == pytest.approx(0.05, abs=1e-3)


def test_too_little_to_compare() -> None:
    """Equal arms differ by nothing, for certain; no items give no number."""
    same = np.array([True, False, True])
    found = paired.difference_of_means(same, same)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    three = paired.difference_of_accuracy(same, same)
    assert three.value == 0
    assert three.low < -0.4  # three items prove nothing
    assert three.high > 0.4
    none = np.zeros(0)
    assert math.isnan(paired.difference_of_means(none, none).value)
    gold = np.array(["a"] * 5)
    assert math.isnan(paired.differences_of_f1(gold, gold, gold, ["a"])["macro"].value)
    assert math.isnan(testing.smallest_effect(3, differing=0.1))
    assert testing.items_needed(0.0, differing=0.1) == math.inf


def test_holm_by_intervals_agrees_with_holm_by_p_values() -> None:
    """What is clear at its level is what has an adjusted p-value of at most 5 %."""
    agreed = 0
    for seed in range(40):
        arms = [two_arms(300, 10 * seed + i, a=0.70, b=0.70 + 0.04 * i) for i in range(3)]
        gains = {str(i): paired.difference_of_means(*arm) for i, arm in enumerate(arms)}
        levels = testing.step_down(gains)
        clear = {i for i, alpha in levels.items() if not _holds_0(gains[i], alpha)}
        p_values = testing.holm([paired.mcnemar(*arm).p for arm in arms])
        agreed += clear == {str(i) for i, p in enumerate(p_values) if p <= 0.05}
    assert agreed >= 35


def _holds_0(gain: paired.Difference, alpha: float) -> bool:
    low, high = gain.interval(alpha)
    return low <= 0 <= high


def test_spending_over_looks() -> None:
    """One look spends all; five equal ones are as in a simulation of the random walk."""
    assert testing.spend([100], 1) == pytest.approx(0.05)
    assert testing.spend([100], 5) == pytest.approx(0.01)
    sizes = [100, 200, 300, 400, 500]
    levels = [testing.spend(sizes[: i + 1], 5) for i in range(5)]
    walk = np.random.default_rng(0).normal(0, 10, (200_000, 5)).cumsum(axis=1)
    z = np.abs(walk) / np.sqrt(sizes)
    bounds = norm.ppf(1 - np.array(levels) / 2)
    crossed = (z > bounds).cumsum(axis=1) > 0
    assert crossed.mean(axis=0) == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05], abs=0.0015)
    with pytest.raises(ValueError, match="growing"):
        testing.spend([100, 100], 5)
    with pytest.raises(ValueError, match="planned"):
        testing.spend([1, 2, 3], 2)


@pytest.mark.parametrize(("n", "differing"), [(100, 0.05), (200, 0.02), (400, 0.01)])
def test_few_that_differ_ship_nothing(n: int, differing: float) -> None:
    """Arms that are alike, and differ on a handful: shipped in at most 2.5 %."""
    shipped = 0
    for seed in range(1000):
        kind = np.random.default_rng(seed).choice(
            3, size=n, p=[1 - differing, *[differing / 2] * 2]
        )
        gain = paired.difference_of_accuracy(kind == 1, kind == 2)
        decision = paired.decide(gain, paired.Rule(min_effect=0.0), cheaper=False)
        shipped += decision.verdict == "ship"
    assert shipped <= 37


def test_holm_where_not_being_worse_is_asked_for() -> None:
    """Five arms that are exactly as bad as may be: one is shipped in at most 5 %."""
    margin, shipped = 0.05, 0
    for seed in range(300):
        arms = [two_arms(400, 10 * seed + i, a=0.75, b=0.70, same=0.2) for i in range(5)]
        gains = {
            str(i): paired.difference_of_accuracy(*arm, draws=1000) for i, arm in enumerate(arms)
        }
        levels = testing.step_down(gains, against=dict.fromkeys(gains, -margin))
        rule = paired.Rule(non_inferior=margin)
        found = [paired.decide(g, rule, alpha=levels[i], cheaper=True) for i, g in gains.items()]
        shipped += any(decision.verdict == "ship" for decision in found)
    assert shipped <= 24


def gain_of(value: float, deviation: float, n: int = 400) -> paired.Difference:
    """A gain with a normal interval: per-item differences of that mean and deviation."""
    draw = np.random.default_rng(7).normal(0, 1, n)
    draw = (draw - draw.mean()) / draw.std() * deviation + value
    return paired.difference_of_means(np.zeros(n), draw)


def test_the_decision() -> None:
    """Each way the rule can go, in words that say why."""
    rule = paired.Rule(min_effect=0.01)

    def say(value: float, deviation: float, rule: paired.Rule = rule, cheaper: bool = False) -> str:
        return paired.decide(gain_of(value, deviation), rule, cheaper=cheaper).verdict

    assert say(0.05, 0.2) == "ship"
    assert say(-0.05, 0.2) == "don't"
    assert say(0.004, 0.01) == "don't"  # there, but too small
    assert say(0.03, 0.5) == "more"
    assert say(0.0, 0.0) == "don't"
    worse = paired.decide(gain_of(-0.05, 0.2), rule, cheaper=False)
    assert worse.worse
    margin = paired.Rule(non_inferior=0.02)
    assert say(0.0, 0.1, margin, cheaper=True) == "ship"
    assert say(0.0, 0.1, margin, cheaper=False) == "don't"
    assert say(0.05, 0.2, margin, cheaper=False) == "ship"  # dearer, but better
    assert say(-0.05, 0.1, margin, cheaper=True) == "don't"
    assert say(-0.01, 0.3, margin, cheaper=True) == "more"
    nothing = paired.difference_of_means(np.zeros(0), np.zeros(0))
    assert paired.decide(nothing, rule, cheaper=False).verdict == "don't"


@pytest.mark.parametrize(
    ("found", "rule", "cheaper"),
    [
        (0.025, paired.Rule(), False),
        (0.002, paired.Rule(), False),
        (-0.04, paired.Rule(non_inferior=0.05), True),
        (-0.06, paired.Rule(non_inferior=0.04), True),
    ],
)
def test_as_many_more_items_as_it_says_settle_it(
    found: float, rule: paired.Rule, cheaper: bool
) -> None:
    """If what was found is the truth, n + more items decide in about eight cases of ten."""
    gain = gain_of(found, 0.3)
    decision = paired.decide(gain, rule, cheaper=cheaper)
    assert decision.verdict == "more"
    assert decision.more is not None
    n = gain.n + decision.more
    settled = 0
    for seed in range(200):
        # Means of n items each: as many draws as there are items are not needed.
        value = np.random.default_rng(seed).normal(found, 0.3 / math.sqrt(n))
        half = 1.96 * 0.3 / math.sqrt(n)
        again = paired.Difference(value, value - half, value + half, n)
        settled += paired.decide(again, rule, cheaper=cheaper).verdict != "more"
    assert settled >= 145
