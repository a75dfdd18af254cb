"""One item's conversation, as a model with plain codes would see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcat.candidates.codes import CANDIDATES
from llmcat.candidates.plan import Plan
from llmcat.errors import BadConfig
from llmcat.evidence import assemble
from llmcat.evidence.gather import Evidence
from llmcat.items.readers import Columns, to_items
from llmcat.pipeline.settings import pool_of, prompt_of
from llmcat.prompting import templates
from llmcat.prompting.builder import Task
from llmcat.records import MOST_LABELS
from llmcat.taxonomy.load import taxonomy_of

if TYPE_CHECKING:
    from llmcat.config import RunConfig
    from llmcat.records import Message

__all__ = ["rendered"]


def rendered(config: RunConfig, title: str) -> list[Message]:
    """Return the conversation for one item, as any model with plain codes would see it."""
    taxonomy = taxonomy_of(config)
    prompt = prompt_of(config)
    gathers = assemble.wanted(
        config, taxonomy, item_first=prompt.item_first, whole_menus=False, reader=True
    )
    pool = pool_of(config, taxonomy)
    plan = Plan(
        taxonomy,
        CANDIDATES[: MOST_LABELS + 1],
        config.menu_size,
        templates.spelled(prompt, taxonomy.nodes),
        candidates=min(config.candidates, len(taxonomy.leaves)) if gathers else 0,
    )
    task = Task(
        plan=plan,
        prompt=prompt,
        pool=pool if "examples" in prompt.front.needs or not gathers else None,
        about=config.about or taxonomy.about,
    )
    (item,) = to_items([title], columns=Columns())
    if item.error:
        raise BadConfig(item.error)
    item, user = task.fit(item)
    menu = plan.first_menus()[0]
    if gathers:
        examples = (pool.items, pool.labels) if pool is not None else ((), ())
        retriever, items, labels = assemble.retriever_of(config, taxonomy, examples)
        weights = assemble.learnt_pool(retriever, items, labels, seed=config.seed)
        menu = next(Evidence(plan, retriever, weights).walk(item))[0]
    return task.ask(item, user, menu).messages
