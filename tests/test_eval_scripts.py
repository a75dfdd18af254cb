"""The scripts under eval/ that people run: sets, definitions, the README's table."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT

from llmcat.evaluation.arms import arms_of, definition
from llmcat.taxonomy.tree import Taxonomy

DATA = Path(os.environ.get("LLMCAT_DATA", ROOT.parent / "shared" / "data"))
SIZES = {
    "shop32": (640, 32),
    "banking77": (3080, 77),
    "clinc150": (3100, 150),
    "jd_hard_zh": (2516, 255),
}
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the public sets are not here; LLMCAT_DATA names their folder"
)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "eval" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "eval" / "sets.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check(folder: Path) -> tuple[int, int]:
    """Every label is in the taxonomy; returns items and leaves."""
    taxonomy = Taxonomy.load(folder / "taxonomy.jsonl")
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    for item in items:
        assert item["label"] == "none" or taxonomy.resolve(item["label"]), item
    return len(items), len(taxonomy.leaves)


def test_the_table_of_the_readme_is_made_from_the_results() -> None:
    """`python eval/results.py table` would change nothing."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert script("results").with_table(text) == text


def test_public_sources_are_converted(tmp_path: Path) -> None:
    """In the form in which they are published; out of scope becomes `none`."""
    with (tmp_path / "test.csv").open("w", newline="") as sink:
        rows = [["text", "category"], ["where is it", "card_arrival"], ["why", "top_up"]]
        csv.writer(sink).writerows(rows)
    assert prepare("banking77", tmp_path / "b", "--source", tmp_path / "test.csv").returncode == 0
    assert check(tmp_path / "b") == (2, 2)
    known = [["say hello", "greeting"], ["book a table", "restaurant_reservation"]]
    parts = {"val": known, "oos_val": [["rhubarb", "oos"]], "train": []}
    (tmp_path / "full.json").write_text(json.dumps(parts))
    assert prepare("clinc150", tmp_path / "c", "--source", tmp_path / "full.json").returncode == 0
    assert check(tmp_path / "c") == (3, 2)
    assert prepare("shop32", tmp_path / "d", "--source", tmp_path / "test.csv").returncode == 2


@needs_data
@pytest.mark.parametrize("name", SIZES)
def test_prepared_sets(tmp_path: Path, name: str) -> None:
    """The sizes that the data's own description gives."""
    done = prepare(name, tmp_path / name, "--data", DATA)
    assert done.returncode == 0, done.stderr
    assert check(tmp_path / name) == SIZES[name]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "eval" / "ab").glob("*.toml")), ids=lambda p: p.stem
)
def test_definitions_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, decision and at least two arms."""
    monkeypatch.chdir(ROOT)
    common, decision, changes = definition(str(path))
    arms = arms_of(changes, {**common, "engine": "fake"})
    assert len(arms) >= 2
    assert set(decision) <= {"metric", "min_effect", "non_inferior", "looks", "block"}
    assert arms[0].config.taxonomy


def test_the_simulation_runs() -> None:
    """Few sets: the tables come out, and nothing is off by much."""
    simulate = script("simulate")
    gold, (p, q) = simulate.data(0, 400, simulate.SKILLS)
    found = simulate.differences(gold, simulate.values(gold, p), simulate.values(gold, q))
    assert set(found) == {"accuracy", "micro F1", "macro F1", "log-loss", "Brier"}
    assert all(d.low <= d.value <= d.high for d in found.values())
    shipped = sum(simulate.shipped(seed, 3, (100, 200)) for seed in range(20))
    assert shipped <= 5
    assert sum(simulate.detected(seed, 400, 0.05, 0.15) for seed in range(200)) > 100


@pytest.mark.parametrize("menus", ["fixed", "shuffled", "shortlist"])
def test_the_watch_over_answers_in_simulated_runs(menus: str) -> None:
    """Few runs: sound ones are quiet, collapsed ones are seen."""
    simulate = script("simulate_collapse")
    for labels in (31,) if menus == "shortlist" else (3, 31):
        for kind in simulate.KINDS:
            found = [simulate.alarmed(seed, kind, labels, menus) for seed in range(12)]
            assert all(found) if kind in {"code", "label"} else not any(found), (kind, labels)
