"""Any provider through litellm, by `provider/model`; several are a chain of fallbacks.

litellm's own retries, fallbacks and dropping of parameters are off: what a provider cannot do is
an error here, and `transport.retry` is the only one that tries again. Prices come from the table
that litellm ships, not from the network.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from llmcat.engines import Capabilities
from llmcat.engines.completions import DIALECTS, Completions, Dialect
from llmcat.errors import (
    BadConfig,
    ConstraintIgnored,
    EngineBusy,
    EngineDown,
    EngineError,
    EngineRefused,
    EngineTimeout,
    EngineUnsupported,
)
from llmcat.transport.retry import refusal

if TYPE_CHECKING:
    from llmcat.records import Answer, Request

__all__ = ["DAY", "LiteLLMChat", "imported", "translated"]

_open = 0
"""Engines that are open."""
REST = 60.0
"""Seconds for which a provider that was away or busy is passed over."""
DAY = 86_400.0


@dataclass
class LiteLLMChat(Completions):
    """`model` is `provider/model`, or several with commas between: each steps in for those before.

    `base_url` and `api_key` are for the first; the others read litellm's own environment
    variables (`ANTHROPIC_API_KEY`, ...), so no key goes to a provider it is not for.
    """

    dialect: Dialect = replace(DIALECTS["openai"], length="max_tokens")
    name: str = "litellm"
    capabilities: Capabilities = replace(Completions.capabilities, cost=True)
    _resting: dict[int, float] = field(default_factory=dict, repr=False, init=False)
    _opened: bool = field(default=False, repr=False, init=False)

    def __post_init__(self) -> None:
        """Split the chain."""
        super().__post_init__()
        self.chain = [name.strip() for name in self.model.split(",") if name.strip()]
        if not self.chain:
            raise BadConfig("engine litellm needs --model provider/model")
        self.model = self.rate.who = self.chain[0]
        others = (replace(self, model=m, base_url="", api_key="") for m in self.chain[1:])
        self.links = [self, *others]

    async def find(self) -> dict[str, str]:
        """Check that litellm knows the providers; look up context and price of the first."""
        global _open
        litellm = imported()
        _open, self._opened = _open + (not self._opened), True
        for link in self.links:
            try:
                litellm.get_llm_provider(link.model)
                supported = litellm.get_supported_openai_params(link.model) or ()
            except Exception as exc:
                raise BadConfig(
                    f"litellm does not know {link.model!r}",
                    hint="--model provider/model; for a model of your own --engine vllm_local, or "
                    "--base-url of its server",
                ) from exc
            if "response_format" not in supported:
                raise EngineUnsupported(
                    f"{link.model}: litellm knows no constraint for this provider",
                    hint="llmcat needs `response_format` with a JSON schema",
                )
            link.scored = "logprobs" in supported and "top_logprobs" in supported
            needed = litellm.validate_environment(link.model)["missing_keys"]
            if needed and not link.api_key and not link.base_url:
                raise EngineRefused(
                    f"no key for {link.model}", hint=f"set {' and '.join(needed)}", fatal=True
                )
        info: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # not in the table
            info = dict(litellm.get_model_info(self.model))
        self.context = self.context or int(info.get("max_input_tokens") or 0)
        return {
            "version": f"litellm {metadata.version('litellm')}",
            "root": ", ".join(self.chain[1:]),
            "price": "litellm's table" if info.get("input_cost_per_token") else "unknown",
        }

    async def canary(self) -> None:
        """Prove every link of the chain: one that is not there when it is needed is none."""
        await super().canary()
        for link in self.links[1:]:
            link.rate.opening()
            await Completions.canary(link)

    async def ask(self, request: Request) -> Answer:
        """Ask the first that is not resting; where it fails, the next."""
        now = time.monotonic()
        awake = [i for i in range(len(self.links)) if self._resting.get(i, 0.0) <= now]
        failed: list[EngineError] = []
        for i in awake or range(len(self.links)):
            link = self.links[i]
            try:
                answer = await Completions.ask(link, request)
            except (ConstraintIgnored, EngineUnsupported):
                raise
            except EngineError as exc:
                failed.append(exc)
                if exc.fatal or exc.retryable:
                    self._resting[i] = time.monotonic() + REST
                continue
            self._resting.pop(i, None)
            return replace(answer, by=link.model) if i else answer
        # Where one link is well and refuses this item, it is the item, whoever else is away.
        raise next((exc for exc in failed if not exc.fatal), failed[-1])

    async def complete(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Send one request; every foreign exception becomes one of ours."""
        litellm = imported()
        try:
            reply = await litellm.acompletion(
                **fields,
                api_base=self.base_url or None,
                api_key=self.api_key or ("none" if self.base_url else None),
                timeout=DAY,  # `rate` ends it once the provider is silent
                num_retries=0,
                max_retries=0,
                drop_params=False,
            )
        except Exception as exc:
            raise translated(exc, self.model) from exc
        try:
            value: dict[str, Any] = reply.model_dump()
        except (ValueError, TypeError, AttributeError) as exc:
            raise EngineBusy(f"{self.model}: the reply cannot be read: {exc}") from exc
        with contextlib.suppress(Exception):  # not in the price table
            value["cost"] = litellm.completion_cost(completion_response=reply, model=self.model)
        return value

    async def close(self) -> None:
        """Close the connections that litellm keeps, if no other engine of ours has any."""
        global _open
        if not self._opened:
            return
        _open, self._opened = _open - 1, False
        if not _open:
            litellm = imported()
            await litellm.close_litellm_async_clients()
            litellm.in_memory_llm_clients_cache.flush_cache()  # closed ones are of no use


def translated(exc: Exception, model: str) -> EngineError:
    """Return what litellm raised as one of our errors."""
    import openai  # litellm's exceptions are subclasses of openai's

    if isinstance(exc, imported().UnsupportedParamsError):
        return EngineUnsupported(f"{model}: {exc.message}")
    if isinstance(exc, openai.APITimeoutError):
        return EngineTimeout(f"{model}: timed out: {exc.message}")
    if isinstance(exc, openai.APIConnectionError):
        return EngineDown(f"{model}: {exc.message}")
    if isinstance(exc, openai.APIStatusError):
        what = f"{model}: HTTP {exc.status_code}: {exc.message}"
        if "onnection error" in exc.message or "annot connect" in exc.message:
            return EngineDown(what)
        return refusal(exc.status_code, what, exc.response.headers)
    # what a provider's adapter trips over
    return EngineBusy(f"{model}: {type(exc).__name__}: {exc}")


def imported() -> Any:
    """Import litellm without its asking the network for prices."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        import litellm
    except ImportError as exc:
        raise EngineUnsupported(
            "engine litellm needs the litellm package", hint='pip install "llmcat[litellm]"'
        ) from exc
    litellm.suppress_debug_info = True
    return litellm
