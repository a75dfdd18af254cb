"""The engines by name, and the options each takes. An engine's module is imported when chosen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from llmcat.errors import BadConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmcat.engines import Engine

__all__ = ["ENGINES", "open_engine"]


@dataclass(frozen=True, slots=True)
class _Server:
    """How to reach a server, and how hard to try."""

    base_url: str
    model: str
    api_key: str = field(repr=False)
    concurrency: int
    timeout: float
    retry_seconds: float

    def settings(self) -> dict[str, Any]:
        """All of it as keyword arguments."""
        return {name: getattr(self, name) for name in self.__slots__}


def _vllm_http(server: _Server, options: dict[str, Any]) -> Engine:
    from llmcat.engines.vllm_http import VllmHttp

    return VllmHttp(**server.settings(), **options)


def _vllm_local(server: _Server, options: dict[str, Any]) -> Engine:
    from llmcat.engines.vllm_local import VllmLocal

    return VllmLocal(_folder_or_name(server, "vllm_local"), **options)


def _transformers_local(server: _Server, options: dict[str, Any]) -> Engine:
    from llmcat.engines.transformers_local import TransformersLocal

    _at_least_one(options)
    return TransformersLocal(_folder_or_name(server, "transformers_local"), **options)


def _demo(_: _Server, options: dict[str, Any]) -> Engine:
    from llmcat.engines.transformers_local import DEMO_WARNING, TransformersLocal, demo_model

    _at_least_one(options)
    options.setdefault("dtype", "float32")  # as its card says
    engine = TransformersLocal(demo_model(), name="demo", warning=DEMO_WARNING, **options)
    engine.capabilities = replace(engine.capabilities, whole_menus=True)
    return engine


def _openai(server: _Server, options: dict[str, Any]) -> Engine:
    from llmcat.engines.completions import DIALECTS
    from llmcat.engines.openai import OpenAIChat

    if not server.base_url:
        raise BadConfig(
            "engine openai needs --base-url",
            hint="e.g. http://localhost:8080/v1, or https://api.openai.com/v1",
        )
    name = options.pop("dialect", "openai")
    if name not in DIALECTS:
        raise BadConfig(f"no dialect {name!r}", hint=f"there are {', '.join(DIALECTS)}")
    return OpenAIChat(**server.settings(), **options, dialect=DIALECTS[name])


def _decisions(name: str) -> Callable[[_Server, dict[str, Any]], Engine]:
    def make(server: _Server, options: dict[str, Any]) -> Engine:
        from llmcat.engines.decision_forms import FORMS
        from llmcat.engines.decision_server import DecisionServer

        if not server.base_url:
            from llmcat.engines.litellm_decisions import LiteLLMDecisions

            return LiteLLMDecisions(**server.settings(), form=FORMS[name], **options)
        return DecisionServer(**server.settings(), form=FORMS[name], **options)

    return make


def _litellm(server: _Server, options: dict[str, Any]) -> Engine:
    from llmcat.engines.litellm import LiteLLMChat

    return LiteLLMChat(**server.settings(), **options)


def _fake(server: _Server, options: dict[str, Any]) -> Engine:
    from llmcat.engines.fake import FakeEngine

    for key, value in options.items():
        most = 1.0 if key in {"mass", "accuracy"} else 1e6
        if not 0 <= value <= most or (key == "mass" and not value):
            raise BadConfig(f"engine option {key}={value} is out of range")
    return FakeEngine(concurrency=server.concurrency, **options)


def _student(server: _Server, options: dict[str, Any]) -> Engine:
    from llmcat.engines.student import StudentEngine

    _at_least_one(options)
    if not server.model:
        raise BadConfig("engine student needs --model, the folder of a student")
    return StudentEngine(server.model, **options)


def _retriever(_: _Server, options: dict[str, Any]) -> Engine:  # noqa: ARG001  it has none
    from llmcat.engines.retriever import RetrieverAlone

    return RetrieverAlone()


def _folder_or_name(server: _Server, engine: str) -> str:
    if not server.model:
        raise BadConfig(f"engine {engine} needs --model, a folder or a hub's name")
    return server.model


def _at_least_one(options: dict[str, Any]) -> None:
    if options.get("batch", 1) < 1:
        raise BadConfig("engine option batch is at least 1")


Maker = tuple["Callable[[_Server, dict[str, Any]], Engine]", dict[str, "Callable[[str], Any]"]]

ENGINES: dict[str, Maker] = {
    "vllm_http": (_vllm_http, {}),
    "vllm_local": (
        _vllm_local,
        {"batch": int, "max_model_len": int, "memory": float, "dtype": str},
    ),
    "transformers_local": (_transformers_local, {"device": str, "dtype": str, "batch": int}),
    "openai": (_openai, {"dialect": str, "context": int}),
    "systemone": (_decisions("systemone"), {"context": int}),
    "decisions": (_decisions("decisions"), {"context": int}),
    "litellm": (_litellm, {"context": int}),
    "demo": (_demo, {"device": str, "dtype": str, "batch": int}),
    "student": (_student, {"batch": int}),
    "retriever": (_retriever, {}),
    "fake": (
        _fake,
        {
            "accuracy": float,
            "noise": float,
            "sharpness": float,
            "mass": float,
            "latency": float,
            "seed": int,
        },
    ),
}
"""What makes each engine, and its own options with their types."""


def open_engine(
    name: str,
    *,
    base_url: str = "",
    model: str = "",
    api_key: str = "",
    concurrency: int = 64,
    timeout: float = 120.0,
    retry_seconds: float = 60.0,
    options: Mapping[str, str] | None = None,
) -> Engine:
    """Return the engine of a name, not yet opened, with its own `options`. Raises `BadConfig`."""
    if name not in ENGINES:
        near = get_close_matches(name, ENGINES, n=1)
        said = f"did you mean {near[0]}?" if near else f"there are {', '.join(ENGINES)}"
        raise BadConfig(f"no engine {name!r}", hint=said)
    make, kinds = ENGINES[name]
    server = _Server(base_url, model, api_key, concurrency, timeout, retry_seconds)
    return make(server, _parsed(name, options or {}, kinds))


def _parsed(
    name: str, options: Mapping[str, str], kinds: Mapping[str, Callable[[str], Any]]
) -> dict[str, Any]:
    """Read an engine's options by their types. Raises `BadConfig`."""
    unknown = sorted(set(options) - set(kinds))
    if unknown:
        has = f"its options: {', '.join(kinds)}" if kinds else "it has none"
        raise BadConfig(f"engine {name!r} has no option {', '.join(unknown)}", hint=has)
    try:
        return {key: kinds[key](value) for key, value in options.items()}
    except ValueError as exc:
        raise BadConfig(f"engine option: {exc}") from exc
