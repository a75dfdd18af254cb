"""Sentence embeddings from a server that speaks OpenAI's `/v1/embeddings`: vLLM and others.

    vllm serve MODEL --runner pooling --port 8001
    llmcat classify ... --sources lexical,http://localhost:8001

An address may end in `#MODEL` where the server has several. The openai SDK speaks to it, with its
own retries off. This module does not know categories or items.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from llmcat.errors import BadConfig, EngineDown, EngineError, EngineRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Served", "is_address"]

BATCH = 64
"""Texts in a request."""
SHORT = 200
"""Characters of a text that no model should find too long."""
PATIENCE, TIMEOUT = 120.0, 60.0
"""Seconds after which a server that is away is given up, and after which one request is."""


class _TurnedDown(EngineRefused):
    """The texts are at fault, most likely their length."""


def is_address(name: str) -> bool:
    """Tell whether a source is a server's address."""
    return name.startswith(("http://", "https://"))


@dataclass
class Served:
    """Calls with texts return unit vectors, shape `(texts, features)`.

    `model` is asked for when opened. Raises `BadConfig` where the openai SDK is missing or the
    server has no such model, `EngineError` where it does not answer, or not with embeddings.
    """

    address: str
    model: str = ""
    _client: Any = field(default=None, repr=False)

    def open(self) -> Served:
        """Connect, and find out which model there is."""
        try:
            from openai import OpenAI
        except ImportError as exc:
            raise BadConfig(
                "embeddings from a server need the openai SDK", hint='pip install "llmcat[openai]"'
            ) from exc
        base, _, self.model = self.address.partition("#")
        base = base.rstrip("/")
        base += "" if base.endswith("/v1") else "/v1"
        key = os.environ.get("LLMCAT_API_KEY") or "none"
        self._client = OpenAI(base_url=base, api_key=key, max_retries=0, timeout=TIMEOUT)
        known = [card.id for card in self._patiently(self._client.models.list).data]
        self.model = self.model or (known[0] if len(known) == 1 else "")
        if self.model not in known:
            raise BadConfig(
                f"{base} serves {', '.join(known) or 'nothing'}",
                hint=f"--sources {base}#MODEL names one of them",
            )
        return self

    def __call__(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Embed texts, some at a time."""
        parts = [self._whole(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)

    def _whole(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Embed a batch; a text that is refused for its length is cut in half, and again."""
        try:
            return self._some(texts)
        except _TurnedDown:
            if len(texts) > 1:
                return np.concatenate([self._whole([text]) for text in texts])
            if len(texts[0]) <= SHORT:
                raise
            return self._whole([texts[0][: len(texts[0]) // 2]])

    def _some(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        create = self._client.embeddings.create
        asked = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        rows = self._patiently(lambda: sorted(create(**asked).data, key=lambda one: one.index))
        if [one.index for one in rows] != list(range(len(texts))):
            raise EngineRefused(f"{self.address}: {len(rows)} vectors for {len(texts)} texts")
        if len({len(one.embedding) for one in rows}) != 1:
            raise EngineRefused(f"{self.address}: its vectors are not of one length")
        found = np.array([one.embedding for one in rows], dtype=np.float32)
        length = np.linalg.norm(found, axis=1, keepdims=True)
        if not np.isfinite(length).all():
            raise EngineRefused(f"{self.address}: an embedding is not a number")
        return np.asarray(found / np.maximum(length, 1e-12))

    def _patiently(self, once: Callable[[], Any]) -> Any:
        """Try again while the server is away or busy."""
        from openai import APIConnectionError, APIStatusError, OpenAIError

        def asked() -> Any:
            try:
                return once()
            except APIConnectionError as exc:
                raise EngineDown(f"no answer from {self.address}: {exc}") from exc
            except APIStatusError as exc:
                busy = exc.status_code in {408, 429} or exc.status_code >= 500  # noqa: PLR2004
                mine = exc.status_code in {400, 413, 422}
                kind = EngineDown if busy else _TurnedDown if mine else EngineRefused
                raise kind(
                    f"{self.address} answers {exc.status_code}: {str(exc.message)[:200]}",
                    hint="vllm serve MODEL --runner pooling serves embeddings",
                ) from exc
            except (OpenAIError, ValueError, TypeError, AttributeError) as exc:
                raise EngineRefused(f"{self.address} does not answer with embeddings") from exc

        return Retrying(
            stop=stop_after_delay(PATIENCE),
            wait=wait_random_exponential(multiplier=0.25, max=10),
            retry=retry_if_exception(lambda e: isinstance(e, EngineError) and e.retryable),
            reraise=True,
        )(asked)
