"""Readers: every row of the input becomes one item, in order, whatever it holds."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from llmcat.errors import BadConfig, InputError
from llmcat.files.sources import count_rows, expand
from llmcat.items.readers import Columns, ItemReader
from llmcat.records import Item

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return put


def read(path: Path, **columns: object) -> list[Item]:
    return list(ItemReader(columns=Columns(**columns)).read(path))  # type: ignore[arg-type]


def test_jsonl_keeps_ids_and_titles_as_given(write: Write) -> None:
    """`00123` stays a string, numbers become one, `NA` and `nan` are titles."""
    path = write(
        "a.jsonl",
        '{"id":"00123","title":"NA"}\n{"id":7,"title":"nan"}\n\n{"title":"null","label":"x"}\n',
    )
    items = read(path)
    assert [(i.row, i.id, i.fields["title"]) for i in items[:2]] == [
        (0, "00123", "NA"),
        (1, "7", "nan"),
    ]
    assert items[2].gold == "x"
    assert len(items[2].id) == 16


def test_a_missing_id_comes_from_the_content(write: Write) -> None:
    """The same content gives the same id; other content another."""
    one, two, three = read(write("a.txt", "red\nblue\nred\n"))
    assert one.id == three.id != two.id


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"title": "x"', "not JSON"),
        (b"[1, 2]", "expected a JSON object, found list"),
        (b'{"title": "\xff\xfe"}', "not UTF-8 at byte 11"),
        (b'{"title": ""}', "no text in title"),
        (b'{"title": null}', "no text in title"),
        (b'{"id": "1"}', "no text in title"),
        (b'{"title": "  \\u0000 "}', "no text in title"),
        (b'{"title": "x", "attributes": ' + b"[" * 900 + b"]" * 900 + b"}", "not readable"),
    ],
)
def test_a_bad_line_is_a_row_with_a_reason(write: Write, line: bytes, reason: str) -> None:
    """The rows around it are not disturbed."""
    items = read(write("a.jsonl", b'{"title":"before"}\n' + line + b'\n{"title":"after"}\n'))
    assert [i.row for i in items] == [0, 1, 2]
    assert [i.error is None for i in items] == [True, False, True]
    assert reason in str(items[1].error)


def test_bom_and_crlf(write: Write) -> None:
    """Both are taken off, in JSONL and in CSV."""
    assert read(write("a.jsonl", b'\xef\xbb\xbf{"title":"x"}\r\n'))[0].fields == {"title": "x"}
    items = read(write("a.csv", b"\xef\xbb\xbfid,title\r\n01,x\r\n"))
    assert (items[0].id, items[0].fields) == ("01", {"title": "x"})


def test_csv_cells_are_strings(write: Write) -> None:
    """Quotes, commas and line breaks inside cells; NA, 1e5 and 007 as they stand."""
    path = write("a.csv", 'id,title,description\n007,NA,1e5\n8,"a, ""b""\nc",\n')
    items = read(path)
    assert [(i.id, dict(i.fields)) for i in items] == [
        ("007", {"title": "NA", "description": "1e5"}),
        ("8", {"title": 'a, "b" c'}),
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("1,x,too many", "3 cells in a row of 2 columns"),
        (b"1,\xff\n2,caf\xc3\xa9\n3,\xc3\xa9t\xc3\xa9", "not UTF-8"),
        ('1,"a" b', "not CSV"),
    ],
)
def test_a_bad_csv_row_is_a_row_with_a_reason(write: Write, body: str | bytes, reason: str) -> None:
    """The rows around it are read."""
    body = body.encode() if isinstance(body, str) else body
    items = read(write("a.csv", b"id,title\n0,before\n" + body + b"\n2,after\n"))
    assert [i.row for i in items if i.error] == [1]
    assert reason in str(items[1].error)


def test_gzip_is_told_by_content(write: Write) -> None:
    """A gzipped file reads like the plain one, and a torn one says so."""
    packed = gzip.compress(b"title\n" + b"red shoes\n" * 1000)
    assert len(read(write("a.csv.gz", packed))) == 1000
    assert len(read(write("b.csv", packed))) == 1000
    with pytest.raises(InputError, match="breaks off"):
        read(write("c.csv.gz", packed[:-20]))


def test_text_columns(write: Write) -> None:
    """The columns asked for are shown, in that order; attributes read like text."""
    path = write("a.jsonl", json.dumps({"title": "t", "brand": "b", "attributes": {"a": [1, 2]}}))
    assert dict(read(path)[0].fields) == {"title": "t", "attributes": "a: 1, 2"}
    assert list(read(path, text=("brand", "title"))[0].fields.items()) == [
        ("brand", "b"),
        ("title", "t"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "columns", "hint"),
    [
        ("a.csv", "id,titel\n1,x\n", {}, "id, titel"),
        ("a.csv", "id,title\n1,x\n", {"text": ("name",)}, "id, title"),
        ("a.jsonl", '{"id":1,"titel":2}\n', {}, "id, titel"),
    ],
)
def test_an_unknown_column_lists_those_there(
    write: Write, name: str, content: str, columns: dict[str, tuple[str, ...]], hint: str
) -> None:
    """The error names the column, the hint what the file has."""
    with pytest.raises(BadConfig) as caught:
        read(write(name, content), **columns)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.tsv"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_an_error(write: Write, name: str, content: str) -> None:
    """Nothing to classify is never success."""
    with pytest.raises(InputError, match="no rows"):
        read(write(name, content))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Absent, a folder, or of an unknown format."""
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match="directory"):
        read(tmp_path)
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a\.xlsx: a damaged workbook"):
        read(tmp_path / "a.xlsx")
    (tmp_path / "a.doc").write_bytes(b"x")
    with pytest.raises(InputError, match=r"unknown format '\.doc'"):
        read(tmp_path / "a.doc")


def test_a_megabyte_is_cut_and_flagged(write: Write) -> None:
    """Over-long text keeps its beginning; the item says so."""
    item = read(write("a.jsonl", json.dumps({"title": "x" * 1_000_000})))[0]
    assert len(item.fields["title"]) == 20_000
    assert item.note == "text cut to fit"


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@given(st.lists(cells.filter(lambda t: t.strip()), min_size=1, max_size=20))
def test_csv_and_jsonl_agree(tmp_path_factory: pytest.TempPathFactory, titles: list[str]) -> None:
    """The same rows give the same items, whichever format carries them."""
    folder = tmp_path_factory.mktemp("r")
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["title"])
    rows.writerows([t] for t in titles)
    (folder / "a.csv").write_text(text.getvalue(), "utf-8", newline="")
    lines = "".join(json.dumps({"title": t}) + "\n" for t in titles)
    (folder / "a.jsonl").write_text(lines, "utf-8")
    one, two = read(folder / "a.csv"), read(folder / "a.jsonl")
    assert one == two
    assert len(one) == len(titles) == count_rows(folder / "a.csv")


def test_zstd_is_told_by_content(write: Write) -> None:
    """As gzip is; several frames are one file; a cut one breaks off with an error."""
    pack = zstd.compress
    packed = pack(b'{"title":"red"}\n') + pack(b'{"title":"blue"}\n')
    assert [i.fields["title"] for i in read(write("a.jsonl.zst", packed))] == ["red", "blue"]
    with pytest.raises(InputError, match="breaks off"):
        read(write("b.jsonl.zst", pack(b'{"title":"red"}\n' * 9999)[:40]))


def test_parquet_keeps_strings_and_shows_the_rest(tmp_path: Path) -> None:
    """Row groups are read one by one; ids keep their zeros, numbers and structs become text."""
    frame = pd.DataFrame(
        {
            "id": [f"{i:05}" for i in range(3000)],
            "title": ["NA", None, *(f"shoe {i}" for i in range(2998))],
            "attributes": [{"brand": "X", "size": i} for i in range(3000)],
            "label": ["shoes"] * 3000,
        }
    )
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=700)
    items = read(tmp_path / "a.parquet")
    assert count_rows(tmp_path / "a.parquet") == len(items) == 3000
    assert (items[0].id, items[0].fields["title"], items[0].gold) == ("00000", "NA", "shoes")
    assert list(items[1].fields) == ["attributes"]
    assert items[2999].fields == {"title": "shoe 2997", "attributes": "brand: X; size: 2999"}


@pytest.mark.parametrize("content", [b"", b"PAR1 nothing of the kind", b"{}\n"])
def test_what_is_no_parquet_file(write: Write, content: bytes) -> None:
    """Said in one line, whatever pyarrow thinks of it."""
    with pytest.raises(InputError):
        read(write("a.parquet", content))


def test_many_files_are_one_run(write: Write, tmp_path: Path) -> None:
    """Rows are numbered through, formats may differ, some may be empty; all empty is an error."""
    write("a.csv", "title\nred\nblue\n")
    write("b.jsonl", "")
    write("c.txt", "green\n")
    write("notes.md", "not items")
    files = expand(str(tmp_path))
    assert [Path(f).name for f in files] == ["a.csv", "b.jsonl", "c.txt"]
    assert files == expand(f"{tmp_path}/*.[cjt]*") == expand("\n".join([*files, files[0]]))
    reader = ItemReader()
    got = [(i.row, i.fields["title"]) for i in reader.read(*files)]
    assert got == [(0, "red"), (1, "blue"), (2, "green")]
    assert list(reader.parts.values()) == [2, 0, 1]
    assert count_rows(*files) == 3
    with pytest.raises(InputError, match="no rows in any"):
        list(ItemReader().read(files[1], files[1]))
    for nothing in (f"{tmp_path}/*.parquet", f"{tmp_path}/none*", ""):
        with pytest.raises(InputError, match="no file"):
            expand(nothing)
