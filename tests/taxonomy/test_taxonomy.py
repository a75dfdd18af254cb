"""Taxonomies: five formats, one tree; every problem at once, with its line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcat import Taxonomy
from llmcat.errors import BadTaxonomy

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
        (".yaml", "x: 1", ["expected a list of labels"]),
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
