"""The demo model: what it is measured on is not in what it learns from; the circuit it starts from
looks labels up; what is trained is what vLLM and transformers load; what ships does its task.
"""  # noqa: D205

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from helpers import DEMO_MODEL, EXAMPLES, ROOT, Ran, read_rows

DATA = Path(os.environ.get("LLMCAT_DATA", ROOT.parent / "shared" / "data"))
Cli = Callable[..., Ran]

WORDS = "pel dor vim sak tuf gon rab lin mox hud fep cav wor jit zad".split()

public = pytest.mark.skipif(
    not DATA.is_dir(), reason="the public sets are not here; LLMCAT_DATA names their folder"
)


def script(name: str) -> Any:
    """A module of the training program; scripts under eval are no package."""
    sys.path.insert(0, str(ROOT / "eval" / "demo_model"))
    try:
        return import_module(name)
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def data() -> Any:
    """The module that draws the training menus."""
    return script("data")


@pytest.fixture(scope="module")
def drawn(data: Any) -> list[Any]:
    """Fifteen hundred training menus."""
    stream = data.menus(random.Random(7), data.worlds(DATA), per_menu=24)
    return [menu for menu, _ in zip(stream, range(1500), strict=False)]


@public
def test_no_measured_title_or_near_duplicate_can_be_drawn(data: Any) -> None:
    """Every text of every world, not only those that happen to be drawn."""
    test = [r["title"] for r in data.rows(DATA / "shop32/test.jsonl")]
    test += [r["title"] for r in data.rows(data.EXAMPLES / "items.jsonl")]
    sets = [data.words(t) for t in test]
    held = data.Held(test)
    assert all(held.holds(t) for t in test)
    for world in data.worlds(DATA):
        if world.name not in {"shop32", "naics"}:
            continue
        texts = {t for label in world.labels for t in label.texts}
        assert texts.isdisjoint(test)
        for text in sorted(texts)[::40]:  # by brute force, the definition written out again
            mine = data.words(text)
            assert max(len(mine & s) / len(mine | s) for s in sets) < 0.8


@public
def test_held_out_labels_never_stand_on_a_training_menu(data: Any, drawn: list[Any]) -> None:
    """A tenth of the NAICS leaves, three food groups, and the names of our own taxonomy."""
    leaves = {r["label"] for r in data.rows(DATA / "naics2022_index/items.jsonl.gz")}
    unseen = {x.rsplit(" > ", 1)[-1] for x in leaves if data.held_out_leaf(x)}
    assert 60 < len(unseen) < 140
    shown = {label for menu in drawn for label in menu.labels}
    parts = {p for label in shown for p in label.split(" > ")}
    naics = {x.rsplit(" > ", 1)[-1] for m in drawn if m.world == "naics" for x in m.labels}
    assert naics
    assert naics.isdisjoint(unseen)
    assert parts.isdisjoint(data.UNSEEN_FOOD)
    assert {p.lower() for p in parts}.isdisjoint(data.own_names())


@public
def test_a_menu_holds_the_answer_of_each_item_or_is_left(drawn: list[Any]) -> None:
    """Answers point at a label; the exit is asked for too, and Chinese."""
    assert all(a is None or 0 <= a < len(m.labels) for m in drawn for a in m.answers)
    assert all(2 <= len(m.labels) == len(set(m.labels)) for m in drawn)
    left = sum(a is None for m in drawn for a in m.answers) / sum(len(m.answers) for m in drawn)
    assert 0.05 < left < 0.2
    assert any(m.zh for m in drawn)


@public
def test_the_same_seed_draws_the_same_menus(data: Any, drawn: list[Any]) -> None:
    """Training repeats by seed."""
    again = data.menus(random.Random(7), data.worlds(DATA), per_menu=24)
    assert [next(again) for _ in range(50)] == drawn[:50]


def test_no_two_codes_look_alike() -> None:
    """128 unit vectors in 64 dimensions, no cosine above 1/8."""
    import torch

    vectors = script("wiring").code_vectors(128)
    cosines = vectors @ vectors.T
    assert torch.allclose(cosines.diag(), torch.ones(128))
    assert (cosines - torch.eye(128)).abs().max() <= 0.125 + 1e-6


@pytest.fixture(scope="module")
def circuit() -> tuple[Any, Any]:
    """The shipped tokenizer, random meanings of its words, and a network wired to them."""
    import torch
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(DEMO_MODEL)
    torch.manual_seed(0)
    network, wiring = script("network"), script("wiring")
    start = torch.nn.functional.normalize(torch.randn(len(tokenizer), 384), dim=1)
    meaning = script("meaning").Meaning(start, torch.arange(len(tokenizer)))
    model = network.Decoder(network.Shape(vocab=len(tokenizer)))
    vectors, weights = meaning.tokens()
    weights = torch.full_like(weights, -6.0)  # the prompt's own words count little
    weights[tokenizer(" " + " ".join(WORDS))["input_ids"]] = 0.0
    wiring.wire(model, tokenizer, vectors=vectors, weights=weights, sharpness=40.0, leaving=-9.0)
    return tokenizer, model


def menu_for(data: Any, count: int) -> Any:
    """Labels of made-up words, and an item for each that repeats its words, in another order."""
    draw = random.Random(count)
    pairs = [(a, b) for a in WORDS for b in WORDS if a < b]
    labels = [" ".join(p) for p in draw.sample(pairs, count)]
    answers = [draw.randrange(count) for _ in range(12)]
    items = [{"title": " ".join(reversed(labels[i].split()))} for i in answers]
    return data.Drawn("made", labels, items, answers, zh=False)


@pytest.mark.parametrize("count", [2, 12, 40])
def test_the_circuit_looks_labels_up(circuit: Any, data: Any, count: int) -> None:
    """Without any training it finds the code of the label whose words the item repeats.

    With the codes in any order: the answer moves with the label.
    """
    import torch

    tokenizer, model = circuit
    batches = script("batches")
    menu, hits = menu_for(data, count), 0
    for seed in range(3):
        asked = batches.ask(random.Random(seed), menu, tokenizer)
        with torch.no_grad():
            logits = model(batches.assemble([asked], pad=tokenizer.pad_token_id))[0, :, 0]
        found = tokenizer.convert_ids_to_tokens(logits.argmax(1).tolist())
        hits += sum(f == asked.codes[a] for f, a in zip(found, menu.answers, strict=True))
    assert hits >= 27  # of 36; labels share words, and a word may be two tokens of another's


def test_what_is_trained_is_what_is_served(circuit: Any, data: Any, tmp_path: Path) -> None:
    """The training network's logits, item by item, are those of the exported Qwen2."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer, model = circuit
    batches = script("batches")
    asked = batches.ask(random.Random(1), menu_for(data, 12), tokenizer)
    with torch.no_grad():
        ours = model(batches.assemble([asked], pad=tokenizer.pad_token_id))[0, :, 0]
    script("network").export(model, tokenizer, tmp_path)
    served = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for i, item in enumerate(asked.items[:4]):
        ids = torch.tensor([asked.shared + item])
        with torch.no_grad():
            theirs = served(ids).logits[0, -1]
        assert (theirs - ours[i]).abs().max() < 0.3  # weights are stored in bfloat16
        assert theirs.argmax() == ours[i].argmax()


def test_it_ships_small() -> None:
    """At most 16 MB, everything that vLLM needs, and its card."""
    files = list(DEMO_MODEL.iterdir())
    assert sum(f.stat().st_size for f in files) <= 16e6
    names = {f.name for f in files}
    assert {"config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md"} <= names


@pytest.mark.parametrize("engine", ["vllm", "demo"])
def test_it_does_its_task(
    engine: str, llmcat: Cli, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Our examples, which it has not seen, far above chance (1 in 31), served and in process."""
    where = ("--base-url", request.getfixturevalue("server")) if engine == "vllm" else (
        "--engine", "demo")  # fmt: skip
    ran = llmcat("classify", "--file", EXAMPLES / "items.jsonl", "--out", "p.jsonl",
                 "--taxonomy", EXAMPLES / "taxonomy.yaml", *where)  # fmt: skip
    assert ran.code == 0, ran.err
    rows = read_rows(tmp_path / "p.jsonl")
    right = sum((r["label"] or "none") == r["gold"] for r in rows)
    assert right / len(rows) > 0.55
