"""The user's own table with what was decided beside it; predictions read back, compared, mended."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import openpyxl.chart
import pandas as pd
import pytest
from helpers import Ran, read_rows

from llmcat import Classifier
from llmcat.errors import InputError
from llmcat.pipeline.read_back import predictions_in

Cli = Callable[..., Ran]
LABELS = "shoes,bags,toys"
FAKE = ("--labels", LABELS, "--engine", "fake")
SHOP = '\ufeffSKU;Title;Preis\r\n001;"red shoes; size 9";9,50\r\n002;bags;12,00\r\n003;;1\r\n'


def table(path: Path, **how: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline=""), **how))


def test_the_file_comes_back_as_it_was(tmp_path: Path, llmcat: Cli) -> None:
    """Separator, line ends, mark, order; a column more each; a bad row keeps its place."""
    (tmp_path / "shop.csv").write_text(SHOP, newline="")
    ran = llmcat("classify", "shop.csv", *FAKE, "--out", "out.csv")
    assert ran.code == 1, ran.err
    raw = (tmp_path / "out.csv").read_bytes().decode()
    lines = SHOP.splitlines()
    added = raw.splitlines()
    assert added[0] == f"{lines[0]};label;path;decision;confidence;others;reason;key"
    for line, other in zip(lines[1:], added[1:], strict=True):
        assert other.startswith(f"{line};")
    assert raw.count("\r\n") == 4
    found = table(tmp_path / "out.csv", delimiter=";")
    assert [row["label"] for row in found] == ["shoes", "bags", ""]
    assert found[2]["decision"] == "error"
    assert "no text" in found[2]["reason"]


def test_columns_that_are_there_are_not_overwritten(tmp_path: Path, llmcat: Cli) -> None:
    """Ours get a prefix, which is said; named columns only; none gives the full table."""
    (tmp_path / "a.csv").write_text("id,label,title\n7,x,red shoes\n")
    ran = llmcat("classify", "a.csv", *FAKE, "--out", "o.csv")
    assert "has a column 'label': ours are called llmcat_label" in ran.err
    (row,) = table(tmp_path / "o.csv")
    assert (row["label"], row["llmcat_label"]) == ("x", "shoes")
    llmcat("classify", "a.csv", *FAKE, "--out", "p.csv", "--keep", "title")
    assert list(table(tmp_path / "p.csv")[0]) == [
        "title", "label", "path", "decision", "confidence", "others", "reason", "key",
    ]  # fmt: skip
    llmcat("classify", "a.csv", *FAKE, "--out", "q.csv", "--keep", "none")
    assert list(table(tmp_path / "q.csv")[0])[:3] == ["row", "id", "label"]
    for flags, said in (
        (("--out", "x.csv", "--keep", "titel"), "no column 'titel'"),
        (("--out", "x.csv", "--keep", "all", "--redact", "all"), "--redact is to mask them"),
    ):
        ran = llmcat("classify", "a.csv", *FAKE, *flags)
        assert (ran.code, said in ran.err) == (2, True), ran.err


def test_columns_of_ones_own_are_never_taken_for_ours(tmp_path: Path, llmcat: Cli) -> None:
    """`set`, `labels`, `row`; an output that goes in again, twice; ids in another column."""
    (tmp_path / "a.csv").write_text("sku,title,set,labels,row\nA1,red shoes,7,x,100\n"
                                    "A2,blue bags,no,y,101\n")  # fmt: skip
    for before, after in (("a", "b"), ("b", "c"), ("c", "d")):
        ran = llmcat("classify", f"{before}.csv", *FAKE, "--id", "sku", "--out", f"{after}.csv")
        assert ran.code == 0, ran.err
        assert llmcat("show", f"{after}.csv").code == 0
        found = [row["label"] for row, _ in predictions_in(tmp_path / f"{after}.csv", "sku")]
        assert found == ["shoes", "bags"]
    assert {"llmcat_label", "llmcat2_label", "llmcat3_label"} <= table(tmp_path / "d.csv")[0].keys()
    (tmp_path / "e.csv").write_text("sku,label\nA2,toys\n")
    ran = llmcat("apply", "d.csv", "--corrections", "e.csv", "--labels", "shoes,bags,toys",
                 "--id", "sku", "-o", "f.csv.gz")  # fmt: skip
    assert "1 changed" in ran.err, ran.err
    (tmp_path / "f.csv").write_bytes(gzip.decompress((tmp_path / "f.csv.gz").read_bytes()))
    first, second = table(tmp_path / "f.csv")
    assert (first["llmcat3_label"], second["llmcat3_label"]) == ("shoes", "toys")
    assert second["llmcat_label"] == "bags"


def test_apply_by_a_table_that_was_edited(tmp_path: Path, llmcat: Cli) -> None:
    """What differs is a person's word, the rest is nobody's; no file is written over."""
    (tmp_path / "a.csv").write_text("sku,title,label\nA1,red shoes,x\nA2,blue bags,y\n")
    (tmp_path / "t.yaml").write_text("[{id: s, name: shoes}, {id: b, name: bags}]\n")
    how = ("--taxonomy", "t.yaml")
    ran = llmcat("classify", "a.csv", *how, "--engine", "fake", "--id", "sku", "--out", "b.csv")
    assert ran.code == 0, ran.err
    (tmp_path / "c.csv").write_text(
        (tmp_path / "b.csv").read_text().replace(",b,bags,", ",s,shoes,")
    )
    ran = llmcat("apply", "b.csv", *how, "--corrections", "c.csv", "-o", "d.csv")
    assert "2 rows: 1 changed, 0 as they were said to be, 1 not looked at" in ran.err, ran.err
    assert [r["llmcat_decision"] for r in table(tmp_path / "d.csv")] == ["labelled", "corrected"]
    (tmp_path / "e.csv").write_text("id,label\nA2,shoes\n")
    assert llmcat("apply", "b.csv", *how, "--corrections", "e.csv", "-o", "f.csv").code == 0
    (tmp_path / "e.csv").write_text("id,label\nA9,shoes\n")
    assert llmcat("apply", "b.csv", *how, "--corrections", "e.csv", "-o", "g.csv").code == 1
    for out, said in (("b.csv", "is read here"), ("a.csv", "is there already")):
        ran = llmcat("apply", "b.csv", *how, "--corrections", "c.csv", "-o", out)
        assert (ran.code, said in ran.err) == (2, True), ran.err
    ran = llmcat("classify", "a.csv", *how, "--engine", "fake", "--id", "sku", "--out", "n.jsonl",
                 "--since", "b.csv")  # fmt: skip
    assert "not asked: 2" in ran.err, ran.err
    ran = llmcat("diff", "b.csv", "d.csv")
    assert "1 x bags -> shoes" in ran.out
    ran = llmcat("show", "b.csv", "--predicted", "hats")
    assert (ran.code, "there are" in ran.err) == (2, True)
    assert "blue bags" in llmcat("show", "b.csv", "--predicted", "bags").out


def test_what_cannot_be_read_keeps_what_it_has(tmp_path: Path, llmcat: Cli) -> None:
    """A row with a cell too many, a column without a name, nested values, half characters."""
    (tmp_path / "a.csv").write_text(",id,title\n0,1,red shoes, extra\n1,2,bags\n")
    assert llmcat("classify", "a.csv", *FAKE, "--out", "b.csv").code == 1
    lines = (tmp_path / "b.csv").read_text().splitlines()
    assert lines[0].startswith(",id,title,label")
    assert lines[1].startswith('0,1,"red shoes, extra",,,error')
    assert lines[2].startswith("1,2,bags,bags")
    rows = [{"id": "a\ud83d", "title": "red shoes \ud83d", "attributes": {"brand": "Acme"}}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for out in ("d.csv", "d.jsonl"):
        assert llmcat("classify", "c.jsonl", *FAKE, "--out", out).code == 0
    for since in ("d.csv", "d.jsonl"):
        ran = llmcat("classify", "c.jsonl", *FAKE, "--out", f"e{since}", "--since", since)
        assert "copied from the earlier run, not asked: 1" in ran.err


def test_rows_that_cannot_be_read_come_back_as_they_stand(tmp_path: Path, llmcat: Cli) -> None:
    """An open quote, cells too many: an error row, and nothing of what was in it is lost."""
    text = 'SKU;title;price\n1;shoes;2,0\n2;"open;3,0\n3;bags;4,0;more\n4;toys;5,0\n'
    (tmp_path / "a.csv").write_text(text)
    ran = llmcat("classify", "a.csv", *FAKE, "--id", "SKU", "--out", "b.csv")
    assert ran.code == 1
    lines = (tmp_path / "b.csv").read_text().splitlines()
    assert lines[2].startswith('2;"""open";3,0;;;error')
    assert lines[3].startswith('3;bags;"4,0;more";;;error')
    assert [row["label"] for row in table(tmp_path / "b.csv", delimiter=";")] == [
        "shoes", "", "", "toys",
    ]  # fmt: skip
    (tmp_path / "c.csv").write_text("id;label\n1;shoes;x\n")
    ran = llmcat("apply", "b.csv", "--corrections", "c.csv", "--labels", LABELS, "-o", "d.csv")
    assert (ran.code, "c.csv: row 1: 3 cells in a row of 2 columns" in ran.err) == (2, True)


@pytest.mark.parametrize(("price", "mark"), [("2,5", ","), ("2.5", "."), ("2", ".")])
def test_numbers_are_written_as_the_table_writes_them(
    tmp_path: Path, llmcat: Cli, price: str, mark: str
) -> None:
    """A spreadsheet that has decimal commas takes 0.97 for text."""
    (tmp_path / "a.csv").write_text(f"title;price\nred shoes;{price}\nbags;1{mark}5\n")
    assert llmcat("classify", "a.csv", *FAKE, "--out", "o.csv").code == 0
    rows = table(tmp_path / "o.csv", delimiter=";")
    assert all(re.fullmatch(rf"0\{mark}\d+", row["confidence"]) for row in rows)
    read = [row["confidence"] for row, _ in predictions_in(tmp_path / "o.csv")]
    assert [str(p).replace(".", mark) for p in read] == [row["confidence"] for row in rows]


def test_the_second_reading_is_that_of_the_first(tmp_path: Path, llmcat: Cli) -> None:
    """A table called .txt, an item with a list in it, an item that comes alone."""
    (tmp_path / "a.txt").write_text("id\ttitle\n1\tred shoes\n2\tblue bags\n3\ttoys\n")
    assert llmcat("classify", "a.txt", *FAKE, "--out", "a.csv").code == 0
    assert [(r["id"], r["label"]) for r in table(tmp_path / "a.csv")] == [
        ("1", "shoes"), ("2", "bags"), ("3", "toys"),
    ]  # fmt: skip
    nested = {"title": "red shoes", "variants": [{"sku": 1}, {"sku": 2}]}
    (tmp_path / "b.jsonl").write_text(json.dumps(nested) + "\n")
    assert llmcat("classify", "b.jsonl", *FAKE, "--out", "b.csv").code == 0
    (row,) = table(tmp_path / "b.csv")
    assert (row["title"], row["label"]) == ("red shoes", "shoes")
    assert llmcat("classify", "b.jsonl", *FAKE, "--out", "o.jsonl").code == 0
    assert llmcat("show", "o.jsonl").code == 0


def test_a_workbook_is_matched_by_its_rows(tmp_path: Path, llmcat: Cli) -> None:
    """Blank rows, a chart first, a name in capitals; a person's label leaves the rest as it is."""
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in (["id", "title"], ["1", "red shoes"], ["", ""], [], ["2", "blue bags"]):
        sheet.append(row)
    chart = openpyxl.chart.BarChart()
    chart.add_data(openpyxl.chart.Reference(sheet, min_col=1, min_row=1, max_row=2))
    book.create_chartsheet("Chart", 0).add_chart(chart)
    book.create_sheet("Prices")["A1"] = 9
    book.save(tmp_path / "A.XLSX")
    assert llmcat("classify", "A.XLSX", *FAKE, "--out", "b.xlsx").code == 0
    (tmp_path / "c.csv").write_text("id,label\n2,toys\n")
    ran = llmcat("apply", "b.xlsx", "--corrections", "c.csv", "--labels", "shoes,bags,toys",
                 "-o", "d.xlsx")  # fmt: skip
    assert ran.code == 0, ran.err
    for name, last in (("b.xlsx", "bags"), ("d.xlsx", "toys")):
        again = openpyxl.load_workbook(tmp_path / name)
        assert again.sheetnames == ["Chart", "Sheet", "Prices"]
        labels = [cell.value for cell in again["Sheet"]["C"]]
        assert labels == ["label", "shoes", None, None, last]


def test_a_workbook_that_cannot_be_written_again(tmp_path: Path, llmcat: Cli) -> None:
    """Nothing that was asked is lost: the rows come in a new one, and that is said."""
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in (["id", "title"], ["1", "red shoes"]):
        book.active.append(row)
    book.create_chartsheet("Empty", 0)
    book.save(tmp_path / "a.xlsx")
    ran = llmcat("classify", "a.xlsx", *FAKE, "--out", "b.xlsx")
    assert (ran.code, "this is a new one" in ran.err) == (0, True), ran.err
    ((row, kept),) = predictions_in(tmp_path / "b.xlsx")
    assert (row["label"], kept["title"]) == ("shoes", "red shoes")


def test_an_encoding_comes_back_too(tmp_path: Path, llmcat: Cli) -> None:
    """GBK stays GBK; a mark is written where it is asked for; what does not fit is refused."""
    (tmp_path / "a.csv").write_bytes("编号,title\n1,红色 shoes\n2,书包 bags\n".encode("gb18030"))
    assert llmcat("classify", "a.csv", *FAKE, "--out", "o.csv").code == 0
    assert "红色 shoes,shoes" in (tmp_path / "o.csv").read_bytes().decode("gb18030")
    (tmp_path / "b.csv").write_bytes("title\nschöne shoes für sie\n".encode("cp1252"))
    ran = llmcat("classify", "b.csv", "--labels", "鞋 shoes,bags", "--engine", "fake",
                 "--out", "p.csv")  # fmt: skip
    assert ran.code == 2
    assert "cannot be written in cp1252" in ran.err
    (tmp_path / "c.csv").write_text("title\nred shoes\n")
    assert llmcat("classify", "c.csv", *FAKE, "--out", "q.csv", "--bom").code == 0
    assert (tmp_path / "q.csv").read_bytes().startswith(b"\xef\xbb\xbftitle")


def test_a_workbook_comes_back_with_all_that_is_in_it(tmp_path: Path, llmcat: Cli) -> None:
    """Other sheets, formats and formulas stay; nothing of ours is a live formula."""
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "items"
    for row in (["SKU", "Title", "Total"], ["001", "red shoes", "=1+1"], [], ["002", "bags", 3]):
        sheet.append(row)
    sheet["B2"].font = openpyxl.styles.Font(bold=True)
    book.create_sheet("notes")["A1"] = "keep me"
    book.save(tmp_path / "a.xlsx")
    ran = llmcat("classify", "a.xlsx", "--labels", "=shoes,bags", "--engine", "fake",
                 "--out", "o.xlsx")  # fmt: skip
    assert ran.code == 0, ran.err
    again = openpyxl.load_workbook(tmp_path / "o.xlsx")
    cells = [[cell.value for cell in row[:5]] for row in again["items"].iter_rows()]
    assert cells[0] == ["SKU", "Title", "Total", "label", "path"]
    assert [row[3] for row in cells] == ["label", "=shoes", None, "bags"]
    assert (cells[1][2], again["items"]["D2"].data_type) == ("=1+1", "s")
    assert again["items"]["B2"].font.bold
    assert again["notes"]["A1"].value == "keep me"
    llmcat("classify", "a.xlsx", *FAKE, "--out", "o.csv")
    assert [row["Title"] for row in table(tmp_path / "o.csv")] == ["red shoes", "bags"]


@pytest.mark.parametrize("keep", ["all", "none"])
def test_every_format_reads_back_the_same(tmp_path: Path, llmcat: Cli, keep: str) -> None:
    """Also names that a spreadsheet would run; keys are never what it takes for a number."""
    (tmp_path / "a.csv").write_text("id,title\n=1,red =shoes\n=2,leather bags\n")
    found = []
    for suffix in (".jsonl", ".csv", ".tsv", ".xlsx", ".parquet"):
        out = tmp_path / f"o{suffix}"
        ran = llmcat("classify", "a.csv", "--labels", "=shoes,bags", "--engine", "fake",
                     "--keep", keep, "--out", out)  # fmt: skip
        assert ran.code == 0, ran.err
        if suffix in {".csv", ".tsv"}:
            between = "\t" if suffix == ".tsv" else ","
            assert "'=shoes" in out.read_text()
            assert not any(row["key"][0].isdigit() for row in table(out, delimiter=between))
        names = ("row", "id", "label", "path", "decision", "confidence", "key")
        found.append([[row[name] for name in names] for row, _ in predictions_in(out)])
    assert found[0][0][:4] == [0, "=1", "=shoes", "=shoes"]
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".xlsx", ".parquet", ".jsonl.gz"])
def test_show_reads_what_classify_writes(tmp_path: Path, llmcat: Cli, suffix: str) -> None:
    """Sorted, filtered, with titles where they came back."""
    items = "id,title,brand\n1,red shoes,A\n2,blue hats,A\n3,leather bags,B\n"
    (tmp_path / "a.csv").write_text(items)
    out = f"o{suffix}"
    assert llmcat("classify", "a.csv", *FAKE, "--out", out).code == 0
    ran = llmcat("show", out, "--predicted", "shoes")
    assert (ran.code, "2 of 3 rows; 2 are like this" in ran.out) == (0, True), ran.err
    ran = llmcat("show", out, "--sort", "confidence", "--limit", "1")
    sure = {row["id"]: row["confidence"] for row, _ in predictions_in(tmp_path / out)}
    least = min(sure, key=lambda id_: sure[id_])
    assert ran.out.splitlines()[2].startswith(least)
    if suffix in {".csv", ".tsv", ".xlsx"}:
        ran = llmcat("show", out, "--where", "brand=B")
        assert "leather bags" in ran.out
        assert "red shoes" not in ran.out
    ran = llmcat("show", out, "--where", "colour=red")
    assert (ran.code, "no column 'colour'" in ran.err) == (2, True)
    ran = llmcat("show", "a.csv")
    assert (ran.code, "row 1 is not a prediction" in ran.err) == (2, True)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_next_weeks_file_asks_only_what_is_new(tmp_path: Path, llmcat: Cli, suffix: str) -> None:
    """Rows that stay are copied, wherever they stand; changed ones are asked."""
    (tmp_path / "a.csv").write_text("id,title\n1,red shoes\n2,leather bags\n3,wooden toys\n")
    (tmp_path / "b.csv").write_text("id,title\n3,wooden toys\n2,canvas bags\n1,red shoes\n4,x\n")
    last = f"last{suffix}"
    assert llmcat("classify", "a.csv", *FAKE, "--out", last).code == 0
    ran = llmcat("classify", "b.csv", *FAKE, "--out", "this.jsonl", "--since", last)
    assert "copied from the earlier run, not asked: 2" in ran.err
    assert [r["label"] for r in read_rows(tmp_path / "this.jsonl")] == [
        "toys", "bags", "shoes", None,
    ]  # fmt: skip
    record = json.loads((tmp_path / "this.jsonl.run.json").read_text())
    assert record["sessions"][0]["asks"]["asked"] == 2
    ran = llmcat("diff", last, "this.jsonl")
    assert ran.code == 1
    assert "3 the same, 0 changed, 1 only in this.jsonl, 0 only in" in ran.out
    assert llmcat("diff", last, last).code == 0
    rows = read_rows(tmp_path / "this.jsonl")
    rows[0] |= {"label": "bags", "path": "bags"}
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = llmcat("diff", "this.jsonl", "other.jsonl")
    assert "1 x toys -> bags" in ran.out


def test_less_sure_rows_are_for_review_and_nothing_is_promised(tmp_path: Path, llmcat: Cli) -> None:
    """A confidence that nobody measured is a wish, and that is said."""
    (tmp_path / "a.txt").write_text("red shoes\nsomething else\n")
    ran = llmcat("classify", "a.txt", *FAKE, "--min-confidence", "0.8", "--out", "o.jsonl")
    assert [r["decision"] for r in read_rows(tmp_path / "o.jsonl")] == ["labelled", "review"]
    assert "rows below 0.8 are for review; no promise goes with it" in ran.err


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".xlsx"])
def test_peoples_labels_are_put_in_without_a_request(
    tmp_path: Path, llmcat: Cli, suffix: str
) -> None:
    """By key, id or row; from a file or the store; the corrected rows are cases to test with."""
    (tmp_path / "a.csv").write_text("id,title,price\n1,red shoes,1\n2,leather bags,2\n3,robots,3\n")
    out, final = f"o{suffix}", f"f{suffix}"
    assert llmcat("classify", "a.csv", *FAKE, "--out", out).code == 0
    (tmp_path / "c.csv").write_text("id;label\n3;toys\n1;shoes\n2;\n")
    flags = ("apply", out, "--labels", "shoes,bags,toys", "-o", final, "--replace")
    ran = llmcat(*flags, "--corrections", "c.csv", "--gold", "cases.jsonl")
    assert ran.code == 0, ran.err
    assert "3 rows: 1 changed, 1 as they were said to be, 1 not looked at" in ran.err
    found = [(r["label"], r["decision"]) for r, _ in predictions_in(tmp_path / final)]
    assert found == [("shoes", "corrected"), ("bags", "labelled"), ("toys", "corrected")]
    if suffix != ".jsonl":
        assert [kept["price"] for _, kept in predictions_in(tmp_path / final)] in (
            ["1", "2", "3"], [1, 2, 3],
        )  # fmt: skip
        cases = read_rows(tmp_path / "cases.jsonl")
        assert [(c["title"], c["label"]) for c in cases] == [("red shoes", "shoes"),
                                                             ("robots", "toys")]  # fmt: skip
    (tmp_path / "p.csv").write_text("title,label\nrobots,toys\n")
    brought = ("labels", "import", "--file", "p.csv", "--labels", "shoes,bags,toys")
    assert llmcat(*brought).code == 0
    ran = llmcat(*flags)
    assert ran.code == 0, ran.err
    assert "3 rows: 1 changed" in ran.err
    for text, said in (
        ("id,label\n1,hats\n", "'hats' (1)"), ("label\nshoes\n", "says of no item"),
        ("id,label\n1,shoes\n1,bags\n", "has two labels"),
    ):  # fmt: skip
        (tmp_path / "c.csv").write_text(text)
        ran = llmcat(*flags, "--corrections", "c.csv")
        assert (ran.code, said in ran.err) == (2, True), ran.err


SEMICOLONS = "SKU;Titel\nA1;red shoes\nA2;leather bags\nA3;robots\n"


@pytest.mark.parametrize("command", ["eval", "calibrate", "student train", "labels import", "ab"])
def test_what_llmcat_answered_is_nobodys_gold(tmp_path: Path, llmcat: Cli, command: str) -> None:
    """Its own file is refused where labels are taken for known; corrected rows are known."""
    rows = [f"red shoes {i}" if i % 2 else f"leather bags {i}" for i in range(100)]
    (tmp_path / "a.csv").write_text("title\n" + "\n".join(rows) + "\n")
    assert llmcat("classify", "a.csv", *FAKE, "--out", "o.csv").code == 0
    how: dict[str, tuple[Any, ...]] = {
        "eval": (*FAKE,), "calibrate": (*FAKE, "--plain"), "labels import": FAKE[:2],
        "student train": FAKE[:2], "ab": (*FAKE, "--a", "seed=1", "--b", "seed=2"),
    }  # fmt: skip
    ran = llmcat(*command.split(), "--file", "o.csv", *how[command])
    assert ran.code == 2, ran.out
    assert "llmcat itself answered 100 rows" in ran.err
    assert "people corrected none" in ran.err
    lines = [f"{i};{'shoes' if i % 2 else 'none'}" for i in range(40)]
    (tmp_path / "c.csv").write_text("row;label\n" + "\n".join(lines) + "\n")
    assert llmcat("apply", "o.csv", "--corrections", "c.csv", *FAKE[:2], "-o", "f.csv").code == 0
    if command in {"eval", "student train", "labels import"}:
        ran = llmcat(*command.split(), "--file", "f.csv", *how[command])
        assert ran.code == 0, ran.err
        assert "only the 40 that people corrected count" in ran.err
        said = ran.out + ran.err
        known = {"eval": "of 40 items", "student train": "40 examples of 2 categories",
                 "labels import": "40 new labels"}  # fmt: skip
        assert known[command] in said
        assert "guessed" not in said
    examples = llmcat("classify", "a.csv", *FAKE, "--examples", "o.csv", "--out", "x.csv",
                      "--prompt", "few-shot")  # fmt: skip
    assert (examples.code, "llmcat itself answered" in examples.err) == (2, True)


def test_columns_are_known_after_apply_and_export(tmp_path: Path, llmcat: Cli) -> None:
    """A file that no run wrote itself has the ids and titles of the one it was made of."""
    (tmp_path / "a.csv").write_text(SEMICOLONS)
    names = ("--text", "Titel", "--id", "SKU")
    assert llmcat("classify", "a.csv", *FAKE, *names, "--out", "o.csv").code == 0
    (tmp_path / "c.csv").write_text("id;label\nA3;toys\nA2;\n")
    done = llmcat("apply", "o.csv", "--corrections", "c.csv", "--labels", LABELS, "-o", "f.csv",
                  "--gold", "g.jsonl")  # fmt: skip
    assert done.code == 0, done.err
    shown = llmcat("show", "f.csv").out
    assert "A3" in shown
    assert "robots" in shown
    said = llmcat("diff", "f.csv", "o.csv")
    assert "2 the same, 1 changed, 0 only in" in said.out
    said = llmcat("explain", "A3", "--run", "f.csv").out
    assert "decided   by a person" in said
    assert read_rows(tmp_path / "g.jsonl") == [
        {"SKU": "A3", "Titel": "robots", "id": "A3", "label": "toys"}
    ]
    (tmp_path / "f.csv.columns.json").unlink()
    assert "A3" not in llmcat("show", "f.csv").out
    assert "A3" in llmcat("show", "f.csv", "--id", "SKU").out
    assert "2 the same, 1 changed" in llmcat("diff", "f.csv", "o.csv").out  # as the other has it
    edited = (tmp_path / "o.csv").read_text().replace("bags;bags;labelled", ";;labelled")
    (tmp_path / "e.csv").write_text(edited)
    done = llmcat("apply", "o.csv", "--corrections", "e.csv", "--labels", LABELS, "-o", "h.csv")
    assert "3 rows: 1 changed, 0 as they were said to be, 2 not looked at" in done.err
    found = [(row["label"], row["decision"]) for row in table(tmp_path / "h.csv", delimiter=";")]
    assert found == [("shoes", "labelled"), ("", "corrected"), ("", "none")]


def test_an_id_is_found_in_other_letters(tmp_path: Path, llmcat: Cli) -> None:
    """As the items' own are."""
    (tmp_path / "a.csv").write_text("ID,Title\nA1,red shoes\n")
    assert llmcat("classify", "a.csv", *FAKE, "--out", "o.csv").code == 0
    ((row, _),) = predictions_in(tmp_path / "o.csv")
    assert row["id"] == "A1"
    assert "A1" in llmcat("show", "o.csv").out


def test_rows_without_a_text_have_no_key_in_common(tmp_path: Path, llmcat: Cli) -> None:
    """A correction of one is not one of all."""
    (tmp_path / "a.csv").write_text("id,title\n1,\n2,red shoes\n3,\n")
    assert llmcat("classify", "a.csv", *FAKE, "--out", "o.csv").code == 1
    rows = table(tmp_path / "o.csv")
    assert [bool(row["key"]) for row in rows] == [False, True, False]
    (tmp_path / "c.csv").write_text("key,id,label\n,1,toys\n")
    done = llmcat("apply", "o.csv", "--corrections", "c.csv", "--labels", LABELS, "-o", "f.csv")
    assert "3 rows: 1 changed" in done.err
    assert [row["label"] for row in table(tmp_path / "f.csv")] == ["toys", "shoes", ""]
    again = llmcat("classify", "a.csv", *FAKE, "--out", "p.csv", "--since", "o.csv")
    assert again.code == 1
    assert [row["label"] for row in table(tmp_path / "p.csv")] == ["", "shoes", ""]


def test_an_encoding_that_cannot_hold_the_names_is_said_before_the_run(
    tmp_path: Path, llmcat: Cli
) -> None:
    """Not after all was asked."""
    (tmp_path / "a.csv").write_bytes("title\nsch\xf6ne shoes f\xfcr sie\n".encode("latin-1"))
    ran = llmcat("classify", "a.csv", "--labels", "\u978b shoes,bags", "--engine", "fake",
                 "--out", "o.csv")  # fmt: skip
    assert (ran.code, "cannot be written in cp1252" in ran.err) == (2, True)
    assert "--out with .xlsx" in ran.err
    assert not list(tmp_path.glob("o.csv*"))


@pytest.mark.parametrize(
    ("bound", "rows"), [(("--max-requests", "7"), 7), (("--max-tokens", "1500"), 9)]
)
def test_a_budget_is_not_passed(
    tmp_path: Path, llmcat: Cli, bound: tuple[str, str], rows: int
) -> None:
    """However many are in flight; what is there stays, and the next session goes on."""
    (tmp_path / "a.txt").write_text("".join(f"red shoes number {i:03}\n" for i in range(40)))
    flags = ("classify", "a.txt", *FAKE, "--out", "o.jsonl")
    ran = llmcat(*flags, *bound)
    assert ran.code == 1, ran.err
    assert "the budget is used up; this goes on:" in ran.err
    record = json.loads((tmp_path / "o.jsonl.run.json").read_text())
    asks = record["sessions"][0]["asks"]
    assert record["status"] == "interrupted"
    if bound[0] == "--max-requests":
        assert asks["asked"] == rows == len(read_rows(tmp_path / "o.jsonl"))
    else:
        assert asks["usage"]["prompt"] + asks["usage"]["generated"] <= 1500
        assert asks["asked"] >= rows
    assert llmcat(*flags).code == 0
    assert len(read_rows(tmp_path / "o.jsonl")) == 40


def test_a_run_that_is_done_needs_no_engine(tmp_path: Path, llmcat: Cli) -> None:
    """The same command again; other settings, items or categories ask again, or are refused."""
    (tmp_path / "a.txt").write_text("red shoes\nbags\n")
    (tmp_path / "t.txt").write_text("shoes\nbags\n")
    flags = ("classify", "a.txt", "--taxonomy", "t.txt", "--engine", "fake", "--out", "o.jsonl")
    assert llmcat(*flags).code == 0
    away = (*flags, "--engine-option", "accuracy=7")  # would not open
    assert llmcat(*away).code == 2
    real = tmp_path / "o.jsonl.run.json"
    record = json.loads(real.read_text())
    record["about"]["settings"]["engine_option"] = "accuracy=7"
    real.write_text(json.dumps(record))
    ran = llmcat(*away)
    assert (ran.code, "nothing to do: o.jsonl is complete, 2 rows" in ran.err) == (0, True), ran.err
    (tmp_path / "t.txt").write_text("shoes\nhats\n")
    assert llmcat(*away).code == 2


def test_a_run_of_nothing_but_none_says_so(tmp_path: Path, llmcat: Cli) -> None:
    """Every light would be green."""
    rows = "".join(f"quartz number {i},none\n" for i in range(12))
    (tmp_path / "a.csv").write_text(f"title,label\n{rows}")
    ran = llmcat("classify", "a.csv", *FAKE, "--engine-option", "accuracy=1", "--out", "o.jsonl")
    assert {row["label"] for row in read_rows(tmp_path / "o.jsonl")} == {None}
    assert "no item fits any category" in ran.err or "hardly depend on the item" in ran.err


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".jsonl.gz"])
@pytest.mark.parametrize("source", [".csv", ".jsonl", ".parquet"])
def test_columns_come_back_in_other_formats_too(
    suffix: str, source: str, tmp_path: Path, llmcat: Cli
) -> None:
    """Types as they were where the input has types; ours behind; read again; corrected."""
    frame = pd.DataFrame(
        {"sku": ["007", "008"], "title": ["red shoes", "bags"], "n": [1, 2], "label": ["x", "y"]}
    )
    write = {".csv": frame.to_csv, ".parquet": frame.to_parquet}
    if source == ".jsonl":
        frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    else:
        write[source](tmp_path / f"a{source}", index=False)
    out = tmp_path / f"o{suffix}"
    ran = llmcat("classify", f"a{source}", *FAKE, "--out", out, "--keep", "all")
    assert ran.code == 0, ran.err
    assert not list(tmp_path.glob("*.journal.jsonl"))
    if suffix == ".parquet":
        found = pd.read_parquet(out).to_dict("records")
    else:
        raw = out.read_bytes()
        text = gzip.decompress(raw) if suffix.endswith("gz") else raw
        found = [json.loads(line) for line in text.splitlines()]
    assert list(found[0])[:6] == ["sku", "title", "n", "label", "llmcat_label", "llmcat_path"]
    assert [(r["sku"], r["label"], r["llmcat_label"]) for r in found] == [
        ("007", "x", "shoes"),
        ("008", "y", "bags"),
    ]
    assert found[0]["n"] == ("1" if source == ".csv" else 1)
    assert found[0]["llmcat_alternatives"][0]["p"] > 0
    again = list(predictions_in(out, "sku"))
    assert [(row["id"], row["label"]) for row, _ in again] == [("007", "shoes"), ("008", "bags")]
    if suffix == ".jsonl":
        (tmp_path / "c.csv").write_text("id,label\n008,toys\n")
        flags = ("--labels", "shoes,bags,toys", "--id", "sku", "-o", "f.jsonl")
        ran = llmcat("apply", out, "--corrections", "c.csv", *flags)
        assert ran.code == 0, ran.err
        before, after = (read_rows(tmp_path / name) for name in ("o.jsonl", "f.jsonl"))
        assert after[0] == before[0]
        assert list(after[1]) == list(before[1])
        assert (after[1]["label"], after[1]["llmcat_label"]) == ("y", "toys")


def test_named_columns_of_rows_that_differ(tmp_path: Path, llmcat: Cli) -> None:
    """JSONL: what a row lacks it still lacks. Parquet: the types of all rows; text where mixed."""
    (tmp_path / "a.jsonl").write_text(
        '{"title": "shoes", "a": 1, "b": [1], "c": true}\n{"title": "bags", "a": "x", "b": 2.5}\n'
    )
    llmcat("classify", "a.jsonl", *FAKE, "--out", "o.jsonl", "--keep", "a,c")
    first, second = read_rows(tmp_path / "o.jsonl")
    assert (first["a"], first["c"], second["a"]) == (1, True, "x")
    assert "c" not in second
    assert "title" not in first
    llmcat("classify", "a.jsonl", *FAKE, "--out", "o.parquet", "--keep", "all")
    frame = pd.read_parquet(tmp_path / "o.parquet")
    assert frame["a"].tolist() == ["1", "x"]
    assert frame["b"].tolist() == ["[1]", "2.5"]
    assert frame["c"].tolist() == [True, None]


def test_what_a_run_has_so_far_is_a_file(tmp_path: Path, llmcat: Cli) -> None:
    """A run that ended early, by its bound: exported, gone on with, and exported anew."""
    rows = "".join(f"{i},shoes number {i}\n" for i in range(40))
    (tmp_path / "a.csv").write_text(f"sku,title\n{rows}")
    for out in ("o.csv", "o.jsonl"):
        ran = llmcat("classify", "a.csv", *FAKE, "--out", out, "--max-requests", "9")
        assert out != "o.csv" or not (tmp_path / out).exists()
        if out.endswith(".csv"):
            ran = llmcat("show", out)
            assert (ran.code, f"llmcat export {out}" in ran.err) == (2, True)
        ran = llmcat("export", out)
        assert ran.code == 0, ran.err
        (made,) = tmp_path.glob(f"o.partial{Path(out).suffix}")
        count = len(list(predictions_in(made)))
        assert 0 < count < 40
        assert f"{count} rows to" in ran.err
        assert "is there already" in llmcat("export", out).err
        ran = llmcat("export", out, "-o", f"{out}.xlsx", "--keep", "sku")
        assert ran.code == 0, ran.err
        (_, kept), *_ = predictions_in(tmp_path / f"{out}.xlsx", "sku")
        assert list(kept)[:2] == ["sku", "label"]
        assert llmcat("classify", "a.csv", *FAKE, "--out", out).code == 0
    assert llmcat("export", "o.jsonl", "-o", "p.csv", "--keep", "all").code == 0
    assert [row["sku"] for row in table(tmp_path / "p.csv")] == [str(i) for i in range(40)]
    assert "it is the file itself" in llmcat("export", "o.csv").err
    assert "no run of llmcat" in llmcat("export", "a.csv").err
    (tmp_path / "a.csv").write_text("sku,title\n")
    ran = llmcat("export", "o.jsonl", "-o", "q.csv", "--keep", "all")
    assert (ran.code, "have changed since" in ran.err) == (2, True)


def test_keep_is_said_from_the_start(tmp_path: Path, llmcat: Cli) -> None:
    """JSONL rows without the columns cannot get them on the way."""
    rows = "".join(f"{i},shoes number {i}\n" for i in range(40))
    (tmp_path / "a.csv").write_text(f"sku,title\n{rows}")
    llmcat("classify", "a.csv", *FAKE, "--out", "o.jsonl", "--max-requests", "9")
    ran = llmcat("classify", "a.csv", *FAKE, "--out", "o.jsonl", "--keep", "sku")
    assert (ran.code, "a run without --keep" in ran.err) == (2, True)
    llmcat("classify", "a.csv", *FAKE, "--out", "p.jsonl", "--keep", "sku", "--max-requests", "9")
    assert not (tmp_path / "p.jsonl").exists()
    ran = llmcat("classify", "a.csv", *FAKE, "--out", "p.jsonl")
    assert (ran.code, "keep" in ran.err) == (2, True)
    assert llmcat("classify", "a.csv", *FAKE, "--out", "p.jsonl", "--keep", "sku").code == 0
    assert [row["sku"] for row in read_rows(tmp_path / "p.jsonl")] == [str(i) for i in range(40)]


def test_a_frame_comes_back_with_ours_beside() -> None:
    """Its columns, its index; names that are taken; named columns, or none."""
    frame = pd.DataFrame({"sku": ["7"], "title": ["red shoes"]}, index=[5])
    with Classifier(["shoes", "bags"], engine="fake") as clf:
        found = clf.classify(frame)
        assert list(found.columns[:4]) == ["sku", "title", "label", "path"]
        assert (found.index.tolist(), found["label"].tolist()) == ([5], ["shoes"])
        taken = clf.classify(frame.assign(label="x"))
        assert (taken["label"].tolist(), taken["llmcat_label"].tolist()) == (["x"], ["shoes"])
    with Classifier(["shoes", "bags"], engine="fake", keep="sku") as clf:
        assert list(clf.classify(frame).columns[:2]) == ["sku", "label"]
        with pytest.raises(InputError, match="keep: no column 'sku'"):
            clf.classify(frame.drop(columns="sku"))
    with Classifier(["shoes", "bags"], engine="fake", keep="none") as clf:
        assert list(clf.classify(frame).columns[:2]) == ["row", "id"]
