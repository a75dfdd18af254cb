"""Which files are meant: lists, folders, patterns."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from llmcat.errors import InputError
from llmcat.items import parquet
from llmcat.items.formats import ROWS, SUFFIXES, Format, bare, format_of, open_bytes

__all__ = ["count_rows", "expand"]


def expand(files: str, *, out: str = "") -> list[str]:
    """Return the files that a setting names: one to a line, each a file, a folder or a pattern.

    A folder stands for the files in it that can be read, a pattern (`*`, `?`, `[...]`, `**`) for
    those it fits, both in alphabetical order, but never for what is written to `out`. Raises
    `InputError` where there are none.
    """
    found: dict[str, None] = {}
    if not files.strip():
        raise InputError("no file is named", hint="--file FILE, or - for standard input")
    for name in filter(None, files.split("\n")):
        if Path(name).is_dir():
            inside = sorted(p for p in Path(name).iterdir() if p.suffix and p.is_file())
            inside = [p for p in inside if ".predictions." not in p.name]
            fits = [str(p) for p in inside if Path(bare(p.name)).suffix in SUFFIXES]
            fits = [p for p in fits if not _written(p, out)]
        elif glob.has_magic(name) and not Path(name).exists():
            every = glob.glob(name, recursive=True)  # noqa: PTH207  absolute patterns too
            fits = sorted(p for p in every if Path(p).is_file() and not _written(p, out))
        else:
            fits = [name]
        if not fits:
            raise InputError(f"{name}: no files there", hint=f"that end in {', '.join(SUFFIXES)}")
        found.update(dict.fromkeys(fits))
    return list(found)


def _written(path: str, out: str) -> bool:
    """Tell whether a file belongs to an output: is it, lies in it, or stands beside it."""
    if not out or out == "-":
        return False
    mine, made = os.path.abspath(path), os.path.abspath(out)  # noqa: PTH100  `..` is to go
    return mine == made or mine.startswith((made + os.sep, made + "."))


def count_rows(*paths: str | Path, fmt: Format | None = None) -> int:
    """Count the rows of files without keeping them."""
    total = 0
    for path in paths:
        with open_bytes(path) as raw:
            found = fmt or format_of(path, raw)
            if found == "parquet":
                total += parquet.count(raw)
            else:
                total += sum(1 for _ in ROWS[found](raw))
    return total
