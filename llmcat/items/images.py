"""An item's images as parts of a chat message: addresses as they are, files as data.

A column of paths is input from outside, and what it names is sent to the model's server: only files
that begin as an image does, in the folder of the items or the current one, are sent.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcat.errors import BadItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.records import Message

__all__ = ["place", "with_images"]

LARGEST = 20 << 20
"""Bytes of an image file; providers take about as much."""
_ADDRESSES = ("http://", "https://", "data:")
_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"RIFF": "webp",
}


def with_images(message: Message, images: Sequence[str]) -> Message:
    """Return the message with the images after its text.

    Raises `BadItem` for a file that is no image, cannot be read or is too large.
    """
    parts: list[dict[str, Any]] = [{"type": "text", "text": message["content"]}]
    for image in images:
        address = image if image.startswith(_ADDRESSES) else _data(image)
        parts.append({"type": "image_url", "image_url": {"url": address}})
    return {**message, "content": parts}


def place(value: Any, folder: Path) -> str:
    """Return where an image is: an address as it is, a path below `folder`, bytes as data.

    A mapping with `bytes` and `path` is how datasets keep images in Parquet. Raises `BadItem` for a
    path that leads out of the items' folder and of the current one.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return _address(value, "the image")
    text = str(value).strip()
    if text.startswith(_ADDRESSES):
        return text
    try:
        path = (folder / text).resolve()
        inside = any(path.is_relative_to(base.resolve()) for base in (folder, Path()))
    except (ValueError, OSError, RuntimeError) as exc:
        raise BadItem(f"image {text[:200]!r}: {exc}") from exc
    if not inside:
        raise BadItem(f"image {text[:200]}: lies outside the folder of the items")
    return str(path)


def _data(path: str) -> str:
    """Return an image file as a `data:` address."""
    try:
        if not Path(path).is_file():
            raise BadItem(f"image {path}: no such file")
        with Path(path).open("rb") as file:
            return _address(file.read(LARGEST + 1), f"image {path}")
    except OSError as exc:
        raise BadItem(f"image {path}: {exc.strerror}") from exc


def _address(data: bytes, what: str) -> str:
    kind = next((k for start, k in _BEGINNINGS.items() if data.startswith(start)), None)
    if kind is None or (kind == "webp" and data[8:12] != b"WEBP"):
        raise BadItem(f"{what}: not a PNG, JPEG, GIF or WebP")
    if len(data) > LARGEST:
        raise BadItem(f"{what}: more than {LARGEST >> 20} MiB")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
