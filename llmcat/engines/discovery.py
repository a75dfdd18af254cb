"""What a server at an address speaks, where nobody says which engine is to ask it.

vLLM is asked for codes with log-probabilities. A server that decides (`/v1/systemone`,
`/v1/decisions`) is asked to decide; one that is known to have chat completions of some dialect, by
these. This module does not know prompts or settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcat.engines.decision_forms import FORMS
from llmcat.engines.decision_server import DecisionServer, bare
from llmcat.engines.vllm_probe import recognized
from llmcat.errors import EngineDown, EngineError, EngineTimeout
from llmcat.transport.http import JsonServer

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Spoken", "forms_of", "look_at"]


@dataclass(frozen=True, slots=True)
class Spoken:
    """An engine that reaches a server, with its options, and why it is this one."""

    engine: str
    why: str
    dialect: str = ""


async def look_at(base_url: str, *, model: str = "", api_key: str = "") -> Spoken:
    """Return what a server is to be asked by: `vllm_http` too where nothing is recognized.

    Asks at most a few short questions. Nobody there is vllm_http's to say.
    """
    url = bare(base_url)
    server = JsonServer(url if "://" in url else f"http://{url}", api_key)
    try:
        version = (await server.look_at("/version")).value
        if isinstance(version, dict) and version.keys() == {"version"}:  # some answer any path
            return Spoken("vllm_http", f"it is vLLM {version['version']}")
        stranger = await recognized(server.look_at)
    finally:
        await server.close()
    failing: dict[str, EngineError] = {}
    deciding = await forms_of(base_url, model=model, api_key=api_key, failing=failing)
    if deciding:
        name, who = next(iter(deciding)), stranger.name if stranger else "it"
        return Spoken(name, f"{who} answers {FORMS[name].path}")
    if stranger is not None:
        return Spoken("openai", f"it is {stranger.name}", stranger.dialect)
    for name, exc in failing.items():  # busy or broken: whoever opens it will say so
        return Spoken(name, f"{FORMS[name].path} is there: {exc}")
    return Spoken("vllm_http", "nothing else is recognized")


async def forms_of(
    base_url: str,
    *,
    model: str = "",
    api_key: str = "",
    failing: dict[str, EngineError] | None = None,
) -> Mapping[str, str]:
    """Return the forms in which a server decides, each with the model that does.

    `failing` is filled with those that cannot serve just now.
    """
    found = {}
    for name, form in FORMS.items():
        engine = DecisionServer(
            base_url, form, model=model, api_key=api_key, attempts=2, retry_seconds=5, timeout=30
        )
        try:
            found[name] = await engine.decides()
        except (EngineDown, EngineTimeout):
            break
        except EngineError as exc:
            if exc.retryable and failing is not None:
                failing[name] = exc
            continue
        finally:
            await engine.close()
    return found
