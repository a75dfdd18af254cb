"""What is done to an item's text before a model sees it: six named steps, each counted.

| step      | what it does                                                                  |
|-----------|-------------------------------------------------------------------------------|
| `html`    | entities are decoded, known HTML tags become a space                          |
| `control` | control, zero-width and direction characters become a space or go             |
| `nfc`     | Unicode NFC                                                                   |
| `space`   | runs of white space become one space                                          |
| `markup`  | chat-template markers lose their power: `<|im_start|>` becomes `< |im_start| >` |
| `cut`     | a field over the limit keeps its beginning                                    |

Titles such as `NA`, `nan` or `null` are titles. This module does not know items or files.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from llmcat.files.characters import decoded, seen

if TYPE_CHECKING:
    from collections import Counter

__all__ = ["STEPS", "clean", "cut_to"]

STEPS = ("html", "control", "nfc", "space", "markup", "cut")

_TAGS = (
    "a|abbr|b|big|blockquote|body|br|center|code|div|em|font|h[1-6]|head|hr|html|i|img|li|mark|"
    "ol|p|pre|q|s|script|section|small|span|strike|strong|style|sub|sup|table|tbody|td|th|tr|tt|"
    "u|ul"
)
_TAG = re.compile(rf"<!--.*?-->|</?(?:{_TAGS})(?:\s[^<>]*)?/?>", re.IGNORECASE | re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Markers of the chat templates in use: <|...|> and its halves, also with DeepSeek's full-width
# bar; Gemma's turns; Llama 2's and Mistral's [INST] and <<SYS>>; GLM's [gMASK]<sop>; tags for
# the ends of text, thinking, tools and images.
_MARKUP = re.compile(
    r"<\s*[|\uff5c][^<>\n]{0,64}>|<[^<>\n|\uff5c]{0,64}[|\uff5c]\s*>"
    r"|</?\s*(?:start_of_turn|end_of_turn|end_of_utterance|bos|eos|pad|unk|sop|eop|s|think"
    r"|tool_call|tool_response|image)\s*>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK|IMG|gMASK)\]"
    r"|<</?SYS>>",
    re.IGNORECASE,
)
_SPACE = re.compile(r"\s+")
_TO_DO = re.compile("[<&[]|  ")
"""What a step may act on in printable ASCII; most texts have none of it."""


def clean(text: str, *, limit: int, counts: Counter[str]) -> str:
    """Return the text after all steps; `counts[step]` grows by one where a step changed it.

    `limit` is the most characters a field may keep.
    """
    text, before = text.strip(), text
    if text != before:
        counts["space"] += 1
    if text.isascii() and text.isprintable() and len(text) <= limit and not _TO_DO.search(text):
        return text
    steps = (
        ("html", _strip_html),
        ("control", _strip_control),
        ("nfc", lambda t: unicodedata.normalize("NFC", t)),
        ("space", lambda t: _SPACE.sub(" ", t).strip()),
        ("markup", lambda t: _MARKUP.sub(_disarm, t)),
        ("cut", lambda t: t[:limit].rstrip()),
    )
    for name, step in steps:
        before, text = text, step(text)
        if text != before:
            counts[name] += 1
    return text


def cut_to(fields: dict[str, str], room: int) -> dict[str, str]:
    """Cut the longest field, then the next, until all fields together take `room` bytes.

    A token is at least one byte of UTF-8, so text of `room` bytes never takes more than
    `room` tokens, whatever the tokenizer. Each field keeps its beginning.
    """
    sizes = {name: len(text.encode()) for name, text in fields.items()}
    for name in sorted(sizes, key=lambda n: -sizes[n]):
        over = sum(sizes.values()) - room
        if over <= 0:
            break
        kept = fields[name].encode()[: max(0, sizes[name] - over)].decode(errors="ignore").rstrip()
        fields = {**fields, name: kept}
        sizes[name] = len(kept.encode())
    return {name: text for name, text in fields.items() if text}


def _strip_html(text: str) -> str:
    text = decoded(text)
    return _TAG.sub(" ", text) if "<" in text else text


def _strip_control(text: str) -> str:
    return _SURROGATE.sub("\ufffd", _CONTROL.sub(" ", seen(text)))


def _disarm(match: re.Match[str]) -> str:
    """Put a space inside each bracket: the reader still sees it, no tokenizer does."""
    found = match.group()
    return f"{found[0]} {found[1:-1]} {found[-1]}"
