"""An evaluation from settings to a folder: ask (llmcat.evaluation.collect), measure, judge, report.

Everything after the asking is made from the folder's own files, so a report can be made again, and
runs can be compared, without any engine.
"""

from __future__ import annotations

import asyncio
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from llmcat.engines.cache import AnswerStore
from llmcat.errors import BadConfig, InputError, JournalError
from llmcat.evaluation.adds import added
from llmcat.evaluation.collect import BLOCK, collect, name_of, record_of
from llmcat.evaluation.comparison import LOSSES, Question, compare_arms, detectable, segments_of
from llmcat.evaluation.costs import cheapness, costs_of
from llmcat.evaluation.looks import key_of, noted, planned, rule_of, second_look
from llmcat.evaluation.opening import close_arms, open_arms, read_arms
from llmcat.evaluation.paired import ALPHA
from llmcat.evaluation.predictions import Labels, Scored, measure, same_items
from llmcat.evaluation.run_folder import SOLO, Folder, Registry, load, named, stem_of
from llmcat.pipeline.file_run import unless
from llmcat.records import digest
from llmcat.storage import now, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llmcat.evaluation.arms import Arm
    from llmcat.evaluation.opening import Opened
    from llmcat.evaluation.schema import ArmRecord, RunRecord
    from llmcat.evidence.gather import Gathered
    from llmcat.pipeline.file_run import Watch
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["Options", "compare_runs", "evaluate", "export_run", "finish"]


@dataclass(frozen=True, slots=True)
class Options:
    """How an evaluation is done. `question` is None where a single arm is measured.

    `keep` names columns that part the items; `costs` maps (gold, label) to what that error costs.
    `kept` is filled with what each source says of each item of the only arm.
    """

    command: tuple[str, ...]
    question: Question | None = None
    block: int = BLOCK
    speed: bool = False
    audit: bool = False
    posteriors: bool = False
    keep: tuple[str, ...] = ()
    costs: Mapping[tuple[str, str], float] | None = None
    kept: Gathered | None = None


async def evaluate(
    arms: Sequence[Arm],
    options: Options,
    *,
    watch: Watch | None = None,
    stop: asyncio.Event,
    say: Callable[[str], None],
) -> Path | None:
    """Ask, measure, judge and report; return the run's folder, None if `stop` came first.

    `say` is told what the user should hear before money is spent. Raises any `LlmcatError`.
    """
    config = arms[0].config
    read = await unless(stop, asyncio.to_thread(read_arms, arms, keep=options.keep))
    costs = resolved(options.costs, read[0].taxonomy)
    if costs and config.multi:
        raise BadConfig("--costs are of one label taken for another, and --multi gives several")
    runs = Path(config.runs)
    registry = Registry(runs)
    store = AnswerStore(runs / "answers.sqlite")
    opened: list[Opened] = []
    folder: Folder | None = None
    try:
        opened = await open_arms(read, store, kept=options.kept)
        folder, question = _begin(opened, options, registry, say)
        path, status = folder.path, "failed"
        try:
            whole = await collect(
                opened,
                folder,
                store,
                block=options.block,
                speed=options.speed,
                posteriors=options.audit or options.posteriors,
                watch=watch,
                stop=stop,
            )
            if whole:
                folder.record["remarks"] += _seen(opened)
                result = await asyncio.to_thread(finish, folder, question=question, costs=costs)
            status = "done" if whole else "interrupted"
        finally:
            folder.save(status)
            registry.note(path, folder.record)
        if not whole:
            return None
        registry.note(path, folder.record, result)
        if question is not None:
            noted(registry, path, folder.record, question)
        return path
    finally:
        if folder is not None:
            folder.close()
        store.close()
        registry.close()
        await close_arms(opened)


def _begin(
    opened: Sequence[Opened], options: Options, registry: Registry, say: Callable[[str], None]
) -> tuple[Folder, Question | None]:
    """Begin the run's folder and say what is to be heard first; return the question as planned."""
    config, question = opened[0].arm.config, options.question
    if question is not None:
        _can_decide(question, opened)
    record = record_of(opened, kind="ab" if question else "eval", command=options.command)
    path = Path(config.out) if config.out else Path(config.runs) / name_of(opened)
    if question is not None:
        question, remarks = planned(registry, path, record, question, opened[0])
        record["remarks"] += remarks
        alpha = question.level(ALPHA / (len(opened) - 1))
        if not question.several:
            say(detectable(record["items"]["n"], alpha=alpha))
    for remark in record["remarks"]:
        say(remark)
    folder = Folder.begin(path, record)
    registry.note(path, folder.record)
    return folder, question


def _seen(opened: Sequence[Opened]) -> list[str]:
    """Return what showed while the arms were asked."""
    return [
        f"arm {one.arm.name}: {text}"
        for one in opened
        for text in [
            *_fallen(one),
            *(one.session.evidence.sight.remarks() if one.session.evidence else ()),
            *one.session.decider.remarks(one.tally.mass),
        ]
    ]


def _fallen(one: Opened) -> list[str]:
    """Say where an arm's answers hardly depend on the items."""
    found = one.tally.watch.finding()
    return [found.sentence()] if found else []


def _can_decide(question: Question, opened: Sequence[Opened]) -> None:
    """Raise `BadConfig` where an arm cannot have the metric that decides."""
    for one in opened:
        task = one.session.task
        if question.metric in LOSSES and (
            task.prompt.front.read == "text" or not task.plan.gives_all
        ):
            raise BadConfig(
                f"{question.metric} cannot decide: arm {one.arm.name} gives no probability to "
                "every label",
                hint="--metric accuracy",
            )
        if question.metric == "hierarchical_f1" and one.session.taxonomy.depth == 1:
            raise BadConfig("hierarchical_f1 cannot decide: the categories are a flat list")


def resolved(
    costs: Mapping[tuple[str, str], float] | None, taxonomy: Taxonomy
) -> dict[tuple[str, str], float] | None:
    """Return costs by node ids. Raises `InputError` for a label that is none."""
    if costs is None:
        return None
    found = {}
    for pair, cost in costs.items():
        ids = [taxonomy.resolve(name) for name in pair]
        for name, id_ in zip(pair, ids, strict=True):
            if id_ is None:
                raise InputError(f"--costs: {name!r} is not in the taxonomy")
        found[str(ids[0]), str(ids[1])] = cost
    return found


def finish(
    folder: Folder,
    *,
    question: Question | None,
    costs: Mapping[tuple[str, str], float] | None = None,
) -> str:
    """Make metrics, comparison and reports from what the arms answered; return the line of it."""
    from llmcat.evaluation import report, report_html, report_markdown

    path, record = folder.path, folder.record
    labels = Labels.read(path)
    scored = {name: scored_of(path, name, arm) for name, arm in record["arms"].items()}
    for name, arm in scored.items():
        folder.write(named(name, "metrics.json"), measure(arm, labels, costs=costs))
        record["arms"][name]["costs"] = costs_of(record["arms"][name], len(arm.gold))
        record["arms"][name]["adds"] = _added(folder, name)
    if question is not None:
        gold, titles, kept = _columns(path)
        by, cost = cheapness(record["arms"])
        base, *others = record["arms"].items()
        same = {name for name, arm in others if arm["identity"] == base[1]["identity"]}
        compared = compare_arms(
            scored,
            labels,
            question,
            columns=segments_of(gold, titles, labels, kept),
            costs=cost,
            by=by,
            same=same,
        )
        folder.write("comparison.json", compared)
    folder.save(record["status"])
    found = report.read(path)
    folder.write("report.html", report_html.html(found))
    folder.write("report.md", report_markdown.markdown(found))
    return report.line(found)


def scored_of(path: Path, name: str, arm: ArmRecord) -> Scored:
    """Return an arm's predictions from a run's folder, beside the gold labels."""
    several = bool(arm["settings"].get("multi"))
    return Scored.read(path / named(name, "predictions.jsonl"), several=several)


def _added(folder: Folder, name: str) -> dict[str, Any] | None:
    """Return what an arm's model adds to retrieval alone, None where that is not known."""
    tokens = folder.record["arms"][name]["costs"]["prompt_tokens_per_item"]
    path = folder.path / named(name, "predictions.jsonl")
    return added(map(orjson.loads, path.read_bytes().splitlines()), tokens=tokens)


def _columns(path: Path) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Return gold labels, titles and kept columns of a run's items."""
    gold, titles, rows = [], [], []
    with (path / "items.jsonl").open("rb") as lines:
        for line in lines:
            item = orjson.loads(line)
            gold.append(item["gold"])
            titles.append(next(iter(item["fields"].values()), ""))
            rows.append(item["kept"])
    names = dict.fromkeys(name for row in rows for name in row)
    return gold, titles, {name: [row.get(name, "") for row in rows] for name in names}


# -- runs again ---------------------------------------------------------------------------------


def compare_runs(
    paths: Mapping[str, tuple[Path, str]],
    runs: str,
    *,
    out: str = "",
    metric: str = "",
    command: Sequence[str],
) -> Path:
    """Compare arms of finished runs: `paths` maps a new name to a run's folder and an arm of it.

    An arm need not be named where a run has one. Makes a run of its own, from copies of their
    files. Raises `InputError` where their items differ.
    """
    sources, record = _picked(paths)
    arms, identity = record["arms"], record["identity"]
    labels = Labels.read(next(iter(sources.values()))[0])
    question = Question.of(
        metric,
        tree=labels.depth > 1,
        several=any(arm["settings"].get("multi") for arm in arms.values()),
    )
    stem = stem_of(record["items"]["file"])
    name = f"{stem}-{digest(*map(str, sources.values()), metric)[:8]}"
    path = Path(out) if out else Path(runs) / name
    record |= {"kind": "ab", "created": now(), "command": list(command)}
    registry = Registry(Path(runs))
    looks = registry.looks(key_of(record))
    record["remarks"] = [
        *record["remarks"],
        *second_look(looks, identity["items"], rule_of(question)),
    ]
    folder = Folder.begin(path, record)
    try:
        for name, (source, arm) in sources.items():
            for suffix in ("predictions.jsonl", "asks.jsonl", "prefixes.jsonl"):
                _copy(source / named(arm, suffix), folder.file(named(name, suffix)))
        for one, (source, _) in zip(arms.values(), sources.values(), strict=True):
            kept = one.get("inputs", {}).items()
            one["inputs"] = {what: folder.keep(source / name) for what, name in kept}
        for file in ("items.jsonl", "labels.json"):
            _copy(next(iter(sources.values()))[0] / file, folder.file(file))
        result = finish(folder, question=question)
        folder.save("done")
        registry.note(path, folder.record, result)
        noted(registry, path, folder.record, question)
    finally:
        folder.close()
        registry.close()
    return path


def _picked(
    paths: Mapping[str, tuple[Path, str]],
) -> tuple[dict[str, tuple[Path, str]], RunRecord]:
    """Return each new name's folder and arm, and the first run's record with these arms."""
    records = {name: load(path) for name, (path, _) in paths.items()}
    first = next(iter(records.values()))
    arms: dict[str, ArmRecord] = {}
    scored: dict[str, Scored] = {}
    identity = {"items": first["identity"]["items"]}
    sources: dict[str, tuple[Path, str]] = {}
    for name, (path, arm) in paths.items():
        record = records[name]
        if record["status"] != "done":
            raise InputError(f"{path} is not finished: {record['status']}")
        arm = arm or (SOLO if len(record["arms"]) == 1 else "")  # noqa: PLW2901
        if arm not in record["arms"]:
            raise InputError(
                f"{path} has no arm {arm!r}" if arm else f"which arm of {path}?",
                hint=f"{path.name}:ARM, one of {', '.join(record['arms'])}",
            )
        sources[name], arms[name] = (path, arm), record["arms"][arm]
        for key, value in record["identity"].items():
            if key.startswith(f"{arm}."):
                identity[f"{name}.{key.removeprefix(f'{arm}.')}"] = value
        scored[name] = scored_of(path, arm, record["arms"][arm])
        same_items(next(iter(scored.values())), scored[name])
        if _ids(path) != _ids(next(iter(sources.values()))[0]):
            raise InputError("the runs have different items: they cannot be compared")
    return sources, {**first, "arms": arms, "identity": identity}


def _ids(path: Path) -> list[str]:
    """Return the ids of a run's items."""
    return [orjson.loads(line)["id"] for line in (path / "items.jsonl").read_bytes().splitlines()]


def export_run(path: Path, out: Path) -> list[str]:
    """Pack a run's folder into a .zip; return the names of what is in it. Whole or not at all."""
    load(path)
    files = [*path.iterdir(), *(path / "inputs").glob("*")]
    names = sorted(
        str(f.relative_to(path)) for f in files if f.is_file() and not f.name.startswith(".")
    )
    if out.suffix != ".zip":
        raise BadConfig(f"{out}: a run is packed into a .zip")
    deflate = zipfile.ZIP_DEFLATED
    with whole(out) as raw, zipfile.ZipFile(raw, "w", deflate, strict_timestamps=False) as packed:
        for name in names:
            packed.write(path / name, f"{path.resolve().name}/{name}")
    return names


def _copy(source: Path, target: Path) -> None:
    try:
        target.write_bytes(source.read_bytes())
    except OSError as exc:
        raise JournalError(f"{exc.filename}: {exc.strerror}") from exc
