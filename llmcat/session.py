"""Settings to an open engine and a task: what every command and the library begin with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llmcat import prompts
from llmcat.candidates.codes import CANDIDATES, MOST_LABELS
from llmcat.candidates.plan import Plan
from llmcat.candidates.walks import Walk, walk
from llmcat.decode import Judge, Plain
from llmcat.engines import Engine, Served
from llmcat.engines.registry import open_engine
from llmcat.errors import BadConfig, EngineUnsupported
from llmcat.examples import Pool
from llmcat.readers import Columns, ItemReader, to_items
from llmcat.task import Task
from llmcat.taxonomy import Taxonomy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from llmcat.config import RunConfig
    from llmcat.records import Item, Message, Verdict

__all__ = [
    "NO_ENGINE",
    "ROUTE",
    "Route",
    "Session",
    "columns_of",
    "engine_of",
    "rendered",
    "taxonomy_of",
]

ROUTE = "primary, policy or checks"
"""What shapes a router's decisions is called so in a run's identity."""
AUTO = 4
"""Orders of a menu where the first answer is unsure (`--orders auto`)."""
NO_ENGINE = """\
  --base-url http://localhost:8000          a vLLM server that runs already
  llmcat serve model --model Qwen/Qwen3-4B  start one here (then --base-url http://127.0.0.1:8000)
  --engine demo                             the small demo model, to see llmcat at work"""


class Route(Protocol):
    """Where items go besides the model: the fallback labeler's router is one."""

    @property
    def key(self) -> str:
        """What shapes its decisions, as a hash."""

    def ahead(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items on, each looked at before."""

    def walk(self, plan: Plan, item: Item) -> Walk:
        """Return an item's walk."""

    def keep(self, verdicts: Sequence[Verdict]) -> None:
        """Be told of verdicts before they are written."""


@dataclass(frozen=True)
class Session:
    """An open engine and the task fitted to it."""

    config: RunConfig
    taxonomy: Taxonomy
    engine: Engine
    served: Served
    task: Task
    judge: Judge = field(default_factory=Plain)
    route: Route | None = None

    @property
    def walks(self) -> Callable[[Item], Walk]:
        """What gives an item's walk: the plan, unless items are routed."""
        if self.route is not None:
            return partial(self.route.walk, self.task.plan)
        return lambda _: walk(self.task.plan)

    @classmethod
    async def open(
        cls,
        config: RunConfig,
        *,
        engine: Engine | None = None,
        taxonomy: Taxonomy | None = None,
        route: Route | None = None,
        judge: Judge | None = None,
    ) -> Session:
        """Read taxonomy, prompt and examples, open the engine and fit the task to it.

        Everything that can be checked without the engine is checked first. Raises any
        `LlmcatError`; the engine is closed again then.
        """
        taxonomy = taxonomy or taxonomy_of(config)
        prompt = prompts.load(config.prompt)
        pool = _pool_of(config, taxonomy)
        engine = engine or engine_of(config)
        can = engine.capabilities
        if config.constraint not in can.constraints:
            raise EngineUnsupported(f"{engine.name} has no constraint {config.constraint!r}")
        if prompt.front.read not in can.reads:
            raise EngineUnsupported(f"{engine.name} cannot answer {prompt.front.read} prompts")
        if config.orders != "1" and prompt.front.read == "text":
            raise BadConfig(
                "--orders averages probabilities, and a `text` prompt gives none",
                hint="use a prompt that reads codes",
            )
        if config.image and not can.images:
            raise EngineUnsupported(
                f"{engine.name} shows the model no images",
                hint="a vision model behind vllm_http, openai or litellm can see them",
            )
        try:
            served = await engine.open()
            task = Task(
                plan=Plan(
                    taxonomy,
                    served.alphabet,
                    config.menu_size,
                    prompts.spelled(prompt, taxonomy.nodes),
                    orders=AUTO if config.orders == "auto" else int(config.orders),
                    auto=config.orders == "auto",
                ),
                prompt=prompt,
                pool=pool,
                about=config.about or taxonomy.about,
                constraint=config.constraint,
                mass_sample=config.mass_sample if "tokens" in can.constraints else 0,
            )
            used = await engine.count_tokens(task.widest())
            task = task.fitted(used=used, context=served.context)
        except BaseException:
            await engine.close()
            raise
        session = cls(config, taxonomy, engine, served, task, route=route)
        try:
            return replace(session, judge=judge or session.judged())
        except BaseException:
            await engine.close()
            raise

    def judged(self) -> Judge:
        """Return the judge that the settings ask for. Raises `BadConfig` if it cannot be had."""
        config = self.config
        if not config.calibration:
            if config.accept_precision or config.by_branch or config.back_off or config.sets:
                raise BadConfig(
                    "a line, sets and inner categories need a calibration",
                    hint="llmcat calibrate --file labeled.jsonl, then --calibration FILE",
                )
            return Plain()
        if self.task.prompt.front.read == "text":
            raise BadConfig("a calibration needs probabilities, a `text` prompt gives none")
        from llmcat.calibration import Calibrated, Calibration, Wanted

        calibration = Calibration.load(config.calibration)
        calibration.check(self.identity())
        return Calibrated(calibration, self.taxonomy, Wanted.of(config))

    def identity(self) -> dict[str, str]:
        """What shapes the answers: equal for two sessions of one run."""
        config, task = self.config, self.task
        served = self.served.identity()
        if self.route is not None:  # whose model may be away when a run begins or goes on
            served = {"engine": self.engine.name, "model": f"{config.model} {config.base_url}"}
            served["codes"] = ""
            served |= {ROUTE: self.route.key, "room": "", "menu_size": ""}
        shaped = {
            "prompt": f"{task.prompt.ref} {task.prompt.digest}",
            "taxonomy": self.taxonomy.digest,
            "examples": task.pool.digest if task.pool else "",
            "about": task.about,
            "constraint": task.constraint,
            "mass_sample": str(task.mass_sample),
            "menu_size": str(task.plan.size),
            "orders": config.orders,
            "columns": f"text={config.text} id={config.id} label={config.label}",
            "image": config.image,
            "redact": config.redact,
            "input_format": config.input_format,
            "engine_option": config.engine_option,
            "limit": str(config.limit),
            "room": str(task.room),
            "text": config.text,
            "judge": self.judge.key,
        }
        return shaped | served


def taxonomy_of(config: RunConfig) -> Taxonomy:
    """Return the taxonomy that the settings name. Raises `BadConfig` or `BadTaxonomy`."""
    if config.labels and config.taxonomy:
        raise BadConfig("--labels and --taxonomy both name the categories", hint="give one")
    if config.labels:
        return Taxonomy.from_labels(config.labels.split(","))
    if config.taxonomy:
        return Taxonomy.load(config.taxonomy)
    raise BadConfig(
        "no categories", hint="--labels shoes,bags,toys or --taxonomy FILE (try `llmcat init`)"
    )


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


def rendered(config: RunConfig, title: str) -> list[Message]:
    """Return the conversation for one item, as any model with plain codes would see it."""
    taxonomy = taxonomy_of(config)
    prompt = prompts.load(config.prompt)
    spelled = prompts.spelled(prompt, taxonomy.nodes)
    plan = Plan(taxonomy, CANDIDATES[: MOST_LABELS + 1], config.menu_size, spelled)
    task = Task(
        plan=plan,
        prompt=prompt,
        pool=_pool_of(config, taxonomy),
        about=config.about or taxonomy.about,
    )
    (item,) = to_items([title], columns=Columns())
    if item.error:
        raise BadConfig(item.error)
    item, user = task.fit(item)
    return task.ask(item, user, plan.first_menus()[0]).messages


def with_gold(item: Item, taxonomy: Taxonomy) -> Item:
    """Return the item with its known label as a node id, where the taxonomy has it."""
    label = taxonomy.resolve(item.gold) if item.gold else None
    return replace(item, gold=label) if label else item


def columns_of(config: RunConfig) -> Columns:
    """Return the column map of the settings."""
    text = tuple(name.strip() for name in config.text.split(",") if name.strip())
    return Columns(
        text=text, id=config.id, label=config.label, image=config.image, redact=config.redact
    )


def _pool_of(config: RunConfig, taxonomy: Taxonomy) -> Pool | None:
    if not config.examples:
        return None
    reader = ItemReader(columns=Columns(label=config.label, redact=config.redact))
    return Pool.build(
        reader.read(config.examples),
        taxonomy,
        select=config.select,
        shots=config.shots,
        seed=config.seed,
    )
