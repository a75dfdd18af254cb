"""Variants of texts: enough of them, all new, nothing but the words of their original."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcat.errors import InputError
from llmcat.students.augment import MOST, augment, shortened, swapped, words

PARTS = ["red", "running", "shoes", "USB-C", "运动鞋", "蓝牙耳机", "女款", "2-pack", ","]
TEXTS = st.lists(st.sampled_from(PARTS), min_size=0, max_size=7).map(" ".join) | st.text(max_size=9)
ROWS = st.lists(st.tuples(TEXTS, st.sampled_from("abc")), max_size=12)


def bare(text: str) -> str:
    return "".join(text.split())


@given(ROWS, st.integers(0, 30), st.integers(0, 5))
def test_what_always_holds(rows: list[tuple[str, str]], at_least: int, seed: int) -> None:
    """Originals first, variants new and of their original's class and words, never too many."""
    texts, labels = [t for t, _ in rows], [y for _, y in rows]
    made = augment(texts, labels, at_least=at_least, seed=seed)
    n = len(texts)
    assert (made.texts[:n], made.labels[:n], made.origin[:n]) == (texts, labels, list(range(n)))
    assert len(made.texts) == len(made.labels) == len(made.origin)
    new = made.texts[n:]
    assert len(set(new)) == len(new)
    assert not set(new) & set(texts)
    assert max(Counter(made.origin[n:]).values(), default=0) <= MOST
    sizes, before = Counter(made.labels), Counter(labels)
    assert all(sizes[y] <= max(before[y], at_least) for y in sizes)
    for text, label, origin in zip(new, made.labels[n:], made.origin[n:], strict=True):
        assert label == labels[origin]
        assert text
        assert not Counter(bare(text)) - Counter(bare(texts[origin]))
    assert augment(texts, labels, at_least=at_least, seed=seed) == made


@given(st.lists(st.sampled_from(PARTS), min_size=2, max_size=30), st.integers())
def test_the_two_ways(given: list[str], seed: int) -> None:
    """A swap keeps every word, a deletion keeps the order; at least one word stays, one goes."""
    rng = random.Random(seed)
    assert Counter(swapped(given, rng)) == Counter(given)
    short = shortened(given, rng)
    assert 0 < len(short) < len(given)
    rest = iter(given)
    assert all(word in rest for word in short)


def test_small_classes_are_filled() -> None:
    """Long texts give as many variants as are asked for; large classes are left alone."""
    texts = [f"soft red cotton shirt for men number {i}" for i in range(5)]
    texts += ["brushed steel water bottle with a straw lid", "蓝牙耳机真无线入耳式超长续航主动降噪"]
    labels = ["shirts"] * 5 + ["bottles", "audio"]
    made = augment(texts, labels, at_least=5)
    assert Counter(made.labels) == {"shirts": 5, "bottles": 5, "audio": 5}
    assert made != augment(texts, labels, at_least=5, seed=1)
    assert Counter(augment(texts, labels, at_least=99).labels)["bottles"] == 1 + MOST


def test_a_class_does_not_hang_on_others() -> None:
    """A class's variants are the same whatever other classes there are."""
    text = "brushed steel water bottle with a straw lid"
    alone = augment([text], ["b"], at_least=6).texts[1:]
    beside = augment(["soft red cotton shirt", text], ["a", "b"], at_least=6)
    assert [t for t, y in zip(beside.texts, beside.labels, strict=True) if y == "b"][1:] == alone


def test_chinese_is_taken_in_pairs_of_characters() -> None:
    """Chinese needs no spaces; other writing inside it stays whole."""
    assert words("iPhone手机壳 red") == ["iPhone", "手机", "壳", "red"]
    made = augment(["蓝牙耳机运动跑步"], ["a"], at_least=9)
    assert len(made.texts) == 9
    assert all(" " not in text for text in made.texts)


@pytest.mark.parametrize("text", ["", " ", "shoes", "鞋子", "\n"])
def test_a_single_word_has_no_variant(text: str) -> None:
    """Nothing can be left out or swapped."""
    assert augment([text], ["a"], at_least=5).texts == [text]


def test_labels_must_fit() -> None:
    """As many labels as texts."""
    with pytest.raises(InputError, match="2 texts but 1 labels"):
        augment(["a b", "c d"], ["x"], at_least=3)
