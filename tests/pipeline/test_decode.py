"""Codes, menus, decoding and walks: pure values in and out."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmcat import Taxonomy
from llmcat.candidates.codes import CANDIDATES, grammar, pattern
from llmcat.candidates.plan import Plan
from llmcat.candidates.walks import walk
from llmcat.errors import BadConfig, ConstraintIgnored, EngineUnsupported
from llmcat.pipeline import decode
from llmcat.records import MOST_LABELS, NONE, Answer, Item, Menu, Node, Prefix, Request, Scores


def menu_of(count: int) -> Menu:
    nodes = tuple(Node(id=f"n{i}", name=f"n{i}", path=(f"n{i}",)) for i in range(count))
    return Menu(nodes=nodes, codes=CANDIDATES[: count + 1])


def answer(menu: Menu, logprobs: list[float], *, masked: bool = True) -> Answer:
    ask = Request(Item(0, "0", {}), menu, Prefix((), ""), ())
    return Answer(request=ask, logprobs=tuple(logprobs), masked=masked)


def normal(logits: list[float]) -> list[float]:
    total = math.log(math.fsum(map(math.exp, logits)))
    return [x - total for x in logits]


def test_the_alphabet() -> None:
    """Distinct, capitals first, enough for the largest menu, and no code that is a word."""
    assert len(set(CANDIDATES)) == len(CANDIDATES) > MOST_LABELS
    assert CANDIDATES[:26] == tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert CANDIDATES[26:30] == ("AA", "AB", "AC", "AE")
    assert not {"NO", "IT", "OK"} & set(CANDIDATES)


@pytest.mark.parametrize("count", [3, 27, 128])
def test_the_constraint_comes_from_outlines_and_fits_the_codes_exactly(count: int) -> None:
    """The regex matches each code of the menu and nothing else of the alphabet."""
    codes = CANDIDATES[:count]
    regex = re.compile(pattern(codes))
    lengths = [len(code) for code in pattern(codes).strip("()").split("|")]
    assert lengths == sorted(lengths, reverse=True)  # or A would hide AA
    matching = [c for c in CANDIDATES if regex.fullmatch(c)]
    assert matching == list(CANDIDATES[:count])


def test_a_menu_holds_its_shape() -> None:
    """One code more than nodes, all distinct; the hash changes with order and codes."""
    nodes = menu_of(2).nodes
    with pytest.raises(ValueError, match="one distinct code"):
        Menu(nodes=nodes, codes=("A", "B"))
    with pytest.raises(ValueError, match="one distinct code"):
        Menu(nodes=nodes, codes=("A", "A", "B"))
    hashes = {
        Menu(nodes=nodes, codes=("A", "B", "C")).digest,
        Menu(nodes=nodes[::-1], codes=("A", "B", "C")).digest,
        Menu(nodes=nodes, codes=("B", "A", "C")).digest,
    }
    assert len(hashes) == 3


logits = st.lists(st.floats(-30, 30), min_size=3, max_size=128)


@given(logits, st.floats(-9, 0))
def test_the_posterior_does_not_depend_on_the_mask(values: list[float], shift: float) -> None:
    """P = P_raw / mass: masked and unmasked readings agree, and the mass is the raw sum."""
    first, second, *_ = sorted(values, reverse=True)
    assume(first - second > 1e-9)  # nearer than that rounding decides
    menu = menu_of(len(values) - 1)
    masked = decode.read(answer(menu, normal(values)))
    raw = decode.read(answer(menu, [x + shift for x in normal(values)], masked=False))
    assert masked.label == raw.label
    assert masked.p == pytest.approx(raw.p, abs=1e-9)
    assert masked.p_none == pytest.approx(raw.p_none, abs=1e-9)
    assert masked.mass is None
    assert raw.mass == pytest.approx(math.exp(shift))
    assert math.fsum([*raw.p.values(), raw.p_none]) == pytest.approx(1.0)
    assert raw.confidence == max([*raw.p.values(), raw.p_none])


@given(logits, st.randoms())
def test_permuting_the_menu_permutes_the_scores(values: list[float], draw: object) -> None:
    """Scores belong to labels, not to places or codes."""
    menu = menu_of(len(values) - 1)
    order = list(range(len(menu.nodes)))
    draw.shuffle(order)  # type: ignore[attr-defined]
    shuffled = Menu(nodes=tuple(menu.nodes[i] for i in order), codes=menu.codes)
    moved = [values[i] for i in order] + [values[-1]]
    one = decode.read(answer(menu, normal(values)))
    two = decode.read(answer(shuffled, normal(moved)))
    assert one.p == pytest.approx(two.p)
    assert one.confidence == pytest.approx(two.confidence)


def test_ties_go_to_the_first_on_the_menu() -> None:
    """So the same answer always gives the same label; the exit stands last."""
    menu = menu_of(2)
    assert decode.read(answer(menu, normal([1.0, 1.0, 1.0]))).label == "n0"
    assert decode.read(answer(menu, normal([0.0, 1.0, 1.0]))).label == "n1"
    assert decode.read(answer(menu, normal([0.0, 1.0, 1.1]))).label == NONE


def test_a_masked_answer_that_does_not_sum_to_one_is_no_masked_answer() -> None:
    """The server stopped applying the grammar."""
    with pytest.raises(ConstraintIgnored):
        decode.read(answer(menu_of(2), [-1.0, -2.0, -3.0]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"rationale": "a \\"red\\" shoe"}', 'a "red" shoe'),
        ('{"rationale":"cut in the mid', "cut in the mid"),
        ('{ "rationale" : "', ""),
        ("{", "{"),
    ],
)
def test_reasons_are_read_also_when_cut(text: str, said: str) -> None:
    """What came until the cut is what was said."""
    assert decode.rationale(text) == said


def test_every_name_can_be_spelled_token_by_token() -> None:
    """Also where a name goes on where a shorter one ends, by whatever character."""
    from outlines_core import Guide, Index, Vocabulary

    names = ["Home", "Home, Garden & Tools", "TV", "TV/Video", "Toy", "Toys & Games", "Bags: big"]
    pieces = ["Home", ",", " Garden", " &", " Tools", "TV", "/", "Video", "Toy", "Toys", "s",
              " Games", "Bags", ":", " big", "\n", " and"]  # fmt: skip
    ids = {piece: [i] for i, piece in enumerate(pieces)}
    index = Index(grammar(tuple(names), "text"), Vocabulary(len(pieces), ids))
    for name in names:
        guide, left = Guide(index), f"{name}\n"
        while left:
            fits = [p for p in pieces if left.startswith(p) and ids[p][0] in guide.get_tokens()]
            assert fits, f"{name!r} cannot go on with {left!r}"
            best = max(fits, key=len)
            guide.advance(ids[best][0], return_tokens=False)
            left = left[len(best) :]
        assert guide.is_finished()


# -- walks ----------------------------------------------------------------------------------


def drive(plan: Plan, score: Callable[[Node], float], exit_logit: float) -> tuple[Scores, int]:
    """Walk with a score per node; return the end and the number of menus."""
    steps = walk(plan)
    menus = next(steps)
    count = 0
    while True:
        count += len(menus)
        said = []
        for menu in menus:
            values = normal([*(score(n) for n in menu.nodes), exit_logit])
            said.append(decode.read(answer(menu, values)))
        try:
            menus = steps.send(said)
        except StopIteration as end:
            return end.value, count


def test_few_labels_fit_one_menu() -> None:
    """One ask, all leaves, a full distribution."""
    plan = Plan(Taxonomy.parse("A > x\nA > y\nB > z\n", suffix=".txt"), CANDIDATES[:128])
    end, asks = drive(plan, lambda n: 3.0 * (n.name == "y"), 0.0)
    assert (end.label, end.kind, asks, plan.kind) == ("A > y", "full", 1, "menu")


def tree() -> Plan:
    lines = "".join(f"{d} > {d}{m} > {d}{m}{x}\n" for d in "ABC" for m in "ab" for x in "123")
    return Plan(Taxonomy.parse(lines, suffix=".txt"), CANDIDATES[:128], size=6)


def test_a_descent_multiplies_down_the_path() -> None:
    """Log P(path) is the sum over levels; what is known sums to at most one."""
    want = {"B", "Ba", "Ba2"}
    end, asks = drive(tree(), lambda n: 2.0 * (n.name in want), 0.0)
    assert (end.label, end.kind, asks) == ("B > Ba > Ba2", "top", 3)
    step = [math.exp(2) / (math.exp(2) + k) for k in (3, 2, 3)]
    assert end.confidence == pytest.approx(math.prod(step))
    assert math.fsum([*end.p.values(), end.p_none]) == pytest.approx(1.0)


def test_the_exit_means_different_things() -> None:
    """At the top it answers none, at an inner node that node."""
    end, asks = drive(tree(), lambda _: 0.0, 1.0)
    assert (end.label, asks) == (NONE, 1)
    end, asks = drive(tree(), lambda n: 2.0 * (n.name in {"B", "Bb"}), 1.0)
    assert (end.label, asks) == ("B > Bb", 3)
    assert end.confidence == pytest.approx(end.p["B > Bb"])


def test_a_level_with_one_node_is_walked_through() -> None:
    """A single root, and single levels further down, are never asked about."""
    lines = "".join(f"Root > {d} > All > {d}{x}\n" for d in "ABC" for x in "123")
    plan = Plan(Taxonomy.parse(lines, suffix=".txt"), CANDIDATES[:128], size=6)
    assert [n.name for n in plan.first_menus()[0].nodes] == ["A", "B", "C"]
    end, asks = drive(plan, lambda n: 2.0 * (n.name in {"B", "B2"}), 0.0)
    assert (end.label, asks) == ("Root > B > All > B2", 2)
    assert math.fsum([*end.p.values(), end.p_none]) == pytest.approx(1.0)
    end, asks = drive(plan, lambda _: 0.0, 1.0)
    assert (end.label, asks) == (NONE, 1)  # what is below a single root is the top
    end, asks = drive(plan, lambda n: 2.0 * (n.name == "B"), 1.0)
    assert (end.label, asks) == ("Root > B > All", 2)
    steps = walk(plan)
    next(steps)
    steps.send([Scores("Root > B", {}, None, "label_only")])
    with pytest.raises(StopIteration) as bare:
        steps.send([Scores("Root > B > All > B2", {}, None, "label_only")])
    assert bare.value.value == Scores("Root > B > All > B2", {}, None, "label_only")


@pytest.mark.parametrize(("count", "asks"), [(128, 3), (300, 4), (5000, 41), (20000, 158 + 2 + 1)])
def test_a_tournament_finds_the_best_of_any_number(count: int, asks: int) -> None:
    """Rounds shrink the list to one menu; the best label wins wherever it stands."""
    plan = Plan(Taxonomy.from_labels([f"l{i}" for i in range(count)]), CANDIDATES[:128])
    assert plan.kind == "tournament"
    for best in (0, count // 2, count - 1):
        end, used = drive(plan, lambda n, b=best: 5.0 * (n.id == f"l{b}") + 0.001, 0.0)  # type: ignore[misc]
        assert (end.label, end.kind, used) == (f"l{best}", "top", asks)
    end, used = drive(plan, lambda _: 0.0, 1.0)
    assert end.label == NONE


def test_a_wide_node_in_a_tree() -> None:
    """A node with more children than a menu holds plays a tournament on the way down."""
    lines = "".join(f"A > a{i}\n" for i in range(30)) + "B > b\n"
    plan = Plan(Taxonomy.parse(lines, suffix=".txt"), CANDIDATES[:11], size=10)
    end, _ = drive(plan, lambda n: 4.0 * (n.name in {"A", "a17"}), 0.0)
    assert end.label == "A > a17"


def spelling(taxonomy: Taxonomy, size: int = MOST_LABELS) -> Plan:
    names = {n.id: n.label for n in taxonomy.nodes.values()}
    return Plan(taxonomy, CANDIDATES[:128], size, {"": "None of these", **names})


def drive_by_name(plan: Plan, wanted: str) -> tuple[Scores, int]:
    """Walk, answering with the name that leads to `wanted`, else the exit's."""
    steps = walk(plan)
    menus, count = next(steps), 0
    while True:
        count += len(menus)
        said = []
        for menu in menus:
            fits = [c for c in menu.codes if wanted == c or wanted.startswith(f"{c} > ")]
            ask = Request(Item(0, "0", {}), menu, Prefix((), ""), (), read="text")
            said.append(decode.read(Answer(request=ask, text=fits[0] if fits else menu.exit)))
        try:
            menus = steps.send(said)
        except StopIteration as end:
            return end.value, count


def test_names_are_read_as_labels_without_probabilities() -> None:
    """In every shape of taxonomy; a name that is not on the menu is refused."""
    flat = Taxonomy.from_labels(["a", "b", "c"])
    end, asks = drive_by_name(spelling(flat), "b")
    assert (end.label, end.kind, end.p, end.p_none, end.confidence) == (
        "b", "label_only", {}, None, None)  # fmt: skip
    assert asks == 1
    assert drive_by_name(spelling(flat), "x")[0].label == NONE
    lines = "".join(f"{d} > {d}{m} > {d}{m}{x}\n" for d in "ABC" for m in "ab" for x in "123")
    deep = spelling(Taxonomy.parse(lines, suffix=".txt"), 6)
    end, asks = drive_by_name(deep, "B > Bb > Bb3")
    assert (end.label, asks) == ("B > Bb > Bb3", 3)
    assert drive_by_name(deep, "B > Bb > x")[0].label == "B > Bb"
    many = spelling(Taxonomy.from_labels([f"l{i}" for i in range(300)]))
    end, asks = drive_by_name(many, "l222")
    assert (end.label, end.kind, asks) == ("l222", "label_only", 4)
    assert drive_by_name(many, "x")[0].label == NONE
    ask = Request(Item(0, "0", {}), menu_of(2), Prefix((), ""), (), read="text")
    with pytest.raises(ConstraintIgnored):
        decode.read(Answer(request=ask, text="zebra"))


def test_names_must_tell_labels_apart() -> None:
    """Two nodes of one name, or a node that is called as the exit is, cannot be spelled."""
    flat = Taxonomy.from_labels(["a", "b"])
    for names in ({"": "none", "a": "x", "b": "x"}, {"": "x", "a": "x", "b": "y"}):
        with pytest.raises(BadConfig, match="both called"):
            Plan(flat, CANDIDATES[:128], spelled=names)


def test_a_small_alphabet_makes_small_menus_or_refuses() -> None:
    """A model with few one-token codes still works; one with two does not."""
    taxonomy = Taxonomy.from_labels(list("abcdef"))
    assert Plan(taxonomy, CANDIDATES[:5]).size == 4
    with pytest.raises(EngineUnsupported):
        Plan(taxonomy, CANDIDATES[:2])


def test_outlines_is_imported_without_transformers_and_works_with_it() -> None:
    """It takes most of a start, for models nobody here asks; who comes later finds both whole."""
    code = (
        "import sys\n"
        "from llmcat.candidates.codes import pattern\n"
        "assert pattern(('A', 'B')) == '(A|B)'\n"
        "assert 'transformers' not in sys.modules\n"
        "import outlines, transformers\n"
        "assert outlines.models.transformers.from_transformers\n"
        "assert transformers.PreTrainedTokenizerBase\n"
        "assert not any(type(f).__name__ == '_NoTransformers' for f in sys.meta_path)\n"
    )
    pytest.importorskip("transformers")
    subprocess.run([sys.executable, "-c", code], check=True)
