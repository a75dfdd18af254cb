"""Settings to a router and its session."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmcat.annotations.labelled import read_labelled
from llmcat.annotations.store import LabelStore
from llmcat.engines.circuit_breaker import Tolerant
from llmcat.errors import BadConfig, InputError
from llmcat.fallback.decider import FallbackDecider, fitted
from llmcat.fallback.policy import PRECISION, Background, Policy, line_of, standings
from llmcat.fallback.primary import Placed, open_primary
from llmcat.fallback.router import Router
from llmcat.pipeline.session import Session
from llmcat.pipeline.settings import engine_for
from llmcat.records import NONE
from llmcat.retrieval.vectors import representation
from llmcat.students import novelty
from llmcat.students.model import OutOfFold, Student, text_of
from llmcat.students.training import name_of
from llmcat.taxonomy.load import taxonomy_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.config import RunConfig
    from llmcat.engines import Engine
    from llmcat.fallback.policy import Line
    from llmcat.fallback.primary import Primary
    from llmcat.fallback.promotion import Standing
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["Opened", "background", "open_route", "open_session", "policy_of"]


PATIENCE = 5.0
"""Seconds that a model server is waited for, where the settings do not say: there is an answer."""


def background_of(primary: Primary, placed: Placed, config: RunConfig) -> Background:
    """Return what is known of a primary: from a student itself, else from labelled items."""
    student = getattr(primary, "student", primary)
    if isinstance(student, Student):
        return Background.of_student(student)
    if not config.primary_labelled:
        return Background()
    taxonomy = taxonomy_of(config)
    labelled = read_labelled(
        config.model_copy(update={"file": config.primary_labelled, "limit": 0}), taxonomy
    )
    items = [item for item in labelled.items if item.error is None and item.gold in placed.labels]
    texts, gold = [text_of(i) for i in items], [str(i.gold) for i in items]
    return background(texts, gold, placed, taxonomy, features=config.features, seed=config.seed)


def background(
    texts: Sequence[str],
    gold: Sequence[str],
    placed: Placed,
    taxonomy: Taxonomy,
    *,
    features: str,
    seed: int,
) -> Background:
    """Return what labelled items say of a primary. Raises `InputError` where they are too few."""
    if not texts:
        raise InputError("none of the known items is of a category that the primary can name")
    p = placed.probabilities(texts)
    best = p.argmax(axis=1)
    held = OutOfFold(
        label=[placed.labels[i] for i in best.tolist()],
        gold=list(gold),
        confidence=p.max(axis=1).tolist(),
    )
    names = {label: name_of(label, taxonomy) for label in placed.labels}
    cold = sum(n.id not in placed.labels for n in taxonomy.leaves)
    try:
        seen = novelty.fit(
            texts,
            gold,
            p,
            placed.labels,
            names,
            represent=representation(features).fit([*texts, *names.values()]),
            share=min(0.5, max(0.2, cold / (cold + len(placed.labels)))),
            seed=seed,
        )
    except InputError:  # too few categories to learn from what is new
        seen = None
    return Background(held, seen, None)


@dataclass(frozen=True)
class Opened:
    """A router, and what it rests on."""

    route: Router
    decider: FallbackDecider
    standings: dict[str, Standing]
    remarks: tuple[str, ...]


def policy_of(config: RunConfig) -> Policy:
    """Return when the model is asked, by the settings."""
    precision = config.accept_precision or PRECISION
    return Policy(precision, config.risk, config.max_distance, config.cold_threshold)


def open_route(
    config: RunConfig,
    taxonomy: Taxonomy,
    *,
    primary: Primary | None = None,
    store: LabelStore | None = None,
    known: Background | None = None,
) -> Opened:
    """Put a router together from primary, store and settings. Raises `InputError`."""
    if config.multi:
        raise BadConfig("a trained classifier gives an item one label, and `multi` several")
    if primary is None:
        if not config.primary:
            raise BadConfig(
                "no primary", hint="--primary FOLDER of a student (llmcat student train), or URL"
            )
        primary = open_primary(config.primary, url=config.primary_url)
    if config.engine == "retriever":
        raise BadConfig(
            "the fallback labeler asks a model where the primary is unsure: --engine retriever has "
            "none",
            hint="--base-url of a server, or --engine demo to see it at work",
        )
    if config.calibration or config.by_branch or config.back_off or config.set_coverage:
        raise BadConfig(
            "the fallback labeler calibrates by its own checks",
            hint="leave out --calibration",
        )
    placed = Placed.of(primary, taxonomy)
    policy = policy_of(config)
    known = known or background_of(primary, placed, config)
    by = f"{placed.name}@{placed.key[:8]}"
    stands = standings(placed.labels, known.checked, taxonomy, store, policy, by)
    if store:
        store.name_primary(placed.key, placed.labels)
    trusted = frozenset(id_ for id_, one in stands.items() if one.decides)
    line = line_of(known.held, policy)
    opinions = store.opinions() if store else []
    decider, lined = FallbackDecider(), None
    if config.accept_precision:
        named = [label for label in placed.labels if label != NONE]
        decider, lined = FallbackDecider.of(
            named, line, opinions, precision=policy.precision, risk=policy.risk
        )
    router = Router(
        taxonomy,
        placed,
        trusted,
        line.threshold,
        mixture=lined or fitted(opinions, placed.labels),
        policy=policy,
        novelty=known.novelty,
        most=config.max_items or None,
        bound=f"{config.max_items} {config.max_cost}"
        if config.max_items or config.max_cost
        else "",
        store=store,
        keep_text=config.keep_text,
    )
    return Opened(router, decider, stands, _remarks(router, stands, line))


def _remarks(router: Router, stands: Mapping[str, Standing], line: Line) -> tuple[str, ...]:
    """Return what the user should hear before anything is asked."""
    states = Counter(one.state for one in stands.values())
    remarks = [
        "categories: " + ", ".join(f"{n} {state}" for state, n in states.most_common()),
        line.promise,
        f"the mixture is fitted on {router.mixture.n:,} checked opinions",
    ]
    if not router.trusted:
        remarks.append(
            "WARNING: the primary decides nothing yet, the model is asked about all: no category "
            "is trusted (llmcat fallback status says what is missing)"
        )
    if router.novelty is None:
        remarks.append(
            "WARNING: nothing tells items of categories without examples apart: give labelled "
            "items (--primary-labelled FILE)"
        )
    return tuple(remarks)


async def open_session(
    config: RunConfig, opened: Opened, taxonomy: Taxonomy, engine: Engine | None = None
) -> Session:
    """Open a session whose items are routed; the model may be away."""
    if "retry_seconds" not in config.model_fields_set:
        config = config.model_copy(update={"retry_seconds": PATIENCE})
    session = await Session.open(
        config,
        engine=engine or Tolerant(await engine_for(config)),
        taxonomy=taxonomy,
        route=opened.route,
        decider=opened.decider,
    )
    origin = {
        "model": session.served.model,
        "prompt": session.task.prompt.ref,
        "taxonomy": taxonomy.digest,
    }
    return replace(session, route=replace(opened.route, origin=origin))
