"""`--multi`: an item may have several labels, from the file's cells to the decision."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers import Ran, read_rows

Cli = Callable[..., Ran]
TAGS = ("--labels", "red,blue,shoes,bags", "--engine", "fake", "--sources", "lexical", "--multi")


def items(n: int = 60) -> list[dict[str, Any]]:
    """Titles that name their tags, each title once."""
    kinds = [
        ("red shoes", ["red", "shoes"]),
        ("blue bags", ["blue", "bags"]),
        ("shoes and bags in red", ["red", "shoes", "bags"]),
        ("a blue thing", ["blue"]),
        ("wooden spoon", []),
    ]
    return [
        {"id": f"i{i}", "title": f"{kinds[i % 5][0]} {i:03}", "label": kinds[i % 5][1]}
        for i in range(n)
    ]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "tags.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in items()))
    return path


def test_the_labels_of_a_row_in_every_format(llmcat: Cli, labelled: Path, tmp_path: Path) -> None:
    """A list in JSONL and Parquet, `a|b` in CSV; what CSV says is read as the gold it is."""
    for name in ("out.jsonl", "out.csv", "out.parquet"):
        flags = () if name == "out.jsonl" else ("--keep", "none")
        ran = llmcat("classify", "--file", labelled, *TAGS, "--out", tmp_path / name, *flags)
        assert ran.code == 0
    rows = read_rows(tmp_path / "out.jsonl")
    several = [[one["label"] for one in row["labels"]] for row in rows]
    assert max(map(len, several)) > 1
    assert rows[0]["gold"] == "red|shoes"
    assert rows[4]["gold"] == "none"
    for row, labels in zip(rows, several, strict=True):
        assert row["label"] == (labels[0] if labels else None)
        assert row["decision"] == ("labelled" if labels else "none")
        assert not {other["label"] for other in row["alternatives"]} & set(labels)
    with (tmp_path / "out.csv").open() as text:
        cells = [row["labels"] for row in csv.DictReader(text)]
    assert cells == ["|".join(labels) or "none" for labels in several]
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [[one["label"] for one in row["labels"]] for row in table] == several
    again = tmp_path / "again.csv"
    again.write_text(
        "title,label\n"
        + "".join(f"{row['title']},{cell}\n" for row, cell in zip(items(), cells, strict=True))
    )
    found = llmcat("eval", "--file", again, *TAGS)
    assert found.code == 0
    assert "example F1 100.0 %" in found.out


def test_eval_ab_and_calibrate(llmcat: Cli, labelled: Path, tmp_path: Path) -> None:
    """F1 of items leads; a comparison decides by it; what is learnt is used and bound."""
    ran = llmcat("eval", "--file", labelled, *TAGS)
    assert ran.code == 0
    assert ran.out.startswith("example F1 ")
    assert "the model adds" in ran.out.replace("\n", " ")
    for name in ("subset accuracy", "hamming loss", "micro F1", "macro F1"):
        assert name in ran.out
    ran = llmcat("ab", "--file", labelled, *TAGS, "--a", "multi=menu", "--b", "multi=each")
    assert ran.code == 0
    assert "example F1" in ran.out.splitlines()[0]
    assert llmcat("ab", "--file", labelled, *TAGS, "--a", "multi=", "--b", "multi=menu").code == 2
    ran = llmcat("calibrate", "--file", labelled, *TAGS)
    assert ran.code == 0
    assert "retrieval alone" in ran.out
    learnt = json.loads((tmp_path / "artifact.json").read_text())["parts"]["several"]
    assert learnt["bound"] == {"multi": "menu"}
    assert learnt["learnt"]["model"]["n"] == 60
    used = ("--artifact", "artifact.json", "--out")
    ran = llmcat("classify", "--file", labelled, *TAGS, *used, tmp_path / "after.jsonl")
    assert ran.code == 0
    right = [
        {one["label"] for one in row["labels"]} == set(item["label"])
        for row, item in zip(read_rows(tmp_path / "after.jsonl"), items(), strict=True)
    ]
    assert sum(right) >= 40
    for flags, said in (
        ((*TAGS[:-1],), "multi: menu then"),
        ((*TAGS, "each"), "multi: menu then, each now"),
    ):
        refused = llmcat("classify", "--file", labelled, *flags, *used, "-")
        assert refused.code == 2
        assert said in refused.err


def test_a_run_goes_on_and_twins_are_asked_about_once(llmcat: Cli, tmp_path: Path) -> None:
    """A row that came before says all of its labels, also of an item that looks the same."""
    path, out = tmp_path / "twice.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"title": "red shoes"}\n' * 3 + '{"title": "blue bags"}\n')
    assert llmcat("classify", "--file", path, *TAGS, "--out", out).code == 0
    whole = out.read_bytes()
    out.write_bytes(whole[: whole.index(b"\n") + 1])
    record = Path(f"{out}.run.json")
    record.write_text(record.read_text().replace('"done"', '"failed"'))
    assert llmcat("classify", "--file", path, *TAGS, "--out", out).code == 0
    assert out.read_bytes() == whole
    rows = read_rows(out)
    assert rows[0]["labels"] == rows[2]["labels"] != rows[3]["labels"]


def test_show_and_explain_say_all_labels(llmcat: Cli, labelled: Path, tmp_path: Path) -> None:
    """A row with two labels is shown with both, and says what each source gave to either."""
    out = tmp_path / "out.jsonl"
    assert llmcat("classify", "--file", labelled, *TAGS, "--out", out, "--limit", "3").code == 0
    row = next(row for row in read_rows(out) if len(row["labels"]) > 1)
    names = [one["path"] for one in row["labels"]]
    assert ", ".join(names) in llmcat("show", out).out
    said = llmcat("explain", row["id"], "--run", out).out
    assert "; ".join(f"{one['path']} {one['p']:.3f}" for one in row["labels"]) in said


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        ("classify", ("--accept-precision", "0.9"), "--accept-precision is for items with one"),
        ("classify", ("--sources", "none"), "--multi goes by retrieval"),
        ("eval", ("--audit",), "--audit: one label an item"),
        ("ab", ("--a", "seed=1", "--b", "seed=2", "--metric", "accuracy"), "cannot decide where"),
    ],
)
def test_what_has_no_meaning_is_refused(
    llmcat: Cli, labelled: Path, command: str, flags: tuple[str, ...], said: str
) -> None:
    """One line, exit 2, before anything is asked."""
    ran = llmcat(command, "--file", labelled, *TAGS, *flags)
    assert ran.code == 2
    assert said in ran.err
    assert "internal error" not in ran.err


@pytest.mark.parametrize("command", ["tune", "fallback", "student", "labels"])
def test_commands_of_one_label_refuse_the_setting(
    llmcat: Cli, labelled: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting in the environment or in llmcat.toml is not ignored in silence."""
    monkeypatch.setenv("LLMCAT_MULTI", "true")
    action = {"student": ("train",), "labels": ("import",)}.get(command, ())
    ran = llmcat(command, *action, "--file", labelled, "--labels", "red,blue,shoes,bags")
    assert ran.code == 2
    assert "one label an item" in ran.err


def test_gold_that_cannot_be_is_named(llmcat: Cli, tmp_path: Path) -> None:
    """A label the taxonomy does not have, and `none` beside others."""
    path = tmp_path / "bad.csv"
    path.write_text("title,label\nred shoes,red|shoos\nblue bags,blue\n")
    ran = llmcat("eval", "--file", path, *TAGS)
    assert ran.code == 2
    assert "'shoos', 1 times; nearest: 'shoes'" in ran.err
    path.write_text("title,label\nred shoes,red|none\nblue bags,blue\n")
    assert llmcat("classify", "--file", path, *TAGS, "--out", tmp_path / "o.jsonl").code == 0
    assert [row["gold"] for row in read_rows(tmp_path / "o.jsonl")] == ['["red|none"]', "blue"]
    ran = llmcat("eval", "--file", path, *TAGS)
    assert ran.code == 2
    assert "'red|none', 1 times" in ran.err


def test_rows_that_are_errors_have_the_same_columns(llmcat: Cli, tmp_path: Path) -> None:
    """A first row without an answer takes no label of the others away, nor a bar in a name."""
    path, tree = tmp_path / "e.jsonl", tmp_path / "t.jsonl"
    tree.write_text('{"id": "a|b", "name": "red"}\n{"id": "c", "name": "shoes"}\n')
    path.write_text(
        '{"title": "", "label": ["a|b"]}\n{"title": "red shoes", "label": ["a|b", "c"]}\n'
    )
    flags = ("--taxonomy", tree, "--engine", "fake", "--sources", "lexical", "--multi")
    for name in ("o.jsonl", "o.csv", "o.parquet"):
        out = ("--out", tmp_path / name, "--keep", "none")
        assert llmcat("classify", "--file", path, *flags, *out).code == 1
    first, second = read_rows(tmp_path / "o.jsonl")
    assert (first["labels"], first["gold"]) == ([], '["a|b"]')
    assert second["labels"]
    table = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert [len(row["labels"]) for row in table] == [0, len(second["labels"])]
    with (tmp_path / "o.csv").open() as text:
        assert next(csv.DictReader(text))["labels"] == "none"
    assert llmcat("eval", "--file", path, *flags).code == 1
    (folder,) = (tmp_path / "runs").glob("e-*")
    classes = [c["label"] for c in json.loads((folder / "metrics.json").read_text())["classes"]]
    assert set(classes) == {"a|b", "c", "none"}


def test_what_cannot_go_together_is_refused(llmcat: Cli, labelled: Path, tmp_path: Path) -> None:
    """Runs of one and of several labels; an artifact without a model; orders of one at a time."""
    one = tmp_path / "one.csv"
    one.write_text("title,label\nred hat,red\nblue bag,bags\n")
    for flags in (TAGS[:-1], TAGS):
        assert llmcat("eval", "--file", one, *flags, "--runs", "rc").code == 0
    names = [path.name for path in (tmp_path / "rc").glob("one-*")]
    ran = llmcat("runs", "--runs", "rc", "compare", *names)
    assert ran.code == 2
    assert "one label, one several" in ran.err
    alone = (*TAGS[:2], "--engine", "retriever", *TAGS[4:])
    assert llmcat("calibrate", "--file", labelled, *alone).code == 0
    ran = llmcat("classify", "--file", labelled, *TAGS, "--artifact", "artifact.json")
    assert ran.code == 2
    assert "learnt without a model" in ran.err
    assert llmcat("classify", "--file", labelled, *alone, "--artifact", "artifact.json").code == 0
    assert llmcat("calibrate", "--file", labelled, *TAGS, "--plain").code == 2
    ran = llmcat("classify", "--file", labelled, *TAGS, "each", "--orders", "2")
    assert ran.code == 2
    assert "asks about one at a time" in ran.err


def test_nothing_but_none_is_measured(llmcat: Cli, tmp_path: Path) -> None:
    """Where nothing applies and nothing is given, all is right."""
    path = tmp_path / "n.csv"
    path.write_text("title,label\nhello there,none\nwho are you,none\n")
    many = ",".join(f"category {i}" for i in range(300))
    ran = llmcat("eval", "--file", path, "--labels", many, "--engine", "retriever", "--sources",
                 "lexical", "--multi")  # fmt: skip
    assert ran.code == 0
    assert ran.out.startswith("example F1 100.0 %")
