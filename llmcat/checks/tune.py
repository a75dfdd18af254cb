"""`llmcat tune`: which prompt, candidates, orders and sources suit this model and these labels.

Arms answer the same labelled items, few at first; after each round the worse half goes and the
rest is asked about twice as many (successive halving, Jamieson & Talwalkar 2016, algorithm 1).
Retrieval alone is one of them and stays to the end: it is free. What is left is compared on all
development items, the best is checked on items that no arm has seen, and its weights are learnt.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import llmcat
from llmcat.annotations.labelled import Labelled, read_labelled
from llmcat.calibration import thresholds
from llmcat.engines.cache import AnswerStore
from llmcat.errors import BadConfig, InputError, JournalError
from llmcat.evaluation.adds import added
from llmcat.evaluation.arms import arms_of
from llmcat.evaluation.fitting import artifact_of
from llmcat.evaluation.metrics import Estimate, accuracy
from llmcat.evaluation.opening import Opened, Read, close_arms, open_arms
from llmcat.evaluation.paired import difference_of_accuracy
from llmcat.evidence.artifact import CHOICES
from llmcat.evidence.gather import Gathered
from llmcat.evidence.learn import learn, parted
from llmcat.evidence.pool import Pool
from llmcat.pipeline.duplicates import Forgetful
from llmcat.pipeline.loop import Tally
from llmcat.pipeline.session import Session
from llmcat.pipeline.writers import row_of
from llmcat.prompting import templates
from llmcat.records import NONE
from llmcat.retrieval.documents import group_of, item_text
from llmcat.taxonomy.load import taxonomy_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llmcat.config import RunConfig
    from llmcat.evidence.artifact import Artifact
    from llmcat.records import Item
    from llmcat.taxonomy.tree import Taxonomy

__all__ = [
    "ALONE",
    "INTERRUPTED",
    "Options",
    "Tried",
    "Tuned",
    "against",
    "labels_for_a_promise",
    "pareto",
    "tune",
]

ALONE = "retriever"
FIRST, BLOCK = 32, 16
SHARE = 0.6
"""Of the labelled items, how many are for development; the rest is held back for the winner."""
LEAST = 40
INTERRUPTED = "interrupted"
CJK = re.compile("[\u4e00-\u9fff]")
ARMS: dict[str, dict[str, Any]] = {
    ALONE: {"engine": "retriever", "engine_option": ""},
    "item-first": {},
    "few": {"candidates": 4},
    "many": {"candidates": 16},
    "twice": {"orders": "2"},
    "lexical": {"sources": "lexical"},
    "menu-first": {"prompt": templates.WHOLE_MENU, "sources": "none"},
}
"""The arms, and what each changes."""


@dataclass(frozen=True, slots=True)
class Options:
    """Bounds on what may be asked; 0 for none. `arms` replaces the usual ones."""

    max_requests: int = 0
    max_minutes: float = 0.0
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass
class Tried:
    """An arm and what came of it. `fate`: why it went no further, empty for those that stayed.

    `rows` are compared, `tally` counts what all that were asked took.
    """

    name: str
    config: RunConfig
    opened: Opened
    kept: Gathered
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    items: int = 0
    fate: str = ""
    best: bool = False

    def right(self, rows: Sequence[int]) -> Any:
        """Return which of some items it has right, shape `(items,)`."""
        return np.array([_label(self.rows[r]) == self.rows[r]["gold"] for r in rows], dtype=bool)

    @property
    def accuracy(self) -> Estimate:
        """Over all items it was asked about."""
        return accuracy(self.right(list(self.rows)))

    @property
    def tokens(self) -> float:
        """Prompt tokens per item, as the server counts them."""
        return self.tally.usage.prompt / max(1, self.items)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning found: every arm, the winner, its check on held-back items, the artifact."""

    tried: list[Tried]
    winner: Tried
    development: int
    held_back: int
    checked: Estimate
    adds: dict[str, Any] | None
    artifact: Artifact
    stopped: str


async def tune(
    config: RunConfig,
    options: Options,
    *,
    stop: asyncio.Event,
    say: Callable[[str], None],
) -> Tuned:
    """Try the arms, check the best, learn its weights. Raises any `LlmcatError`."""
    taxonomy = taxonomy_of(config)
    keep = tuple(filter(None, (config.source_category, config.group)))
    labelled = read_labelled(config, taxonomy, keep=keep)
    usable = [item for item in labelled.items if item.error is None]
    names = [item.kept.get(config.group, "") for item in usable] if config.group else None
    groups = group_of([item_text(item) for item in usable], names)
    first = parted(groups, SHARE, config.seed)
    development = [item for item, there in zip(usable, first, strict=True) if there]
    held = [item for item, there in zip(usable, first, strict=True) if not there]
    if min(len(development), len(held)) < LEAST:
        raise InputError(
            f"{len(usable)} labelled items are too few to choose by and to check the choice",
            hint=f"at least {math.ceil(LEAST / (1 - SHARE))}; some hundreds are good",
        )
    random.Random(config.seed).shuffle(development)
    store = _store(Path(config.runs))
    tried: list[Tried] = []
    try:
        tried = await _open(config, options, taxonomy, labelled, store)
        say(f"{len(development)} items to choose by, {len(held)} held back; "
            f"arms: {', '.join(one.name for one in tried)}")  # fmt: skip
        stopped = await _halving(tried, development, options, stop, say)
        winner = _best(tried)
        winner.best = True
        chosen = list(winner.rows)
        checked, adds = await _check(winner, held, stop)
        stopped = INTERRUPTED if stop.is_set() else stopped
        artifact = _learnt(winner, usable, chosen, groups, taxonomy, config.seed)
        return Tuned(tried, winner, len(chosen), len(held), checked, adds, artifact, stopped)
    finally:
        store.close()
        await close_arms([one.opened for one in tried])


def _store(runs: Path) -> AnswerStore:
    """Return the answers that all runs share. Raises `JournalError`."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise JournalError(f"{runs}: {exc.strerror}") from exc
    return AnswerStore(runs / "answers.sqlite")


async def _open(
    config: RunConfig,
    options: Options,
    taxonomy: Taxonomy,
    labelled: Labelled,
    store: AnswerStore,
) -> list[Tried]:
    """Open every arm that these settings allow; one model is opened once."""
    common = {name: getattr(config, name) for name in config.model_fields_set}
    common |= {"artifact": "", "skip_sure": False, "out": ""}
    changes = dict(options.arms) or _usual(config, taxonomy, labelled.items)
    arms = arms_of(changes, common)
    opened = await open_arms([Read(arm, taxonomy, labelled) for arm in arms], store)
    tried = []
    for arm, one in zip(arms, opened, strict=True):
        kept = Gathered()
        one.session = one.session.keeping(kept)
        tried.append(Tried(arm.name, arm.config, one, kept))
    return tried


def _usual(
    config: RunConfig, taxonomy: Taxonomy, items: Sequence[Item]
) -> dict[str, dict[str, Any]]:
    """Return the usual arms, without those that make no sense here."""
    arms = dict(ARMS)
    if config.engine == "retriever":
        arms = {name: arms[name] for name in (ALONE, "lexical")}
        arms["lexical"] = {"engine": "retriever", "sources": "lexical"}
        return arms
    leaves = len(taxonomy.leaves)
    if leaves > config.menu_size:
        del arms["menu-first"]  # several questions an item, and no whole posterior
    for name in ("few", "many"):
        if leaves <= int(arms[name]["candidates"]):
            del arms[name]
    if sum(bool(CJK.search(item_text(item))) for item in items) > 0.3 * len(items):
        arms["chinese"] = {"prompt": templates.DEFAULT.replace(".en", ".zh")}
    if config.prompt:
        arms["as-set"] = {"prompt": config.prompt}
        for name in ("item-first", "few", "many", "twice", "lexical"):
            if name in arms:
                arms[name] = {"prompt": templates.DEFAULT, **arms[name]}
    return arms


async def _halving(
    tried: list[Tried],
    items: Sequence[Item],
    options: Options,
    stop: asyncio.Event,
    say: Callable[[str], None],
) -> str:
    """Ask ever fewer arms about ever more items; return what ended it early, if anything."""
    began, done, size = time.monotonic(), 0, min(FIRST, len(items))
    while True:
        for one in [t for t in tried if not t.fate]:
            for start in range(done, size, BLOCK):
                if ended := _spent(tried, options, began, stop):
                    return _even(tried, ended)
                await _ask(one, items[start : min(start + BLOCK, size)], stop)
            if stop.is_set():
                return _even(tried, INTERRUPTED)
            _look(one)
        alive = [one for one in tried if not one.fate]
        if not [one for one in alive if one.name != ALONE]:
            return "no arm with a model is left"
        if size == len(items):
            return ""
        readers = sorted(
            (one for one in alive if one.name != ALONE),
            key=lambda one: (-one.accuracy.value, one.tokens),
        )
        for one in readers[max(1, math.ceil(len(readers) / 2)) :]:
            one.fate = f"worse half after {size}"
        say(f"after {size} items: " + ", ".join(
            f"{one.name} {100 * one.accuracy.value:.1f} %" for one in alive))  # fmt: skip
        done, size = size, min(2 * size, len(items))


def _spent(tried: Sequence[Tried], options: Options, began: float, stop: asyncio.Event) -> str:
    """Return which bound is reached, empty for none."""
    if stop.is_set():
        return INTERRUPTED
    asked = sum({id(one.opened.engine): one.opened.engine.asked for one in tried}.values())
    if options.max_requests and asked >= options.max_requests:
        return f"--max-requests {options.max_requests:,}"
    if options.max_minutes and time.monotonic() - began > 60 * options.max_minutes:
        return f"--max-minutes {options.max_minutes:g}"
    return ""


def _even(tried: Sequence[Tried], ended: str) -> str:
    """Compare on what all arms that are left have answered."""
    alive = [one for one in tried if not one.fate and one.rows]
    common = set.intersection(*(set(one.rows) for one in alive)) if alive else set()
    for one in alive:
        one.rows = {row: said for row, said in one.rows.items() if row in common}
    if not common:
        raise BadConfig(f"nothing was asked before the end: {ended}", hint="a larger bound")
    return ended


async def _ask(one: Tried, items: Sequence[Item], stop: asyncio.Event) -> None:
    """Ask an arm about some items, until it is stopped; keep its rows."""
    session: Session = one.opened.session
    found = session.classify(
        items, engine=one.opened.engine, memory=Forgetful(), tally=one.tally, stop=stop
    )
    async with aclosing(found):
        async for result in found:
            one.items += 1
            one.rows[result.item.row] = row_of(result, session.taxonomy)


def _look(one: Tried) -> None:
    """Give up an arm that answers nothing, or the same whatever the item is."""
    rows = list(one.rows.values())
    if all(row["decision"] == "error" for row in rows):
        one.fate = f"ERROR: it answers nothing: {rows[0]['reason']}"
    elif len({_label(row) for row in rows}) == 1 < len({row["gold"] for row in rows}):
        one.fate = f"ERROR: it says {_label(rows[0])!r} of everything"


def _best(tried: Sequence[Tried]) -> Tried:
    """Return the arm with most right; of equals the one that takes fewest tokens."""
    alive = [one for one in tried if not one.fate and one.rows]
    if not alive:
        raise InputError("no arm answers", hint="; ".join(f"{t.name}: {t.fate}" for t in tried))
    return min(alive, key=lambda one: (-one.accuracy.value, one.tokens))


async def _check(
    winner: Tried, held: Sequence[Item], stop: asyncio.Event
) -> tuple[Estimate, dict[str, Any] | None]:
    """Ask the winner about items that no arm has seen; say what its model adds there."""
    check = replace(winner, rows={}, tally=Tally(), items=0)
    for start in range(0, len(held), BLOCK):
        if stop.is_set():
            break
        await _ask(check, held[start : start + BLOCK], stop)
    return check.accuracy, added(check.rows.values(), tokens=check.tokens)


def _learnt(
    winner: Tried,
    items: Sequence[Item],
    chosen: Sequence[int],
    groups: Sequence[int],
    taxonomy: Taxonomy,
    seed: int,
) -> Artifact:
    """Learn weights, place prior and line from the winner's development items."""
    session = winner.opened.session
    at = {leaf.id: i for i, leaf in enumerate(taxonomy.leaves)}
    group = {item.row: g for item, g in zip(items, groups, strict=True)}
    rows = [row for row in chosen if row in winner.kept.signals]
    settings = {name: getattr(winner.config, name) for name in CHOICES}
    if session.evidence is None or not rows:
        return artifact_of(session.identity(), settings, None, None, llmcat.__version__)
    gold = {row: winner.rows[row]["gold"] for row in rows}
    of_group = [group[row] for row in rows]
    made = learn(
        winner.kept,
        rows,
        np.array([at.get(gold[row], -1) for row in rows]),
        of_group,
        parted(of_group, 0.7, seed),
        start=Pool(weights=session.evidence.pool.weights),
        prior=session.evidence.prior,
        seed=seed,
    )
    return artifact_of(session.identity(), settings, made, None, llmcat.__version__)


def _label(row: Mapping[str, Any]) -> str:
    if row["decision"] == "error":
        return "\0error"
    return NONE if row["label"] is None else str(row["label"])


def against(one: Tried, other: Tried) -> Any:
    """Return the paired difference in accuracy of two arms on what both answered."""
    common = [row for row in one.rows if row in other.rows]
    return difference_of_accuracy(other.right(common), one.right(common))


def pareto(tried: Sequence[Tried]) -> set[str]:
    """Return the names of arms that no other beats in accuracy for as few tokens."""
    there = [one for one in tried if one.rows and not one.fate]
    return {
        one.name
        for one in there
        if not any(
            other.accuracy.value >= one.accuracy.value
            and other.tokens <= one.tokens
            and (other.accuracy.value, -other.tokens) != (one.accuracy.value, -one.tokens)
            for other in there
        )
    }


def labels_for_a_promise(
    confidence: Sequence[float], *, supposed: float, precision: float, risk: float
) -> int | None:
    """Return about how many labels would draw a line, from unlabelled items' confidences.

    They are shifted on the logit scale until their mean is the accuracy that is supposed. None if
    no confidence would be above the precision.
    """
    from scipy.optimize import brentq

    sure = np.clip(np.sort(np.asarray(confidence, float))[::-1], 1e-6, 1 - 1e-6)
    logit = np.log(sure) - np.log1p(-sure)

    def shifted(by: float) -> Any:
        return 1 / (1 + np.exp(-(logit + by)))

    by = brentq(lambda x: float(shifted(x).mean()) - supposed, -40.0, 40.0)
    chance = shifted(by)
    accepted = np.arange(1, len(sure) + 1)
    return thresholds.labels_needed(
        accepted, np.cumsum(chance), len(sure), precision=precision, risk=risk
    )
