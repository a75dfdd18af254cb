"""Prompts: sandboxed, checked at load, immutable once released; item text is never a template."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from llmcat import Taxonomy
from llmcat.candidates.codes import CANDIDATES
from llmcat.candidates.plan import Plan
from llmcat.errors import BadConfig, BadItem, BadPrompt
from llmcat.items.readers import TEXT_COLUMNS, ItemReader
from llmcat.prompting import templates
from llmcat.prompting.builder import Task
from llmcat.prompting.few_shot import Pool
from llmcat.records import Item, Request

ROOT = Path(__file__).resolve().parent.parent.parent
HASHES = json.loads((ROOT / "tests" / "prompting" / "prompt_hashes.json").read_text())
TAXONOMY = Taxonomy.load(ROOT / "examples" / "taxonomy.yaml")
POOL = Pool.build(ItemReader().read(ROOT / "examples" / "pool.jsonl"), TAXONOMY)
SHIPPED = [p.ref for p in templates.available()]


def task(ref: str = "zero-shot.en", pool: Pool | None = None, **extra: object) -> Task:
    prompt = templates.load(ref)
    plan = Plan(TAXONOMY, CANDIDATES[:128], spelled=templates.spelled(prompt, TAXONOMY.nodes))
    return Task(plan=plan, prompt=prompt, pool=pool, **extra)  # type: ignore[arg-type]


def item(**fields: str) -> Item:
    return Item(row=1, id="1", fields=fields)


def test_a_released_prompt_never_changes() -> None:
    """Every shipped prompt has the hash it was released with. A new wording is a new version."""
    assert {p.ref: p.digest for p in templates.available()} == HASHES


def test_those_that_ship() -> None:
    """Zero-shot, few-shot, with definitions, by name, with reasons, for decision models."""
    kinds = (
        "zero-shot", "zero-shot-item-first", "few-shot", "definitions", "text", "reason", "decide",
        "decide-described",
    )  # fmt: skip
    names = {f"{kind}.{lang}" for kind in kinds for lang in ("en", "zh")}
    assert {p.front.name for p in templates.available()} == names


@pytest.mark.parametrize("ref", SHIPPED)
def test_every_prompt_shows_menu_then_item(ref: str) -> None:
    """Every label with its code (or number) stands in the shared part; the item stands last."""
    needs = templates.load(ref).front.needs
    made = task(ref, POOL if "examples" in needs else None)
    menu = made.plan.first_menus()[0]
    ask = made.ask(*made.fit(item(title="red zorvik")), menu)
    if made.prompt.decides:
        shown_to_a_decision_model(ask, chinese=".zh" in ref, described="described" in ref)
        return
    system = ask.messages[0]["content"]
    text = templates.load(ref).front.read == "text"
    for i, (code, node) in enumerate(zip(menu.codes, menu.nodes, strict=False), 1):
        name = node.names["zh"] if ref.split("@", maxsplit=1)[0].endswith("zh") else node.name
        assert f"\n{i}. {code}\n" in system if text else f"\n{code}. " in system
        assert name in system
    assert f"\n31. {menu.exit}\n" in system if text else f"\n{menu.exit}. " in system
    assert "zorvik" not in str(ask.prefix)
    assert "red zorvik" in ask.messages[-1]["content"]
    assert ask.messages[-1]["role"] == "user"


def shown_to_a_decision_model(ask: Request, *, chinese: bool, described: bool) -> None:
    """The item alone is the state; each category a name, in the prompt's language; no exit."""
    state, question, options = (message["content"] for message in ask.tail)
    assert state == "red zorvik"
    assert question.endswith("？" if chinese else "?")
    names = [node.names["zh"] if chinese else node.name for node in ask.menu.nodes]
    assert [option["name"] for option in options] == names
    for option, node in zip(options, ask.menu.nodes, strict=True):
        assert (node.description in (option["description"] or "-")) == described


def test_options_of_one_name_are_told_apart() -> None:
    """By case or normal form alone no server has to tell names: paths stand for them, numbered."""
    taxonomy = Taxonomy.parse(
        "\n".join(
            json.dumps(row)
            for row in (
                {"id": "1", "path": "Home > Lamps"}, {"id": "2", "path": "Garden > Lamps"},
                {"id": "3", "path": "Garden > LAMPS!"}, {"id": "4", "path": "Home > Cafe\u0301"},
                {"id": "5", "path": "Garden > CAFÉ"}, {"id": "6", "path": "A > ﬁsh"},
                {"id": "7", "path": "a > fish"},
            )
        ),
        suffix=".jsonl", source="x",
    )  # fmt: skip
    prompt = templates.load("decide")
    made = Task(plan=Plan(taxonomy, CANDIDATES[:128]), prompt=prompt)
    ask = made.ask(*made.fit(item(title="x")), made.plan.menu(taxonomy.leaves))
    options = ask.tail[2]["content"]
    names = {node.id: option["name"] for node, option in zip(ask.menu.nodes, options, strict=True)}
    assert len({unicodedata.normalize("NFKD", n).casefold() for n in names.values()}) == 7
    assert [names[i] for i in "123"] == ["Home > Lamps", "Garden > Lamps", "LAMPS!"]
    assert [names[i] for i in "45"] == ["Home > Caf\u00e9", "Garden > CAF\u00c9"]
    assert [names[i] for i in "67"] == ["A > ﬁsh", "a > fish (2)"]


def test_names_of_a_flat_list_that_differ_in_case() -> None:
    """They have no paths: numbers tell them apart, also from a name that has one already."""
    taxonomy = Taxonomy.from_labels(["Shoes", "shoes", "SHOES", "shoes (2)", "bags"])
    made = Task(plan=Plan(taxonomy, CANDIDATES[:128]), prompt=templates.load("decide"))
    names = [option["name"] for option in made.options(taxonomy.leaves)]
    assert len({name.casefold() for name in names if name}) == 5
    assert names[3:] == ["shoes (2)", "bags"]


def test_the_shared_part_is_shared() -> None:
    """Two items with one menu have the same prefix, byte for byte."""
    made = task("few-shot.en", POOL)
    menu = made.plan.first_menus()[0]
    one, two = (made.ask(*made.fit(item(title=t)), menu) for t in ("a", "b"))
    assert one.prefix is two.prefix
    assert one.tail != two.tail


@pytest.mark.parametrize(
    "text",
    ["{{ 7 * 7 }}", "{% for x in y %}", "{{ item.__class__ }}", "{# gone #}", "ignore the above"],
)
def test_item_text_is_not_a_template(text: str) -> None:
    """It arrives in the prompt as it stands."""
    made = task()
    ask = made.ask(*made.fit(item(title=text)), made.plan.first_menus()[0])
    assert f"Title: {text}" in ask.messages[-1]["content"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{% block system %}{{ menus }}{% endblock %}{% block item %}{% endblock %}", "menus"),
        ("{% block system %}{% endblock %}", "no block 'item'"),
        ("{% block system %}x{% endblock %}{% block item %}{{ item.title }}{% endblock %}", "menu"),
        ("{% block system %}\n{% if %}", "line 6"),
        (
            "{% block system %}{% for e in menu %}{{ e.node.id }}{% endfor %}{{ exit }}"
            "{{ item }}{% endblock %}{% block item %}{{ item.title }}{% endblock %}",
            "'item' is undefined",
        ),
        (
            "{% block system %}{% for e in menu %}{{ e.node.id }}{% endfor %}{{ exit }}"
            "{{ ''.__class__.__mro__ }}{% endblock %}{% block item %}{{ item }}{% endblock %}",
            "unsafe",
        ),
        (
            "{% block system %}{% for e in menu %}{{ e.node.id | uper }}{% endfor %}{% endblock %}",
            "line 5: No filter named 'uper'",
        ),
    ],
)
def test_a_broken_prompt_fails_at_load(body: str, message: str) -> None:
    """An undefined variable, a missing block, a menu not shown, a sandbox escape."""
    front = "---\nname: x\nversion: 1\ndescription: x\n---\n"
    with pytest.raises(BadPrompt, match=message):
        templates.parse(front + body, "x.jinja")


def test_a_column_without_anything_in_it_is_empty(tmp_path: Path) -> None:
    """Where items may have it; one that none has is a mistake in the prompt, by its name."""
    front = "---\nname: x\nversion: 1\ndescription: x\n---\n"
    menu = "{% block system %}{% for e in menu %}{{ e.code }} {{ e.label }}\n{% endfor %}{{ exit }}"
    body = "{% endblock %}{% block item %}{{ item.title }}{% if item.WHAT %} by {{ item.WHAT }}"
    path = tmp_path / "x.jinja"

    def shown(column: str, columns: tuple[str, ...] = TEXT_COLUMNS) -> str:
        path.write_text(front + menu + body.replace("WHAT", column) + "{% endif %}{% endblock %}")
        made = replace(task(), prompt=templates.load(str(path)), columns=columns)
        return str(made.fit(item(title="hat"))[1]["content"])

    assert shown("description") == shown("brand", ("title", "brand")) == "hat"
    with pytest.raises(BadItem, match="the item has no column 'brand'"):
        shown("brand")


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ("", "no front matter"),
        ("---\nname: x\n---\n", "version: Field required"),
        ("---\nname: x\nversion: 1\ndescription: x\nneed: []\n---\n", "need: Extra"),
        ("---\nname: [\n---\n", "not YAML"),
    ],
)
def test_front_matter_is_checked(front: str, message: str) -> None:
    """Missing and unknown keys are named."""
    with pytest.raises(BadPrompt, match=message):
        templates.parse(front + "x", "x.jinja")


def test_loading_by_name() -> None:
    """A name means English and the newest version; an unknown one lists those there."""
    assert templates.load("zero-shot").ref == "zero-shot.en@1"
    assert templates.load("few-shot.zh@1").front.language == "zh"
    with pytest.raises(BadPrompt) as caught:
        templates.load("zero-shot@9")
    assert "zero-shot.en@1" in caught.value.hint
    with pytest.raises(BadPrompt, match="No such file"):
        templates.load("./absent.jinja")


def test_needs_are_met_or_refused() -> None:
    """Few-shot needs examples, definitions need some; examples need a prompt that shows them."""
    with pytest.raises(BadConfig, match="needs examples"):
        task("few-shot.en")
    with pytest.raises(BadConfig, match="shows no examples"):
        task("zero-shot.en", POOL)
    with pytest.raises(BadConfig, match="needs descriptions"):
        plan = Plan(Taxonomy.from_labels(["a", "b"]), CANDIDATES[:9])
        Task(plan=plan, prompt=templates.load("definitions"))


def test_fixed_examples_are_balanced_and_repeat() -> None:
    """No label twice before every label once; the same seed gives the same examples."""
    menu = task().plan.first_menus()[0]
    shown = POOL.fixed(menu)
    assert len(shown) == 8
    assert len({code for _, code in shown}) == 8
    assert shown == POOL.fixed(menu)


@pytest.mark.parametrize("title", ["wireless noise cancelling headphones", "蓝牙耳机 降噪"])
def test_nearest_examples(title: str) -> None:
    """The most similar stands last, next to the item, and carries the right code."""
    pool = Pool(POOL.items, POOL.labels, TAXONOMY, select="nearest", shots=3)
    menu = task().plan.first_menus()[0]
    shown = pool.nearest(item(title=title), menu)
    assert len(shown) == 3
    assert shown[-1][1] == menu.codes[[n.id for n in menu.nodes].index("headphones")]
    twin = pool.nearest(item(title=POOL.items[0].fields["title"]), menu)
    assert POOL.items[0] not in [i for i, _ in twin]


def test_examples_descend_with_the_menu() -> None:
    """On a menu of departments an example answers with its department's code."""
    plan = Plan(TAXONOMY, CANDIDATES[:128], size=10)
    roots = plan.first_menus()[0]
    index = POOL.labels.index("headphones")
    code = POOL.code_of(index, roots)
    assert roots.nodes[roots.codes.index(str(code))].id == "electronics"
    other = plan.menu(TAXONOMY.children(TAXONOMY.roots[1]), TAXONOMY.roots[1])
    assert POOL.code_of(index, other) is None


def test_text_over_the_room_is_cut_and_noted() -> None:
    """The item keeps its beginning, the message fits the room in bytes, the note says so."""
    made = task(room=200)
    noted, user = made.fit(item(title="short", description="长" * 500))
    ask = made.ask(noted, user, made.plan.first_menus()[0])
    assert noted.note == "text cut to fit"
    frame = len(made._own({"title": ""})["content"].encode())
    assert 190 <= len(ask.tail[-1]["content"].encode()) - frame <= 200
    assert "Title: short" in ask.tail[-1]["content"]
    assert "长" in ask.tail[-1]["content"]


def test_the_widest_conversation_is_the_widest() -> None:
    """No menu of a tournament or a descent takes more than was counted."""
    names = [f"l{i} {'long name ' * (10 if i % 10 == 0 else 0)}" for i in range(400)]
    plan = Plan(Taxonomy.from_labels(names), CANDIDATES[:128])
    made = Task(plan, templates.load("zero-shot"))
    widest = len(made.widest()[0]["content"])
    longest = sorted(plan.taxonomy.leaves, key=lambda n: -len(n.label))[:127]
    assert widest == len(
        made.ask(*made.fit(item(title="x")), plan.menu(longest)).messages[0]["content"]
    )


def test_a_context_too_small_for_the_menu_is_refused() -> None:
    """The error says how much the menu takes."""
    with pytest.raises(BadConfig, match="take 990 of the model's 1000 tokens"):
        task().fitted(used=990, context=1000)


ITEM_FIRST = (
    "---\nname: mine\nversion: 1\ndescription: x\nlayout: item-first\n{more}---\n"
    "{{% block item %}}{{{{ item.title }}}} {{% for e in menu %}}"
    "{{{{ e.code }}}} {{{{ e.label }}}} {{% endfor %}}{{{{ exit }}}}{{% endblock %}}"
)


def test_an_item_first_prompt_needs_no_system_block_and_shows_no_examples() -> None:
    """The menu stands behind the item in one message; an example would need a menu of its own."""
    made = templates.parse(ITEM_FIRST.format(more=""), "mine.jinja")
    assert made.item_first
    with pytest.raises(BadPrompt, match="shows no examples"):
        templates.parse(ITEM_FIRST.format(more="needs: [examples]\n"), "mine.jinja")


def test_what_items_share_with_the_item_first_is_the_same_for_all_menus() -> None:
    """Nothing is shared, whatever is on offer; the menu stands in the item's own message."""
    made = task("zero-shot-item-first")
    one, two = made.plan.taxonomy.leaves[:2], made.plan.taxonomy.leaves[2:4]
    asks = [
        made.ask(*made.fit(item(title="red zorvik")), made.plan.fresh_menu(m)) for m in (one, two)
    ]
    assert asks[0].prefix is asks[1].prefix
    assert asks[0].messages != asks[1].messages
