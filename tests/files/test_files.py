"""Files as they really are: each of the corpus with its expected reading, and round trips."""

from __future__ import annotations

import csv
import io
import json
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from llmcat.config import load
from llmcat.errors import BadConfig, InputError, LlmcatNote
from llmcat.files.formats import Reading
from llmcat.files.json_rows import json_rows
from llmcat.files.sources import columns_in, expand
from llmcat.files.tables import Dialect, cells_in, sniff
from llmcat.files.text import text_of
from llmcat.items.readers import Columns, ItemReader
from llmcat.items.values import as_label, as_text, is_missing

CORPUS = Path(__file__).parent / "corpus"
EXPECTED: dict[str, dict[str, Any]] = json.loads((CORPUS / "expected.json").read_text("utf-8"))


def test_the_corpus_is_whole() -> None:
    """Each file has its expected reading."""
    assert {p.name for p in CORPUS.iterdir()} - {"expected.json"} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_each_file_is_read_as_it_is_meant(name: str) -> None:
    """Row by row: ids, titles, what is wrong with a row; a refusal; what is said of the dialect."""
    expected = EXPECTED[name]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", LlmcatNote)
        if "error" in expected:
            with pytest.raises(InputError, match=expected["error"]) as caught:
                list(ItemReader().read(CORPUS / name))
            assert name in str(caught.value)
            return
        items = list(ItemReader().read(CORPUS / name))
    assert len(items) == len(expected["items"])
    for item, (id_, title) in zip(items, expected["items"], strict=True):
        if id_ == "!":
            assert title in str(item.error)
        else:
            assert item.fields.get("title", item.fields.get("text")) == title
            assert item.id == id_ or not item.id_given
    notes = " ".join(str(one.message) for one in said)
    assert expected.get("note", "") in notes
    assert bool(notes) == ("note" in expected)


def test_class_labels_are_named() -> None:
    """As the file's own metadata has them; -1 is no label."""
    items = list(ItemReader().read(CORPUS / "class-label.parquet"))
    assert [item.gold for item in items] == ["garden", None]


def test_what_was_said_is_not_guessed(tmp_path: Path) -> None:
    """A delimiter, an encoding, a sheet that are given."""
    path = tmp_path / "a.csv"
    path.write_bytes("id,title\n1,żółta czapka\n".encode("cp1250"))
    (item,) = ItemReader().read(path, how=Reading(encoding="cp1250"))
    assert item.fields == {"title": "żółta czapka"}
    path.write_text("title;x,y\nred; hat;a\n")
    how = Reading.of(load(trust_env=False, delimiter="tab"))
    assert how.separator == "\t"
    (item,) = ItemReader(columns=Columns(text=("title;x,y",))).read(path, how=how)
    assert item.fields == {"title;x,y": "red; hat;a"}
    with pytest.raises(BadConfig, match="no encoding is called 'latin-99'"):
        text_of(b"", "latin-99")
    with pytest.raises(BadConfig, match="no sheet 'absent'"):
        list(ItemReader().read(CORPUS / "sheet.xlsx", how=Reading(sheet="absent")))


def test_columns_by_other_letters_and_inside_others(tmp_path: Path) -> None:
    """`Title` is title, `fields.title` stands inside; the exact name wins; near ones are named."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"ID": 7, "Title": "hat", "fields": {"name": "a hat"}, "a.b": "dotted"}\n')
    (item,) = ItemReader().read(path)
    assert (item.id, item.fields) == ("7", {"title": "hat"})
    (item,) = ItemReader(columns=Columns(text=("fields.name", "a.b"))).read(path)
    assert item.fields == {"fields.name": "a hat", "a.b": "dotted"}
    with pytest.raises(BadConfig) as caught:
        list(ItemReader(columns=Columns(text=("Titel",))).read(path))
    assert "did you mean 'Title'?" in caught.value.hint
    path.write_text('{"title": "exact", "TITLE": "other"}\n')
    assert next(ItemReader().read(path)).fields == {"title": "exact"}


def test_the_known_label_is_no_input(tmp_path: Path) -> None:
    """By accident the model would read the answer."""
    path = tmp_path / "a.csv"
    path.write_text("title,label\nred hat,hats\n")
    with pytest.raises(BadConfig, match="the model would read the answer"):
        list(ItemReader(columns=Columns(text=("title", "label"))).read(path))
    path.write_text("name,text\nhats,red hat\n")
    (item,) = ItemReader(columns=Columns(label="name")).read(path)
    assert (item.fields, item.gold) == ({"text": "red hat"}, "hats")


@pytest.mark.parametrize(
    "value",
    [None, float("nan"), pd.NaT, pd.NA, pd.Series([1.5, None])[1], pa.scalar(None).as_py()],
    ids=repr,
)
def test_what_is_missing_is_no_word(value: Any) -> None:
    """In any coat, also inside others: never `nan`, `NaT` or `None` in a prompt."""
    assert is_missing(value)
    assert as_text(value) == as_label(value) == ""
    assert as_text({"a": value, "b": ["x", value]}) == "b: x"


def test_labels_as_they_are_written() -> None:
    """Booleans, numbers, a list of one, a path as a list."""
    assert [as_label(v) for v in (True, False, 1.0, 2, ["a"], ["A", "B"])] == [
        "true", "false", "1.0", "2", "a", "A > B",
    ]  # fmt: skip
    said = [{"role": "user", "content": "red hat"}, {"role": "assistant", "content": "hats"}]
    assert as_text(said) == "red hat, hats"


def test_folders(tmp_path: Path) -> None:
    """The taxonomy beside the items is not items; folders may hold a column's value."""
    for name in ("items.csv", "taxonomy.txt", "tax.yaml", "out.jsonl.run.json"):
        (tmp_path / name).write_text("title\nx\n")
    for cat in ("bags", "red%20shoes", "__HIVE_DEFAULT_PARTITION__"):
        folder = tmp_path / f"cat={cat}"
        folder.mkdir()
        (folder / "part-0.csv").write_text("title\nsomething\n")
    found = expand(str(tmp_path))
    assert [Path(f).relative_to(tmp_path).as_posix() for f in found] == [
        "items.csv", "cat=__HIVE_DEFAULT_PARTITION__/part-0.csv", "cat=bags/part-0.csv",
        "cat=red%20shoes/part-0.csv",
    ]  # fmt: skip
    assert expand(str(tmp_path), apart=(str(tmp_path / "items.csv"),)) == found[1:]
    items = list(ItemReader(columns=Columns(label="cat")).read(*found[1:]))
    assert [item.gold for item in items] == [None, "bags", "red shoes"]
    assert columns_in("a/b.csv") == {}


# -- round trips ----------------------------------------------------------------------------------

CELL = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co", "Zl", "Zp"]),
    max_size=12,
).map(str.strip)
ROWS = st.lists(st.tuples(CELL.filter(bool), CELL, CELL), min_size=1, max_size=12)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_csv_writes_is_read(
    rows: list[tuple[str, ...]], separator: str, end: str, everything: bool
) -> None:
    """Any separator, either line end, quotes where needed or everywhere."""
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if everything else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([("id", "title", "note"), *rows])
    lines = text.getvalue().splitlines(keepends=True)
    dialect = sniff(lines, usual="\t" if separator == "\t" else ",")
    got = list(cells_in(lines, dialect))
    assert [cells for cells, _ in got] == [["id", "title", "note"], *map(list, rows)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELL.filter(bool), CELL), min_size=1, max_size=12))
def test_every_writer_gives_the_same_items(rows: list[tuple[str, ...]], tmp_path: Path) -> None:
    """Pandas' CSV, JSON, Excel and pyarrow's Parquet hold the same rows."""
    frame = pd.DataFrame(rows, columns=["title", "note"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "a.json", orient="records", force_ascii=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    with pd.ExcelWriter(tmp_path / "a.xlsx", engine="openpyxl") as book:
        frame.to_excel(book, index=False, sheet_name="a")
        for cell in chain.from_iterable(book.sheets["a"].rows):
            if cell.data_type == "f":  # "=0" as the text it is, not a formula without a value
                cell.data_type = "s"
    parquet.write_table(pa.table({"title": frame["title"]}), tmp_path / "a.parquet")
    every = {
        name: [(i.error, i.fields) for i in ItemReader().read(tmp_path / name)]
        for name in ("a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet")
    }
    assert all(found == every["a.jsonl"] for found in every.values()), every
    if not any(cell.startswith("_x") for cell, _ in rows):  # Excel's own escapes
        sheet = [(i.error, i.fields) for i in ItemReader().read(tmp_path / "a.xlsx")]
        assert sheet == every["a.jsonl"]


@given(st.lists(st.dictionaries(st.sampled_from(["title", "b"]), CELL, min_size=1), min_size=1))
def test_json_in_all_its_coats(values: list[dict[str, str]]) -> None:
    """Lines, an array, an indented array, indented objects, an object with a list."""

    def read(text: str) -> list[Any]:
        return [
            row for row, _ in json_rows(iter(text.encode().splitlines(keepends=True)), {"title"})
        ]

    coats = [
        "\n".join(map(json.dumps, values)), json.dumps(values), json.dumps(values, indent=1),
        "\n".join(json.dumps(v, indent=1) for v in values),
        json.dumps({"made": "today", "items": values}, indent=2),
    ]  # fmt: skip
    assert all(read(coat) == values for coat in coats)


def test_a_long_array_is_read_as_it_comes() -> None:
    """An element at a time, however the pieces fall."""
    values = [{"title": f"hat {i} " + "x" * (i % 500)} for i in range(3000)]
    text = json.dumps(values, indent=1).encode()
    found = json_rows(iter(text.splitlines(keepends=True)), {"title"})
    assert next(found)[0] == values[0]
    assert [row for row, _ in found] == values[1:]
    broken = json_rows(iter([b'[{"title": "x"},', b'{"title": oops}]']), {"title"})
    assert next(broken)[0] == {"title": "x"}
    with pytest.raises(InputError, match="not JSON after 1 items"):
        next(broken)


def test_a_record_is_not_read_without_end() -> None:
    """A quote that is never closed costs its own row, not the memory."""
    lines = ["id,title\n", '1,"open\n', *(f"{i},hat\n" for i in range(2, 300_000))]
    got = list(cells_in(lines, Dialect()))
    assert len(got) == 1 + 299_999
    assert [wrong for _, wrong in got if wrong] == [
        "not CSV: a quote opened on line 2 is not closed (longer than 1,048,576 characters)"
    ]
