"""Characters that stand for others, and characters that nobody sees."""

from __future__ import annotations

import html
import re

__all__ = ["decoded", "seen"]

_ENTITY = re.compile(r"&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
# Soft hyphens, zero-width and direction marks. The joiner U+200D stays: emoji are made with it. The
# non-joiner U+200C stays behind letters of scripts that join: it keeps Persian words apart.
_UNSEEN = re.compile(
    "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
    "|(?<![\u0600-\u08ff\u0900-\u0dff])\u200c"
)


def decoded(text: str) -> str:
    """Return text with the entities of HTML decoded."""
    return _ENTITY.sub(lambda m: html.unescape(m.group()), text) if "&" in text else text


def seen(text: str) -> str:
    """Return text without the characters that nobody sees."""
    return _UNSEEN.sub("", text)
