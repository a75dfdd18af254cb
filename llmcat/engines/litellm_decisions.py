"""A decision model of a provider, through litellm: `--engine systemone --model provider/name`.

litellm's decision calls never retry, drop fields that they do not know, and a seventeenth as many
of them go through in a second (1.110.2, eval/results/decisions-client.md): for a server of one's
own `--base-url` is the way.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmcat.engines.decision_server import DecisionServer
from llmcat.engines.litellm import DAY, imported, translated
from llmcat.errors import BadConfig, EngineBusy
from llmcat.transport.rate import InFlight

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LiteLLMDecisions"]


@dataclass
class LiteLLMDecisions(DecisionServer):
    """`model` is `provider/name`; `base_url`, where given, is the provider's."""

    _rate: InFlight | None = field(default=None, repr=False, init=False)

    def __post_init__(self) -> None:
        """Check that a provider is named."""
        self.name = self.form.name
        if "/" not in self.model:
            raise BadConfig(f"engine {self.name} needs --base-url, or --model provider/name")
        self._rate = InFlight(self.concurrency, self.timeout, self.model)

    @property
    def rate(self) -> InFlight:
        """How many requests are under way."""
        assert self._rate is not None  # noqa: S101  made above
        return self._rate

    async def models(self) -> list[str]:
        """Nothing lists a provider's models here."""
        return []

    async def ailment(self) -> str:
        """Nothing says how a provider is."""
        return ""

    async def post(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send one request; every foreign exception becomes one of ours."""
        litellm = imported()
        ask = litellm.asystemone if self.form.name == "systemone" else litellm.adecisions
        try:
            reply = await ask(
                **body,
                api_base=self.base_url or None,
                api_key=self.api_key or ("none" if self.base_url else None),
                timeout=DAY,  # `rate` ends it once the provider is silent
            )
        except Exception as exc:
            raise translated(exc, self.model) from exc
        try:
            value: dict[str, Any] = reply.model_dump()
        except (ValueError, TypeError, AttributeError) as exc:
            raise EngineBusy(f"{self.model}: the reply cannot be read: {exc}") from exc
        value["cost"] = getattr(reply, "_hidden_params", {}).get("response_cost")
        return value

    def cost_of(self, reply: Mapping[str, Any]) -> float:
        """Return the price that litellm's table gives, 0 where it has none."""
        return float(reply.get("cost") or 0.0)

    async def close(self) -> None:
        """Close the connections that litellm keeps."""
        with contextlib.suppress(Exception):
            await imported().close_litellm_async_clients()
