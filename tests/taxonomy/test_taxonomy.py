"""Taxonomies: five formats, one tree; every problem at once, with its line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcat import Taxonomy
from llmcat.errors import BadConfig, BadTaxonomy
from llmcat.taxonomy.load import labels_in

YAML = """\
name: Shop
about: products
labels:
  - id: clothes
    name: Clothes
    names: {zh: 服装}
    children:
      - {id: "007", name: Shoes, description: Worn on feet, synonyms: [boots, 鞋]}
      - {name: no}
  - id: toys
    name: Toys
    deprecated: true
    children: [Dolls]
  - Books
"""


def test_yaml() -> None:
    """Text stays text (`007`, `no`); order is kept; what is deprecated is not on offer."""
    taxonomy = Taxonomy.parse(YAML, suffix=".yaml")
    assert [n.id for n in taxonomy.leaves] == ["007", "no", "Books"]
    assert taxonomy.about == "products"
    shoes = taxonomy.nodes["007"]
    assert shoes.label == "Clothes > Shoes"
    assert shoes.synonyms == ("boots", "鞋")
    assert taxonomy.nodes["clothes"].names == {"zh": "服装"}
    assert taxonomy.depth == 2
    assert [n.id for n in taxonomy.ancestors(shoes)] == ["clothes"]


def test_every_format_gives_the_same_tree() -> None:
    """YAML, JSON, JSONL, CSV, TSV and path lines."""
    tree = [{"name": "A", "id": "A", "children": [
        {"name": n, "id": f"A > {n}"} for n in ("x", "y")]}]  # fmt: skip
    rows = "path\nA\nA > x\nA > y\n"
    texts = {
        ".yaml": json.dumps(tree),
        ".json": json.dumps({"labels": tree}, indent="\t"),
        ".csv": rows,
        ".tsv": rows,
        ".txt": "# a comment\nA > x\nA>y\n",
        ".jsonl": '{"path": "A > x"}\n{"path": "A > y"}\n',
    }
    trees = {suffix: Taxonomy.parse(text, suffix=suffix).digest for suffix, text in texts.items()}
    assert len(set(trees.values())) == 1, trees


def test_csv_with_ids_and_parents() -> None:
    """Parents may come later than their children, by id or by path."""
    by_id = (
        "id,name,parent,synonyms,name_zh\n2,Shoes,1,boots|sandals,鞋\n3,Bags,1,,\n1,Clothes,,,\n"
    )
    taxonomy = Taxonomy.parse(by_id, suffix=".csv")
    assert [n.label for n in taxonomy.leaves] == ["Clothes > Shoes", "Clothes > Bags"]
    assert taxonomy.nodes["2"].synonyms == ("boots", "sandals")
    assert taxonomy.nodes["2"].names == {"zh": "鞋"}
    by_path = "id,path\n2,A > x\n3,A > y\n1,A\n"
    taxonomy = Taxonomy.parse(by_path, suffix=".csv")
    assert {n.id: n.parent for n in taxonomy.nodes.values()} == {"1": None, "2": "1", "3": "1"}


@pytest.mark.parametrize(
    ("suffix", "text", "problems"),
    [
        (".yaml", "- a\n- a\n", ["line 2: duplicate id 'a' (first on line 1)"]),
        (".yaml", "- a\n- {id: b}\n", ["line 2: empty name (id 'b')"]),
        (".yaml", "- a\n", ["only one category: there is nothing to choose"]),
        (".yaml", "[]", ["no categories"]),
        (".yaml", "- a\n- b: [\n", ["line 3: not YAML"]),
        (".yaml", "- a\n- {name: b, descripton: x}\n", ["line 2: unknown key 'descripton'"]),
        (".yaml", "- a\n- [b]\n", ["line 2: a label is a name or a mapping"]),
        (".yaml", "x: 1", ["unknown key 'x'", "expected a list of labels"]),
        (".yaml", "- a\n- none\n", ["line 2: 'none' is reserved"]),
        (".yaml", "- {id: 1, name: A}\n- {id: 2, name: A}\n", ["line 2: 'A' stands twice"]),
        (".json", '["a",\n "b"\n "c"]', ["line 3: not JSON"]),
        (".jsonl", '{"name": "a"}\nnope\n{"name": "b"}\n', ["line 2: not JSON"]),
        (".csv", "id,name,parent\n1,A,9\n2,B,\n", ["line 2: '1' has unknown parent '9'"]),
        (".csv", "id,name,parent\n1,A,2\n2,B,1\n", ["cycle"]),
        (".csv", "id,name,parent\n1,A,1\n2,B,\n3,C,\n", ["line 2: cycle: 1 > 1"]),
        (".csv", "id,name,colour\n1,A,x\n2,B,y\n", ["unknown column 'colour'"]),
        (".csv", "id,name\n1,A,x\n2,B\n3,C\n", ["line 2: more cells than columns"]),
        (".txt", "A > x\nA > y\nA > x\n", ["line 3: duplicate id 'A > x' (first on line 1)"]),
        (".md", "x", ["unknown format '.md'"]),
        (
            ".yaml",
            "- a\n- a\n- {id: c}\n- {name: d, x: 1}\n",
            ["line 2: duplicate", "line 3: empty name", "line 4: unknown key"],
        ),
    ],
)
def test_all_problems_at_once(suffix: str, text: str, problems: list[str]) -> None:
    """Each problem names its line, and none hides another."""
    with pytest.raises(BadTaxonomy) as caught:
        Taxonomy.parse(text, suffix=suffix)
    assert len(caught.value.problems) == len(problems)
    for problem in problems:
        assert any(problem in found for found in caught.value.problems), caught.value


def test_labels_on_the_command_line() -> None:
    """Spaces around names go; problems are found as in files."""
    assert [n.id for n in Taxonomy.from_labels("a, b ,c".split(",")).leaves] == ["a", "b", "c"]
    for labels in (["a"], ["a", "a"], ["a", ""], ["a", "none"], []):
        with pytest.raises(BadTaxonomy):
            Taxonomy.from_labels(labels)


def test_resolve() -> None:
    """By id, then path, then unique name; case and spaces around `>` do not matter."""
    taxonomy = Taxonomy.parse("A > x\nA > y\nB > x\n", suffix=".txt")
    assert taxonomy.resolve("A > x") == "A > x"
    assert taxonomy.resolve("a>X") == "A > x"
    assert taxonomy.resolve("y") == "A > y"
    assert taxonomy.resolve("x") is None  # two nodes have the name
    assert taxonomy.resolve("none") == taxonomy.resolve(" None ") == "none"
    called = Taxonomy.parse(
        '{"id": "0", "name": "None"}\n{"id": "1", "name": "Some"}', suffix=".jsonl"
    )
    assert (called.resolve("None"), called.resolve("none")) == ("0", "none")
    assert taxonomy.resolve("z") is None


names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6)


@given(st.lists(st.lists(names, min_size=1, max_size=4), min_size=1, max_size=20))
def test_path_lines_round_trip(paths: list[list[str]]) -> None:
    """Every path given is a node, its ancestors too, and the leaves written out read back."""
    text = "\n".join(" > ".join(p) for p in paths)
    try:
        taxonomy = Taxonomy.parse(text, suffix=".txt")
    except BadTaxonomy as exc:
        assert any(w in str(exc) for w in ("duplicate", "only one", "reserved"))  # noqa: PT017
        return
    leaves = "\n".join(n.label for n in taxonomy.leaves)
    again = Taxonomy.parse(leaves, suffix=".txt")
    assert [n.id for n in again.leaves] == [n.id for n in taxonomy.leaves]


HOME = """{"id": 1, "label": "Home", "parent_id": %s}
{"id": 2, "label": "Lamps", "parent_id": %s}
{"id": 3, "label": "Rugs", "parent_id": %s}"""


@pytest.mark.parametrize(
    ("suffix", "text", "paths"),
    [
        (".txt", "# Version: 2099\n1 - Home\n11 - Home > Lamps\n12 - Home > Rugs\n", None),
        (".txt", "# x\nx://h : Home\nx://1 : Home > Lamps\nx://2   : Home > Rugs\n", None),
        (".txt", "Home\n  Lamps\n  Rugs\n", None),
        (".txt", "Home\n\tLamps\n\tRugs\n", None),
        (".txt", "- Home\n  - Lamps\n  - Rugs\n", None),
        (".txt", "Home/Lamps\nHome/Rugs\n", None),
        (".txt", "Home » Lamps\nHome » Rugs\n", None),
        (".txt", "Home >> Lamps\r\nHome >> Rugs\r\n", None),
        (".txt", "1. TV/Video\n2. Audio\n", ["TV/Video", "Audio"]),
        (".txt", "Caf&eacute; &amp; Bar\nSpiel\u200bze\u00adug\n", ["Café & Bar", "Spielzeug"]),
        (".csv", "ID,Name,Parent ID\n1,Home,0\n2,Lamps,1.0\n3,Rugs,1\n", None),
        (".csv", "id;name;parent\n1;Home;nan\n2;Lamps;Home\n3;Rugs;Home\n", None),
        (".tsv", 'name\tparent\nA\t\nB 2"\tA\nC\tA\n', ['A > B 2"', "A > C"]),
        (".jsonl", HOME % ("NaN", "1.0", "1"), None),
        (".json", f"[{(HOME % ('null', 1, 1)).replace(chr(10), ',')}]", None),
        (".yaml", "Home: [Lamps, Rugs]\n", None),
        (".yaml", "labels:\n  - Lamps: for light\n  - Rugs: for floors\n", ["Lamps", "Rugs"]),
        (".json", '{"Lamps": "for light", "Rugs": "for floors"}', ["Lamps", "Rugs"]),
        (".json", '{"0": "Lamps", "1": "Rugs"}', ["Lamps", "Rugs"]),
        (".json", '{"Lamps": 0, "Rugs": 1}', ["Lamps", "Rugs"]),
        (".jsonl", '{"id":0,"name":"A"}\n{"name":"b","parent":0}\n{"name":"c","parent":0}\n',
         ["A > b", "A > c"]),
        (".jsonl", '{"path": ["A", "b"]}\n{"path": ["A", "c"]}\n', ["A > b", "A > c"]),
        (".txt", "18 - 24\n25 - 34\n", ["18 - 24", "25 - 34"]),
        (".txt", "A -> b\nA => c\n", ["A > b", "A > c"]),
        (".txt", "Laptops >15 inch\nLaptops\n", ["Laptops >15 inch", "Laptops"]),
        (".csv", "path\nA/b\nA/c\n", ["A > b", "A > c"]),
        (".csv", "name,description\nA,one\u2028two\nB,x\n", ["A", "B"]),
        (".json", '[{"name": "A", "children": null}, {"name": "B"}]', ["A", "B"]),
    ],
)  # fmt: skip
def test_what_others_write(suffix: str, text: str, paths: list[str] | None) -> None:
    """Ids in front, indentation, bullets, other separators, other spellings of no parent."""
    taxonomy = Taxonomy.parse(text, suffix=suffix)
    assert [n.label for n in taxonomy.leaves] == (paths or ["Home > Lamps", "Home > Rugs"])


def test_ids_in_front_and_names_behind_numbers() -> None:
    """They are the ids; a text behind a name describes it."""
    taxonomy = Taxonomy.parse("1 - Home\n11 - Home > Lamps\n12 - Home > Rugs\n", suffix=".txt")
    assert [n.id for n in taxonomy.leaves] == ["11", "12"]
    assert taxonomy.resolve("Home > Lamps") == taxonomy.resolve("11.0") == "11"
    assert Taxonomy.parse('{"0": "Lamps", "1": "Rugs"}', suffix=".json").resolve("Rugs") == "1"
    taxonomy = Taxonomy.parse('{"Lamps": "for light", "Rugs": "for floors"}', suffix=".json")
    assert taxonomy.nodes["Lamps"].description == "for light"


@pytest.mark.parametrize(
    ("suffix", "text", "problem"),
    [
        (".txt", "Home\n Lamps\nGarden\n", "line 2: indented by one blank"),
        (".txt", "Home\n    Lamps\n  Rugs\n", "line 3: indented as no line above it"),
        (".txt", "Home\n  A > B\n", "line 2: a path within indented lines"),
        (".txt", "- Home\nGarden\n", "line 1 begins with a bullet, and others do not"),
        (".txt", "x://1 : Home\nGarden\n", "line 2: no id in front"),
        (".yaml", "lables: [a, b]\n", "unknown key 'lables'"),
        (".yaml", "A: &x\n- *x\n- b\nC: [d]\n", "expected a list"),
        (".txt", "Shoes\tworn on feet\nHats\ton heads\n", "is this a table (.tsv)?"),
        (".csv", "category,label\nClothes,Shoes\nClothes,Bags\n", "more than one column is"),
        (".json", '{"verticals": [{"name": "Home", "prefix": "h"}]}', "expected a list"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(suffix: str, text: str, problem: str) -> None:
    """A tree that is read as a list would give wrong labels without a word."""
    with pytest.raises(BadTaxonomy) as caught:
        Taxonomy.parse(text, suffix=suffix)
    assert problem in str(caught.value)


def test_a_message_lists_five_problems() -> None:
    """The error holds them all; items in place of categories are recognised."""
    with pytest.raises(BadTaxonomy) as caught:
        Taxonomy.parse("title,price\n" + "hat,1\n" * 60, suffix=".csv")
    assert len(caught.value.problems) > 50
    assert str(caught.value).count("\n") == 6
    assert "it looks like a file of items" in caught.value.hint


def test_labels_given_in_other_ways() -> None:
    """A path with slashes, two signs, entities; a number as a spreadsheet writes it."""
    taxonomy = Taxonomy.parse("Home > Lamps & Light\nHome > Rugs\n", suffix=".txt")
    wanted = "Home > Lamps & Light"
    for label in ("Home/Lamps &amp; Light", "home >> lamps & light", "Home &gt; Lamps & Light"):
        assert taxonomy.resolve(label) == wanted
    rows = Taxonomy.parse("id,name\n1,Lamps\n2,2.0\n", suffix=".csv")
    assert (rows.resolve("1.0"), rows.resolve("2.0"), rows.resolve("1.5")) == ("1", "2", None)


def test_the_flag_is_a_line_of_csv() -> None:
    """Commas in quotes, a JSON list; another separator is no silent single category."""
    assert labels_in('"Bags, cases",shoes, toys') == ["Bags, cases", "shoes", "toys"]
    assert labels_in('["Bags, cases", "shoes"]') == ["Bags, cases", "shoes"]
    for text in ("a;b;c", '["a"', "[1]", '"a'):
        with pytest.raises(BadConfig, match="--labels"):
            labels_in(text)
