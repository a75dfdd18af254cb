"""llmcat eval, ab and runs as a person uses them: what is asked, refused and decided."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import EXAMPLES, Ran, read_rows
from sklearn import metrics as sklearn_metrics

from llmcat.config import RunConfig
from llmcat.engines.cache import AnswerStore, Remembering
from llmcat.engines.fake import FakeEngine
from llmcat.evaluation import label_audit, opening, schema
from llmcat.evaluation.arms import arms_of
from llmcat.evaluation.comparison import Question, compare_arms, segments_of
from llmcat.evaluation.paired import Rule
from llmcat.evaluation.predictions import Labels, Scored
from llmcat.evaluation.run_folder import MIGRATIONS, Look, Registry
from llmcat.records import Item, Menu, Node, Prefix, Request

Cli = Callable[..., Ran]
LABELS = "shoes,bags,toys"
FAKE = ("--labels", LABELS, "--engine", "fake")
SHOP = ("--file", EXAMPLES / "items.jsonl", "--taxonomy", EXAMPLES / "taxonomy.yaml")


def labelled(path: Path, n: int = 600, *, seed: int = 0, start: int = 0) -> Path:
    """A file of labelled items; `none` is one of the labels. More items go on where fewer end."""
    draw = np.random.default_rng(seed)
    kinds = [*LABELS.split(","), "none"]
    rows = [(f"item {i} no {draw.integers(1e9)}", kinds[draw.integers(4)]) for i in range(n)]
    with path.open("w") as lines:
        for i, (title, label) in enumerate(rows[start:], start):
            shop = "north" if i % 3 else "south"
            lines.write(json.dumps({"id": i, "title": title, "label": label, "shop": shop}) + "\n")
    return path


def folders(path: Path) -> list[Path]:
    return sorted(p for p in (path / "runs").iterdir() if p.is_dir())


def decision(path: Path) -> dict[str, Any]:
    found = json.loads((path / "comparison.json").read_text())
    return found["versus"][0]  # type: ignore[no-any-return]


# -- eval -------------------------------------------------------------------------------------


def test_an_evaluation_leaves_predictions_metrics_and_a_report(llmcat: Cli, tmp_path: Path) -> None:
    """The metrics are scikit-learn's on the predictions; a second time nothing is asked."""
    labelled(tmp_path / "x.jsonl")
    command = ("eval", "--file", "x.jsonl", *FAKE, "--engine-option", "accuracy=0.8")
    ran = llmcat(*command)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("accuracy 8")
    (folder,) = folders(tmp_path)
    rows = read_rows(folder / "predictions.jsonl")
    gold = [r["gold"] for r in rows]
    given = [r["label"] or "none" for r in rows]
    found = json.loads((folder / "metrics.json").read_text())["metrics"]
    names = LABELS.split(",")
    hits = sum(g == p for g, p in zip(gold, given, strict=True))
    assert found["accuracy"]["value"] == hits / 600
    for how in ("micro", "macro", "weighted"):
        expected = sklearn_metrics.f1_score(gold, given, labels=names, average=how)
        assert found[f"{how}_f1"]["value"] == pytest.approx(expected)
        assert found[f"{how}_f1"]["low"] < expected < found[f"{how}_f1"]["high"]
    for of, score in (("precision", "precision_score"), ("recall", "recall_score")):
        expected = getattr(sklearn_metrics, score)(gold, given, labels=["none"], average="macro")
        assert found[f"none_{of}"]["value"] == pytest.approx(expected)
    p = np.array([[_p(r, name) for name in sorted([*names, "none"])] for r in rows])
    expected = sklearn_metrics.log_loss(gold, p / p.sum(1, keepdims=True))
    assert found["log_loss"]["value"] == pytest.approx(expected, rel=1e-3)
    assert "600 requests, 0 of them answered before" in ran.err
    for name in ("report.html", "report.md", "run.json", "items.jsonl"):
        assert (folder / name).stat().st_size
    before = (folder / "predictions.jsonl").read_bytes()
    again = llmcat(*command)
    assert "600 requests, 600 of them answered before" in again.err
    assert (folder / "predictions.jsonl").read_bytes() == before


def _p(row: dict[str, Any], name: str) -> float:
    if name == "none":
        return float(row["p_none"])
    if row["label"] == name:
        return float(row["confidence"])
    return float(next(a["p"] for a in row["alternatives"] if a["label"] == name))


def test_a_changed_prompt_asks_anew_and_is_refused_in_the_same_folder(
    llmcat: Cli, tmp_path: Path
) -> None:
    """The folder of a run holds one run: the message names what is different."""
    labelled(tmp_path / "x.jsonl", 70)
    mine = tmp_path / "mine.jinja"
    text = llmcat("prompts", "show", "zero-shot").out
    mine.write_text(text)
    command = ("eval", "--file", "x.jsonl", *FAKE, "--prompt", "./mine.jinja", "--out", "here")
    assert llmcat(*command).code == 0
    assert "70 of them answered before" in llmcat(*command).err
    mine.write_text(text.replace("You sort", "You put"))
    ran = llmcat(*command)
    assert ran.code == 2
    assert "begun by a different run" in ran.err
    assert "eval.prompt" in ran.err
    other = llmcat(*command[:-1], "there")
    assert "70 requests, 0 of them answered before" in other.err


def test_many_processes_make_one_file_of_answers(tmp_path: Path) -> None:
    """All open it at the same moment, none before it is there; nothing is said to be locked."""
    code = (
        "import sys, time; from pathlib import Path; from llmcat.engines.cache import AnswerStore\n"
        "for i in range(60):\n"
        "    while time.time() < float(sys.argv[1]) + i / 20: pass\n"
        "    AnswerStore(Path(f'answers{i}.sqlite')).close()\n"
    )
    start = str(time.time() + 2)
    running = [subprocess.Popen([sys.executable, "-c", code, start]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0] * 3


def test_a_model_at_another_address_is_another_model(tmp_path: Path) -> None:
    """Neither the address nor a folder's files may change under a kept answer."""
    store = AnswerStore(tmp_path / "answers.sqlite")
    item = Item(row=0, id="x", fields={"title": "shoes"})
    nodes = tuple(Node(id=n, name=n, path=(n,)) for n in ("shoes", "bags"))
    menu = Menu(nodes, ("A", "B", "C"))
    ask = Request(item, menu, Prefix((), "k"), ({"role": "user", "content": "shoes"},))

    async def keys() -> list[str]:
        found = []
        for options, where in (("", "http://a"), ("", "http://b"), ("noise=1", "http://a")):
            engine = Remembering(FakeEngine(), store, options, where)
            await engine.open()
            found.append(engine.key(ask))
        return found

    assert len(set(asyncio.run(keys()))) == 3
    other = replace(ask, menu=Menu(nodes[::-1], ("A", "B", "C")))
    engine = Remembering(FakeEngine(), store)
    asyncio.run(engine.open())
    variants = [ask, other, replace(ask, read="text"), replace(ask, constraint="tokens")]
    assert len({engine.key(one) for one in variants}) == 4
    assert engine.key(ask) == engine.key(replace(ask, item=replace(item, row=7, gold="bags")))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    config = RunConfig(model=str(model))
    before = opening._where(config)
    (model / "config.json").write_text("{ }")
    assert opening._where(config) != before
    store.close()


def test_samples_are_nested_and_random(llmcat: Cli, tmp_path: Path) -> None:
    """--limit N --seed S: the same ones each time, and all of them in a larger sample."""
    labelled(tmp_path / "x.jsonl", 300)
    ids = []
    for limit, seed in ((50, 1), (120, 1), (50, 2)):
        out = f"out{limit}-{seed}"
        sample = ("--limit", limit, "--seed", seed, "--out", out)
        assert llmcat("eval", "--file", "x.jsonl", *FAKE, *sample).code == 0
        ids.append([r["id"] for r in read_rows(tmp_path / out / "predictions.jsonl")])
    assert len(ids[0]) == 50
    assert set(ids[0]) < set(ids[1])
    assert set(ids[0]) != set(ids[2])
    assert max(map(int, ids[0])) > 200
    assert ids[0] == sorted(ids[0], key=int)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"title":"a","label":"shoe"}', "'shoe', 1 times; nearest: 'shoes'"),
        ('{"title":"a"}\n{"title":"b"}', "none of the 2 items has a label"),
        ("", "no rows"),
    ],
)  # fmt: skip
def test_bad_labels_end_it_before_anything_is_asked(
    llmcat: Cli, tmp_path: Path, content: str, says: str
) -> None:
    """Unknown labels are listed with the nearest valid ones."""
    (tmp_path / "x.jsonl").write_text(content)
    ran = llmcat("eval", "--file", "x.jsonl", *FAKE)
    assert ran.code == 2
    assert says in ran.err
    assert not (tmp_path / "runs").exists()


def test_odd_sets_are_told(llmcat: Cli, tmp_path: Path) -> None:
    """One class only, missing labels, one text with two labels, examples that are items."""
    rows = [{"title": f"x{i}", "label": "toys"} for i in range(5)] + [{"title": "unlabelled"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = llmcat("eval", "--file", "x.jsonl", *FAKE)
    assert ran.code == 0
    assert "WARNING: every item has the label 'toys'" in ran.err
    assert "1 items have no label and are left out" in ran.err
    rows = [{"title": "same", "label": "toys"}, {"title": "same", "label": "bags"}]
    (tmp_path / "y.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shots = ("--prompt", "few-shot", "--examples", "y.jsonl")
    ran = llmcat("eval", "--file", "y.jsonl", *FAKE, *shots)
    assert "1 texts stand in the file with different labels" in ran.err
    assert "WARNING: 2 items are among the examples" in ran.err


def test_labels_that_no_menu_offers_are_told(llmcat: Cli, tmp_path: Path) -> None:
    """An inner category, an ambiguous name, a row that cannot be read."""
    (tmp_path / "t.txt").write_text("A > Shoes\nB > Shoes\nB > Bags\n")
    (tmp_path / "x.jsonl").write_text(
        '{"title":"a","label":"B"}\n{"title":"b","label":"Bags"}\n{nope\n'
    )
    shop = ("--taxonomy", "t.txt", "--engine", "fake")
    ran = llmcat("eval", "--file", "x.jsonl", *shop)
    assert ran.code == 0, ran.err
    assert "1 items are labelled with a category that no menu offers" in ran.err
    assert "1 rows cannot be read" in ran.err
    (tmp_path / "x.jsonl").write_text('{"title":"a","label":"Shoes"}')
    ran = llmcat("eval", "--file", "x.jsonl", *shop)
    assert "several are called so: A > Shoes, B > Shoes" in ran.err


def test_rows_that_are_errors_count_as_wrong(llmcat: Cli, tmp_path: Path) -> None:
    """They have their reasons in the metrics, and the exit code says so."""
    rows = [{"title": "", "label": "toys"}, {"title": "toys", "label": "toys"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = llmcat("eval", "--file", "x.jsonl", *FAKE, "--engine-option", "accuracy=1")
    assert ran.code == 1
    assert ran.out.startswith("accuracy 50.0 %")
    (folder,) = folders(tmp_path)
    found = json.loads((folder / "metrics.json").read_text())
    assert list(found["errors"].values()) == [1]
    assert found["metrics"]["log_loss"]["n"] == 1


def test_what_there_are_no_probabilities_for_is_not_a_number(llmcat: Cli, tmp_path: Path) -> None:
    """Names instead of codes: no log-loss, no calibration, and the reason why."""
    labelled(tmp_path / "x.jsonl", 40)
    assert llmcat("eval", "--file", "x.jsonl", *FAKE, "--prompt", "text").code == 0
    (folder,) = folders(tmp_path)
    found = json.loads((folder / "metrics.json").read_text())["metrics"]
    for name in ("log_loss", "brier", "ece", "top_3", "coverage_at_95"):
        assert found[name]["value"] is None
        assert found[name]["why"]


def test_an_interrupted_evaluation_goes_on(tmp_path: Path) -> None:
    """Ctrl-C: exit 130 and the command; the same command asks only for the rest."""
    labelled(tmp_path / "x.jsonl", 2000)
    command = [sys.executable, "-m", "llmcat", "eval", "--file", "x.jsonl", *FAKE]
    command += ["--engine-option", "latency=0.05", "--concurrency", "16"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/predictions.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "this goes on, and asks nothing twice" in said
    assert "llmcat eval --file x.jsonl" in said
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    known = int(ran.stderr.split("2,000 requests, ")[1].split(" ")[0].replace(",", ""))
    assert 100 < known < 2000


def test_killed_runs_keep_their_answers(tmp_path: Path) -> None:
    """Kill -9: what was written stays, the folder is not locked, the run goes on."""
    labelled(tmp_path / "x.jsonl", 3000)
    command = [sys.executable, "-m", "llmcat", "eval", "--file", "x.jsonl", *FAKE, "--quiet"]
    command += ["--engine-option", "latency=0.02", "--concurrency", "16"]
    process = subprocess.Popen(command, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (tmp_path / "runs/answers.sqlite").exists() and _answers(tmp_path) > 300:
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    kept = _answers(tmp_path)
    assert kept > 300
    command.remove("--quiet")
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"3,000 requests, {kept:,} of them answered before" in ran.stderr


def _answers(path: Path) -> int:
    with sqlite3.connect(path / "runs" / "answers.sqlite", timeout=10) as db:
        try:
            return int(db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def test_a_folder_that_is_no_run_is_left_alone(llmcat: Cli, tmp_path: Path) -> None:
    """Nor is a file of the user's overwritten, or a broken store used."""
    labelled(tmp_path / "x.jsonl", 10)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    ran = llmcat("eval", "--file", "x.jsonl", *FAKE, "--out", "mine")
    assert ran.code == 2
    assert "holds no evaluation run" in ran.err
    (tmp_path / "runs" / "answers.sqlite").write_bytes(b"garbage" * 1000)
    shutil.rmtree(tmp_path / "runs" / "answers.sqlite-wal", ignore_errors=True)
    ran = llmcat("eval", "--file", "x.jsonl", *FAKE)
    assert ran.code == 2
    assert "answers.sqlite" in ran.err


def test_a_full_disk_is_told_in_a_line(tmp_path: Path) -> None:
    """Not a traceback; and with room again the run goes on."""
    labelled(tmp_path / "x.jsonl", 400)
    words = [sys.executable, "-m", "llmcat", "eval", "--file", "x.jsonl", *FAKE]
    limited = ["bash", "-c", f"ulimit -f 64; trap '' XFSZ; exec {' '.join(words)}"]
    ran = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "llmcat: error: " in ran.stderr
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_errors_can_have_a_price(llmcat: Cli, tmp_path: Path) -> None:
    """The dearest confusion comes first."""
    labelled(tmp_path / "x.jsonl", 400)
    with (tmp_path / "costs.csv").open("w", newline="") as sink:
        csv.writer(sink).writerows([["gold", "label", "cost"], ["toys", "bags", 50]])
    priced = ("--costs", "costs.csv", "--engine-option", "accuracy=0.7")
    assert llmcat("eval", "--file", "x.jsonl", *FAKE, *priced).code == 0
    (folder,) = folders(tmp_path)
    dearest = json.loads((folder / "metrics.json").read_text())["confusions"][0]
    assert (dearest["gold"], dearest["label"]) == ("toys", "bags")
    assert dearest["cost"] == 50 * dearest["count"]
    (tmp_path / "costs.csv").write_text("gold,label,cost\ntoy,bags,2\n")
    assert "'toy' is not in the taxonomy" in llmcat("eval", "--file", "x.jsonl", *FAKE, *priced).err
    (tmp_path / "costs.csv").write_text("gold,label,cost\na,b,nan\n")
    ran = llmcat("eval", "--file", "x.jsonl", *FAKE, *priced)
    assert ran.code == 2
    assert "costs.csv: line 2" in ran.err


def test_the_audit_finds_labels_that_were_changed(llmcat: Cli, tmp_path: Path) -> None:
    """Of 40 wrong labels among 600 most are found, and little else."""
    path = labelled(tmp_path / "x.jsonl")
    rows = read_rows(path)
    names = [*LABELS.split(","), "none"]
    changed = set()
    for row in rows:  # the fake engine matches words: the true label is in the title
        row["title"] += f" {row['label'] if row['label'] != 'none' else 'sofa'}"
    for row in rows[::15]:
        row["label"] = names[(names.index(row["label"]) + 1) % 4]
        changed.add(str(row["id"]))
    path.write_text("\n".join(map(json.dumps, rows)))
    options = ("--engine-option", "noise=0.2", "--engine-option", "sharpness=5")
    ran = llmcat("eval", "--file", "x.jsonl", *FAKE, *options, "--audit")
    assert ran.code == 0, ran.err
    assert "of 600 gold labels are confidently contradicted" in ran.out
    (folder,) = folders(tmp_path)
    found = {issue["id"] for issue in read_rows(folder / "audit.jsonl")}
    assert len(found & changed) >= 0.8 * len(changed)
    assert len(found - changed) <= 0.5 * len(changed)
    assert label_audit.audit(folder, "eval").partial == 0


def test_the_audit_names_what_it_did_not_judge(llmcat: Cli, tmp_path: Path) -> None:
    """Items of a class that nobody was given: cleanlab has no word for their wrong labels."""
    path = labelled(tmp_path / "x.jsonl")
    rows = [row for row in read_rows(path) if row["label"] != "none"]
    lost = set()
    for row in rows:
        row["title"] += f" {row['label']}"
        if row["label"] == "toys":
            row["label"] = "bags"
            lost.add(str(row["id"]))
    path.write_text("\n".join(map(json.dumps, rows)))
    options = ("--engine-option", "noise=0.2", "--engine-option", "sharpness=5")
    ran = llmcat("eval", "--file", "x.jsonl", *FAKE, *options, "--audit")
    assert ran.code == 0, ran.err
    (folder,) = folders(tmp_path)
    named = read_rows(folder / "not-judged.jsonl")
    assert len(lost & {row["id"] for row in named}) >= 0.9 * len(lost)
    assert {row["label"] for row in named} >= {"toys"}
    assert f"not judged: {len(named):,} items get a label that no item here has" in ran.out
    assert named[0]["id"] in ran.out or named[0]["title"][:20] in ran.out
    assert named[0]["p_label"] >= named[-1]["p_label"]
    assert not lost & {row["id"] for row in read_rows(folder / "audit.jsonl")}


# -- ab ---------------------------------------------------------------------------------------


def arms(**accuracy: float) -> list[str]:
    return [
        word
        for name, value in accuracy.items()
        for word in (f"--{name}", f"engine_option=accuracy={value}")
    ]


@pytest.mark.parametrize(
    ("a", "b", "verdict", "code"),
    [(0.80, 0.88, "ship", 0), (0.88, 0.80, "don't", 1), (0.80, 0.80, "don't", 0)],
)
def test_arms_with_a_known_difference_come_out_as_they_must(
    llmcat: Cli, tmp_path: Path, a: float, b: float, verdict: str, code: int
) -> None:
    """Eight points better is shipped, worse trips the gate, the same is the same."""
    labelled(tmp_path / "x.jsonl")
    gate = ("--fail-if-worse", "--block", "64")
    ran = llmcat("ab", "--file", "x.jsonl", *FAKE, *arms(a=a, b=b), *gate)
    assert ran.code == code, ran.err
    (folder,) = folders(tmp_path)
    versus = decision(folder)
    assert versus["decision"]["verdict"] == verdict
    assert "smallest difference in accuracy that 600 items show" in ran.err.splitlines()[0]
    right = [
        np.array(
            [
                (r["label"] or "none") == r["gold"]
                for r in read_rows(folder / f"{arm}.predictions.jsonl")
            ]
        )
        for arm in "ab"
    ]
    assert versus["mcnemar"]["only_a"] == np.count_nonzero(right[0] & ~right[1])
    assert versus["mcnemar"]["only_b"] == np.count_nonzero(~right[0] & right[1])
    assert versus["differences"]["accuracy"]["value"] == pytest.approx(
        right[1].mean() - right[0].mean()
    )
    words = {"ship": "ship b", "don't": "don't ship b"}
    assert ran.out.startswith(words[verdict])


def test_options_of_an_engine_belong_to_it() -> None:
    """Also where a setting is called the same."""
    common = {"labels": "x,y", "engine": "fake"}
    (arm,) = arms_of({"a": "engine_option=accuracy=0.9,seed=5,prompt=text,seed=7"}, common)
    assert arm.config.engine_option == "accuracy=0.9,seed=5"
    assert (arm.config.prompt, arm.config.seed) == ("text", 7)


def test_too_few_items_are_told_as_a_number(llmcat: Cli, tmp_path: Path) -> None:
    """`you need about n more items`: arms that differ on many items, and little on the whole."""
    labelled(tmp_path / "x.jsonl", 150)
    (tmp_path / "q.toml").write_text(
        '[arms.a]\nengine_option = "accuracy=0.80,seed=1"\n'
        '[arms.b]\nengine_option = "accuracy=0.84,seed=2"\n'
    )
    ran = llmcat("ab", "--file", "x.jsonl", *FAKE, "--arms", "q.toml")
    assert ran.code == 0, ran.err
    (folder,) = folders(tmp_path)
    found = decision(folder)["decision"]
    assert found["low"] < 0 < found["high"]
    assert found["verdict"] == "more"
    assert ran.out.startswith(f"you need about {found['more']:,} more items")


def test_several_arms_are_corrected_for_and_the_best_is_shipped(
    llmcat: Cli, tmp_path: Path
) -> None:
    """Holm: the clearest of three is read at 5 % / 3."""
    labelled(tmp_path / "x.jsonl")
    ran = llmcat("ab", "--file", "x.jsonl", *FAKE, *arms(a=0.7, b=0.8, c=0.9, d=0.7))
    assert ran.code == 0, ran.err
    assert ran.out.startswith("ship c")
    (folder,) = folders(tmp_path)
    found = json.loads((folder / "comparison.json").read_text())
    levels = sorted(v["decision"]["alpha"] for v in found["versus"])
    assert levels == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])
    assert found["ship"] == "c"


def test_a_definition_file_with_two_prompts(llmcat: Cli, tmp_path: Path) -> None:
    """Settings, decision and arms in one file; flags win; segments by a column."""
    labelled(tmp_path / "x.jsonl", 300)
    (tmp_path / "q.toml").write_text(
        f'file = "x.jsonl"\nlabels = "{LABELS}"\nengine = "fake"\n'
        '[decision]\nmetric = "macro_f1"\nmin_effect = 2\n'
        '[arms.old]\nprompt = "zero-shot"\n[arms.new]\nprompt = "zero-shot.zh"\n'
        'engine_option = "accuracy=0.9,noise=0.1"\n'
    )
    ran = llmcat("ab", "--arms", "q.toml", "--limit", 200, "--segments", "shop", "--explain")
    assert ran.code == 0, ran.err
    (folder,) = folders(tmp_path)
    found = json.loads((folder / "comparison.json").read_text())
    assert (found["metric"], found["rule"]["min_effect"]) == ("macro_f1", 0.02)
    assert found["arms"] == ["old", "new"]
    assert found["n"] == 200
    shops = {s["value"]: s["n"] for s in found["versus"][0]["segments"] if s["by"] == "shop"}
    assert sum(shops.values()) == 200
    assert "taken for" in ran.out
    assert "in old: A. shoes" in ran.out
    assert "以上都不是" in (folder / "new.prefixes.jsonl").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--a", "zero-shot"), "a comparison needs two arms"),
        (("--a", "zero-shot", "--b", "file=y.jsonl"), "'file' is the same for all arms"),
        (("--a", "zero-shot", "--b", "promt=x"), "'promt' is not a setting"),
        (("--a", "zero-shot", "--b", "no-such-prompt"), "no-such-prompt"),
        (("--a", "zero-shot", "--b", "shots=many"), "arm b: shots"),
        (("--a", "zero-shot", "--b", "zero-shot.zh", "--block", "8"), "at least 64"),
        (("--a", "zero-shot", "--b", "taxonomy=t.yaml"), "labels"),
        (("--a", "zero-shot", "--b", "text", "--segments", "nowhere"), "no column 'nowhere'"),
        (("--a", "zero-shot", "--b", "text", "--metric", "log_loss"), "log_loss cannot decide"),
        (("--a", "text", "--b", "zero-shot", "--metric", "hierarchical_f1"), "a flat list"),
        (("--a", "zero-shot", "--b", "text", "--out", "-"), "writes a folder"),
        (("--arms", "nothing.toml"), "nothing.toml"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(
    llmcat: Cli, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    """Exit 2, one line, nothing asked."""
    labelled(tmp_path / "x.jsonl", 20)
    ran = llmcat("ab", "--file", "x.jsonl", *FAKE, *words)
    assert ran.code == 2, ran.err
    assert says in ran.err


def test_the_cheaper_arm_ships_when_it_is_not_worse(llmcat: Cli, tmp_path: Path) -> None:
    """--non-inferior: cheaper by tokens here; the dearer one does not ship."""
    labelled(tmp_path / "x.jsonl", 600)
    (tmp_path / "long.jinja").write_text(
        llmcat("prompts", "show", "zero-shot").out.replace("Rules:", "Rules, " + "many " * 40 + ":")
    )
    accurate = ("--engine-option", "accuracy=0.85", "--non-inferior", "2")
    file = ("--file", "x.jsonl")
    ran = llmcat("ab", *file, *FAKE, *accurate, "--a", "./long.jinja", "--b", "zero-shot")
    assert ran.out.startswith("ship b"), ran.out + ran.err
    ran = llmcat("ab", *file, *FAKE, *accurate, "--a", "zero-shot", "--b", "./long.jinja")
    assert ran.out.startswith("don't ship b")
    assert "not the cheaper arm" in ran.out


def test_speed_is_measured_alone_and_priced(llmcat: Cli, tmp_path: Path) -> None:
    """Latency as the engine has it, rate and price from the solo pass."""
    labelled(tmp_path / "x.jsonl", 300)
    slow = ("--a", "engine_option=latency=0.01", "--b", "engine_option=latency=0.03")
    ran = llmcat("ab", "--file", "x.jsonl", *FAKE, *slow, "--speed", "--price-per-hour", "3.6")
    assert ran.code == 0, ran.err
    (folder,) = folders(tmp_path)
    record = json.loads((folder / "run.json").read_text())
    for arm, latency in (("a", 0.01), ("b", 0.03)):
        speed, costs = record["arms"][arm]["speed"], record["arms"][arm]["costs"]
        assert speed["latency_seconds"]["p50"] == pytest.approx(latency, rel=0.2)
        assert speed["items"] == 300 - speed["warmed_with"]
        seconds = costs["server_seconds_per_1000"]
        assert costs["price_per_1000"] == pytest.approx(3.6 * seconds / 3600)
    assert "not measured" in ran.out  # energy


# -- looks ------------------------------------------------------------------------------------


def test_a_second_look_is_not_a_fresh_test(llmcat: Cli, tmp_path: Path) -> None:
    """Without a plan it says so; a plan made afterwards is refused."""
    two = ("--file", "x.jsonl", *FAKE, *arms(a=0.8, b=0.82))
    labelled(tmp_path / "x.jsonl", 200)
    assert "looked at before" not in llmcat("ab", *two).err
    assert "looked at before" not in llmcat("ab", *two).err  # the same look again
    assert "before by another rule" in llmcat("ab", *two, "--metric", "macro_f1").err
    labelled(tmp_path / "x.jsonl", 300)
    assert "this question was looked at before" in llmcat("ab", *two).err
    ran = llmcat("ab", *two, "--interim-looks", "3")
    assert ran.code == 2
    assert "without a plan" in ran.err


def test_planned_looks_spend_the_error(llmcat: Cli, tmp_path: Path) -> None:
    """Each at its own level; other items, more looks than planned or another plan are refused."""
    two = ("--file", "x.jsonl", *FAKE, *arms(a=0.8, b=0.82))
    alphas = []
    for number, n in enumerate((200, 300, 400), 1):
        labelled(tmp_path / "x.jsonl", n)
        ran = llmcat("ab", *two, "--interim-looks", "3")
        assert ran.code == 0, ran.err
        assert f"look {number} of 3" in ran.err
        latest = max(folders(tmp_path), key=lambda p: p.stat().st_mtime)
        alphas.append(decision(latest)["decision"]["alpha"])
    assert alphas[0] == pytest.approx(0.05 / 3)
    assert all(0 < alpha < 0.05 for alpha in alphas)
    again = llmcat("ab", *two, "--interim-looks", "3")
    assert again.code == 0  # the same look, not a fourth
    labelled(tmp_path / "x.jsonl", 500)
    assert "all 3 looks have been taken" in llmcat("ab", *two, "--interim-looks", "3").err
    assert "3 looks planned" in llmcat("ab", *two, "--interim-looks", "4").err
    labelled(tmp_path / "x.jsonl", 450, seed=9)
    assert "are not all among these" in llmcat("ab", *two, "--interim-looks", "3").err
    assert "3 looks at this question were planned" in llmcat("ab", *two).err


# -- runs -------------------------------------------------------------------------------------


def test_runs_are_listed_shown_compared_and_exported(llmcat: Cli, tmp_path: Path) -> None:
    """Two evaluations become a comparison; different items are refused; a run is a zip file."""
    labelled(tmp_path / "x.jsonl", 400)
    for accuracy in ("0.8", "0.9"):
        option = ("--engine-option", f"accuracy={accuracy}")
        assert llmcat("eval", "--file", "x.jsonl", *FAKE, *option).code == 0
    names = [p.name for p in folders(tmp_path)]
    listed = llmcat("runs", "list", COLUMNS="200").out
    assert all(name in listed for name in names)
    by_option = {
        json.loads((p / "run.json").read_text())["command"][-1]: p.name for p in folders(tmp_path)
    }
    low, high = by_option["accuracy=0.8"], by_option["accuracy=0.9"]
    ran = llmcat("runs", "compare", low, high.rpartition("-")[2])
    assert ran.code == 0, ran.err
    assert ran.out.startswith("ship b")
    shown = llmcat("runs", "show", low)
    assert "repeat   llmcat eval --file x.jsonl" in shown.out
    assert llmcat("runs", "export", low, "run.zip").code == 0
    assert llmcat("runs", "export", low, ".").code == 2
    with zipfile.ZipFile(tmp_path / "run.zip") as packed:
        assert f"{low}/predictions.jsonl" in packed.namelist()
        assert packed.testzip() is None
    labelled(tmp_path / "x.jsonl", 300)
    assert llmcat("eval", "--file", "x.jsonl", *FAKE, "--out", "fewer").code == 0
    ran = llmcat("runs", "compare", low, "fewer")
    assert ran.code == 2
    assert "different items or labels" in ran.err
    assert "no run is called" in llmcat("runs", "show", "zzz").err
    assert "no runs there" in llmcat("runs", "--runs", "nowhere", "list").err


def test_an_exported_run_can_be_repeated(llmcat: Cli, tmp_path: Path) -> None:
    """Its own copies of taxonomy, prompt and examples give the same predictions."""
    labelled(tmp_path / "x.jsonl", 80)
    (tmp_path / "t.yaml").write_text("[shoes, bags, toys]")
    (tmp_path / "mine.jinja").write_text(llmcat("prompts", "show", "few-shot").out)
    (tmp_path / "pool.jsonl").write_text(
        "\n".join(json.dumps({"title": f"a {n}", "label": n}) for n in LABELS.split(","))
    )
    shop = ("--taxonomy", "t.yaml", "--engine", "fake", "--prompt", "./mine.jinja")
    ran = llmcat("eval", "--file", "x.jsonl", *shop, "--examples", "pool.jsonl", "--out", "run")
    assert ran.code == 0, ran.err
    assert llmcat("runs", "export", "run", "run.zip").code == 0
    with zipfile.ZipFile(tmp_path / "run.zip") as packed:
        packed.extractall(tmp_path / "there")
    folder = tmp_path / "there" / "run"
    inputs = json.loads((folder / "run.json").read_text())["arms"]["eval"]["inputs"]
    assert set(inputs) == {"taxonomy", "prompt", "examples"}
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    with (tmp_path / "again.jsonl").open("w") as sink:
        for row in rows:
            sink.write(json.dumps(row["fields"] | {"id": row["id"], "label": row["gold"]}) + "\n")
    again = ["--taxonomy", folder / inputs["taxonomy"], "--prompt", folder / inputs["prompt"]]
    ran = llmcat("eval", "--file", "again.jsonl", "--engine", "fake", *again,
                 "--examples", folder / inputs["examples"], "--out", "second")  # fmt: skip
    assert ran.code == 0, ran.err
    name = "predictions.jsonl"
    assert (tmp_path / "second" / name).read_bytes() == (folder / name).read_bytes()


def test_the_registry_is_brought_up_to_date(tmp_path: Path) -> None:
    """A new file has the latest version; one from the future is not touched."""
    registry = Registry(tmp_path)
    registry.look("q", Look("accuracy", 2, 10, "x", "run", "now"))
    registry.look("q", Look("accuracy", 2, 10, "x", "run", "later"))
    assert len(registry.looks("q")) == 1
    registry.close()
    with sqlite3.connect(tmp_path / "runs.sqlite") as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(Exception, match="this llmcat knows"):
        Registry(tmp_path)


def test_two_at_once_share_the_answers_but_not_the_folder(llmcat: Cli, tmp_path: Path) -> None:
    """The second is told that the folder is being written."""
    labelled(tmp_path / "x.jsonl", 500)
    words = ["eval", "--file", "x.jsonl", *FAKE, "--engine-option", "latency=0.1"]
    command = [sys.executable, "-m", "llmcat", *words, "--concurrency", "8"]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("runs/*/.lock")) and time.monotonic() < deadline:
            time.sleep(0.05)
        ran = llmcat(*words, "--concurrency", "8")
        assert ran.code == 2
        assert "another llmcat is writing it" in ran.err
    finally:
        first.terminate()
        first.wait(60)


# -- real things ------------------------------------------------------------------------------


def test_two_prompts_on_the_real_server(llmcat: Cli, server: str, tmp_path: Path) -> None:
    """The demo model, our examples: tokens from the server, prefixes cached, a decision."""
    two = ("--a", "zero-shot", "--b", "definitions", "--base-url", server)
    ran = llmcat("ab", *SHOP, *two, "--limit", "128", "--block", "64", "--speed")
    assert ran.code == 0, ran.err
    (folder,) = folders(tmp_path)
    found = json.loads((folder / "comparison.json").read_text())
    assert found["metric"] == "hierarchical_f1"
    assert found["versus"][0]["decision"]["verdict"] in {"ship", "don't", "more"}
    record = json.loads((folder / "run.json").read_text())
    for arm in record["arms"].values():
        assert arm["costs"]["generated_tokens_per_item"] == pytest.approx(1.0)
        assert arm["costs"]["cached_tokens_per_item"] > 0
        assert arm["speed"]["items_per_second"] > 0
    again = llmcat("ab", *SHOP, *two, "--limit", "128", "--block", "64")
    assert "256 requests, 256 of them answered before" in again.err


def test_arms_at_the_margin_are_all_read_at_their_share() -> None:
    """Holm steps down against the margin, not 0: losers by just the margin are clear of neither."""
    n = 1000
    gold, nan = np.full(n, "shoes"), np.full(n, np.nan)

    def arm(lost: int, shift: int) -> Scored:
        label = np.where(np.roll(np.arange(n) < lost, shift), "bags", "shoes")
        return Scored(np.arange(n), gold, label, nan, nan, nan, nan, Counter())

    arms = {"a": arm(50, 0), "b": arm(100, 300), "c": arm(100, 600)}
    labels = Labels({k: {"path": [k], "parent": None, "names": {}} for k in ("shoes", "bags")})
    question = Question("accuracy", Rule(non_inferior=0.05))
    costs = {"a": 2.0, "b": 1.0, "c": 1.0}
    found = compare_arms(arms, labels, question, columns={}, costs=costs)
    assert [v["decision"]["alpha"] for v in found["versus"]] == [0.025, 0.025]
    assert found["ship"] is None
    found = compare_arms(arms, labels, Question("accuracy"), columns={}, costs=costs)
    assert [v["decision"]["alpha"] for v in found["versus"]] != [0.025, 0.025]


def test_an_arm_that_fails_throughout_ends_it(llmcat: Cli, tmp_path: Path) -> None:
    """No verdict over nothing; errors of some items stand before the verdict."""
    path = labelled(tmp_path / "l.jsonl", 60)
    (tmp_path / "bad.jinja").write_text(
        "---\nname: bad\nversion: 1\ndescription: x\n---\n{% block system %}{% for e in menu %}"
        "{{ e.code }} {{ e.label }}\n{% endfor %}{{ exit }}{% endblock %}"
        "{% block item %}{{ item.title }} {{ item.colour }}{% endblock %}"
    )
    ran = llmcat("ab", "--file", path, *FAKE, "--a", "prompt=zero-shot", "--b", "prompt=bad.jinja")
    assert ran.code == 2, ran.err
    assert "arm b failed on all of 60 items" in ran.err
    assert "the item has no column 'colour'" in ran.err
    body = (tmp_path / "bad.jinja").read_text()
    some = body.replace(
        "{{ item.colour }}", "{% if '1' in item.title %}{{ item.colour }}{% endif %}"
    )
    (tmp_path / "some.jinja").write_text(some)
    ran = llmcat("ab", "--file", path, *FAKE, "--a", "prompt=zero-shot", "--b", "prompt=some.jinja")
    said = " ".join(ran.out.split())
    assert re.search(r"b failed on \d+ of 60 items \(.*no column 'colour'\); don't ship b", said)


def test_identical_arms(llmcat: Cli, tmp_path: Path) -> None:
    """Every difference is 0 and nothing ships; a hundred items that agree prove little."""
    labelled(tmp_path / "x.jsonl", 100)
    assert llmcat("eval", "--file", "x.jsonl", *FAKE, "--out", "one").code == 0
    scored = Scored.read(tmp_path / "one" / "predictions.jsonl")
    labels = Labels.read(tmp_path / "one")
    for metric in ("accuracy", "macro_f1", "log_loss"):
        for costs in ({}, {"a": 2.0, "b": 1.0}):
            rule = Rule(non_inferior=0.01)
            question = Question(metric, rule)
            found = compare_arms(
                {"a": scored, "b": scored}, labels, question, columns={}, costs=costs
            )
            assert found["ship"] is None
    for difference in found["versus"][0]["differences"].values():
        if not difference["why"]:
            assert difference["value"] == 0
    accuracy = found["versus"][0]["differences"]["accuracy"]
    assert accuracy["low"] < 0 < accuracy["high"]


def test_the_records_of_a_run_are_checked_where_they_are_read(
    llmcat: Callable[..., Ran], tmp_path: Path
) -> None:
    """Every key that a run writes is declared; one of another type is named, not stumbled over."""
    flags = ("--file", EXAMPLES / "items.jsonl", "--taxonomy", EXAMPLES / "taxonomy.yaml")
    flags = (*flags, "--engine", "fake", "--limit", "40", "--out", tmp_path / "run", "--quiet")
    assert llmcat("ab", *flags, "--a", "zero-shot", "--b", "definitions").code == 0
    folder = tmp_path / "run"
    for name, declared in (("run.json", schema.RunRecord), ("comparison.json", schema.Comparison)):
        written = json.loads((folder / name).read_text())
        assert written.keys() <= declared.__annotations__.keys(), name
    record = json.loads((folder / "run.json").read_text())
    for arm in record["arms"].values():
        assert arm.keys() <= schema.ArmRecord.__annotations__.keys()
    (versus,) = json.loads((folder / "comparison.json").read_text())["versus"]
    assert versus.keys() == schema.Versus.__annotations__.keys()
    for segment in versus["segments"]:
        assert segment.keys() == schema.Segment.__annotations__.keys()
    record["arms"]["b"]["asks"] = "many"
    (folder / "run.json").write_text(json.dumps(record))
    ran = llmcat("runs", "show", folder)
    assert ran.code == 2
    assert "run.json: arms.b.asks: Input should be a valid integer" in ran.err


def test_a_gain_that_costs_the_recall_of_none_says_so_in_the_verdict() -> None:
    """An arm that never says none gains on 400 items and loses all 60 that belong nowhere."""
    n = 460
    gold = np.array(["shoes"] * 400 + ["none"] * 60)
    nan, labels = np.full(n, np.nan), Labels({"shoes": {"path": ["shoes"], "parent": None,
                                                        "names": {}}})  # fmt: skip

    def arm(label: np.ndarray[Any, Any]) -> Scored:
        return Scored(np.arange(n), gold, label, nan, nan, nan, nan, Counter())

    careful = np.where(np.arange(n) % 2 == 0, "none", gold)
    arms = {"a": arm(careful), "b": arm(np.full(n, "shoes"))}
    columns = segments_of(list(gold), ["x"] * n, labels, {})
    found = compare_arms(arms, labels, Question("accuracy"), columns=columns, costs={})
    assert found["ship"] == "b"
    assert found["verdict"].endswith("; but -100.0 on the 60 items that belong nowhere")
    better = {"a": arm(np.full(n, "none")), "b": arm(gold)}
    found = compare_arms(better, labels, Question("accuracy"), columns=columns, costs={})
    assert found["ship"] == "b"
    assert "but" not in found["verdict"]


def test_items_that_other_arms_were_compared_on_are_named(llmcat: Cli, tmp_path: Path) -> None:
    """An edited arm on the items whose mistakes it was edited after; the same question is not."""
    labelled(tmp_path / "x.jsonl", 200)
    flags = ("ab", "--file", "x.jsonl", *FAKE)
    assert "other arms were compared" not in llmcat(*flags, *arms(a=0.8, b=0.82)).err
    assert "other arms were compared" not in llmcat(*flags, *arms(a=0.8, b=0.82)).err
    assert "on these items 1 time before" in llmcat(*flags, *arms(a=0.8, b=0.85)).err
    assert "on these items 2 times before" in llmcat(*flags, *arms(a=0.8, b=0.86)).err
    labelled(tmp_path / "x.jsonl", 201)
    assert "other arms were compared" not in llmcat(*flags, *arms(a=0.8, b=0.87)).err


def test_arms_that_ask_the_same_say_so(llmcat: Cli, tmp_path: Path) -> None:
    """No call for more items; arms are named by what they are."""
    labelled(tmp_path / "x.jsonl", 40)
    ran = llmcat("ab", "--file", "x.jsonl", *FAKE, "--a", "zero-shot", "--b", "zero-shot.en")
    said = " ".join(ran.out.split())
    assert "don't ship b" in said
    assert "it asks what a asks: more items will not tell them apart" in said
    assert "(a: prompt=zero-shot; b: prompt=zero-shot.en)" in said
    assert "more items are needed" not in said
