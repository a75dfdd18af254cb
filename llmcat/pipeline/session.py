"""Settings to an open engine and a task: what every command and the library begin with."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

from llmcat.candidates.plan import Plan, chunks
from llmcat.candidates.walks import SURE, Walk, walk
from llmcat.engines import Engine, Served
from llmcat.engines.decision_server import DecisionServer
from llmcat.errors import BadConfig
from llmcat.evidence import assemble, place_prior
from llmcat.evidence.artifact import Artifact
from llmcat.evidence.escalation import Escalation
from llmcat.evidence.gather import BATCH, Evidence, Gathered, Tagging
from llmcat.evidence.pool import Pool as Weights
from llmcat.evidence.several import Several
from llmcat.items.readers import TEXT_COLUMNS, Columns
from llmcat.pipeline.decode import Decider, Plain
from llmcat.pipeline.duplicates import Forgetful
from llmcat.pipeline.loop import classify
from llmcat.pipeline.rules import Rules
from llmcat.pipeline.settings import check_able, engine_for, pool_of, prompt_of, with_choices
from llmcat.prompting import templates
from llmcat.prompting.builder import Task
from llmcat.prompting.few_shot import Pool
from llmcat.records import NONE, ROUTE
from llmcat.taxonomy.load import taxonomy_of
from llmcat.taxonomy.tree import Taxonomy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

    import numpy as np

    from llmcat.config import RunConfig
    from llmcat.evidence.several import Way
    from llmcat.pipeline.budget import Budget
    from llmcat.pipeline.loop import Memory, Tally
    from llmcat.prompting.templates import Prompt
    from llmcat.records import Item, RowResult

__all__ = ["Route", "Session"]

NAMES = 500
"""Categories whose names are checked when a decision model is opened."""
log = logging.getLogger(__name__)

AUTO = 4
"""Orders of a menu where the first answer is unsure (`--orders auto`)."""


class Route(Protocol):
    """Where items go besides the model: the fallback labeler's router is one."""

    @property
    def key(self) -> str:
        """What shapes its decisions, as a hash."""

    def ahead(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items on, each looked at before."""

    def walk(self, plan: Plan, item: Item) -> Walk:
        """Return an item's walk."""

    def keep(self, results: Sequence[RowResult]) -> None:
        """Be told of results before they are written."""


@dataclass(frozen=True)
class Session:
    """An open engine and the task fitted to it."""

    config: RunConfig
    taxonomy: Taxonomy
    engine: Engine
    served: Served
    task: Task
    decider: Decider = field(default_factory=Plain)
    route: Route | None = None
    evidence: Evidence | None = None
    examples: str = ""
    artifact: Artifact | None = None

    @property
    def walks(self) -> Callable[[Item], Walk]:
        """What gives an item's walk: the plan, unless items are routed or evidence is gathered."""
        if self.route is not None:
            return partial(self.route.walk, self.task.plan)
        if self.evidence is not None:
            return self.evidence.walk
        return lambda _: walk(self.task.plan)

    @cached_property
    def rules(self) -> Rules | None:
        """What decides before the model. Raises `BadConfig`."""
        return Rules.load(self.config.rules, self.taxonomy) if self.config.rules else None

    def ahead(self, items: Iterable[Item], *, slow: bool = False) -> Iterable[Item]:
        """Pass items on, each looked at before by what decides without asking.

        `slow` items may be long in coming: none waits for the next.
        """
        if self.route is not None:
            return self.route.ahead(items)
        if self.evidence is not None:
            return self.evidence.ahead(items, batch_size=1 if slow else BATCH)
        return items

    def keeping(self, kept: Gathered) -> Session:
        """Return the same session, which will fill `kept` if it gathers evidence."""
        if self.evidence is None:
            return self
        return replace(self, evidence=replace(self.evidence, kept=kept))

    def classify(
        self,
        items: Iterable[Item],
        *,
        memory: Memory,
        engine: Engine | None = None,
        decider: Decider | None = None,
        tally: Tally | None = None,
        stop: asyncio.Event | None = None,
        slow: bool = False,
        window: int = 1024,
        budget: Budget | None = None,
    ) -> AsyncGenerator[RowResult, None]:
        """Classify items as this session does: see `llmcat.pipeline.loop.classify`."""
        looks_ahead = self.route is not None or self.evidence is not None
        return classify(
            self.ahead(items, slow=slow),
            self.task,
            engine or self.engine,
            memory=memory,
            decider=decider or self.decider,
            walks=self.walks,
            tally=tally,
            window=window,
            stop=stop,
            slow=slow or looks_ahead,
            budget=budget,
            rules=self.rules,
        )

    @classmethod
    async def open(
        cls,
        config: RunConfig,
        *,
        engine: Engine | None = None,
        taxonomy: Taxonomy | None = None,
        route: Route | None = None,
        decider: Decider | None = None,
        judged: Sequence[Item] = (),
        prior: Sequence[float] | None = None,
        pool: Pool | None = None,
    ) -> Session:
        """Read taxonomy, prompt and examples, open the engine and fit the task to it.

        `judged`: labelled items that are to be judged, so that none is its own evidence. `prior`:
        the reader's place prior, where an earlier session of the same run measured it. `pool`:
        examples that are here already, instead of those of the settings; left out where neither
        retrieval nor the prompt has a use for them. Everything
        that can be checked without the engine is checked first. Raises any `LlmcatError`, with the
        engine closed.
        """
        artifact = Artifact.load(config.artifact) if config.artifact else None
        if artifact is not None:
            config = with_choices(config, artifact)
        taxonomy = taxonomy or taxonomy_of(config)
        engine = engine or await engine_for(config)
        can = engine.capabilities
        prompt = prompt_of(config, can)
        gathers = route is None and assemble.wanted(
            config, taxonomy, item_first=prompt.item_first, whole_menus=can.whole_menus,
            reader=engine.name != "retriever",
        )  # fmt: skip
        if not gathers and "examples" not in prompt.front.needs:
            pool = None
        pool = pool or pool_of(config, taxonomy)
        shown = pool if "examples" in prompt.front.needs or not gathers else None
        check_able(engine, config, prompt)
        try:
            served = await engine.open()
            log.info("%s serves %s (%s)", engine.name, served.model, served.version)
            task = Task(
                plan=_plan(config, taxonomy, served.alphabet, prompt, gathers=gathers),
                prompt=prompt, pool=shown, about=config.about or taxonomy.about,
                constraint=config.constraint, columns=(*TEXT_COLUMNS, *Columns.of(config).text),
                mass_sample=config.mass_sample if "tokens" in can.constraints else 0,
            )  # fmt: skip
            used = await engine.count_tokens(task.widest())
            task = task.fitted(used=used, context=served.context)
            session = cls(config, taxonomy, engine, served, task, route=route, artifact=artifact,
                          examples=pool.digest if pool is not None else "")  # fmt: skip
            if gathers:
                session = await session._gather(pool, judged, prior)
            return replace(session, decider=decider or session.decider_of())
        except BaseException:
            await engine.close()
            raise

    async def _gather(
        self, pool: Pool | None, judged: Sequence[Item], prior: Sequence[float] | None
    ) -> Session:
        """Return the session with its evidence: sources, weights, policy, and the place prior.

        What places the reader prefers is measured if neither the artifact nor `prior` says it.
        """
        config = self.config
        examples = (pool.items, pool.labels) if pool is not None else ((), ())
        retriever, items, labels = await asyncio.to_thread(
            assemble.retriever_of, config, self.taxonomy, examples, judged
        )
        reads = self.engine.name != "retriever"
        if not reads and config.skip_sure:
            raise BadConfig("--skip-sure leaves the model out, and --engine retriever has none")
        evidence = Evidence(self.task.plan, retriever, reads=reads)
        assignable = {*retriever.ids, NONE}
        evidence.sight.foreign = sum(label not in assignable for label in examples[1])
        evidence.sight.alike = await self._alike()
        learnt = self._learnt(evidence)
        again = SURE if config.orders == "auto" else math.inf
        policy = Escalation(orders=self.task.plan.orders, again=again)
        if config.skip_sure:
            line = learnt.get("line")
            if line is None:
                raise BadConfig(
                    "--skip-sure needs a line that labels have drawn",
                    hint="llmcat calibrate --file labeled.jsonl draws one, then --artifact FILE",
                )
            policy = replace(policy, skip=float(line["skip"]))
        decides = self.task.prompt.decides
        if config.multi:
            tagging = several_of(config.multi, learnt.get("several"))
            evidence = replace(evidence, several=tagging)
        if (weights := learnt.get("pool")) is not None:
            evidence = replace(evidence, pool=Weights.of(weights), policy=policy)
        else:
            learn = partial(assemble.learnt_pool, group=config.group, seed=config.seed)
            made = await asyncio.to_thread(learn, retriever, items, labels)
            made = made.read_by_decider() if decides else made
            evidence = replace(evidence, pool=made, policy=policy)
        if not reads:
            return replace(self, evidence=evidence)
        if (known := learnt.get("reader")) is not None:
            evidence = replace(evidence, first=Weights(weights=known["chosen_by"]))
            prior = known["place_prior"]
        if config.multi == "each" or self.served.any_order:  # no menu of places
            return replace(self, evidence=evidence)
        measured = await self._place_prior(evidence, judged) if prior is None else _array(prior)
        return replace(self, evidence=replace(evidence, prior=measured))

    def _learnt(self, evidence: Evidence) -> dict[str, dict[str, Any] | None]:
        """Return what the artifact holds, part by part. Raises `BadConfig` where one is foreign."""
        if self.artifact is None:
            return {}
        identity = replace(self, evidence=evidence).identity()
        parts = ("pool", "line", *(("reader",) if evidence.reads else ()), "several")
        learnt = {name: self.artifact.learnt(name, identity) for name in parts}
        if self.config.multi and learnt["several"] is None:
            raise BadConfig(
                "the artifact was learnt for items with one label, and --multi gives several",
                hint="llmcat calibrate --multi learns one",
            )
        if self.config.multi and evidence.reads and learnt["reader"] is None:
            raise BadConfig(
                "the artifact was learnt without a model, and one is to be asked here",
                hint="llmcat calibrate --multi with the same --engine",
            )
        return learnt

    async def _alike(self) -> list[list[str]]:
        """Return the names that a decision model cannot tell apart; none of another model."""
        engine = getattr(self.engine, "engine", self.engine)
        if not isinstance(engine, DecisionServer):
            return []
        most, found = len(self.served.alphabet) - 1, list[list[str]]()
        for some in chunks(self.taxonomy.leaves, most)[: NAMES // most + 1]:
            found += await engine.alike(self.task.options(some))
        return found

    async def _place_prior(
        self, evidence: Evidence, judged: Sequence[Item]
    ) -> np.ndarray[Any, Any] | None:
        """Ask about the reference items, and return what the reader says by place.

        None where it gives no probabilities, or too few answers. Raises the engine's error.
        """
        readings: list[np.ndarray[Any, Any]] = []
        items = await asyncio.to_thread(
            lambda: list(evidence.ahead(assemble.reference_items(self.config, judged)))
        )
        results = classify(
            items,
            replace(self.task, mass_sample=0),
            self.engine,
            memory=Forgetful(),
            walks=lambda item: evidence.reference_walk(item, readings),
        )
        async for _ in results:
            pass
        # Rounded as a run's record has it, so that a run that goes on has the very same.
        return place_prior.estimate(readings).round(6) if readings else None

    def decider_of(self) -> Decider:
        """Return the decider that the settings ask for. Raises `BadConfig` if it cannot be had."""
        config = self.config
        part = self.artifact.parts.get("calibration") if self.artifact is not None else None
        if not config.calibration and part is None:
            if (
                config.accept_precision
                or config.by_branch
                or config.back_off
                or config.set_coverage
            ):
                raise BadConfig(
                    "a line, sets and inner categories need a calibration",
                    hint="llmcat calibrate --file labeled.jsonl, then --calibration FILE",
                )
            return Plain(config.min_confidence)
        if config.min_confidence:
            raise BadConfig(
                "--min-confidence is for a run without a calibration, which has a line of its own",
                hint="--accept-precision asks for another",
            )
        if self.task.prompt.front.read == "text":
            raise BadConfig("a calibration needs probabilities, a `text` prompt gives none")
        from llmcat.calibration.artifact import Calibration
        from llmcat.calibration.decider import AcceptanceOptions, Calibrated

        if config.calibration:
            calibration = Calibration.load(config.calibration)
        else:
            assert part is not None  # noqa: S101  or there was nothing to judge by
            calibration = Calibration.model_validate(part.learnt)
        calibration.check(self.identity())
        return Calibrated(calibration, self.taxonomy, AcceptanceOptions.of(config))

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
            "examples": self.examples,
            "about": task.about,
            "constraint": task.constraint,
            "mass_sample": str(task.mass_sample),
            "menu_size": str(task.plan.size),
            "orders": config.orders,
            "columns": f"text={config.text} id={config.id} label={config.label}",
            "image": config.image,
            "redact": config.redact,
            "input_format": config.input_format,
            **({"rules": self.rules.digest} if self.rules is not None else {}),
            "engine_option": config.engine_option,
            "limit": str(config.limit),
            "room": str(task.room),
            "candidates": str(task.plan.candidates),
            "layout": task.prompt.front.layout,
            **({"multi": config.multi} if config.multi else {}),
            **self._evidence_identity(),
            "text": config.text,
            "judge": self.decider.key,
        }
        return shaped | served

    def evidence_record(self) -> dict[str, Any] | None:
        """Return what was added up and how, for a run's record; None if nothing was."""
        found = self.evidence
        if found is None:
            return None
        prior = None if found.prior is None else [round(float(x), 6) for x in found.prior]
        names = [*found.retriever.sources, *(["reader"] if found.reads else [])]
        return {
            "sources": {name: round(found.pool.weight(name), 4) for name in names},
            "fitted_on": found.pool.n,
            "examples": len(found.retriever.examples.texts),
            "candidates": found.plan.candidates if found.reads else 0,
            "place_prior": prior,
            "artifact": self.artifact.hash if self.artifact is not None else "",
        }

    def _evidence_identity(self) -> dict[str, str]:
        found = self.evidence
        if found is None:
            return dict.fromkeys(("sources", "source_category", "pool", "evidence"), "")
        return {
            "sources": found.retriever.named,
            "source_category": found.retriever.supplied,
            "pool": found.pool.digest,
            "evidence": found.key,
        }


def several_of(way: Way, learnt: dict[str, Any] | None) -> Tagging:
    """Return how items get several labels: as learnt, else by default."""
    if learnt is None:
        return Tagging.default(way)
    alone = Several.of(learnt["alone"])
    return Tagging(way, Several.of(learnt["model"]) if learnt["model"] else alone, alone)


def _array(values: Sequence[float]) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.array(values, dtype=float)


def _plan(
    config: RunConfig,
    taxonomy: Taxonomy,
    alphabet: Sequence[str],
    prompt: Prompt,
    *,
    gathers: bool,
) -> Plan:
    """Return the menus of the settings, in the codes of the served model."""
    most = min(config.menu_size, len(alphabet) - 1, len(taxonomy.leaves))
    candidates = config.candidates
    if prompt.decides and "candidates" not in config.model_fields_set:
        candidates = most  # names are short, and what a decision model says of all is worth more
    return Plan(
        taxonomy,
        tuple(alphabet),
        config.menu_size,
        templates.spelled(prompt, taxonomy.nodes),
        orders=AUTO if config.orders == "auto" else int(config.orders),
        auto=config.orders == "auto",
        candidates=min(candidates, most) if gathers else 0,
    )
