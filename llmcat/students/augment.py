"""Made-up variants of texts for small classes: words left out, words swapped.

Random deletion and random swap (Wei & Zou 2019, EDA, section 2); no synonyms, so no word lists.
Chinese has no spaces: there two characters, the usual length of a word, count as a word.

For the training part only: a variant must never stand on the other side of a split from its
original, which `origin` tells. This module does not know models, items or files.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcat.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["MOST", "Augmented", "augment"]

MOST = 8
"""Variants of one text (Wei & Zou 2019, table 3: 8 with 2,000 texts or so)."""
ALPHA = 0.1
"""Share of the words that are changed (Wei & Zou 2019, section 3.3), and at least one."""
TRIES = 4
"""Draws for each variant: some give what is there already."""

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_HAN}]{{1,2}}|[^\s{_HAN}]+")
_IS_HAN = re.compile(rf"[{_HAN}]")


@dataclass(frozen=True, slots=True)
class Augmented:
    """The texts given, in order, then the variants, class by class.

    `labels` and `origin` have the length of `texts`; `origin[i]` is the place of the text that
    text i was made from, for a given one its own.
    """

    texts: list[str]
    labels: list[str]
    origin: list[int]


def augment(
    texts: Sequence[str], labels: Sequence[str], *, at_least: int, seed: int = 0
) -> Augmented:
    """Add variants until each class has `at_least` texts, or nothing new can be made.

    At most `MOST` variants of a text, none equal to another text, spaces aside. The same seed
    gives the same variants, and a class's do not hang on other classes, unless they coincide.
    Raises `InputError` where there are not as many labels as texts.
    """
    if len(texts) != len(labels):
        raise InputError(f"{len(texts)} texts but {len(labels)} labels")
    made = Augmented(list(texts), list(labels), list(range(len(texts))))
    seen = {_joined(words(text)) for text in texts}
    for label in dict.fromkeys(labels):
        of_class = [i for i, other in enumerate(labels) if other == label]
        rng = random.Random(f"{seed}:{label}")
        rng.shuffle(of_class)
        missing = at_least - len(of_class)
        for _ in range(MOST):
            for i in of_class:
                if missing <= 0:
                    break
                new = next((v for v in _variants(texts[i], rng) if v not in seen), None)
                if new is not None:
                    seen.add(new)
                    made.texts.append(new)
                    made.labels.append(label)
                    made.origin.append(i)
                    missing -= 1
    return made


def words(text: str) -> list[str]:
    """Return a text's words: what stands between spaces; of Chinese, two characters each."""
    return _WORD.findall(text)


def swapped(given: Sequence[str], rng: random.Random) -> list[str]:
    """Return words of which pairs have changed places."""
    found = list(given)
    for _ in range(max(1, round(ALPHA * len(found)))):
        i, j = rng.sample(range(len(found)), 2)
        found[i], found[j] = found[j], found[i]
    return found


def shortened(given: Sequence[str], rng: random.Random) -> list[str]:
    """Return words without some of them, each left out by chance, but never all nor none."""
    out = {i for i in range(len(given)) if rng.random() < ALPHA}
    if not out or len(out) == len(given):
        out = {rng.randrange(len(given))}
    return [word for i, word in enumerate(given) if i not in out]


def _variants(text: str, rng: random.Random) -> Iterator[str]:
    """Draw variants; one word has none, of two words none is left out."""
    given = words(text)
    if len(given) < 2:  # noqa: PLR2004
        return
    ways = [swapped, shortened] if len(given) > 2 else [swapped]  # noqa: PLR2004
    for _ in range(TRIES):
        yield _joined(rng.choice(ways)(given, rng))


def _joined(given: Sequence[str]) -> str:
    """Return words as a text, with spaces except between two of Chinese."""
    text = ""
    for word in given:
        bare = not text or (_IS_HAN.match(text[-1]) and _IS_HAN.match(word))
        text += word if bare else f" {word}"
    return text
