"""The alphabet of one-token codes, and the constraints on answers.

A menu of n labels always uses the first n + 1 codes of the alphabet found for the model (the
last one for the exit), so a model sees at most `MOST_LABELS` different constraints, whatever
the items.

Who owns the space: nobody. A code stands at the start of a menu line (`A. Shoes`) and at the
start of the answer, both after a newline, so in byte-level tokenizers it is the very same
token in both places. Which strings are one token is found out on the served model.
"""

from __future__ import annotations

import string
import sys
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llmcat.records import MOST_LABELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.records import Read

__all__ = [
    "CANDIDATES",
    "REASON_TOKENS",
    "grammar",
    "most_tokens",
    "pattern",
    "schema",
]

REASON_TOKENS = 128
"""The most tokens of a rationale; it is cut there."""

# Pairs a model might want to say as a word or a country.
_WORDS = frozenset(
    """
    AD AI AM AN AS AT AX BE BY CN DO EU GO HA HE HI ID IF IN IS IT ME MY NA NO OF OH OK ON OR
    OX PC PM SO TO TV UK UN UP US VS WE YE
    """.split()
)

CANDIDATES: tuple[str, ...] = (
    *string.ascii_uppercase,
    *(a + b for a in string.ascii_uppercase for b in string.ascii_uppercase if a + b not in _WORDS),
    *string.ascii_lowercase,
    *string.digits,
)
"""In order of preference: capitals as in exams, then pairs as in spreadsheet columns."""


@lru_cache(maxsize=MOST_LABELS)
def pattern(codes: Sequence[str]) -> str:
    """Return the regular expression of an Outlines choice over the codes.

    The longest stand first. Outlines' automaton prefers earlier alternatives, as regular
    expressions do: after `A|AA` has matched A it never goes on to AA, and the token AA would be
    masked out. `AA|A` allows both.
    """
    dsl = _dsl()
    return str(dsl.to_regex(dsl.Choice(sorted(codes, key=len, reverse=True))))


def grammar(codes: Sequence[str], read: Read) -> str:
    """Return the regular expression that an answer must match in a read mode.

    A name ends with its line: in Outlines' automaton a token that passes the end of a shorter name
    by one byte (`,` after `Home`, where `Home, Garden` is a name too) is forbidden otherwise.
    """
    if read == "reason":
        return _rationale()
    return pattern(codes) + "\n" if read == "text" else pattern(codes)


def schema(codes: Sequence[str], read: Read) -> Any:
    """Return the same constraint as an Outlines JSON schema, for servers that take no other.

    The answer is an object: the code or name under `label`, or the rationale.
    """
    name = "rationale" if read == "reason" else "label"
    value: dict[str, Any] = {"type": "string"}
    if read != "reason":
        value["enum"] = list(codes)
    properties = {name: value}
    return _dsl().JsonSchema({"type": "object", "properties": properties, "required": [name]})


def most_tokens(codes: Sequence[str], read: Read) -> int:
    """Return how many tokens an answer may need: no token is shorter than a byte."""
    if read == "reason":
        return REASON_TOKENS
    return 2 + max(len(code.encode()) for code in codes) if read == "text" else 1


@lru_cache(maxsize=1)
def _rationale() -> str:
    """Return the regular expression of a rationale, from its JSON schema through Outlines."""
    return str(_dsl().to_regex(schema((), "reason")))


class _NoTransformers:
    """Says, to the thread that made it, that there is no transformers."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def find_spec(self, name: str, *_: object) -> None:
        """Raise `ModuleNotFoundError` for it; leave all else to the other finders."""
        if name == "transformers" and threading.get_ident() == self.thread:
            raise ModuleNotFoundError("No module named 'transformers'", name=name)


@lru_cache(maxsize=1)
def _dsl() -> Any:
    """Import Outlines' grammar language.

    `import outlines` imports all of its models, and that for MLX (Apple's; llmcat never uses it)
    imports transformers where there is one: 0.79 s instead of 0.20 (findings/outlines-start.sh). It
    does without as well (Outlines 1.3.3: the import stands in a try), and its other models import
    transformers when they are made.
    """
    finder = _NoTransformers()
    if "transformers" not in sys.modules:
        sys.meta_path.insert(0, finder)
    try:
        from outlines.types import dsl
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
    return dsl
