"""Arms over labelled items: each asked about the same items, in blocks that take turns.

    items ─ block 1 ─▶ A, B ─ block 2 ─▶ B, A ─ block 3 ─▶ A, B ...

So that neither profits from the hour, and each keeps its prefix warm for a block. What comes out is
a folder from which everything else is computed:

    run.json              what ran: settings, identity, versions, tokens, times
    labels.json           the taxonomy: id -> path, parent, names in other languages
    items.jsonl           row, id, gold, text, columns kept
    inputs/               copies of taxonomy, prompt and examples
    ARM.predictions.jsonl rows as `classify` writes them, with p_gold, p_squares and rank
    ARM.asks.jsonl        the messages of each ask after the shared ones; those in
                          ARM.prefixes.jsonl

An interrupted trial is run again: answers come from the store, nothing is asked twice. This module
does not know metrics or decisions.
"""

from __future__ import annotations

import asyncio
import platform
from contextlib import ExitStack, aclosing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

import llmcat
from llmcat.annotations.labelled import Labelled, read_labelled
from llmcat.engines.cache import AnswerStore, Remembering
from llmcat.errors import InputError, JournalError
from llmcat.evaluation.run_folder import Folder, named, stem_of
from llmcat.evaluation.speed import alone
from llmcat.pipeline.duplicates import Forgetful
from llmcat.pipeline.file_run import is_stream, unless
from llmcat.pipeline.loop import Tally
from llmcat.pipeline.session import Session, engine_of, prompt_of, taxonomy_of
from llmcat.pipeline.writers import row_of
from llmcat.records import NONE, Ask, digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmcat.config import RunConfig
    from llmcat.evaluation.arms import Arm
    from llmcat.evidence.gather import Gathered
    from llmcat.pipeline.file_run import Watch
    from llmcat.records import Item, Message, Scores, Verdict
    from llmcat.taxonomy.tree import Taxonomy

__all__ = [
    "BLOCK",
    "LEAST_BLOCK",
    "Opened",
    "close_arms",
    "collect",
    "name_of",
    "open_arms",
    "read_arms",
    "record_of",
]

BLOCK = 256
LEAST_BLOCK = 64


@dataclass
class Opened:
    """An arm with its open engine, its items and what it has used."""

    arm: Arm
    session: Session
    engine: Remembering
    labelled: Labelled
    tally: Tally = field(default_factory=Tally)
    asked: int = 0
    speed: dict[str, Any] | None = None

    def identity(self) -> dict[str, str]:
        """What shapes this arm's answers, whatever the items."""
        found = self.session.identity()
        return {k: v for k, v in found.items() if k not in {"limit", "columns", "input_format"}} | {
            "text": self.arm.config.text
        }

    def leaked(self) -> list[int]:
        """Return the rows of items that are among the examples."""
        pool = self.session.task.pool
        shown = {_title(item) for item in pool.items} if pool is not None else set()
        return [item.row for item in self.labelled.items if _title(item) in shown]

    def record(self) -> dict[str, Any]:
        """Return what is written down about this arm."""
        config, task = self.arm.config, self.session.task
        fallen = self.tally.watch.finding()
        return {
            "said": self.arm.said,
            "settings": config.model_dump(mode="json"),
            "identity": self.identity(),
            "served": self.session.served.record(),
            "prompt_text": task.prompt.text,
            "menus": [menu.digest for menu in task.plan.first_menus()],
            "kind": task.plan.kind,
            "usage": asdict(self.tally.usage),
            "asks": self.tally.asked,
            "asked_now": self.asked,
            "label_mass": self.tally.mass,
            "collapse": fallen.record() if fallen else None,
            "leaked": self.leaked(),
            "price_per_hour": config.price_per_hour,
            "speed": self.speed,
            "evidence": self.session.evidence_record(),
        }


# -- opening ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """An arm with its taxonomy and its items; no engine is open yet."""

    arm: Arm
    taxonomy: Taxonomy
    labelled: Labelled


def read_arms(arms: Sequence[Arm], *, keep: tuple[str, ...] = ()) -> list[Read]:
    """Read what needs no engine: categories, prompts, items and their labels.

    Raises any `InputError`; also where the arms do not have the same items with the same labels.
    """
    items: dict[tuple[str, ...], Labelled] = {}
    of_arm, taxonomies = [], []
    for arm in arms:
        taxonomy, config = taxonomy_of(arm.config), arm.config
        prompt_of(config, whole_menus=False)
        key = (config.text, config.image, taxonomy.digest)
        if key not in items:
            if items and is_stream(config.file):
                raise InputError(
                    "arms that read different columns need a file", hint="a pipe is read once"
                )
            items[key] = read_labelled(config, taxonomy, keep=keep)
        of_arm.append(items[key])
        taxonomies.append(taxonomy)
    first = of_arm[0].items
    for arm, labelled in zip(arms[1:], of_arm[1:], strict=True):
        other = labelled.items
        same = len(first) == len(other)
        if not same or any(
            (a.row, a.gold) != (b.row, b.gold) for a, b in zip(first, other, strict=True)
        ):
            raise InputError(
                f"arms {arms[0].name} and {arm.name} have different items or labels",
                hint="the taxonomies of all arms need the same ids",
            )
    return [Read(*each) for each in zip(arms, taxonomies, of_arm, strict=True)]


async def open_arms(
    read: Sequence[Read], store: AnswerStore, *, kept: Gathered | None = None
) -> list[Opened]:
    """Open each engine once, fit each arm's task. Raises any `LlmcatError`.

    `kept` will hold what each source says of each item.
    """
    engines: dict[tuple[Any, ...], Remembering] = {}
    opened: list[Opened] = []
    try:
        for one in read:
            config = one.arm.config
            key = _engine_key(config)
            if key not in engines:
                engine = engine_of(config)
                engines[key] = Remembering(engine, store, config.engine_option, _where(config))
            session = await Session.open(
                config, engine=engines[key], taxonomy=one.taxonomy, judged=one.labelled.items
            )
            session = session if kept is None else session.keeping(kept)
            opened.append(Opened(one.arm, session, engines[key], one.labelled))
    except BaseException:
        await close_arms(opened)
        raise
    return opened


def _engine_key(config: RunConfig) -> tuple[Any, ...]:
    names = ("engine", "engine_option", "base_url", "model", "api_key", "concurrency", "timeout")
    return tuple(str(getattr(config, name)) for name in names)


def _where(config: RunConfig) -> str:
    """Return what tells two models of one name apart: the server's address, a folder's files."""
    folder = Path(config.model)
    if config.model and folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.is_file())
        stats = [(path.name, path.stat()) for path in files]
        return digest(*(f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in stats))
    return config.base_url


async def close_arms(opened: Iterable[Opened]) -> None:
    """Close each engine once."""
    for engine in {id(one.engine): one.engine for one in opened}.values():
        await engine.close()


# -- the record ----------------------------------------------------------------------------------


def record_of(opened: Sequence[Opened], *, kind: str, command: Sequence[str]) -> dict[str, Any]:
    """Return the record of a run that begins now."""
    labelled, config = opened[0].labelled, opened[0].arm.config
    identity = {"items": labelled.digest}
    for one in opened:
        identity |= {f"{one.arm.name}.{key}": value for key, value in one.identity().items()}
    return {
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "llmcat": llmcat.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "command": list(command),
        "identity": identity,
        "items": {
            "file": config.file,
            "rows": labelled.rows,
            "unlabelled": labelled.unlabelled,
            "n": len(labelled.items),
            "limit": config.limit,
            "seed": config.seed,
        },
        "remarks": list(labelled.remarks) + _remarks(opened),
        "arms": {one.arm.name: one.record() for one in opened},
    }


def name_of(opened: Sequence[Opened]) -> str:
    """Return the name of a run's folder: the file's, and a hash of its identity."""
    config = opened[0].arm.config
    parts = [opened[0].labelled.digest]
    for one in opened:
        parts += [one.arm.name, *(f"{k}={v}" for k, v in sorted(one.identity().items()))]
    return f"{stem_of(config.file)}-{digest(*parts)[:8]}"


def _remarks(opened: Sequence[Opened]) -> list[str]:
    """Say where examples are items that are judged."""
    return [
        f"WARNING: {leaks:,} items are among the examples of arm {one.arm.name}: it is shown their "
        "labels"
        for one in opened
        if (leaks := len(one.leaked()))
    ]


def _title(item: Item) -> str:
    return next(iter(item.fields.values()), item.id)


def keep_inputs(opened: Sequence[Opened], folder: Folder) -> None:
    """Copy what the arms were made of beside their results, and write down where from.

    Taxonomies, prompts and examples that are files; the items are in `items.jsonl`. Raises
    `JournalError` where it cannot be written.
    """
    for one in opened:
        kept = {}
        for what in ("taxonomy", "prompt", "examples", "calibration"):
            name = getattr(one.arm.config, what)
            if name and Path(name).is_file():
                kept[what] = folder.keep(Path(name))
        folder.record["arms"][one.arm.name]["inputs"] = kept


# -- collecting -------------------------------------------------------------------------------


async def collect(
    opened: Sequence[Opened],
    folder: Folder,
    store: AnswerStore,
    *,
    block: int = BLOCK,
    speed: bool = False,
    posteriors: bool = False,
    watch: Watch | None = None,
    stop: asyncio.Event,
) -> bool:
    """Ask every arm about every item and fill the folder. False if `stop` was set before the end.

    With `speed`, each arm first has the server to itself, and nothing comes from the store. With
    `posteriors`, ARM.posteriors.npz holds every probability: `labels`, `p` of shape
    `(items, labels)`, and `seen`, whether an answer gave all of them.
    """
    first = opened[0]
    _write_items(folder, first.labelled.items, first.session.taxonomy)
    keep_inputs(opened, folder)
    if watch:
        watch.start(first.session.served, len(first.labelled.items) * len(opened), 0)
    try:
        if speed:
            for one in opened:
                before = one.engine.asked
                try:
                    work = alone(one.session, one.engine, one.labelled.items)
                    one.speed = await unless(stop, work)
                except asyncio.CancelledError:
                    if stop.is_set():
                        return False
                    raise
                finally:
                    one.asked += one.engine.asked - before
        with ExitStack() as stack:
            sinks = [_Sink(folder, one, stack, posteriors=posteriors) for one in opened]
            for turn, begin in enumerate(range(0, len(first.labelled.items), block)):
                for one, sink in list(zip(opened, sinks, strict=True))[:: -1 if turn % 2 else 1]:
                    part = one.labelled.items[begin : begin + block]
                    await _block(one, part, sink, watch, stop)
                    if stop.is_set():
                        return False
            for sink in sinks:
                sink.finish()
    finally:
        store.flush()
        for one in opened:
            inputs = folder.record["arms"][one.arm.name]["inputs"]
            folder.record["arms"][one.arm.name] = one.record() | {"inputs": inputs}
    return True


async def _block(
    one: Opened,
    items: Sequence[Item],
    sink: _Sink,
    watch: Watch | None,
    stop: asyncio.Event,
) -> None:
    before = one.engine.asked
    one.engine.seen, one.engine.fresh = sink.ask, False
    verdicts = one.session.classify(
        items, engine=one.engine, memory=Forgetful(), tally=one.tally, stop=stop
    )
    try:
        async with aclosing(verdicts):
            async for verdict in verdicts:
                sink.row(verdict)
                one.session.judge.watch(verdict)
                if watch:
                    watch.step(1)
    finally:
        one.engine.seen = None
        one.asked += one.engine.asked - before


class _Sink:
    """Where one arm's rows and asks go."""

    def __init__(self, folder: Folder, one: Opened, stack: ExitStack, *, posteriors: bool) -> None:
        self.folder, self.name = folder, one.arm.name
        self.scores: list[Scores | None] | None = [] if posteriors else None
        self.taxonomy = one.session.taxonomy
        self.shared: set[str] = set()
        try:
            self.rows, self.asks, self.prefixes = (
                stack.enter_context(folder.file(named(self.name, f"{kind}.jsonl")).open("wb"))
                for kind in ("predictions", "asks", "prefixes")
            )
        except OSError as exc:
            raise JournalError(f"{exc.filename}: {exc.strerror}") from exc

    def _put(self, sink: BinaryIO, value: Any) -> None:
        try:
            sink.write(orjson.dumps(value) + b"\n")
        except OSError as exc:
            raise JournalError(
                f"{sink.name}: {exc.strerror}", hint="make room, then run the same command again"
            ) from exc

    def ask(self, ask: Ask) -> None:
        """Write down what is asked, and once what asks share."""
        key = ask.prefix.key
        if key not in self.shared:
            self.shared.add(key)
            self._put(self.prefixes, {"key": key, "messages": ask.prefix.messages})
        tail = [without_images(message) for message in ask.tail]
        self._put(self.asks, {"row": ask.item.row, "prefix": key, "tail": tail})

    def row(self, verdict: Verdict) -> None:
        """Write down a verdict, and how far it was from the truth."""
        self._put(self.rows, row_of(verdict, self.taxonomy) | judged(verdict))
        if self.scores is not None:
            self.scores.append(verdict.scores)

    def finish(self) -> None:
        """Write the posteriors."""
        if self.scores is not None:
            import numpy as np

            ids = [node.id for node in self.taxonomy.leaves]
            p = np.zeros((len(self.scores), len(ids) + 1), dtype=np.float32)
            for row, scores in zip(p, self.scores, strict=True):
                if scores is not None and scores.p_none is not None:
                    row[:] = [*(scores.p.get(id_, 0.0) for id_ in ids), scores.p_none]
            seen = [s is not None and s.kind == "full" for s in self.scores]
            path = self.folder.file(named(self.name, "posteriors.npz"))
            np.savez_compressed(path, labels=np.array([*ids, NONE]), p=p, seen=np.array(seen))


def without_images(message: Message) -> Message:
    """Return a message with the bytes of images left out."""
    content = message["content"]
    if isinstance(content, str):
        return message
    parts = [
        {"type": "text", "text": f"(an image of {len(part['image_url']['url']):,} characters)"}
        if part.get("image_url", {}).get("url", "").startswith("data:")
        else part
        for part in content
    ]
    return {**message, "content": parts}


def judged(verdict: Verdict) -> dict[str, float | int | None]:
    """Return p of the gold label, the sum of all squared p, and the gold label's rank from 1.

    None where the answer does not say: of several menus, or without the gold label among them.
    """
    scores, gold = verdict.scores, verdict.item.gold
    nothing: dict[str, float | int | None] = dict.fromkeys(("p_gold", "p_squares", "rank"))
    if scores is None or scores.kind != "full" or scores.p_none is None:
        return nothing
    p_gold = scores.p_none if gold == NONE else scores.p.get(gold or "")
    if p_gold is None:
        return nothing
    above = sum(p > p_gold for p in scores.p.values()) + (scores.p_none > p_gold)
    squares = sum(p * p for p in scores.p.values()) + scores.p_none**2
    return {"p_gold": float(f"{p_gold:.9g}"), "p_squares": round(squares, 9), "rank": above + 1}


def nodes_of(taxonomy: Taxonomy) -> dict[str, dict[str, Any]]:
    """Return the categories as `labels.json` has them (see `evaluation.predictions.Labels`)."""
    nodes = taxonomy.nodes.values()
    return {n.id: {"path": n.path, "parent": n.parent, "names": n.names} for n in nodes}


def _write_items(folder: Folder, items: Sequence[Item], taxonomy: Taxonomy) -> None:
    folder.write("labels.json", nodes_of(taxonomy))
    try:
        with folder.file("items.jsonl").open("wb") as sink:
            for item in items:
                row = {"row": item.row, "id": item.id, "gold": item.gold, "fields": item.fields}
                sink.write(orjson.dumps(row | {"kept": item.kept}) + b"\n")
    except OSError as exc:
        raise JournalError(f"{exc.filename}: {exc.strerror}") from exc
