"""The library: lists, dicts and DataFrames; scikit-learn's sense; notebooks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import EXAMPLES

from llmcat import Classifier, ConstraintIgnored, EngineError, InputError, Taxonomy
from llmcat.engines.fake import FakeEngine
from llmcat.errors import BadConfig, EngineUnsupported, LlmcatWarning
from llmcat.records import Answer, Ask

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
    assert out["id"].tolist() == ["1", "2"]
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
    with pytest.raises(BadConfig, match="single"):
        Classifier(LABELS, engine="fake").classify(single)  # type: ignore[arg-type]


def test_inside_a_running_loop() -> None:
    """As in a notebook."""

    async def cell() -> list[str]:
        with Classifier(LABELS, engine="fake") as clf:
            return list(clf.predict(TITLES))

    assert asyncio.run(cell()) == ["shoes", "bags", "toys"]


def test_labels_from_many_places(tmp_path: Path) -> None:
    """A list, an array, a generator, a file, a Taxonomy; what is wrong raises at once."""
    (tmp_path / "t.txt").write_text("\n".join(LABELS))
    taxonomy = Taxonomy.from_labels(LABELS)
    for labels in (LABELS, np.array(LABELS), (x for x in LABELS), tmp_path / "t.txt", taxonomy):
        assert "shoes" in Classifier(labels).classes_
    for wrong in (["a"], ["a", None], "absent.yaml"):
        with pytest.raises(InputError):
            Classifier(wrong)  # type: ignore[arg-type]
    with pytest.raises(BadConfig, match="bas_url"):
        Classifier(LABELS, bas_url="x")


def test_too_many_labels_for_probabilities() -> None:
    """Refused aloud: not all of them are looked at."""
    with Classifier([f"l{i}" for i in range(200)], engine="fake") as clf:
        assert clf.predict(["l7"]).tolist() == ["l7"]
        with pytest.raises(EngineUnsupported, match="one menu"):
            clf.predict_proba(["l7"])


def test_an_engine_of_ones_own() -> None:
    """Its errors reach the caller as they are."""

    class Liar(FakeEngine):
        def _one(self, ask: Ask) -> Answer:  # noqa: ARG002
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
        session = one._session
        assert one.predict(titles).tolist() == one.classes_[first.argmax(axis=1)].tolist()
        assert one._session is session


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
