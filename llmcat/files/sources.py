"""Which files are meant: lists, folders, patterns."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from llmcat.errors import InputError
from llmcat.files import parquet
from llmcat.files.formats import SUFFIXES, Reading, form_of, rows_of
from llmcat.files.opened import bare, open_bytes
from llmcat.records import digest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["columns_in", "count_rows", "expand", "fingerprint", "is_stream"]

PARTITION = re.compile(r"[^=]+=.*")
"""A folder's name that holds a column's value."""
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def expand(files: str, *, out: str = "", apart: Collection[str] = ()) -> list[str]:
    """Return the files that a setting names: one to a line, each a file, a folder or a pattern.

    A folder stands for the files in it that can be read, and for those in folders below it that are
    called `column=value`; a pattern (`*`, `?`, `[...]`, `**`) for those it fits, both in
    alphabetical order, but never for what is written to `out`, nor for what is no item: `apart`
    (the taxonomy, examples), a file called `taxonomy`. Raises `InputError` where there are none.
    """
    found: dict[str, None] = {}
    if not files.strip():
        raise InputError("no file is named", hint="--file FILE, or - for standard input")
    others = {os.path.abspath(name) for name in apart if name}  # noqa: PTH100
    for name in filter(None, files.split("\n")):
        if Path(name).is_dir():
            fits = [str(path) for path in _inside(Path(name)) if str(path.resolve()) not in others]
            fits = [p for p in fits if os.path.abspath(p) not in others and not _written(p, out)]  # noqa: PTH100
        elif glob.has_magic(name) and not Path(name).exists():
            every = glob.glob(name, recursive=True)  # noqa: PTH207  absolute patterns too
            fits = sorted(p for p in every if Path(p).is_file() and not _written(p, out))
        else:
            fits = [name]
        if not fits:
            raise InputError(f"{name}: no files there", hint=f"that end in {', '.join(SUFFIXES)}")
        found.update(dict.fromkeys(fits))
    return list(found)


def _inside(folder: Path) -> list[Path]:
    """Return the files of items in a folder, and in those below it that name a column's value."""
    every = sorted(folder.iterdir())
    files = [
        path
        for path in every
        if path.is_file()
        and Path(bare(path.name)).suffix in SUFFIXES
        and not {".predictions.", ".fallback."} & {f".{part}." for part in path.name.split(".")}
        and not path.name.startswith((".", "_", "~$"))
        and not path.name.endswith(".run.json")
        and Path(bare(path.name)).stem != "taxonomy"
        and not path.with_name(f"{path.name}.run.json").exists()  # the output of a run
    ]
    below = [path for path in every if path.is_dir() and PARTITION.fullmatch(path.name)]
    return files + [file for path in below for file in _inside(path)]


def columns_in(path: str | Path) -> dict[str, str | None]:
    """Return the columns that folders of a path name, as Hive does: `cat=bags/part-0.parquet`."""
    found: dict[str, str | None] = {}
    for part in Path(path).parts[:-1]:
        if PARTITION.fullmatch(part):
            name, _, value = part.partition("=")
            found[unquote(name)] = None if value == NO_VALUE else unquote(value)
    return found


def _written(path: str, out: str) -> bool:
    """Tell whether a file belongs to an output: is it, lies in it, or stands beside it."""
    if not out or out == "-":
        return False
    mine, made = os.path.abspath(path), os.path.abspath(out)  # noqa: PTH100  `..` is to go
    return mine == made or mine.startswith((made + os.sep, made + "."))


def count_rows(*paths: str | Path, how: Reading | None = None) -> int:
    """Count the rows of files without keeping them."""
    total = 0
    for path in paths:
        with open_bytes(path) as raw:
            form = form_of(path, raw, how)
            if form.format == "parquet":
                total += parquet.count(raw)
            else:
                total += sum(1 for _ in rows_of(path, raw, how, form))
    return total


def is_stream(file: str) -> bool:
    """Tell whether the items can be read only once: standard input, a pipe, a device."""
    return any(
        name == "-" or Path(name).is_fifo() or Path(name).is_char_device()
        for name in file.split("\n")
    )


def fingerprint(files: Sequence[str]) -> tuple[str, int | None]:
    """Return a hash of the input and its number of lines (None where that says nothing)."""
    if any(map(is_stream, files)):
        return f"a stream at {datetime.now(UTC).isoformat()}", None
    hashes: list[str] = []
    total: int | None = 0
    for file in files:
        sha, lines, last = hashlib.sha256(), 0, b""
        try:
            with Path(file).open("rb") as raw:
                while chunk := raw.read(1 << 20):
                    sha.update(chunk)
                    lines += chunk.count(b"\n")
                    last = chunk[-1:]
        except OSError as exc:
            raise InputError(f"{file}: {exc.strerror}") from exc
        hashes.append(sha.hexdigest())
        lines += last not in {b"", b"\n"}
        if file.endswith((".csv", ".tsv")):
            lines -= 1
        if file.endswith(".parquet"):
            lines = count_rows(file)
        packed = file.endswith((".gz", ".zst"))
        total = None if packed or total is None else total + max(lines, 0)
    return hashes[0] if len(hashes) == 1 else digest(*hashes), total
