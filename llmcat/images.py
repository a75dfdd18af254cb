"""An item's images as parts of a chat message: addresses as they are, files as data.

Only files that begin as an image does are ever read: a column of paths is input from outside, and
what it names is sent to the model's server.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcat.errors import BadItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.records import Message

__all__ = ["with_images"]

LARGEST = 20 << 20
"""Bytes of an image file; providers take about as much."""
_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"RIFF": "webp",
}


def with_images(message: Message, images: Sequence[str]) -> Message:
    """Return the message with the images after its text. Raises `BadItem` if a file is none."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": message["content"]}]
    for image in images:
        address = image if image.startswith(("http://", "https://", "data:")) else _data(image)
        parts.append({"type": "image_url", "image_url": {"url": address}})
    return {**message, "content": parts}


def _data(path: str) -> str:
    """Return an image file as a `data:` address."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(16)
            kind = next((k for b, k in _BEGINNINGS.items() if start.startswith(b)), None)
            if kind is None or (kind == "webp" and start[8:12] != b"WEBP"):
                raise BadItem(f"{path}: not a PNG, JPEG, GIF or WebP image")
            data = start + file.read(LARGEST)
    except OSError as exc:
        raise BadItem(f"image {path}: {exc.strerror}") from exc
    if len(data) > LARGEST:
        raise BadItem(f"{path}: more than {LARGEST >> 20} MiB")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
