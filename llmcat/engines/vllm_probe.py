"""Servers that are not vLLM, told by what only they answer, and the dialect that reaches them.

This module does not know HTTP: it is given what asks for a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmcat.transport.http import Reply

__all__ = ["Stranger", "recognized"]


@dataclass(frozen=True, slots=True)
class Stranger:
    """A kind of server: a path that answers with `keys` on it, and its dialect.

    `alone`: with no other keys; some servers answer any path alike.
    """

    name: str
    path: str
    keys: tuple[str, ...]
    dialect: str
    alone: bool = False


STRANGERS = (
    Stranger("llama.cpp", "/props", ("default_generation_settings",), "llamacpp"),
    Stranger("SGLang", "/get_model_info", ("model_path", "is_generation"), "sglang"),
    Stranger("SGLang", "/get_server_info", ("model_path",), "sglang"),
    Stranger("Text Generation Inference", "/info", ("model_id",), "tgi"),
    # LM Studio says "unexpected endpoint" with status 200 elsewhere, so keys decide.
    Stranger("LM Studio", "/api/v0/models", ("data",), "ollama"),
    Stranger("Ollama", "/api/version", ("version",), "ollama", alone=True),
)


async def recognized(get: Callable[[str], Awaitable[Reply]]) -> Stranger | None:
    """Return the kind of server that answers, None if it is none of these."""
    for stranger in STRANGERS:
        reply = await get(stranger.path)
        if reply.server.startswith("llama.cpp"):  # also where /props is turned off
            return STRANGERS[0]
        told = reply.value if isinstance(reply.value, dict) else {}
        if stranger.alone and len(told) > len(stranger.keys):
            continue
        if told and all(key in told for key in stranger.keys):
            return stranger
    return None
