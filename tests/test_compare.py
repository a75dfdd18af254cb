"""Paired comparisons against scipy, statsmodels and simulated data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from llmcat import compare


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
    found = compare.mcnemar(a, b)
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
    assert compare.holm(p_values) == pytest.approx(list(expected))


@pytest.mark.parametrize("skewed", [False, True])
def test_the_interval_is_that_of_scipy(skewed: bool) -> None:
    """BCa, also where the differences are far from symmetric."""
    from scipy.stats import bootstrap

    draw = np.random.default_rng(5)
    a = draw.exponential(1.0, 150)
    b = a + (draw.lognormal(0, 1.2, 150) - 1 if skewed else draw.normal(0.1, 0.5, 150))
    found = compare.difference_of_means(a, b, draws=40_000)
    rng = np.random.default_rng(1)
    theirs = bootstrap((b - a,), np.mean, n_resamples=40_000, method="BCa", rng=rng)
    width = found.high - found.low
    assert found.value == pytest.approx((b - a).mean())
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.02 * width)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


@pytest.mark.parametrize("macro", [False, True])
def test_f1_is_that_of_scikit_learn(macro: bool) -> None:
    """Micro over the labels but `none`; macro over those with at least ten items."""
    draw = np.random.default_rng(3)
    gold = draw.choice(["a", "b", "c", "rare", "none"], 400, p=[0.4, 0.3, 0.2, 0.02, 0.08])
    arms = [np.where(draw.random(400) < q, gold, draw.permutation(gold)) for q in (0.5, 0.8)]
    labels = ["a", "b", "c", "rare"]
    found = compare.difference_of_f1(gold, *arms, labels, macro=macro, draws=1000)
    counted = [c for c in labels if not macro or np.count_nonzero(gold == c) >= 10]
    assert ("rare" in counted) != macro
    a, b = (
        f1_score(gold, arm, labels=counted, average="macro" if macro else "micro") for arm in arms
    )
    assert found.value == pytest.approx(b - a)
    assert 0 < found.low < found.value < found.high
    again = compare.difference_of_f1(gold, *arms, labels, macro=macro, draws=1000)
    assert again == found
    back = compare.difference_of_f1(gold, *arms[::-1], labels, macro=macro, draws=1000)
    assert back.value == pytest.approx(-found.value)


def test_intervals_hold_the_truth() -> None:
    """About 95 of 100: accuracy of 300 items, the true difference 5 points."""
    hits = 0
    for seed in range(300):
        a, b = two_arms(300, seed, a=0.70, b=0.75)
        found = compare.difference_of_means(a, b, draws=1000, seed=seed)
        hits += found.low <= 0.05 <= found.high
    assert 0.91 <= hits / 300 <= 0.985


def test_power_is_as_predicted() -> None:
    """With as many items as are needed, McNemar's test finds the effect eight times in ten."""
    differing = 0.5 * (0.7 * 0.25 + 0.3 * 0.75) + 0.5 * 0.05
    n = math.ceil(compare.items_needed(0.05, differing=differing))
    found = [compare.mcnemar(*two_arms(n, seed, a=0.70, b=0.75)).p < 0.05 for seed in range(400)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.07)
    assert compare.smallest_effect(n, differing=differing) == pytest.approx(0.05, abs=1e-3)


def test_too_little_to_compare() -> None:
    """Equal arms differ by nothing, for certain; no items give no number."""
    same = np.array([True, False, True])
    found = compare.difference_of_means(same, same)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    none = np.zeros(0)
    assert math.isnan(compare.difference_of_means(none, none).value)
    gold = np.array(["a"] * 5)
    assert math.isnan(compare.difference_of_f1(gold, gold, gold, ["a"], macro=True).value)
    assert math.isnan(compare.smallest_effect(3, differing=0.1))
    assert compare.items_needed(0.0, differing=0.1) == math.inf
