"""No reader: retrieval decides alone, and nothing is asked.

An engine all the same, so that everything that works with a model works without one: files of any
size, evaluation, comparison, calibration. It is the baseline that a model has to beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcat.candidates.codes import CANDIDATES
from llmcat.engines import Capabilities, Served
from llmcat.errors import EngineUnsupported
from llmcat.records import MOST_LABELS, Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from llmcat.records import Message, Request

__all__ = ["RetrieverAlone"]


@dataclass
class RetrieverAlone:
    """Opens at once and is never asked; what it can do is what retrieval can."""

    name: str = "retriever"
    capabilities: Capabilities = Capabilities(
        scores=("full",), constraints=("outlines",), labels=MOST_LABELS, reads=("code",)
    )

    async def open(self) -> Served:
        """There is nothing to open."""
        return Served(
            engine=self.name,
            model="no model",
            version="",
            context=1 << 20,
            alphabet=CANDIDATES[: MOST_LABELS + 1],
        )

    async def answer(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        """Answer each request with an error: there is nobody to answer it."""
        async for request in requests:
            yield Answer(request=request, error=EngineUnsupported("the retriever reads no menus"))

    async def count_tokens(self, messages: list[Message]) -> int:  # noqa: ARG002
        """No tokens are read."""
        return 0

    async def close(self) -> None:
        """There is nothing to close."""
