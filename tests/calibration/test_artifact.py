"""llmcat calibrate, and classify behind a line: the promise, the refusals, resume, sets, drift."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import EXAMPLES, Ran, read_rows

from llmcat import Classifier
from llmcat.calibration.artifact import Calibration
from llmcat.calibration.decider import AcceptanceOptions, Calibrated
from llmcat.calibration.fit import fit, no_line, scores_of_row
from llmcat.calibration.scaling import logs, normalised
from llmcat.errors import BadConfig, InputError, LlmcatWarning
from llmcat.taxonomy.tree import Taxonomy

Cli = Callable[..., Ran]
FLAT = ("--labels", "shoes,bags,toys", "--engine", "fake")
TREE = ("--taxonomy", "tree.txt", "--engine", "fake")
HOT = ("--engine-option", "accuracy=0.85", "--engine-option", "sharpness=3")
KINDS = ("shoes", "bags", "toys", "none")
LEAVES = ("A > x", "A > y", "B > z", "B > w")


def write(path: Path, n: int, *, seed: int = 0, labels: tuple[str, ...] = KINDS) -> Path:
    draw = np.random.default_rng(seed)
    (path.parent / "tree.txt").write_text("\n".join(LEAVES))
    with path.open("w") as sink:
        for i in range(n):
            label = labels[draw.integers(len(labels))]
            row = {"id": i, "title": f"thing {i} {draw.integers(1e9)}", "label": label}
            sink.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def fitted(llmcat: Cli, tmp_path: Path) -> Path:
    """A calibration of 1,000 items; another 1,000 to classify."""
    write(tmp_path / "gold.jsonl", 1000)
    write(tmp_path / "new.jsonl", 1000, seed=1)
    ran = llmcat("calibrate", "--file", "gold.jsonl", *FLAT, *HOT, "--accept-precision", "0.9")
    assert ran.code == 0, ran.err
    assert "after" in ran.out
    return tmp_path / "calibration.json"


def test_a_calibration_of_01_is_read(fitted: Path, tmp_path: Path) -> None:
    """It says `strangeness`; the rest is as it was."""
    made = json.loads(fitted.read_text())
    for part in ("fitting", "gating"):
        made[part]["strangeness"] = made[part].pop("nonconformity")
    (tmp_path / "old.json").write_text(json.dumps(made))
    old, new = (Calibration.load(str(path)) for path in (tmp_path / "old.json", fitted))
    assert old == new
    assert old.digest == new.digest


def test_confidences_come_to_mean_what_they_say(llmcat: Cli, fitted: Path, tmp_path: Path) -> None:
    """The calibration error falls by half or more; accuracy stays."""
    errors = {}
    for name, more in (("raw", ()), ("calibrated", ("--calibration", fitted))):
        ran = llmcat("eval", "--file", "new.jsonl", *FLAT, *HOT, *more, "--out", name)
        assert ran.code == 0, ran.err
        found = json.loads((tmp_path / name / "metrics.json").read_text())["metrics"]
        errors[name] = found["ece_debiased"]["value"], found["accuracy"]["value"]
    assert errors["calibrated"][0] < 0.5 * errors["raw"][0]
    assert errors["calibrated"][1] >= errors["raw"][1] - 0.02


def test_what_is_accepted_is_right_as_promised(llmcat: Cli, fitted: Path, tmp_path: Path) -> None:
    """accept, review and none; the promise in words; a resumed run gives the same bytes."""
    line = ("--calibration", fitted, "--accept-precision", "0.75")
    command = ("classify", "--file", "new.jsonl", *FLAT, *HOT, *line, "--out", "out.jsonl")
    ran = llmcat(*command)
    assert ran.code == 0, ran.err
    assert "at least 0.75 is right" in ran.err
    assert "to review" in ran.err
    rows = read_rows(tmp_path / "out.jsonl")
    assert {r["decision"] for r in rows} <= {"accept", "review", "none"}
    sure = [r for r in rows if r["decision"] in {"accept", "none"}]
    right = np.mean([(r["label"] or "none") == r["gold"] for r in sure])
    assert len(sure) > 300
    assert right >= 0.73
    whole = (tmp_path / "out.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes(b"".join(lines[:400]))
    record = json.loads((tmp_path / "out.jsonl.run.json").read_text())
    (tmp_path / "out.jsonl.run.json").write_text(json.dumps(record | {"status": "running"}))
    assert llmcat(*command).code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def test_a_calibration_is_good_for_one_thing(llmcat: Cli, fitted: Path, tmp_path: Path) -> None:
    """Another prompt, other categories, another read mode: refused by name. So is a broken file."""
    new = ("--file", "new.jsonl", "--out", "x.jsonl")
    with_it = ("--calibration", fitted)
    ran = llmcat("classify", *new, *FLAT, *HOT, *with_it, "--prompt", "zero-shot.zh")
    assert ran.code == 2
    assert "fitted for something else" in ran.err
    assert "prompt: zero-shot.en@1" in ran.err
    ran = llmcat("classify", *new, "--labels", "shoes,bags", "--engine", "fake", *with_it)
    assert "taxonomy:" in ran.err
    ran = llmcat("classify", *new, *FLAT, *with_it, "--prompt", "text")
    assert "gives none" in ran.err
    ran = llmcat("classify", *new, *FLAT, "--accept-precision", "0.9")
    assert "need a calibration" in ran.err
    (tmp_path / "broken.json").write_text('{"version": 1}')
    ran = llmcat("classify", *new, *FLAT, "--calibration", "broken.json")
    assert "is not a calibration file" in ran.err
    ran = llmcat("calibrate", "--file", "gold.jsonl", *FLAT, "--prompt", "text")
    assert ran.code == 2


def test_too_few_labels_say_how_many_would_do(llmcat: Cli, tmp_path: Path) -> None:
    """And confidences that are right already are left alone, unless only a line is wanted."""
    write(tmp_path / "few.jsonl", 60)
    ran = llmcat("calibrate", "--file", "few.jsonl", *FLAT, *HOT)
    assert ran.code == 2
    assert "too few" in ran.err
    write(tmp_path / "gold.jsonl", 300)
    good = ("--engine-option", "accuracy=1", "--engine-option", "sharpness=9")
    ran = llmcat("calibrate", "--file", "gold.jsonl", *FLAT, *good, "--plain",
                 "--accept-precision", "0.95")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "at least 0.95 is right" in ran.out


def test_nothing_is_accepted_where_nothing_can_be_promised(llmcat: Cli, tmp_path: Path) -> None:
    """Zero coverage, and about how many labels more, is a correct result."""
    write(tmp_path / "gold.jsonl", 200)
    ran = llmcat("calibrate", "--file", "gold.jsonl", *FLAT, *HOT, "--accept-precision", "0.99")
    assert ran.code == 0, ran.err
    assert "nothing is accepted" in ran.out
    assert "label about" in ran.out or "no number of labels" in ran.out


def test_a_line_by_branch_that_cannot_be_drawn_accepts_nothing(llmcat: Cli, tmp_path: Path) -> None:
    """All goes to review; it is not as if no line had been asked for."""
    write(tmp_path / "gold.jsonl", 120, labels=LEAVES)
    write(tmp_path / "new.jsonl", 100, seed=3, labels=LEAVES)
    line = ("--accept-precision", "0.95", "--by-branch")
    assert llmcat("calibrate", "--file", "gold.jsonl", *TREE, *HOT, "--plain", *line).code == 0
    ran = llmcat("classify", "--file", "new.jsonl", *TREE, *HOT, *line,
                 "--calibration", "calibration.json", "--out", "out.jsonl")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "nothing is accepted" in ran.err
    assert {r["decision"] for r in read_rows(tmp_path / "out.jsonl")} == {"review"}


def test_none_has_a_line_of_its_own(llmcat: Cli, tmp_path: Path) -> None:
    """Nones that are always right do not carry labels that are not."""
    draw = np.random.default_rng(4)
    rows = []
    for i in range(1500):
        if draw.random() < 0.6:  # shares no word with a label: none, and rightly so
            rows.append({"id": i, "title": f"sofa {i}", "label": "none"})
        else:
            label = KINDS[draw.integers(3)]
            shown = label if draw.random() < 0.85 else KINDS[draw.integers(3)]
            rows.append({"id": i, "title": f"{shown} {i}", "label": label})
    (tmp_path / "gold.jsonl").write_text("\n".join(map(json.dumps, rows[:1000])))
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, rows[1000:])))
    quiet = ("--engine-option", "noise=0.1", "--accept-precision", "0.95")
    ran = llmcat("calibrate", "--file", "gold.jsonl", *FLAT, *quiet, "--plain")
    assert ran.code == 0, ran.err
    ran = llmcat("classify", "--file", "new.jsonl", *FLAT, *quiet, "--out", "out.jsonl",
                 "--calibration", "calibration.json")  # fmt: skip
    assert "and of what is called none" in ran.err
    made = read_rows(tmp_path / "out.jsonl")
    nones = [r["decision"] == "none" for r in made if r["label"] is None]
    assert np.mean(nones) > 0.5
    accepted = [r["label"] == r["gold"] for r in made if r["decision"] == "accept"]
    assert not accepted or np.mean(accepted) >= 0.93


def test_a_text_counts_once(llmcat: Cli, tmp_path: Path) -> None:
    """Five copies of each item are no more items; examples of the prompt are none at all."""
    rows = read_rows(write(tmp_path / "gold.jsonl", 200))
    (tmp_path / "five.jsonl").write_text("\n".join(json.dumps(r) for r in rows for _ in range(5)))
    made = []
    for name in ("gold", "five"):
        ran = llmcat("calibrate", "--file", f"{name}.jsonl", *FLAT, *HOT, "--plain")
        assert ran.code == 0, ran.err
        made.append(json.loads((tmp_path / "calibration.json").read_text())["gating"])
    assert made[0]["correct"] == made[1]["correct"]
    shots = ("--prompt", "few-shot", "--examples", "gold.jsonl")
    ran = llmcat("calibrate", "--file", "gold.jsonl", *FLAT, *shots, "--plain")
    assert ran.code == 2
    assert "0 labelled items" in ran.err or "needs probabilities" in ran.err


def test_duplicates_are_decided_alike(llmcat: Cli, fitted: Path, tmp_path: Path) -> None:
    """Label, confidence, decision and set."""
    rows = read_rows(tmp_path / "new.jsonl")[:300]
    (tmp_path / "twice.jsonl").write_text("\n".join(map(json.dumps, rows + rows)))
    line = ("--calibration", fitted, "--accept-precision", "0.8", "--set-coverage", "0.9")
    ran = llmcat("classify", "--file", "twice.jsonl", *FLAT, *HOT, *line, "--out", "out.jsonl")
    assert ran.code == 0, ran.err
    made = read_rows(tmp_path / "out.jsonl")
    for one, other in zip(made[:300], made[300:], strict=True):
        for name in ("label", "confidence", "decision", "set", "alternatives"):
            assert one[name] == other[name]


def test_back_off_answers_the_parent(llmcat: Cli, tmp_path: Path) -> None:
    """Where the leaf is unsure and the branch is not; an ancestor of the gold label is right."""
    write(tmp_path / "gold.jsonl", 1200, labels=LEAVES)
    write(tmp_path / "new.jsonl", 600, seed=3, labels=LEAVES)
    soft = ("--engine-option", "accuracy=0.9", "--engine-option", "sharpness=2")
    line = ("--accept-precision", "0.85", "--back-off")
    ran = llmcat("calibrate", "--file", "gold.jsonl", *TREE, *soft, *line)
    assert ran.code == 0, ran.err
    ran = llmcat("classify", "--file", "new.jsonl", *TREE, *soft, *line,
                 "--calibration", "calibration.json", "--out", "out.jsonl")  # fmt: skip
    assert ran.code == 0, ran.err
    rows = read_rows(tmp_path / "out.jsonl")
    answered = [r for r in rows if r["decision"] == "accept"]
    right = [r["gold"].startswith(r["label"]) for r in answered]
    assert len(answered) > 100
    assert np.mean(right) >= 0.83
    assert {r["decision"] for r in rows} <= {"accept", "review"}


def test_sets_hold_the_label(llmcat: Cli, fitted: Path, tmp_path: Path) -> None:
    """In about nine of ten rows; whole branches stand for their leaves."""
    out = ("--calibration", fitted, "--set-coverage", "0.9", "--out")
    ran = llmcat("classify", "--file", "new.jsonl", *FLAT, *HOT, *out, "out.jsonl")
    assert ran.code == 0, ran.err
    rows = read_rows(tmp_path / "out.jsonl")
    assert 0.86 <= np.mean([r["gold"] in r["set"] for r in rows]) <= 1.0
    assert (
        llmcat(
            "classify", "--file", "new.jsonl", *FLAT, *HOT, *out, "out.csv", "--keep", "none"
        ).code
        == 0
    )
    assert (tmp_path / "out.csv").read_text().splitlines()[0].endswith(",gold,set")


def test_a_run_that_drifted_says_so(llmcat: Cli, fitted: Path, tmp_path: Path) -> None:
    """Items the model is unsure of, where it was sure when it was calibrated."""
    soft = ("--engine-option", "accuracy=0.5", "--engine-option", "sharpness=0.5")
    more = ("--calibration", fitted, "--out", "out.jsonl")
    ran = llmcat("classify", "--file", "new.jsonl", *FLAT, *soft, *more)
    assert ran.code == 0, ran.err
    assert "confidences have moved since the calibration" in ran.err


def test_orders_are_averaged(llmcat: Cli, tmp_path: Path) -> None:
    """Four asks for each item; auto asks again only some, and says how many."""
    write(tmp_path / "x.jsonl", 200)
    ran = llmcat("classify", "--file", "x.jsonl", *FLAT, *HOT, "--orders", "4", "--out", "a.jsonl")
    assert ran.code == 0, ran.err
    assert "asked in several orders: 200 items" in ran.err
    ran = llmcat(
        "classify", "--file", "x.jsonl", *FLAT, *HOT, "--orders", "auto", "--out", "b.jsonl"
    )
    assert "asked in several orders:" in ran.err
    asks = json.loads((tmp_path / "b.jsonl.run.json").read_text())["sessions"][0]["asks"]["asked"]
    assert 200 < asks <= 800
    ran = llmcat("classify", "--file", "x.jsonl", *FLAT, "--prompt", "text", "--orders", "2")
    assert ran.code == 2
    assert "averages probabilities" in ran.err


def test_from_python(fitted: Path) -> None:
    """`calibrate`, and `predict_proba` gives the calibrated vector."""
    rows = read_rows(fitted.parent / "gold.jsonl")
    new = [r["title"] for r in read_rows(fitted.parent / "new.jsonl")][:50]
    options: dict[str, Any] = {"engine": "fake", "engine_option": "sharpness=3"}
    with Classifier(["shoes", "bags", "toys"], **options, accept_precision=0.1) as clf:
        titles = [r["title"] for r in rows]
        with pytest.warns(LlmcatWarning, match="hardly depend"):  # its titles hold no category
            clf.calibrate(titles, [r["label"] for r in rows], plain=True)
        assert {r["decision"] for r in clf.classify(new)} <= {"accept", "review", "none"}
    with Classifier(["shoes", "bags", "toys"], **options) as clf:
        with pytest.warns(LlmcatWarning, match="hardly depend"):
            before = clf.predict_proba(new)
        clf.calibrate([r["title"] for r in rows], [r["label"] for r in rows])
        after = clf.predict_proba(new)
    assert after.sum(axis=1) == pytest.approx(np.ones(50))
    assert np.abs(after - before).max() > 0.01
    clf = Classifier(["shoes", "bags"], **options, calibration=str(fitted))
    with clf, pytest.raises(BadConfig, match="something else"):
        clf.predict(["x"])


def test_a_line_on_the_real_server(llmcat: Cli, server: str, tmp_path: Path) -> None:
    """The demo model on our pool: fitted, then used on our examples."""
    shop = ("--taxonomy", EXAMPLES / "taxonomy.yaml", "--base-url", server)
    ran = llmcat(
        "calibrate", "--file", EXAMPLES / "items.jsonl", *shop, "--accept-precision", "0.7"
    )
    assert ran.code == 0, ran.err
    assert "items fit" in ran.out
    ran = llmcat("classify", "--file", EXAMPLES / "pool.jsonl", *shop, "--out", "out.jsonl",
                 "--calibration", "calibration.json", "--accept-precision", "0.7")  # fmt: skip
    assert ran.code == 0, ran.err
    assert {r["decision"] for r in read_rows(tmp_path / "out.jsonl")} <= {
        "accept",
        "review",
        "none",
    }


# -- a model that does not read its menu --------------------------------------------------------

MANY = [f"l{i}" for i in range(30)]


def posteriors(
    n: int, *, evidence: float, bias: float, hot: float = 1.0, noise: float = 0.7, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors over 30 labels and none that like one code, with so much evidence of the truth."""
    draw = np.random.default_rng(seed)
    gold = draw.integers(0, 31, n)
    prefer = draw.normal(0, bias / 3, 31)
    prefer[1] = bias
    logits = prefer + draw.normal(0, noise, (n, 31))
    logits[np.arange(n), gold] += evidence
    return np.exp(normalised(hot * logits)), gold


def fitted_on(p: np.ndarray, gold: np.ndarray, **how: bool) -> tuple[Calibration, float, float]:
    """Return a calibration, and how often the other part is right before and after it."""
    labels, tree = [*MANY, "none"], Taxonomy.from_labels(MANY)
    decided = [(labels[row.argmax()], float(row.max())) for row in p]
    names = [labels[i] for i in gold]
    seen = np.ones(len(p), dtype=bool)
    options: dict[str, Any] = {"bound": {}, "mass": None, "version": "0", **how}
    made = fit(p, seen, labels, names, decided, tree, **options)
    decider = Calibrated(made, tree, AcceptanceOptions())
    after = [
        decider.refine(scores_of_row(p[i], seen=True, labels=labels, decided=decided[i])).label
        == names[i]
        for i in made.gating_rows
    ]
    before = [decided[i][0] == names[i] for i in made.gating_rows]
    return made, float(np.mean(before)), float(np.mean(after))


@pytest.mark.parametrize(("hot", "bias"), [(1.0, 4.0), (1.0, 6.0), (3.0, 3.0)])
def test_letters_that_are_preferred_are_taken_off(hot: float, bias: float) -> None:
    """Although rarely being right is easier to foretell than being right more often."""
    made, before, after = fitted_on(*posteriors(256, evidence=1.5, bias=bias, hot=hot))
    assert made.prior is not None or made.scaling == "vector"
    assert before < 0.2
    assert after > before + 0.05


def test_an_over_sure_collapse_gets_a_temperature() -> None:
    """Nothing of the truth is in it: what is left is no worse than an even share."""
    p, gold = posteriors(256, evidence=0.0, bias=3.0, hot=2.0)
    even = np.log(31)
    assert -logs(p)[np.arange(256), gold].mean() > even + 0.5
    made, _, _ = fitted_on(p, gold)
    assert made.scaling != "none"
    loss = made.report["cross_validated_log_loss"]
    assert min(loss.values()) < even + 0.1
    assert "no line can be drawn" in no_line(made.gating.confidence, made.gating.correct)


def test_posteriors_that_are_right_are_left_alone() -> None:
    """Neither a prior nor a temperature gains: refused, as before; --plain keeps them."""
    draw = np.random.default_rng(3)
    q = normalised(draw.normal(0, 2.5, (300, 31)))
    gold = (np.exp(q).cumsum(axis=1) > draw.random(300)[:, None]).argmax(axis=1)
    with pytest.raises(InputError, match=r"no calibration is better|too few to beat"):
        fitted_on(np.exp(q), gold)
    made, before, after = fitted_on(np.exp(q), gold, plain=True)
    assert (made.prior, made.scaling, before) == (None, "none", after)


def test_no_line_is_said_only_where_there_is_none() -> None:
    """Ten sure items that are right are a line; a lucky one is not."""
    sure, right = np.linspace(0.9, 0.1, 200), np.arange(200) < 10
    assert no_line(sure, right) == ""
    assert no_line(sure, np.arange(200) < 4).startswith("right on 2 % of 200 items: no line can be")
    assert no_line(sure[:80], np.arange(80) % 2 == 0) == ""


def test_calibrate_says_what_a_collapse_is_worth(llmcat: Cli, tmp_path: Path) -> None:
    """Right on a few percent; and with --plain, worse than an even share. Exit 0: it was fitted."""
    labels = ",".join(MANY)
    write(tmp_path / "gold.jsonl", 240, labels=tuple(MANY))
    deaf = ("--labels", labels, "--engine", "fake", "--file", "gold.jsonl",
            "--engine-option", "accuracy=0.04", "--engine-option", "sharpness=4")  # fmt: skip
    ran = llmcat("calibrate", *deaf, "--plain")
    assert ran.code == 0, ran.err
    assert "of 240 items: no line can be drawn" in ran.out
    assert "WARNING: kept as they are, these probabilities are worse than an even share" in ran.out
    assert "an even share over 31 labels has 3.43" in ran.out
    ran = llmcat("calibrate", *deaf)
    assert ran.code == 0, ran.err
    assert "scaling: temperature" in ran.out or "scaling: vector" in ran.out
