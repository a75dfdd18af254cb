"""The library: lists, dicts and DataFrames; scikit-learn's sense; notebooks."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from helpers import EXAMPLES, Ran, read_rows
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from llmcat import (
    AsyncClassifier,
    Classifier,
    ConstraintIgnored,
    EngineError,
    InputError,
    Taxonomy,
    ab,
    evaluate,
)
from llmcat.config import RunConfig
from llmcat.engines.fake import FakeEngine
from llmcat.errors import BadConfig, BadPrompt, EngineUnsupported, LlmcatWarning
from llmcat.records import Answer, Request

LABELS = ["shoes", "bags", "toys"]
TITLES = ["red shoes", "leather bags", "toys for cats"]


def test_predict_as_in_scikit_learn() -> None:
    """classes_ sorted with `none`, one probability column each, rows sum to one, argmax agrees."""
    with Classifier(LABELS, engine="fake") as clf:
        assert clf.classes_.tolist() == ["bags", "none", "shoes", "toys"]
        assert clf.predict(TITLES).tolist() == ["shoes", "bags", "toys"]
        proba = clf.predict_proba(TITLES)
        assert proba.shape == (3, 4)
        assert proba.sum(axis=1) == pytest.approx(np.ones(3))
        assert clf.classes_[proba.argmax(axis=1)].tolist() == clf.predict(TITLES).tolist()
        assert clf.predict_proba([]).shape == (0, 4)
        assert clf.predict([]).shape == (0,)


def test_relabelling_permutes_the_columns() -> None:
    """The order in which labels are given changes nothing but the order of `classes_`."""
    one = Classifier(LABELS, engine="fake").predict_proba(TITLES)
    two = Classifier(LABELS[::-1], engine="fake").predict_proba(TITLES)
    assert one == pytest.approx(two)


def test_classify_takes_what_people_have() -> None:
    """Strings, mappings, a Series, and a DataFrame that keeps its index."""
    clf = Classifier(LABELS, engine="fake")
    rows = clf.classify(["red shoes", {"id": "00123", "title": "bags", "label": "bags"}])
    assert [r["label"] for r in rows] == ["shoes", "bags"]
    assert (rows[1]["id"], rows[1]["gold"]) == ("00123", "bags")
    assert clf.classify([{"title": None, "name": "bags", "label": "BAGS"}])[0]["gold"] == "bags"
    assert clf.classify(pd.Series(TITLES))[2]["label"] == "toys"
    frame = pd.DataFrame({"id": [1, 2], "title": ["red shoes", None]}, index=[7, 9])
    out = clf.classify(frame)
    assert out.index.tolist() == [7, 9]
    assert out["decision"].tolist() == ["labelled", "error"]
    assert out["id"].tolist() == [1, 2]
    empty = clf.classify(frame.iloc[:0])
    assert "label" in empty.columns
    assert len(empty) == 0
    clf.close()


@pytest.mark.parametrize("bad", [None, float("nan"), 5, b"x", "", "\x00"])
def test_a_bad_item_is_a_row_but_predict_refuses_it(bad: object) -> None:
    """Classify has a place for the reason; an array of labels has none."""
    with Classifier(LABELS, engine="fake") as clf:
        rows = clf.classify(["red shoes", bad])  # type: ignore[list-item]
        assert [r["decision"] for r in rows] == ["labelled", "error"]
        assert rows[1]["reason"]
        with pytest.raises(EngineError, match="item 1"):
            clf.predict(["red shoes", bad])  # type: ignore[list-item]


def test_lone_surrogates_are_text() -> None:
    """Broken Unicode does not break the run."""
    with Classifier(LABELS, engine="fake") as clf:
        assert clf.predict(["shoes \ud800"]).tolist() == ["shoes"]


@pytest.mark.parametrize("single", ["red shoes", {"title": "red shoes"}])
def test_one_item_alone_is_a_mistake(single: object) -> None:
    """A string is not a list of letters."""
    with pytest.raises(BadConfig, match="one item, not a list"):
        Classifier(LABELS, engine="fake").classify(single)  # type: ignore[arg-type]


def test_inside_a_running_loop() -> None:
    """As in a notebook."""

    async def cell() -> list[str]:
        with Classifier(LABELS, engine="fake") as clf:
            return list(clf.predict(TITLES))

    assert asyncio.run(cell()) == ["shoes", "bags", "toys"]


def test_labels_from_many_places(tmp_path: Path) -> None:
    """A list, an array, a generator, a file, a Taxonomy; what is wrong raises, nothing is asked."""
    (tmp_path / "t.txt").write_text("\n".join(LABELS))
    taxonomy = Taxonomy.from_labels(LABELS)
    for labels in (LABELS, np.array(LABELS), (x for x in LABELS), tmp_path / "t.txt", taxonomy):
        assert "shoes" in Classifier(labels).classes_
    for wrong in (["a"], ["a", None], "absent.yaml"):
        with pytest.raises(InputError):
            Classifier(wrong).predict(["x"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bas_url"):
        Classifier(LABELS, bas_url="x")  # type: ignore[call-arg]
    with pytest.raises(BadConfig, match="risk"):
        Classifier(LABELS, engine="fake", risk=2.0).predict(["x"])


def test_too_many_labels_for_probabilities() -> None:
    """Refused aloud: not all of them are looked at."""
    with Classifier([f"l{i}" for i in range(200)], engine="fake") as clf:
        assert clf.predict(["l7"]).tolist() == ["l7"]
        with pytest.raises(EngineUnsupported, match="one menu"):
            clf.predict_proba(["l7"])


def test_an_engine_of_ones_own() -> None:
    """Its errors reach the caller as they are."""

    class Liar(FakeEngine):
        def _one(self, ask: Request) -> Answer:  # noqa: ARG002
            raise ConstraintIgnored("outside")

    with (
        Classifier(LABELS, engine=Liar()) as clf,
        pytest.raises(ConstraintIgnored, match="outside"),
    ):
        clf.predict(TITLES)


def test_on_the_real_server(server: str) -> None:
    """The same numbers from both constraints; the engine stays open between calls."""
    titles = ["red shoes", "耳机"]
    taxonomy = EXAMPLES / "taxonomy.yaml"
    with (
        Classifier(taxonomy, base_url=server, mass_sample=0) as one,
        Classifier(taxonomy, base_url=server, constraint="tokens") as two,
    ):
        first = one.predict_proba(titles)
        assert first == pytest.approx(two.predict_proba(titles), abs=1e-3)
        session = one._open.session
        assert one.predict(titles).tolist() == one.classes_[first.argmax(axis=1)].tolist()
        assert one._open.session is session


def test_answers_that_do_not_depend_on_the_item_are_a_warning() -> None:
    """Once, however many calls follow; a model that reads is left alone."""
    titles = [f"{title} {i}" for i in range(40) for title in TITLES]
    deaf = {"engine": "fake", "engine_option": "sharpness=0,noise=0.05", "sources": "none"}
    with Classifier(LABELS, **deaf) as clf:
        with pytest.warns(LlmcatWarning, match="the answers hardly depend on the item"):
            clf.predict(titles)
        clf.predict(titles)  # a second warning would be an error here
    with Classifier(LABELS, engine="fake", sources="none") as clf:
        clf.predict(titles)


def test_labels_without_a_word_in_common_are_a_warning() -> None:
    """Retrieval says that it is blind."""
    with (
        Classifier(["shoes", "bags"], engine="retriever", sources="lexical") as clf,
        pytest.warns(LlmcatWarning, match="retrieval is blind to 2 of 2 items"),
    ):
        clf.predict(["红色跑鞋", "真皮手提包"])


FAKE = {"engine": "fake", "sources": "none"}


def test_mappings_are_categories_with_descriptions() -> None:
    """Names to descriptions, or the keys of a taxonomy file; a mixture is refused."""
    told = Classifier({"shoes": "anything worn on feet", "bags": "things to carry things in"})
    assert told.taxonomy.nodes["shoes"].description == "anything worn on feet"
    rows = [{"id": "s", "path": "Wear > Shoes"}, {"id": "b", "path": "Wear > Bags"}]
    assert Classifier(rows).classes_.tolist() == ["b", "none", "s"]
    with pytest.raises(BadConfig, match="not both"):
        _ = Classifier([rows[0], "bags"]).classes_


def test_every_parameter_is_a_setting_or_explained() -> None:
    """Explicit, by name; settings that mean nothing here are no parameters."""
    names = set(Classifier._get_param_names())
    assert names - set(RunConfig.model_fields) == {"closed", "on_error", "progress", "trust_env"}
    assert not names & {"file", "out", "limit", "runs", "store", "taxonomy", "api_key"}
    for name in ("labels", "closed", "on_error", "progress", "trust_env", "engine"):
        assert f"`{name}" in (Classifier.__doc__ or "")


def test_a_scikit_learn_estimator() -> None:
    """clone, repr, set_params, Pipeline, cross_val_score, GridSearchCV, CalibratedClassifierCV."""
    titles = np.array([f"{title} {i}" for i in range(12) for title in TITLES])
    gold = np.array(LABELS * 12)
    clf = Classifier(LABELS, **FAKE, trust_env=False)
    assert repr(clf).startswith("Classifier(engine='fake', labels=['shoes', 'bags', 'toys']")
    twin = clone(clf)
    assert twin.get_params() == clf.get_params()
    assert clf.score(titles, gold) == 1.0
    bolder = clf.set_params(prompt="zero-shot-item-first")
    assert bolder is clf
    assert clf.score(titles, gold) == 1.0
    pipe = make_pipeline(FunctionTransformer(lambda x: [t.upper() for t in x]), clone(clf))
    assert pipe.fit(titles, gold).predict(titles).tolist() == gold.tolist()
    assert cross_val_score(clone(clf), titles, gold, cv=2).tolist() == [1.0, 1.0]
    search = GridSearchCV(clone(clf), {"prompt": ["zero-shot", "zero-shot-item-first"]}, cv=2)
    assert search.fit(titles, gold).best_score_ == 1.0
    shut = clone(clf).set_params(closed=True)  # `none` is not among y
    calibrated = CalibratedClassifierCV(shut, cv=2).fit(titles, gold)
    assert calibrated.predict(titles).tolist() == gold.tolist()


@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_get_params_invariance",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_valid_tag_types",
    ],
)
def test_scikit_learns_checks(check: str) -> None:
    """Those that make no numbers of the items: texts are no feature matrix, which tags say."""
    getattr(estimator_checks, check)("Classifier", Classifier())


def test_fit_takes_labels_and_examples() -> None:
    """The labels of y, as they are, are the classes; the items are evidence; nothing is asked."""
    titles = ["red shoes", "trail boots", "leather bags", "tote"] * 6
    clf = Classifier(engine="retriever", sources="lexical")
    with pytest.raises(NotFittedError):
        clf.predict(titles)
    y = np.array([7, 7, 3, 3] * 6)
    assert clf.fit(titles, y) is clf
    assert clf.classes_.tolist() == [3, 7]
    found = clf.predict(["boots", "a tote of canvas"])
    assert found.tolist() == [7, 3]
    assert np.issubdtype(found.dtype, np.integer)
    proba = clf.predict_proba(["boots", "tote"])
    assert proba.sum(axis=1) == pytest.approx([1, 1])
    assert clf.classes_[proba.argmax(axis=1)].tolist() == [7, 3]
    with pytest.raises(InputError, match="not in the taxonomy"):
        Classifier(LABELS, engine="retriever").fit(["x"], ["hats"])
    with pytest.raises(InputError, match="2 items and 1 labels"):
        Classifier(LABELS, engine="retriever").fit(["x", "y"], ["bags"])
    clf.close()


def test_closed_means_that_none_is_no_answer() -> None:
    """The next best label instead, and probabilities without it."""
    items = [{"title": "x", "label": "none"}]
    options = {**FAKE, "engine_option": "accuracy=1"}
    with Classifier(LABELS, **options) as clf, Classifier(LABELS, **options, closed=True) as shut:
        assert clf.predict(items).tolist() == ["none"]
        assert shut.predict(items).tolist()[0] in LABELS
        assert shut.classes_.tolist() == sorted(LABELS)
        assert shut.predict_proba(items).sum() == pytest.approx(1.0)


def test_copies_have_what_was_learnt(tmp_path: Path) -> None:
    """Pickle and joblib: parameters, labels, calibration; closing forgets nothing either."""
    titles = [f"{TITLES[i % 3]} {i}" for i in range(300)]
    gold = [LABELS[i % 3] if i % 5 else LABELS[(i + 1) % 3] for i in range(300)]
    clf = Classifier(LABELS, **FAKE, engine_option="sharpness=9")
    clf.calibrate(titles, gold)
    before = clf.predict_proba(titles[:5])
    clf.close()
    assert clf.predict_proba(titles[:5]) == pytest.approx(before)
    again = pickle.loads(pickle.dumps(clf))  # noqa: S301  ours, made here
    joblib.dump(clf, tmp_path / "clf.joblib")
    for copy in (again, joblib.load(tmp_path / "clf.joblib")):
        assert copy.predict_proba(titles[:5]) == pytest.approx(before)
        copy.close()
    raw = Classifier(LABELS, **FAKE, engine_option="sharpness=9")
    assert np.abs(raw.predict_proba(titles[:5]) - before).max() > 0.05
    clf.close()
    raw.close()


def test_one_bad_item_throws_no_answer_away() -> None:
    """`row` gives it no label; after an error the others are not asked again."""

    class Counting(FakeEngine):
        asked = 0

        def _one(self, ask: Request) -> Answer:
            type(self).asked += 1
            return super()._one(ask)

    items = ["red shoes", None, "leather bags"]
    with Classifier(LABELS, engine=Counting(), sources="none") as clf:
        with pytest.raises(EngineError, match="item 1"):
            clf.predict(items)
        assert Counting.asked == 2
        clf.set_params(on_error="row")
    with Classifier(LABELS, engine=Counting(), sources="none") as clf:
        with pytest.raises(EngineError, match="item 1"):
            clf.predict(items)
        clf.on_error = "raise"
        with pytest.raises(EngineError, match="item 1"):
            clf.predict_proba(items)
        assert Counting.asked == 4
    with Classifier(LABELS, **FAKE, on_error="row") as clf:
        assert clf.predict(items).tolist() == ["shoes", None, "bags"]
        assert np.isnan(clf.predict_proba(items)[1]).all()


def test_what_is_not_given_comes_from_the_environment_unless_it_may_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`LLMCAT_*` and llmcat.toml, as on the command line; `trust_env=False` reads neither."""
    monkeypatch.setenv("LLMCAT_ENGINE", "fake")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llmcat.toml").write_text("risk = 3\n")
    with pytest.raises(InputError, match="risk"):
        Classifier(LABELS).predict(["x"])
    with pytest.raises(EngineUnsupported, match="no engine"):
        Classifier(LABELS, trust_env=False).predict(["x"])
    with Classifier(LABELS, engine="fake", trust_env=False) as clf:
        assert clf.predict(["red shoes"]).tolist() == ["shoes"]


def test_rows_come_as_they_are_answered() -> None:
    """`stream` yields before the last is asked; leaving it early ends the asking."""
    with Classifier(LABELS, **FAKE, engine_option="latency=0.02", concurrency=1) as clf:
        began = time.monotonic()
        rows = clf.stream(f"red shoes {i}" for i in range(200))
        first = next(rows)
        assert first["label"] == "shoes"
        assert time.monotonic() - began < 3
        rows.close()
        assert clf.predict(["leather bags"]).tolist() == ["bags"]
        assert [row["label"] for row in clf.stream(TITLES)] == LABELS


def test_explain_says_what_each_source_adds() -> None:
    """The row with its evidence."""
    with Classifier(LABELS, engine="retriever", sources="lexical") as clf:
        row = clf.explain("red shoes")
    assert row["label"] == "shoes"
    assert row["evidence"]["sources"]["lexical"]["shoes"] > 0


def test_the_asynchronous_one_is_the_same() -> None:
    """Rows as they come, arrays, calibration; several at once on one loop."""

    async def work() -> tuple[list[str], list[str], float]:
        async with AsyncClassifier(LABELS, **FAKE) as clf:
            rows = [row["label"] async for row in clf.classify(TITLES)]
            both = await asyncio.gather(clf.predict(TITLES), clf.predict(TITLES[::-1]))
            proba = await clf.predict_proba(TITLES)
            return rows, [*both[0], *both[1]], float(proba.sum())

    rows, both, total = asyncio.run(work())
    assert rows == LABELS
    assert both == [*LABELS, *LABELS[::-1]]
    assert total == pytest.approx(3.0)


def test_evaluate_is_that_of_the_command(llmcat: Callable[..., Ran], tmp_path: Path) -> None:
    """The same figures from Python; errors count as wrong, unknown labels are named."""
    shop = EXAMPLES / "taxonomy.yaml"
    ran = llmcat("eval", "--file", EXAMPLES / "items.jsonl", "--taxonomy", shop,
                 "--engine", "retriever", "--sources", "lexical", "--out", "run")  # fmt: skip
    assert ran.code == 0, ran.err
    told = json.loads((tmp_path / "run" / "metrics.json").read_text())
    every = read_rows(EXAMPLES / "items.jsonl")
    with Classifier(shop, engine="retriever", sources="lexical") as clf:
        found = evaluate(clf, every, [r["label"] for r in every])
        for name in ("accuracy", "macro_f1", "log_loss", "hierarchical_f1", "none_recall"):
            assert found["metrics"][name]["value"] == pytest.approx(
                told["metrics"][name]["value"], abs=1e-6
            ), name
        bad = evaluate(clf, ["red shoes", None], ["skincare", "skincare"])
        assert (bad["n"], bad["errors"]) == (2, {"no answer": 1})
        with pytest.raises(InputError, match="hats"):
            evaluate(clf, ["x"], ["hats"])


def test_ab_decides_from_python() -> None:
    """Paired, with the decision of the command; other categories cannot be compared."""
    items = [{"title": f"{TITLES[i % 3]} {i}", "label": LABELS[i % 3]} for i in range(200)]
    gold = [item["label"] for item in items]

    def one(accuracy: float) -> Classifier:
        return Classifier(LABELS, **FAKE, engine_option=f"accuracy={accuracy}")

    a, b = one(0.6), one(0.9)
    found = ab(a, b, items, gold)
    assert found["ship"] == "b"
    assert found["verdict"].startswith("ship b: accuracy +")
    assert found["versus"][0]["mcnemar"]["only_a"] == 0
    assert ab(b, a, items, gold)["worse"] == ["b"]
    with pytest.raises(InputError, match="different categories"):
        ab(a, Classifier(["x", "y"], **FAKE), items, gold)
    a.close()
    b.close()


def test_no_items_are_no_rows() -> None:
    """Nothing is opened for them, and nothing is warned of."""

    async def work() -> int:
        async with AsyncClassifier(LABELS, **FAKE) as clf:
            assert len(await clf.predict([])) == 0
            return len([row async for row in clf.classify([])])

    assert asyncio.run(work()) == 0
    with Classifier(LABELS, **FAKE) as clf:
        assert list(clf.stream([])) == []


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    """Parameters, labels of any kind, examples and calibration; what is no data is refused."""
    draw = np.random.default_rng(0)
    gold = draw.choice([11111, 22222], 400)
    texts = [f"thing number {i}: category {label}" for i, label in enumerate(gold)]
    first = Classifier(engine="fake", engine_option="accuracy=0.8,sharpness=3", closed=True)
    first.fit(texts[:40], gold[:40]).calibrate(texts, gold, plain=True)
    first.save(tmp_path / "one.json")
    again = Classifier.load(tmp_path / "one.json")
    assert again.get_params() == first.get_params()
    assert again.predict(texts[40:60]).tolist() == first.predict(texts[40:60]).tolist()
    assert again.predict_proba(texts[:9]) == pytest.approx(first.predict_proba(texts[:9]))
    assert again.results(texts[:1])[0].scores == first.results(texts[:1])[0].scores
    for each in (first, again):
        each.close()
    zero_shot = Classifier({"shoes": "for feet", "bags": ""}, engine="fake")
    zero_shot.save(tmp_path / "two.json")
    assert AsyncClassifier.load(tmp_path / "two.json").classes_.tolist() == [
        "bags",
        "none",
        "shoes",
    ]
    with pytest.raises(BadConfig, match="Taxonomy is not data"):
        Classifier(Taxonomy.from_labels(["a", "b"])).save(tmp_path / "three.json")
    assert not (tmp_path / "three.json").exists()
    (tmp_path / "four.json").write_text('{"params": {"nothing": 1}}')
    for name in ("four.json", "five.json"):
        with pytest.raises(BadConfig, match="is not a saved classifier"):
            Classifier.load(tmp_path / name)


def test_items_with_several_labels() -> None:
    """Indicators as scikit-learn has them, a chance by label, measures of sets."""
    titles = ["red shoes", "blue bags", "bags and shoes in red", "wooden spoon"]
    y = [["red", "shoes"], "blue|bags", ["red", "shoes", "bags"], []]
    tags = ["red", "blue", "shoes", "bags"]
    with Classifier(tags, engine="fake", sources="lexical", multi="menu") as clf:
        assert clf.classes_.tolist() == sorted(tags)
        rows, given, p = clf.classify(titles), clf.predict(titles), clf.predict_proba(titles)
        for row, ones in zip(rows, given, strict=True):
            assert {one["label"] for one in row["labels"]} == set(clf.classes_[ones == 1])
        assert given.shape == p.shape == (4, 4)
        assert p[2].sum() > 1
        found = evaluate(clf, titles, y)["metrics"]
        assert found["example_f1"]["value"] > 0.6
        with Classifier(tags, engine="fake", sources="lexical", multi="each") as other:
            compared = ab(clf, other, titles, y)
        assert compared["metric"] == "example_f1"
        with pytest.raises(BadConfig, match="items with one label"):
            clf.calibrate(titles, y)
    with Classifier(engine="fake", sources="lexical", multi="menu").fit(titles, y) as clf:
        assert clf.classes_.tolist() == sorted(tags)
        assert clf.predict(["red shoes"]).tolist() == [[0, 0, 1, 1]]
    with pytest.raises(InputError, match="item 1 has no labels"):
        Classifier(tags, multi="menu").fit(titles[:2], [["red"], None])
    with pytest.raises(InputError, match="item 0: labels none, red"):
        Classifier(tags, multi="menu").fit(titles[:1], [["none", "red"]])
    with Classifier(tags, engine="fake", sources="lexical", multi="menu") as clf:
        matrix = clf.predict(titles)
        assert clf.score(titles, matrix) == 1.0
        assert clf.score(titles, y) >= 0.5
        assert clf.fit(titles, matrix).predict(titles).tolist() == matrix.tolist()
    with pytest.raises(InputError, match="needs `labels`"):
        Classifier(multi="menu").fit(titles, matrix)


def test_the_loss_of_a_set_grows_with_what_is_missed() -> None:
    """It does not stop where the probability of the whole set is too small for a number."""
    names = [f"cat{i}" for i in range(200)]
    with Classifier(names, multi="menu", engine="retriever", sources="lexical") as clf:
        losses = [
            evaluate(clf, ["cat190 x"], [names[:k]])["metrics"]["log_loss"]["value"]
            for k in (4, 10, 30)
        ]
    assert losses[0] + 10 < losses[1] < losses[2] - 10


def test_messages_in_python_speak_python() -> None:
    """Parameters, not flags; a command line stays a command line."""
    with pytest.raises(BadConfig, match=r"needs base_url$"):
        Classifier(labels=["a", "b"], engine="vllm_http").predict(["x"])
    with pytest.raises(EngineUnsupported) as caught:
        Classifier(labels=["a", "b"]).predict(["x"])
    said = str(caught.value)
    assert 'engine="retriever"' in said
    assert 'base_url="http://localhost:8000"' in said
    assert "llmcat serve model --model Qwen" in said
    with pytest.raises(BadPrompt) as bad:
        Classifier(labels=["a", "b"], engine="fake", prompt="zero-shott").predict(["x"])
    assert bad.value.hint == "did you mean zero-shot?"
