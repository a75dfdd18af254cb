"""Arms with their labelled items, engines and sessions open."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmcat.annotations.labelled import Labelled, read_labelled
from llmcat.engines.cache import AnswerStore, Remembering
from llmcat.errors import InputError
from llmcat.files.sources import is_stream
from llmcat.pipeline.loop import Tally
from llmcat.pipeline.session import Session
from llmcat.pipeline.settings import engine_for, prompt_of
from llmcat.records import digest
from llmcat.taxonomy.load import taxonomy_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmcat.config import RunConfig
    from llmcat.evaluation.arms import Arm
    from llmcat.evaluation.schema import ArmRecord, Evidence
    from llmcat.evidence.gather import Gathered
    from llmcat.records import Item
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["Opened", "Read", "close_arms", "open_arms", "read_arms"]


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

    def record(self) -> ArmRecord:
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
            "evidence": cast("Evidence | None", self.session.evidence_record()),
        }


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
        prompt_of(config)
        if bool(config.multi) != bool(arms[0].config.multi):
            raise InputError(
                f"arms {arms[0].name} and {arm.name}: one gives an item one label, one several",
                hint="--multi for all arms, or for none",
            )
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
                engine = await engine_for(config)
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


def _title(item: Item) -> str:
    return next(iter(item.fields.values()), item.id)
