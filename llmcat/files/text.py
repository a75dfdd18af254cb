"""Bytes to lines of text: which encoding, which line ends.

UTF-8 unless the file shows otherwise. A byte-order mark says what it is; UTF-16 without one shows
by its zero bytes; other bytes that are not UTF-8 are told apart by charset-normalizer, among the
encodings that spreadsheets in Western, Chinese, Japanese, Korean and Russian Windows write.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from llmcat.errors import BadConfig, InputError
from llmcat.files.opened import BROKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Text", "lines_of", "text_of"]

BOMS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
"""The longer first: the mark of UTF-32 begins as that of UTF-16."""
LIKELY = ["gb18030", "big5", "cp1252", "cp1251", "shift_jis", "euc_kr"]
MARKS = re.compile(rb"\A(?:\xef\xbb\xbf)+")
"""Byte-order marks: some tools add one to another."""


@dataclass(frozen=True, slots=True)
class Text:
    """How a file spells text. `guessed`: nothing in it says so outright; `bom`: a mark does."""

    encoding: str = "utf-8"
    newline: str = "\n"
    bom: bool = False
    guessed: bool = False


def text_of(start: bytes, encoding: str = "") -> Text:
    """Return how a file spells text by its beginning; `encoding` is what it was said to be.

    Raises `BadConfig` for an encoding that does not exist.
    """
    if encoding:
        try:
            named = codecs.lookup(encoding).name
            "".encode(named)
        except (LookupError, TypeError) as exc:
            raise BadConfig(f"no encoding is called {encoding!r}", hint="e.g. gb18030") from exc
        marked = next((name for mark, name in BOMS if start.startswith(mark)), "")
        if named in {"utf-16", "utf-32"}:
            named = marked or f"{named}-le"
        return _ended(start, Text(named.removesuffix("-sig"), bom=bool(marked)))
    for mark, name in BOMS:
        if start.startswith(mark):
            return _ended(start, Text(name, bom=True))
    zeros = start[0::2].count(0), start[1::2].count(0)
    if max(zeros) * 10 >= len(start) // 2 > 0 and min(zeros) * 10 < max(zeros):
        name = "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
        return _ended(start, Text(name, guessed=True))
    if _is_utf8(start):
        return _ended(start, Text())
    if _lone_letters(start):
        return _ended(start, Text("cp1252", guessed=True))
    from charset_normalizer import from_bytes

    found = from_bytes(start, cp_isolation=LIKELY, threshold=0.5).best()
    return _ended(start, Text(found.encoding, guessed=True) if found is not None else Text())


def _lone_letters(start: bytes) -> bool:
    """Tell whether most bytes beyond ASCII stand alone, as accents do; other scripts have runs."""
    beyond = [byte > 0x7F for byte in start]  # noqa: PLR2004
    alone = sum(b and not before and not after for before, b, after in
                zip([False, *beyond], beyond, [*beyond[1:], False], strict=False))  # fmt: skip
    return alone * 2 > sum(beyond)


def _is_utf8(start: bytes) -> bool:
    """Tell whether most of what is not ASCII is UTF-8: one damaged line is no other encoding."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        text = start.decode("utf-8", "surrogateescape")
        bad = sum("\udc80" <= c <= "\udcff" for c in text)
        return sum(c > "\x7f" for c in text) - bad > bad
    return True


def _ended(start: bytes, text: Text) -> Text:
    """Return the same with its line ends: carriage returns alone, or line feeds."""
    sample = start.decode(text.encoding, "replace")
    alone = "\r" in sample.rstrip("\r") and "\n" not in sample
    return Text(text.encoding, "\r" if alone else "\n", text.bom, text.guessed)


def lines_of(raw: BinaryIO, text: Text | None = None) -> Iterator[bytes]:
    """Yield lines with their ends, as UTF-8; byte-order marks are dropped.

    What does not decode comes as bytes that are not UTF-8. Raises `InputError` if the file is
    damaged.
    """
    text = text or Text()
    first = True
    try:
        for line in _lines(raw, text):
            yield MARKS.sub(b"", line) if first else line
            first = False
    except UnicodeError as exc:
        raise InputError(
            f"not {text.encoding}: {exc}", hint="--encoding says what it is, e.g. gb18030"
        ) from exc
    except BROKEN as exc:
        raise InputError(f"the input breaks off: {exc}") from exc


def _lines(raw: BinaryIO, text: Text) -> Iterator[bytes]:
    if text.encoding == "utf-8" and text.newline == "\n":
        yield from raw
        return
    source = cast("io.BufferedReader", raw)
    decoded = io.TextIOWrapper(source, text.encoding, "surrogateescape", text.newline)
    try:
        for line in decoded:
            ended = line[:-1] + "\n" if text.newline == "\r" and line.endswith("\r") else line
            yield ended.encode("utf-8", "surrogateescape")
    finally:
        with contextlib.suppress(ValueError):  # the file is closed already
            decoded.detach()
