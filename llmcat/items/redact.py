"""Personal data in an item's text is masked before anything leaves the process.

| kind    | what is masked                                                                  |
|---------|---------------------------------------------------------------------------------|
| `login` | user and password in an address; the value of `token=`, `password=` and the like |
| `email` | addresses with a full domain                                                    |
| `iban`  | with the length of its country, mod 97 right                                    |
| `id`    | Chinese resident ids (ISO 7064, mod 11-2); US social security numbers           |
| `card`  | 13 to 19 digits: known issuer, Luhn right, not the bar code of a product        |
| `ip`    | version 4 and 6, as `ipaddress` reads them                                      |
| `phone` | Chinese; national forms; after a plus; after a word such as `tel`               |
| `name`  | people, by Microsoft Presidio, only where it is asked for                       |

A masked span becomes its token: `[EMAIL]`. `PATTERNS` holds the rules in the order they are tried,
docs/privacy.md what they miss and what they hit by mistake. Full-width characters, typographic
dashes and spaces are read as their plain forms. Every pattern is bounded: time grows with the text,
not faster. This module does not know files, prompts or the loop.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import util
from pathlib import Path

from llmcat.errors import BadConfig
from llmcat.items.redact_patterns import PATTERNS
from llmcat.records import Item

__all__ = ["ALL", "NAMES", "Redactor", "parse", "redact"]

NAMES = "names"
"""What a setting says to have people's names masked too."""
_MODEL = "LLMCAT_PRESIDIO_MODEL"
_DEFAULT_MODEL = "en_core_web_lg"  # Presidio's own default
_ROUNDS = 8
"""A mask may lay bare what stood too close to it to be seen; two rounds are rare, eight enough."""


# Full-width forms, other dashes, spaces and digits, one character for one.
_FOLD = {0xFF01 + i: chr(0x21 + i) for i in range(94)}
_FOLD |= dict.fromkeys([0xA0, 0x3000, 0x202F, *range(0x2000, 0x200B)], " ")
_FOLD |= dict.fromkeys([*range(0x2010, 0x2016), 0x2212, 0xFE63], "-")
_FOLD |= {zero + i: str(i) for zero in (0x660, 0x6F0) for i in range(10)}
_TO_DO = re.compile(r"@|[?&][a-z_]+=|\d(?:[^\d]{0,4}\d){3}|:[0-9a-f]{0,4}:", re.IGNORECASE)
"""What some pattern needs; most titles have none of it."""


ALL = tuple(dict.fromkeys(pattern.kind for pattern in PATTERNS))
"""The kinds that patterns know, in the order they are tried."""
_TOKEN = re.compile(rf"\[(?:{'|'.join(kind.upper() for kind in (*ALL, 'name'))})\]")

_Finder = Callable[[str], list[tuple[int, int]]]
"""Where the names stand in a text: (start, end) by character."""


def redact(text: str, *, counts: Counter[str], kinds: Sequence[str] = ALL) -> str:
    """Return the text with a token for every match; `counts[kind]` grows by one for each.

    Doing it again changes nothing more. A text without a match is returned as it is.
    """
    for _ in range(_ROUNDS):
        before, text = text, _once(text, counts, kinds)
        if text is before:
            break
    return text


class Redactor:
    """Masks the texts of items; `counts` says how many spans of each kind were masked.

    `names` masks people too, by Presidio with the spaCy model that `LLMCAT_PRESIDIO_MODEL` names
    (a package or a folder). Raises `BadConfig` for an unknown kind, and where names are asked for
    without Presidio or without a model; nothing is downloaded.
    """

    def __init__(self, kinds: Sequence[str] = ALL, *, names: bool = False) -> None:
        if unknown := [kind for kind in kinds if kind not in ALL]:
            raise BadConfig(
                f"cannot mask {', '.join(map(repr, unknown))}",
                hint=f"known: all, {', '.join(ALL)}, {NAMES}",
            )
        self.kinds = tuple(kinds)
        self.names = names
        self.counts: Counter[str] = Counter()
        model = os.environ.get(_MODEL) or _DEFAULT_MODEL
        self._people: _Finder | None = _people(model) if names else None

    def __call__(self, item: Item) -> Item:
        """Return the item with its fields, kept columns and error masked; itself if none is.

        Its id, known label and images stay as they are: they are identity, not text.
        """
        fields, kept = self._values(item.fields), self._values(item.kept)
        error = item.error and self.text(item.error)
        if fields is item.fields and kept is item.kept and error is item.error:
            return item
        return replace(item, fields=fields, kept=kept, error=error)

    def text(self, text: str) -> str:
        """Return one text masked."""
        text = redact(text, counts=self.counts, kinds=self.kinds)
        if self._people is None or not text.strip():
            return text
        # Tokens are hidden from the model; what it finds across one is masked on both sides.
        hidden = _TOKEN.sub(lambda match: " " * len(match.group()), text)
        found = [
            (start + part.start(), start + part.end())
            for start, end in self._people(hidden)
            for part in re.finditer(r"\S+(?: \S+)*", hidden[start:end])
        ]
        self.counts.update({"name": len(found)} if found else {})
        return _mask(text, found, "[NAME]") if found else text

    def _values(self, values: Mapping[str, str]) -> Mapping[str, str]:
        masked = {name: self.text(text) for name, text in values.items()}
        return values if all(masked[name] is values[name] for name in masked) else masked


def parse(setting: str) -> Redactor | None:
    """Return what a setting such as `all`, `email,phone` or `all,names` asks for; None for nothing.

    Raises `BadConfig` as `Redactor` does.
    """
    words = [word.strip().lower() for word in setting.split(",") if word.strip()]
    if not words:
        return None
    kinds = [kind for word in words if word != NAMES for kind in (ALL if word == "all" else [word])]
    return Redactor(tuple(dict.fromkeys(kinds)), names=NAMES in words)


def _once(text: str, counts: Counter[str], kinds: Sequence[str]) -> str:
    """One round over all patterns, on a copy in plain characters of the same length."""
    plain = text if text.isascii() else text.translate(_FOLD)
    if not _TO_DO.search(plain):
        return text
    for pattern in PATTERNS:
        if pattern.kind not in kinds:
            continue
        token = f"[{pattern.kind.upper()}]"
        for form in pattern.forms:
            if found := _spans(form, pattern.check, plain):
                text, plain = _mask(text, found, token), _mask(plain, found, token)
                counts[pattern.kind] += len(found)
    return text


def _spans(
    form: re.Pattern[str], check: Callable[[re.Match[str]], bool], text: str
) -> list[tuple[int, int]]:
    """What to mask. A match that fails its check may hide a later one that begins inside it."""
    found = []
    match = form.search(text)
    while match:
        good = check(match)
        if good:
            found.append(match.span("mask"))
        match = form.search(text, match.end() if good else match.start() + 1)
    return found


def _mask(text: str, spans: Sequence[tuple[int, int]], token: str) -> str:
    parts, at = [], 0
    for start, end in spans:
        parts += [text[at:start], token]
        at = end
    return "".join([*parts, text[at:]])


@cache
def _people(model: str) -> _Finder:
    """Return what finds people with this spaCy model. Loaded by us: Presidio would download it."""
    if util.find_spec("presidio_analyzer") is None:
        raise BadConfig("masking names needs Presidio", hint='pip install "llmcat[presidio]"')
    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    if not (spacy.util.is_package(model) or Path(model).is_dir()):
        raise BadConfig(
            f"masking names needs the spaCy model {model!r}, which is not installed",
            hint=f"python -m spacy download {_DEFAULT_MODEL}, or let {_MODEL} name an installed "
            "model or a folder",
        )
    try:
        pipeline = spacy.load(model)
    except (OSError, ValueError, ImportError) as exc:
        raise BadConfig(f"spaCy cannot load {model!r}: {exc}", hint=f"see {_MODEL}") from exc
    configuration = NerModelConfiguration()
    mapping = configuration.model_to_presidio_entity_mapping or {}
    people = {label for label, entity in mapping.items() if entity == "PERSON"}
    labels = {label for pipe in pipeline.pipe_labels.values() for label in pipe}
    configuration.labels_to_ignore = sorted(labels - people)
    engine = SpacyNlpEngine(ner_model_configuration=configuration)
    engine.nlp = {"en": pipeline}  # a key, whatever the model's language
    analyzer = AnalyzerEngine(
        registry=RecognizerRegistry([SpacyRecognizer(supported_entities=["PERSON"])]),
        nlp_engine=engine,
    )

    def find(text: str) -> list[tuple[int, int]]:
        found = sorted((r.start, r.end) for r in analyzer.analyze(text, "en", ["PERSON"]))
        return [span for i, span in enumerate(found) if not i or span[0] >= found[i - 1][1]]

    return find
