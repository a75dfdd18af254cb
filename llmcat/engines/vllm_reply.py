"""What vLLM says beside its answers: which codes are one token, and what a reply holds."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from llmcat.candidates.codes import CANDIDATES
from llmcat.errors import EngineBusy, EngineUnsupported
from llmcat.records import MOST_LABELS, Usage

if TYPE_CHECKING:
    from llmcat.transport.http import JsonServer

__all__ = ["NO_THINKING", "distribution", "one_token_codes", "tokenize", "usage"]

NO_THINKING = {"enable_thinking": False}
ROUNDING = 1e-3
"""How far above 0 rounding may lift a log-probability."""


async def tokenize(server: JsonServer, model: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the server's reply about the tokens of a text or a conversation."""
    return await server.asked("POST", "/tokenize", {"model": model, **body})


async def one_token_codes(server: JsonServer, model: str) -> dict[str, int]:
    """Return the candidates that are one token where an answer begins, with their tokens.

    The conversation is tokenized with its generation prompt, turned back into text, and
    each candidate appended: it is a code if exactly one token comes on top.
    Raises `EngineUnsupported` where they cannot be found out, `EngineRefused` where the server
    turns no chats into tokens.
    """
    place = {
        "messages": [{"role": "user", "content": "x"}],
        "chat_template_kwargs": NO_THINKING,
    }
    before: list[int] = (await tokenize(server, model, place))["tokens"]
    reply = await server.asked("POST", "/detokenize", {"model": model, "tokens": before})
    text = str(reply["prompt"])
    if text.rstrip().endswith("<think>"):
        raise EngineUnsupported(
            "the chat template opens with thinking although it was told not to",
            hint="serve a model whose template knows enable_thinking, or an instruct model",
        )
    gate = asyncio.Semaphore(16)

    async def tokens(code: str) -> list[int]:
        async with gate:
            plain = {"prompt": text + code, "add_special_tokens": False}
            return list((await tokenize(server, model, plain))["tokens"])

    if await tokens("") != before:
        raise EngineUnsupported(
            "the chat template's text does not tokenize back to itself",
            hint="llmcat cannot find out which codes are one token in this model",
        )
    wanted = MOST_LABELS + 1
    found: dict[str, int] = {}
    for start in range(0, len(CANDIDATES), wanted):
        some = CANDIDATES[start : start + wanted]
        for code, ids in zip(some, await asyncio.gather(*map(tokens, some)), strict=True):
            # Token id 0 is vLLM's padding in lists of unequal length.
            new = ids[-1] not in found.values() and ids[-1] != 0
            if len(ids) == len(before) + 1 and ids[:-1] == before and new:
                found[code] = ids[-1]
        if len(found) >= wanted:
            break
    codes = dict(list(found.items())[:wanted])
    if len(codes) < 7:  # noqa: PLR2004  the canary needs six and one outside
        raise EngineUnsupported(
            f"only {len(codes)} codes are a single token in this model",
            hint="llmcat reads answers as one token",
        )
    return codes


def distribution(reply: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """Return the generated token, and where the answer begins each token's log-probability."""
    try:
        first = reply["choices"][0]["logprobs"]["content"][0]
        found = {entry["token"]: entry["logprob"] for entry in first["top_logprobs"]}
        found[first["token"]] = first["logprob"]
        if not -math.inf < min(found.values()) <= max(found.values()) <= ROUNDING:
            raise EngineBusy("the reply's log-probabilities are invalid")
    except (KeyError, IndexError, TypeError) as exc:
        raise EngineBusy(
            "the reply carries no log-probabilities",
            hint="llmcat needs `logprob_token_ids`, vLLM 0.26 or newer",
        ) from exc
    return first["token"], found


def usage(reply: dict[str, Any]) -> Usage:
    """Return the tokens used; what the server does not say counts as none."""
    used = reply.get("usage")
    if not isinstance(used, dict):
        return Usage()
    details = used.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Usage(used.get("prompt_tokens") or 0, cached or 0, used.get("completion_tokens") or 0)
