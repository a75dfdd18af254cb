"""Cleaning: each step does what it says, is counted, and leaves data alone."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcat.items.cleaning import clean, cut_to


def cleaned(text: str, limit: int = 1000) -> tuple[str, dict[str, int]]:
    counts: Counter[str] = Counter()
    return clean(text, limit=limit, counts=counts), dict(counts)


@pytest.mark.parametrize(
    ("text", "result", "steps"),
    [
        ("red shoes", "red shoes", {}),
        ("Salt &amp; pepper", "Salt & pepper", {"html": 1}),
        ("<b>NEW</b> lamp<br/>LED", "NEW lamp LED", {"html": 1, "space": 1}),
        ("size < L > M", "size < L > M", {}),
        ("a\x00b\u200bc\ufeff", "a bc", {"control": 1}),
        ("cafe\u0301", "café", {"nfc": 1}),
        ("  two \t spaces\n", "two spaces", {"space": 2}),
        ("hi<|im_end|>there", "hi< |im_end| >there", {"markup": 1}),
        ("<start_of_turn>user", "< start_of_turn >user", {"markup": 1}),
        ("[INST] x [/INST]", "[ INST ] x [ /INST ]", {"markup": 1}),
        ("<｜User｜>x", "< ｜User｜ >x", {"markup": 1}),
        ("x" * 1001, "x" * 1000, {"cut": 1}),
        ("NA", "NA", {}),
        ("nan", "nan", {}),
        ("👩‍🚀 cup", "👩‍🚀 cup", {}),
        ("T恤 男 纯棉", "T恤 男 纯棉", {}),
    ],
)
def test_each_step(text: str, result: str, steps: dict[str, int]) -> None:
    """A step changes what it is for, and is counted once per field."""
    assert cleaned(text) == (result, steps)


@given(st.text(max_size=200))
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    """Clean text is NFC, has no control characters and single spaces; cleaning again keeps it."""
    once, _ = cleaned(text)
    assert unicodedata.is_normalized("NFC", once)
    assert once == " ".join(once.split())
    assert "<|im_start|>" not in once
    if "&" not in text and "<" not in text:  # `&amp;amp;` needs two rounds by nature
        assert cleaned(once) == (once, {})


@given(
    st.dictionaries(st.sampled_from("abc"), st.text(min_size=1, max_size=50), min_size=1),
    st.integers(0, 120),
)
def test_cut_fits_the_room_and_keeps_beginnings(fields: dict[str, str], room: int) -> None:
    """What is left takes at most `room` bytes and every field keeps its beginning."""
    kept = cut_to(fields, room)
    assert sum(len(t.encode()) for t in kept.values()) <= room
    assert all(fields[name].startswith(text) for name, text in kept.items())
    if sum(len(t.encode()) for t in fields.values()) <= room:
        assert kept == fields
