"""A file opened for reading: unpacked where it is packed, refused where it is something else."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from backports import zstd

from llmcat.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BROKEN", "PACKED", "SAMPLE", "bare", "is_workbook", "open_bytes", "refuse", "start_of"]

SAMPLE = 1 << 18
"""Bytes looked at to tell what a file is."""
PACKED = (".gz", ".zst", ".bz2", ".xz")
BROKEN = (EOFError, OSError, zlib.error, zstd.ZstdError, lzma.LZMAError)
"""What reading a damaged packed file raises."""
ZSTD = b"\x28\xb5\x2f\xfd"
SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""The beginning of a zstd frame that is passed over."""
WORKBOOKS = {"xl/workbook.xml", "xl/workbook.bin", "content.xml"}
"""What Excel's and OpenDocument's archives hold."""


@contextmanager
def open_bytes(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for reading, `-` for standard input; what it is packed with is told by content.

    Raises `InputError`.
    """
    with ExitStack() as stack:
        if path == "-":
            # An own reader: a thread may be left waiting in it when the program ends.
            raw = stack.enter_context(open(0, "rb", closefd=False, buffering=SAMPLE))
            if not raw.seekable():
                raw = io.BufferedReader(_Ahead(cast("io.BufferedReader", raw)), SAMPLE)
        else:
            try:
                raw = stack.enter_context(Path(path).open("rb", buffering=SAMPLE))
            except OSError as exc:
                raise InputError(f"{path}: {exc.strerror}") from exc
        unpacked = _unpacked(raw)
        if unpacked is None:
            yield raw
            return
        unpacked = stack.enter_context(unpacked)
        yield stack.enter_context(io.BufferedReader(cast("io.RawIOBase", unpacked), SAMPLE))


class _Ahead(io.RawIOBase):
    """A pipe of which the first line has come whole: what it is cannot be told by half of it."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self.raw, self.first = raw, b""
        while b"\n" not in self.first and (more := raw.read1(SAMPLE)):
            self.first += more

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Give what was read already, then what comes."""
        some = self.first or self.raw.read1(len(buffer))
        given, self.first = some[: len(buffer)], some[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


def _unpacked(raw: BinaryIO) -> Any:
    """Return what unpacks an open file, None where it is not packed."""
    start = cast("io.BufferedReader", raw).peek(8)[:6]
    if start[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=raw)
    if start[:4] == ZSTD or SKIPPED.match(start):
        return zstd.ZstdFile(raw)
    if start[:3] == b"BZh" and start[3:4].isdigit():
        return bz2.BZ2File(raw)
    if start == b"\xfd7zXZ\x00":
        return lzma.LZMAFile(raw)
    return None


def bare(name: str) -> str:
    """Return a file's name in small letters without `.gz`, `.zst`, `.bz2` or `.xz`."""
    name = name.lower()
    return next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)


def start_of(raw: BinaryIO) -> bytes:
    """Return what stands at the beginning, at most `SAMPLE` bytes, without reading on.

    Of a pipe it is what has come. Raises `InputError` if the file is damaged.
    """
    try:
        return cast("io.BufferedReader", raw).peek(SAMPLE)[:SAMPLE]
    except BROKEN as exc:
        raise InputError(f"the input breaks off: {exc}") from exc


def refuse(start: bytes, path: str | Path) -> None:
    """Raise `InputError` for what is no table and no text, though its name may say so."""
    text = start[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        what, hint = "a Git LFS pointer, not the file itself", "git lfs pull"
    elif text.startswith((b"<!doctype html", b"<html")):
        what, hint = "an HTML page, not a file of items", "was it downloaded without signing in?"
    elif text.startswith(b"<?xml"):
        what, hint = "XML, which is not read", "export CSV or JSON"
    elif start[:4] == b"%PDF":
        what, hint = "a PDF, not a file of items", "export CSV or Excel"
    else:
        return
    raise InputError(f"{path}: {what}", hint=hint)


def is_workbook(raw: BinaryIO, path: str | Path) -> bool:
    """Tell whether an open file is a workbook of Excel or OpenDocument, by its content.

    Raises `InputError` for any other archive.
    """
    start = start_of(raw)
    if start[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":  # .xls
        return True
    if start[:4] != b"PK\x03\x04" or not raw.seekable():
        return False
    try:
        with zipfile.ZipFile(raw) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as exc:
        raise InputError(f"{path}: a damaged archive: {exc}") from exc
    finally:
        raw.seek(0)
    if WORKBOOKS.isdisjoint(names):
        shown = ", ".join(names[:3])
        raise InputError(f"{path}: a zip archive, not a table", hint=f"unpack it; it holds {shown}")
    return True
