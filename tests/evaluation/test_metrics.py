"""Metrics against scikit-learn, statsmodels' formulas and hand-made cases; empty input is NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, hamming_loss
from sklearn.preprocessing import MultiLabelBinarizer

from llmcat.evaluation import f1, metrics
from llmcat.records import joined

sklearn_metrics = pytest.importorskip("sklearn.metrics")

LABELS = ["a", "b", "c", "none"]
draws = st.lists(
    st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=60
)


def columns(pairs: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    gold, label = zip(*pairs, strict=True)
    return np.array(gold), np.array(label)


@given(draws)
def test_classes_and_averages_are_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    """Per class; macro and weighted over the classes that have items."""
    gold, label = columns(pairs)
    found = f1.of_classes(gold, label, LABELS)
    p, r, f, s = sklearn_metrics.precision_recall_fscore_support(
        gold, label, labels=LABELS, zero_division=np.nan
    )
    for i, c in enumerate(found):
        assert (c.precision, c.recall, c.f1) == pytest.approx((p[i], r[i], f[i]), nan_ok=True)
        assert (c.support, c.given) == (s[i], np.count_nonzero(label == c.label))
    there = sorted(set(gold))
    for how in ("macro", "weighted"):
        for of, at in (("precision", 0), ("recall", 1), ("f1", 2)):
            expected = sklearn_metrics.precision_recall_fscore_support(
                gold, label, labels=there, average=how, zero_division=0
            )[at]
            mine = f1.averages(gold, label, LABELS, draws=0)[how, of]  # type: ignore[index]
            assert mine.value == pytest.approx(expected)
    some = ["a", "b", "c"]
    expected = sklearn_metrics.f1_score(gold, label, labels=some, average="micro", zero_division=0)
    mine = f1.averages(gold, label, some, draws=0)["micro", "f1"]
    assert mine.value == pytest.approx(expected)


@given(draws)
def test_kappa_is_that_of_scikit_learn_and_statsmodels(pairs: list[tuple[str, str]]) -> None:
    """The value, and the standard error of its interval."""
    from statsmodels.stats.inter_rater import cohens_kappa, to_table

    gold, label = columns(pairs)
    found = metrics.kappa(gold, label)
    if len({*gold, *label}) == 1:
        assert found.why
        return
    expected = sklearn_metrics.cohen_kappa_score(gold, label)
    assert found.value == pytest.approx(expected, abs=1e-9)
    codes = np.stack([np.searchsorted(LABELS, gold), np.searchsorted(LABELS, label)])
    with np.errstate(invalid="ignore", divide="ignore"):
        theirs = cohens_kappa(to_table(codes.T, bins=np.arange(5))[0])
    deviation = max(theirs.var_kappa, 0.0) ** 0.5  # theirs can be -1e-18
    assert found.value - found.low == pytest.approx(1.959964 * deviation, abs=1e-6)


@given(draws)
def test_kappa_of_a_scale_is_that_of_scikit_learn_and_statsmodels(
    pairs: list[tuple[str, str]],
) -> None:
    """Quadratic weights: the value, and the standard error of its interval."""
    from statsmodels.stats.inter_rater import cohens_kappa, to_table

    gold, label = columns(pairs)
    found = metrics.kappa(gold, label, levels=np.array(LABELS))
    if len({*gold, *label}) == 1:
        assert found.why
        return
    expected = sklearn_metrics.cohen_kappa_score(gold, label, labels=LABELS, weights="quadratic")
    assert found.value == pytest.approx(expected, abs=1e-9)
    codes = np.stack([np.searchsorted(LABELS, gold), np.searchsorted(LABELS, label)])
    table = to_table(codes.T, bins=np.arange(len(LABELS) + 1))[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        theirs = cohens_kappa(table, wt="quadratic")
    deviation = max(theirs.var_kappa, 0.0) ** 0.5
    assert found.value - found.low == pytest.approx(1.959964 * deviation, abs=1e-6)


def test_wilson() -> None:
    """The intervals of Newcombe (1998), table I, method 3."""
    for k, n, low, high in (
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
    ):  # fmt: skip
        found = metrics.accuracy(np.arange(n) < k)
        assert (found.value, found.n) == (k / n, n)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@given(st.lists(st.tuples(*[st.floats(0.01, 1.0)] * 3, st.integers(0, 2)), min_size=2, max_size=40))
def test_losses_are_those_of_scikit_learn(rows: list[tuple[float, float, float, int]]) -> None:
    """Log-loss, and Brier's original score over all classes."""
    p = np.array([row[:3] for row in rows])
    p /= p.sum(axis=1, keepdims=True)
    gold = np.array([row[3] for row in rows])
    p_gold = p[np.arange(len(p)), gold]
    expected = sklearn_metrics.log_loss(gold, p, labels=[0, 1, 2])
    assert metrics.log_loss(p_gold).value == pytest.approx(expected)
    distance = ((p - np.eye(3)[gold]) ** 2).sum(axis=1).mean()
    found = metrics.brier_score(p_gold, (p**2).sum(axis=1))
    assert found.value == pytest.approx(distance)
    assert found.low <= found.value <= found.high


def test_hierarchical_measures_count_ancestors() -> None:
    """The worked example: one right, one at a sibling, one too high, one none that is something."""
    gold = [frozenset({"A", "A1"}), frozenset({"A", "A1"}), frozenset({"B", "B1"}), frozenset()]
    label = [frozenset({"A", "A1"}), frozenset({"A", "A2"}), frozenset({"B"}), frozenset({"C"})]
    ratios = metrics.hierarchical_ratios(gold, label)
    p, r, f = (metrics.hierarchical(ratio) for ratio in ratios.values())
    assert (p.value, r.value) == (pytest.approx(4 / 6), pytest.approx(4 / 6))
    assert f.value == pytest.approx(2 * p.value * r.value / (p.value + r.value))
    assert p.low <= p.value <= p.high
    none = metrics.hierarchical_ratios([frozenset()], [frozenset()])
    assert metrics.hierarchical(none["f1"]).why == "there are no labels"


@pytest.mark.parametrize("of", ["precision", "recall", "f1"])
@pytest.mark.parametrize("how", ["micro", "macro", "weighted"])
def test_the_influence_is_the_derivative(of: str, how: str) -> None:
    """What one more item of a cell changes, against a difference quotient."""
    draw = np.random.default_rng(2)
    gold, label = draw.choice(["a", "b", "c"], 90), draw.choice(["a", "b", "c", "none"], 90)
    (g, p), counts = metrics.cells(gold, label)
    found = f1.F1(g, p, counts, ["a", "b", "c"], how=how, of=of)  # type: ignore[arg-type]
    step = 1e-5
    for i, expected in enumerate(found.influence):
        more = counts.astype(float)
        more[i] += step
        change = (found(more[None]) - found(counts[None].astype(float)))[0] / step
        assert change == pytest.approx(expected, abs=1e-6)


def test_top_k_and_reliability() -> None:
    """Ranks from 1; bins of equal mass; unknown ranks give no number."""
    assert metrics.top_k(np.array([1.0, 2.0, 5.0, 1.0]), 2).value == 0.75
    assert metrics.top_k(np.array([1.0, math.nan]), 2).why
    share, sure, right = metrics.reliability(
        np.array([0.9, 0.1, 0.8, 0.2]), np.array([True, False, False, False]), bins=2
    )
    assert share == pytest.approx([0.5, 0.5])
    assert sure == pytest.approx([0.15, 0.85])
    assert right == pytest.approx([0.0, 0.5])


def test_a_calibrated_model_has_no_error_once_debiased() -> None:
    """The plain error of a perfect model is not zero; the debiased one nearly is."""
    plain, debiased = [], []
    for seed in range(200):
        draw = np.random.default_rng(seed)
        sure = draw.uniform(0.3, 1.0, 400)
        a, b = metrics.calibration_error(sure, draw.random(400) < sure)
        plain.append(a.value)
        debiased.append(b.value)
    assert np.mean(plain) > 0.055  # all of it chance
    assert np.mean(debiased) < 0.65 * np.mean(plain)
    draw = np.random.default_rng(0)
    sure = draw.uniform(0.5, 1.0, 100_000)
    plain_, debiased_ = metrics.calibration_error(sure, draw.random(100_000) < sure - 0.1)
    assert plain_.value == pytest.approx(0.1, abs=0.01)
    assert debiased_.value == pytest.approx(0.1, abs=0.01)


def test_the_closed_form_of_chance_is_what_drawing_gives() -> None:
    """E|X| of a normal variable, also without spread."""
    draw = np.random.default_rng(1)
    mean, deviation = np.array([0.0, 0.1, -0.2, 0.3]), np.array([0.1, 0.05, 0.3, 0.0])
    drawn = np.abs(draw.normal(mean, deviation, (400_000, 4))).mean(axis=0)
    assert metrics._folded_mean(mean, deviation) == pytest.approx(drawn, abs=1e-3)


def test_the_order_of_the_items_does_not_matter() -> None:
    """Equal confidences are in one bin, however the right ones are sorted."""
    sure = np.repeat([0.9, 0.7], 500)
    right = np.concatenate([np.arange(500) < 450, np.arange(500) < 300])
    shuffled = np.random.default_rng(0).permutation(1000)
    plain, _ = metrics.calibration_error(sure, right)
    again, _ = metrics.calibration_error(sure[shuffled], right[shuffled])
    assert plain.value == pytest.approx(0.05)
    assert again.value == pytest.approx(plain.value)


def test_averages_over_very_many_classes_have_no_interval() -> None:
    """1,000 classes of ten items: the draws lie beside the estimate."""
    draw = np.random.default_rng(1)
    gold = np.repeat([f"c{i:04}" for i in range(1000)], 10)
    label = np.where(draw.random(10_000) < 0.75, gold, draw.permutation(gold))
    names = sorted(set(gold))
    found = f1.averages(gold, label, names, draws=200)
    assert math.isnan(found["macro", "f1"].low)
    assert found["micro", "f1"].low < found["micro", "f1"].value < found["micro", "f1"].high


def test_risk_and_coverage() -> None:
    """Items of one confidence are taken together; the order of the input does not matter."""
    sure = np.array([0.9, 0.9, 0.8, 0.7, 0.7])
    right = np.array([True, False, True, True, True])
    coverage, risk = metrics.risk_coverage(sure, right)
    assert coverage == pytest.approx([0.4, 0.6, 1.0])
    assert risk == pytest.approx([0.5, 1 / 3, 0.2])
    assert metrics.coverage_at(sure, right, precision=0.8).value == 1.0
    assert metrics.coverage_at(sure, right, precision=0.81).value == 0.0
    again = metrics.risk_coverage(sure[::-1], right[::-1])
    assert again[1] == pytest.approx(risk)


def test_confusions_are_ranked_by_what_they_cost() -> None:
    """A rare dear confusion comes before a frequent cheap one."""
    gold, label = np.array(list("aaab")), np.array(list("bbac"))
    found = metrics.confusions(gold, label)
    assert [(c.gold, c.label, c.count) for c in found] == [("a", "b", 2), ("b", "c", 1)]
    dear = metrics.confusions(gold, label, cost={("b", "c"): 10.0})
    assert (dear[0].gold, dear[0].cost) == ("b", 10.0)


def test_nothing_is_not_a_number_and_says_why() -> None:
    """No metric of nothing is 0."""
    none = np.zeros(0)
    for found in (
        metrics.accuracy(none), metrics.kappa(none, none),
        metrics.log_loss(none), metrics.brier_score(none, none),
        metrics.coverage_at(none, none, precision=0.9), metrics.top_k(none, 3),
        metrics.hierarchical(metrics.hierarchical_ratios([], [])["f1"]),
        *metrics.calibration_error(none, none),
        *f1.averages(none, none, LABELS).values(),
    ):  # fmt: skip
        assert math.isnan(found.value)
        assert found.why
    assert f1.of_classes(none, none, LABELS) == []


@given(st.lists(st.tuples(*[st.sets(st.sampled_from("abcd"))] * 2), min_size=1, max_size=40))
def test_metrics_of_sets_of_labels_are_those_of_scikit_learn(
    pairs: list[tuple[set[str], set[str]]],
) -> None:
    """Entries that are several labels count once for each; none where none is wanted is right."""
    gold, label = (np.array([joined(s) for s in side]) for side in zip(*pairs, strict=True))
    binary = MultiLabelBinarizer(classes=list("abcd"))
    a, b = (binary.fit_transform(side) for side in zip(*pairs, strict=True))
    found = f1.averages(gold, label, list("abcd"), draws=0)
    assert found["micro", "f1"].value == pytest.approx(
        f1_score(a, b, average="micro", zero_division=0)
    )
    some = [i for i in range(4) if a[:, i].any()]  # a class that nobody has is not averaged over
    if some:
        each_class = [f1_score(a[:, i], b[:, i], zero_division=0) for i in some]
        assert found["macro", "f1"].value == pytest.approx(np.mean(each_class))
    each = metrics.example_f1(gold, label)
    assert each.mean() == pytest.approx(f1_score(a, b, average="samples", zero_division=1))
    assert metrics.hamming_losses(gold, label, 4).mean() == pytest.approx(hamming_loss(a, b))
    assert metrics.accuracy(gold == label).value == pytest.approx(accuracy_score(a, b))
    support = [c.support for c in f1.of_classes(gold, label, list("abcd"))]
    assert support == a.sum(axis=0).tolist()
