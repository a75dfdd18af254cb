"""Conversations to token ids, for engines that hold the tokenizer themselves.

Works with any Hugging Face tokenizer, however it was loaded; imports none of it.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcat.candidates.codes import CANDIDATES
from llmcat.errors import EngineUnsupported
from llmcat.records import MOST_LABELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.records import Message, Request

__all__ = ["Chat", "where"]

_PREFIXES = 64


class Chat:
    """A tokenizer with its chat template. `codes` maps each one-token code to its token."""

    def __init__(self, tokenizer: Any, model: str) -> None:
        """Find the codes. Raises `EngineUnsupported` if answers cannot be read as one token."""
        self.tokenizer = tokenizer
        if tokenizer.chat_template is None:
            raise EngineUnsupported(f"{model} has no chat template: llmcat needs a chat model")
        self.codes = self._find_codes(model)
        self._prefixes: OrderedDict[str, tuple[str, list[int]]] = OrderedDict()

    def text(self, messages: Sequence[Message]) -> str:
        """Return the conversation as the model reads it, up to where its answer begins.

        Raises `EngineUnsupported` if the model's template refuses it.
        """
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages),
                    tokenize=False,
                    add_generation_prompt=True,
                    enable_thinking=False,
                )
            )
        except Exception as exc:  # a template is a program: anything can go wrong in it
            raise EngineUnsupported(
                f"the model's chat template refuses the conversation: {exc}",
                hint="llmcat needs a template that takes system, user and assistant turns",
            ) from exc

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text that holds its own special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prefix(self, request: Request) -> list[int]:
        """Return the token ids that all requests with this request's prefix begin with.

        They end with a special token, where most tokenizers split whatever follows; where one
        does not, nothing is shared.
        """
        return self._prefix(request)[1]

    def ids(self, request: Request) -> list[int]:
        """Return the token ids of a request; those of its prefix are encoded once."""
        text = self.text(request.messages)
        begins, shared = self._prefix(request)
        if not text.startswith(begins):
            return self.encode(text)
        return shared + self.encode(text[len(begins) :])

    def _prefix(self, request: Request) -> tuple[str, list[int]]:
        key = request.prefix.key
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
            return self._prefixes[key]
        one, two = (
            self.text([*request.prefix.messages, {"role": "user", "content": mark}])
            for mark in "01"
        )
        same = next(i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)
        ends = [
            at + len(token)
            for token in self.tokenizer.all_special_tokens
            if (at := one.rfind(token, 0, same)) >= 0
        ]
        begins = one[: max(ends, default=0)]
        ids = self.encode(begins)
        if ids + self.encode(one[len(begins) :]) != self.encode(one):
            begins, ids = "", []
        self._prefixes[key] = begins, ids
        if len(self._prefixes) > _PREFIXES:
            self._prefixes.popitem(last=False)
        return self._prefixes[key]

    def _find_codes(self, model: str) -> dict[str, int]:
        """Keep the candidates that are one token of their own where an answer begins."""
        text = self.text([{"role": "user", "content": "x"}])
        if text.rstrip().endswith("<think>"):
            raise EngineUnsupported(
                "the chat template opens with thinking although it was told not to",
                hint="use a model whose template knows enable_thinking, or an instruct model",
            )
        before = self.encode(text)
        found: dict[str, int] = {}
        for code in CANDIDATES:
            ids = self.encode(text + code)
            new = ids[-1] != 0 and ids[-1] not in found.values()  # 0 is padding in vLLM
            if len(ids) == len(before) + 1 and ids[:-1] == before and new:
                found[code] = ids[-1]
            if len(found) > MOST_LABELS:
                break
        if len(found) < 3:  # noqa: PLR2004  two labels and the exit
            raise EngineUnsupported(f"only {len(found)} codes are a single token in {model}")
        return found


def where(model: str) -> str:
    """Return what tells two models of one name apart: a folder's whole path, or the name."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model
