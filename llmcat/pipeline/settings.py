"""What the settings mean: prompt, engine, pool of examples, artifact."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmcat.engines import Capabilities, Engine
from llmcat.engines.decision_server import bare
from llmcat.engines.discovery import look_at
from llmcat.engines.registry import open_engine
from llmcat.errors import BadConfig, EngineUnsupported
from llmcat.evidence.artifact import CHOICES, Artifact
from llmcat.items.readers import Columns, ItemReader
from llmcat.prompting import templates
from llmcat.prompting.few_shot import Pool
from llmcat.taxonomy.tree import Taxonomy

if TYPE_CHECKING:
    from llmcat.config import RunConfig
    from llmcat.prompting.templates import Prompt
    from llmcat.records import Item

__all__ = [
    "check_able",
    "engine_for",
    "engine_of",
    "pool_of",
    "prompt_of",
    "with_choices",
    "with_gold",
]

log = logging.getLogger(__name__)

NO_ENGINE = """\
  --engine retriever                        no model: retrieval alone, works at once
  --base-url http://localhost:8000          a vLLM server that runs already
  llmcat serve model --model Qwen/Qwen3-4B  start one here (then --base-url http://127.0.0.1:8000)
  --engine demo                             the small demo model, to see llmcat at work"""


def prompt_of(config: RunConfig, can: Capabilities | None = None) -> Prompt:
    """Return the prompt of the settings, else the one for what an engine can. Raises `BadPrompt`.

    An item-first prompt is the default: menus first are cached, and small models cannot read them.
    """
    usual = templates.DEFAULT
    if can is not None and can.whole_menus:
        usual = templates.WHOLE_MENU
    elif can is not None and can.reads == ("decide",):
        usual = templates.DECIDE
    return templates.load(config.prompt or usual)


def with_choices(config: RunConfig, artifact: Artifact) -> RunConfig:
    """Return the settings with an artifact's choices where nobody chose."""
    given = config.model_fields_set
    choices = {
        name: value
        for name, value in artifact.settings.items()
        if name in CHOICES and name not in given
    }
    return config.model_copy(update=choices)


def engine_of(config: RunConfig) -> Engine:
    """Return the engine that the settings name, not yet opened. Raises `EngineUnsupported`."""
    name = config.engine or ("vllm_http" if config.base_url else "")
    if not name and "/" in config.model and not Path(config.model).exists():
        if config.api_key.get_secret_value():
            raise BadConfig(
                "LLMCAT_API_KEY is set, but nothing says whose it is",
                hint="--base-url of your server, or --engine litellm for a provider",
            )
        name = "litellm"
    if not name:
        raise EngineUnsupported("no engine is configured; choose one:\n" + NO_ENGINE)
    if name == "vllm_http" and not config.base_url:
        raise BadConfig("engine vllm_http needs --base-url")
    options: dict[str, str] = {}
    for pair in filter(None, config.engine_option.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise BadConfig(f"engine option {pair!r} is not NAME=VALUE")
        options[key.strip()] = value.strip()
    return open_engine(
        name,
        base_url=config.base_url,
        model=config.model,
        api_key=config.api_key.get_secret_value(),
        concurrency=config.concurrency,
        timeout=config.timeout,
        retry_seconds=config.retry_seconds,
        options=options,
    )


async def engine_for(config: RunConfig) -> Engine:
    """Return the engine of the settings, not yet opened.

    Where a server is named and no engine, it is the one that the server speaks. Raises as
    `engine_of` does.
    """
    if config.engine or not config.base_url:
        return engine_of(config)
    key = config.api_key.get_secret_value()
    found = await look_at(config.base_url, model=config.model, api_key=key)
    log.info("%s: --engine %s, %s", config.base_url, found.engine, found.why)
    chosen: dict[str, str] = {"engine": found.engine}
    if found.dialect:
        options = filter(None, (config.engine_option, f"dialect={found.dialect}"))
        url = f"{bare(config.base_url)}/v1"
        chosen |= {"engine_option": ",".join(options), "base_url": url}
    return engine_of(config.model_copy(update=chosen))


def with_gold(item: Item, taxonomy: Taxonomy) -> Item:
    """Return the item with its known labels as node ids, where the taxonomy has them."""
    given = taxonomy.given(item.gold)
    label = taxonomy.resolve_all(given) if given else None
    return replace(item, gold=label or given) if (label or given) != item.gold else item


def pool_of(config: RunConfig, taxonomy: Taxonomy) -> Pool | None:
    """Return the examples that the settings name, None if none are. Raises `InputError`."""
    if not config.examples:
        return None
    columns = replace(Columns.of(config), text=(), image="", id="id")
    reader = ItemReader(columns=columns, labelled=True)
    return Pool.build(
        reader.read(config.examples),
        taxonomy,
        select=config.select,
        shots=config.shots,
        seed=config.seed,
    )


def check_able(engine: Engine, config: RunConfig, prompt: Prompt) -> None:
    """Raise `EngineUnsupported` or `BadConfig` for what an engine cannot do with a prompt."""
    can = engine.capabilities
    if config.constraint not in can.constraints:
        raise EngineUnsupported(f"{engine.name} has no constraint {config.constraint!r}")
    if prompt.front.read not in can.reads:
        fits = [p.ref for p in templates.available() if p.front.read in can.reads]
        raise EngineUnsupported(
            f"{engine.name} cannot answer {prompt.front.read} prompts",
            hint=f"leave out --prompt ({prompt.ref}), or take one of {', '.join(fits)}",
        )
    if config.orders != "1" and prompt.front.read == "text":
        raise BadConfig(
            "--orders averages probabilities, and a `text` prompt gives none",
            hint="use a prompt that reads codes",
        )
    if config.multi and prompt.front.read == "text":
        raise BadConfig("--multi needs probabilities, and a `text` prompt gives none")
    if config.multi == "each" and config.orders != "1":
        raise BadConfig("--orders turns a menu about, and --multi each asks about one at a time")
    if config.multi == "each" and prompt.decides:
        raise BadConfig(
            "--multi each asks about one category beside `none`, which a decision model is not "
            "offered",
            hint="--multi menu",
        )
    if config.image and not can.images:
        raise EngineUnsupported(
            f"{engine.name} shows the model no images",
            hint="a vision model behind vllm_http, openai or litellm can see them",
        )
