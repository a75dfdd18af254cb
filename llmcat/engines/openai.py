"""Any OpenAI-compatible server through the openai SDK, by its dialect.

The SDK's own retries are off: `transport.retry` is the only one that tries again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmcat.engines.completions import Completions
from llmcat.errors import (
    EngineBusy,
    EngineDown,
    EngineError,
    EngineRefused,
    EngineTimeout,
    EngineUnsupported,
)
from llmcat.transport.retry import refusal

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["OpenAIChat"]

CONNECT = 10.0
"""Seconds for a connection."""
_KNOWN = {
    "model", "messages", "temperature", "max_tokens", "max_completion_tokens", "logprobs",
    "top_logprobs", "response_format",
}  # fmt: skip


@dataclass
class OpenAIChat(Completions):
    """`base_url` is needed and ends where `/chat/completions` begins, usually in `/v1`."""

    name: str = "openai"
    _client: AsyncOpenAI | None = field(default=None, repr=False)

    async def find(self) -> dict[str, str]:
        """Ask which models there are, and how long a conversation may be."""
        openai = _openai()
        facts = {"dialect": self.dialect.name, "version": f"openai {openai.__version__}"}
        cards = await self.patiently(self._cards)
        names = [str(card["id"]) for card in cards]
        if not self.model and len(names) == 1:
            self.model = names[0]
        if not self.model or (names and self.model not in names):
            what = f"does not serve {self.model!r}" if self.model else "needs --model"
            hint = f"it serves {', '.join(names[:20])}" if names else "it does not say which"
            raise EngineRefused(f"{self.base_url} {what}", hint=hint, fatal=True)
        card: dict[str, Any] = next((c for c in cards if c["id"] == self.model), {})
        meta = card.get("meta")
        told = card.get("max_model_len") or (isinstance(meta, dict) and meta.get("n_ctx"))
        self.context = self.context or (told if isinstance(told, int) else 0)
        return facts

    async def _cards(self) -> list[dict[str, Any]]:
        """List the models; not every server does."""
        openai = _openai()
        try:
            return [card.model_dump() async for card in self._sdk.models.list()]
        except openai.APITimeoutError as exc:
            raise self._late() from exc
        except openai.APIConnectionError as exc:
            raise self._down(exc) from exc
        except openai.APIStatusError as exc:
            failure = self._refusal(exc)
            if exc.status_code in {401, 403} or failure.patient:
                raise failure from exc
            return []
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):
            return []

    async def complete(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Send one request; every foreign exception becomes one of ours."""
        openai = _openai()
        extra = {k: v for k, v in fields.items() if k not in _KNOWN}
        known = {k: v for k, v in fields.items() if k in _KNOWN}
        try:
            reply = await self._sdk.chat.completions.create(**known, extra_body=extra)
            return dict(reply.model_dump())
        except openai.APITimeoutError as exc:
            raise self._late() from exc
        except openai.APIConnectionError as exc:
            raise self._down(exc) from exc
        except openai.APIStatusError as exc:
            raise self._refusal(exc) from exc
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as exc:
            raise EngineBusy(f"{self.base_url}: the reply cannot be read: {exc}") from exc

    def _refusal(self, exc: Any) -> EngineError:
        what = f"{self.base_url}: HTTP {exc.status_code}: {exc.message}"
        return refusal(exc.status_code, what, exc.response.headers)

    def _late(self) -> EngineTimeout:
        return EngineTimeout(f"{self.base_url}: no connection within {CONNECT:g} s")

    def _down(self, exc: Exception) -> EngineDown:
        cause = exc.__cause__ or exc
        return EngineDown(
            f"no server at {self.base_url}: {cause}", hint="is it running? see --base-url"
        )

    @property
    def _sdk(self) -> AsyncOpenAI:
        if self._client is None:
            openai = _openai()
            self._client = openai.AsyncOpenAI(
                base_url=self.base_url,
                api_key=self.api_key or "none",
                timeout=openai.Timeout(None, connect=CONNECT),  # the answer is `rate`'s to time
                max_retries=0,
            )
        return self._client

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None


def _openai() -> Any:
    try:
        import openai
    except ImportError as exc:
        raise EngineUnsupported(
            "engine openai needs the openai package", hint='pip install "llmcat[openai]"'
        ) from exc
    return openai
