"""Fixed rules before the model: always, never, one a group; counted and explained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Ran, read_rows

Cli = Callable[..., Ran]
FAKE = ("--labels", "shoes,bags,toys", "--engine", "fake")
ITEMS = """id,title,brand,parent
1,red shoes,Acme,
2,red shoes,Other,
3,leather bags,Zeta,
4,leather bags,Other,
5,wooden toys,x,P1
6,size two of it,x,P1
7,gift card shoes,x,
"""
RULES = """rules:
  - if: {brand: "  ACME "}
    label: toys
  - if: {title: "*gift card*"}
    label: none
  - if: {brand: zeta}
    never: [bags]
  - same: parent
"""


def test_rules_stand_before_the_model(tmp_path: Path, llmcat: Cli) -> None:
    """The same text may have two answers; who decided stands in the row, how often at the end."""
    (tmp_path / "a.csv").write_text(ITEMS)
    (tmp_path / "r.yaml").write_text(RULES)
    flags = ("classify", "a.csv", *FAKE, "--rules", "r.yaml", "--out", "o.jsonl")
    ran = llmcat(*flags)
    assert ran.code == 0, ran.err
    rows = read_rows(tmp_path / "o.jsonl")
    got = {row["id"]: row["label"] for row in rows}
    assert (got["1"], got["2"], got["4"]) == ("toys", "shoes", "bags")
    assert got["3"] != "bags"
    assert got["5"] == got["6"] == "toys"
    assert got["7"] is None
    by_id = {row["id"]: row for row in rows}
    assert by_id["1"]["reason"] == "rule 1: brand is   ACME "
    assert by_id["7"]["decision"] == "none"
    assert "not bags: rule 3: brand is zeta" in by_id["3"]["reason"]
    assert "rule 2: title is *gift card*: 1 rows" in ran.err
    record = json.loads((tmp_path / "o.jsonl.run.json").read_text())
    assert record["sessions"][0]["asks"]["asked"] == 4
    (tmp_path / "s.yaml").write_text(
        "- {if: {title: '[new]*'}, label: bags}\n- {if: {stock: yes}, label: toys}\n"
        "- {if: {brand: z}, never: [shoes]}\n- same: parent\n"
    )
    (tmp_path / "b.csv").write_text(
        "id,title,stock,brand,parent\n1,[NEW] thing,no,,\n2,what,no,,\n3,thing,yes,,\n"
        "4,red shoes,no,,P\n5,red shoes xl,no,Z,P\n"
    )
    assert llmcat("classify", "b.csv", *FAKE, "--rules", "s.yaml", "--out", "p.jsonl").code == 0
    labels = [row["label"] for row in read_rows(tmp_path / "p.jsonl")]
    assert (labels[0], labels[2], labels[3]) == ("bags", "toys", "shoes")
    assert labels[1] != "bags"
    assert labels[4] != "shoes"
    (tmp_path / "r.yaml").write_text(RULES.replace("toys", "bags"))
    ran = llmcat(*flags)
    assert (ran.code, "rules" in ran.err) == (2, True), ran.err


def test_a_run_with_rules_goes_on(tmp_path: Path, llmcat: Cli) -> None:
    """What a rule decided about a text is not taken for the text's own answer."""
    (tmp_path / "a.csv").write_text(ITEMS)
    (tmp_path / "r.yaml").write_text(RULES)
    flags = ("classify", "a.csv", *FAKE, "--rules", "r.yaml")
    assert llmcat(*flags, "--out", "whole.jsonl").code == 0
    assert llmcat(*flags, "--out", "o.jsonl", "--max-requests", "1").code == 1
    assert len(read_rows(tmp_path / "o.jsonl")) == 2
    assert llmcat(*flags, "--out", "o.jsonl").code == 0
    labels = [[row["label"] for row in read_rows(tmp_path / n)] for n in ("whole.jsonl", "o.jsonl")]
    assert labels[0] == labels[1]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("[]", "a list of rules is expected"),
        ("- label: toys", "rule 1 needs `if: {column: value}`"),
        ("- {if: {brand: x}, label: toys, never: [bags]}", "rule 1 needs"),
        ("- {if: {brand: x}, label: hats}", "rule 1: 'hats' is not in the taxonomy"),
        ("- {if: {brand: x}, lable: toys}", "rule 1 is not one"),
        ("- {same: parent, label: toys}", "`same` names a column, and stands alone"),
        ("- {if: {colour: x}, label: toys}", "no column 'colour'"),
        ("- [", "cannot be read"),
    ],
)
def test_what_is_no_rule_is_refused(tmp_path: Path, llmcat: Cli, rules: str, said: str) -> None:
    """Before anything is asked."""
    (tmp_path / "a.csv").write_text(ITEMS)
    (tmp_path / "r.yaml").write_text(rules)
    ran = llmcat("classify", "a.csv", *FAKE, "--rules", "r.yaml", "--out", "o.jsonl")
    assert (ran.code, said in ran.err) == (2, True), ran.err
