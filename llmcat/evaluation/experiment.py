"""An evaluation from settings to a folder: ask (llmcat.evaluation.collect), measure, judge, report.

Everything after the asking is made from the folder's own files, so a report can be made again, and
runs can be compared, without any engine.
"""

from __future__ import annotations

import asyncio
import csv
import math
import zipfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from llmcat.calibration.artifact import Calibration, bound_of
from llmcat.calibration.decider import Calibrated, Wanted
from llmcat.calibration.fit import distinct, fit, scores_of_row
from llmcat.engines.cache import AnswerStore
from llmcat.errors import BadConfig, InputError, JournalError
from llmcat.evaluation import metrics
from llmcat.evaluation.adds import added
from llmcat.evaluation.collect import (
    BLOCK,
    close_arms,
    collect,
    name_of,
    open_arms,
    read_arms,
    record_of,
)
from llmcat.evaluation.comparison import LOSSES, Question, detectable, judge, segments_of
from llmcat.evaluation.paired import ALPHA
from llmcat.evaluation.predictions import Labels, Scored, measure, same_items
from llmcat.evaluation.run_folder import SOLO, Folder, Look, Registry, load, named, now, stem_of
from llmcat.evidence.artifact import CHOICES, Artifact, Part
from llmcat.evidence.learn import Learnt, learn, parted, usual_share
from llmcat.evidence.pool import Pool
from llmcat.pipeline.file_run import unless
from llmcat.records import NONE, digest
from llmcat.retrieval.documents import group_of
from llmcat.storage import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llmcat.evaluation.arms import Arm
    from llmcat.evaluation.collect import Opened
    from llmcat.evidence.gather import Gathered
    from llmcat.pipeline.file_run import Watch
    from llmcat.taxonomy.tree import Taxonomy

__all__ = [
    "Options",
    "artifact_of",
    "compare_runs",
    "evaluate",
    "export_run",
    "finish",
    "read_costs",
]


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
    runs = Path(config.runs)
    registry = Registry(runs)
    store = AnswerStore(runs / "answers.sqlite")
    opened: list[Opened] = []
    folder: Folder | None = None
    try:
        opened = await open_arms(read, store, kept=options.kept)
        if options.question is not None:
            _can_decide(options.question, opened)
        record = record_of(
            opened, kind="ab" if options.question else "eval", command=options.command
        )
        path = Path(config.out) if config.out else runs / name_of(opened)
        question = options.question
        if question is not None:
            question, remarks = _planned(registry, path, record, question, opened[0])
            record["remarks"] += remarks
            alpha = question.level(ALPHA / (len(opened) - 1))
            say(detectable(record["items"]["n"], alpha=alpha))
        for remark in record["remarks"]:
            say(remark)
        folder = Folder.begin(path, record)
        registry.note(path, folder.record)
        status = "failed"
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
                folder.record["remarks"] += [
                    f"arm {one.arm.name}: {text}"
                    for one in opened
                    for text in [
                        *_fallen(one),
                        *(one.session.evidence.sight.remarks() if one.session.evidence else ()),
                        *one.session.judge.seen(one.tally.mass),
                    ]
                ]
                result = await asyncio.to_thread(finish, folder, question=question, costs=costs)
            status = "done" if whole else "interrupted"
        finally:
            folder.save(status)
            registry.note(path, folder.record)
        if not whole:
            return None
        registry.note(path, folder.record, result)
        if question is not None:
            _noted(registry, path, folder.record, question)
        return path
    finally:
        if folder is not None:
            folder.close()
        store.close()
        registry.close()
        await close_arms(opened)


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
        ids = [NONE if name == NONE else taxonomy.resolve(name) for name in pair]
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
    from llmcat.evaluation import report

    path, record = folder.path, folder.record
    labels = Labels.read(path)
    scored = {name: Scored.read(path / named(name, "predictions.jsonl")) for name in record["arms"]}
    for name, arm in scored.items():
        folder.write(named(name, "metrics.json"), measure(arm, labels, costs=costs))
        record["arms"][name]["costs"] = costs_of(record["arms"][name], len(arm.gold))
        record["arms"][name]["adds"] = _added(folder, name)
    if question is not None:
        gold, titles, kept = _columns(path)
        by, cost = cheapness(record["arms"])
        compared = judge(
            scored,
            labels,
            question,
            columns=segments_of(gold, titles, labels, kept),
            costs=cost,
            by=by,
        )
        folder.write("comparison.json", compared)
    folder.save(record["status"])
    found = report.read(path)
    folder.write("report.html", report.html(found))
    folder.write("report.md", report.markdown(found))
    return report.line(found)


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


# -- what an arm costs --------------------------------------------------------------------------


def costs_of(arm: Mapping[str, Any], n: int) -> dict[str, float | None]:
    """Return what an arm takes: tokens per item, seconds and price per 1,000 items.

    The price is the provider's own where it says one, else the server's hourly price for the time
    of the solo pass; None where neither is known.
    """
    used, speed = arm["usage"], arm["speed"] or {}
    seconds = speed.get("server_seconds_per_1000")
    price = None
    if used["cost"] and n:
        price = 1000 * used["cost"] / n
    elif arm["price_per_hour"] and seconds is not None:
        price = arm["price_per_hour"] * seconds / 3600
    each = {name: used[name] / n if n else None for name in ("prompt", "cached", "generated")}
    return {
        **{f"{name}_tokens_per_item": value for name, value in each.items()},
        "server_seconds_per_1000": seconds,
        "price_per_1000": price,
        "joules_per_1000": speed.get("joules_per_1000"),
    }


def cheapness(arms: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, float | None]]:
    """Return by what arms can be called cheaper, and each one's: the best that all have.

    Tokens tell only between arms of one model.
    """
    for by in ("price_per_1000", "server_seconds_per_1000"):
        cost = {name: arm["costs"][by] for name, arm in arms.items()}
        if all(value is not None for value in cost.values()):
            return by.replace("_", " "), cost
    if len({arm["served"]["model"] for arm in arms.values()}) > 1:
        return "", dict.fromkeys(arms)
    tokens = {
        name: arm["costs"]["prompt_tokens_per_item"] + arm["costs"]["generated_tokens_per_item"]
        for name, arm in arms.items()
    }
    return "tokens per item", tokens


def read_costs(path: str) -> dict[tuple[str, str], float]:
    """Read what errors cost: a CSV with the columns gold, label, cost. Raises `InputError`."""
    found = {}
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines), 2):
                try:
                    cost = found[row["gold"], row["label"]] = float(row["cost"])
                    if not 0 <= cost < math.inf:
                        raise ValueError("a cost is a number from 0")
                except (KeyError, TypeError, ValueError) as exc:
                    raise InputError(
                        f"{path}: line {number}: a gold label, a label and a number are needed",
                        hint="the columns are gold, label, cost",
                    ) from exc
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InputError(f"{path}: {exc}") from exc
    return found


# -- looks --------------------------------------------------------------------------------------


def _key(record: Mapping[str, Any]) -> str:
    """Return what makes two comparisons the same question: the arms, whatever they are called.

    Neither the items nor the rule: another rule is another look.
    """
    arms = (digest(*(f"{k}={v}" for k, v in sorted(arm["identity"].items())))
            for arm in record["arms"].values())  # fmt: skip
    return digest(*sorted(arms))


def _rule(question: Question) -> str:
    rule = question.rule
    return f"{question.metric} {rule.min_effect} {rule.non_inferior}"


def _planned(
    registry: Registry, path: Path, record: Mapping[str, Any], question: Question, one: Opened
) -> tuple[Question, list[str]]:
    """Find the looks there were at this question; refuse one that the plan does not allow.

    Returns the question with the sizes so far, and remarks.
    """
    n, items, rule = len(one.labelled.items), one.labelled.digest, _rule(question)
    every = registry.looks(_key(record))
    if not question.looks:
        return question, _second_look(every, items, rule)
    hint = "label new items, and compare the arms on these alone in another --runs folder"
    for look in every:
        if look.planned != question.looks or look.rule != rule:
            plan = f"with {look.planned} looks planned" if look.planned else "without a plan"
            was = "" if look.rule == rule else " by another rule"
            raise BadConfig(f"this question was looked at {plan}{was} on {look.at[:10]}", hint=hint)
    again = next((look for look in every if look.items == items), None)
    earlier = [look for look in every if again is None or look.n < again.n]
    for look in earlier:
        if look.n >= n or not _contains(one, path, look):
            raise BadConfig(
                f"the {look.n:,} items of the look of {look.at[:10]} are not all among these {n:,}",
                hint="a further look adds items to the same ones",
            )
    if len(earlier) >= question.looks:
        raise BadConfig(f"all {question.looks} looks have been taken", hint=hint)
    sizes = (*sorted(look.n for look in earlier), n)
    planned = Question(question.metric, question.rule, question.looks, sizes)
    remark = (
        f"look {len(sizes)} of {question.looks}: the interval that decides is at "
        f"{100 * (1 - planned.level(ALPHA)):.2f} %"
    )
    return planned, [remark]


def _second_look(every: Sequence[Look], items: str, rule: str) -> list[str]:
    """Say what an unplanned look is worth after others."""
    for look in reversed(every):
        when = f"({look.at[:10]}, {look.n:,} items)"
        if look.planned:
            return [
                f"WARNING: {look.planned} looks at this question were planned {when}; without "
                "--looks this one is not among them, and errs more often than it says"
            ]
        if (look.items, look.rule) != (items, rule):
            how = "" if look.rule == rule else "by another rule "
            return [
                f"WARNING: this question was looked at before {how}{when}: unless all items are "
                "new ones, a second look is not a fresh test, and errs more often than 5 %; "
                "--looks K plans several"
            ]
    return []


def _contains(one: Opened, path: Path, look: Look) -> bool:
    """Tell whether an earlier look's items are among these, by the folder it left."""
    folder = Path(look.run) if Path(look.run).is_dir() else path.parent / Path(look.run).name
    try:
        with (folder / "items.jsonl").open("rb") as lines:
            before = {_short(orjson.loads(line)) for line in lines}
    except OSError as exc:
        raise JournalError(f"the items of an earlier look are gone: {exc}") from exc
    these = {
        _short({"id": i.id, "gold": i.gold, "fields": dict(i.fields)}) for i in one.labelled.items
    }
    return before <= these


def _short(item: Mapping[str, Any]) -> str:
    return digest(item["id"], item["gold"], *item["fields"].values())


def _noted(registry: Registry, path: Path, record: Mapping[str, Any], question: Question) -> None:
    n, items = record["items"]["n"], record["identity"]["items"]
    look = Look(_rule(question), question.looks, n, items, str(path.resolve()), now())
    registry.look(_key(record), look)


# -- calibrating --------------------------------------------------------------------------------


def fit_calibration(
    path: Path,
    taxonomy: Taxonomy,
    *,
    share: float | None,
    prior: bool,
    plain: bool,
    seed: int,
    kept: Gathered | None = None,
    group: str = "",
) -> Fitted:
    """Fit a calibration from a run's folder, and measure the gating part before and after it.

    With `kept`, what each source said of each item, weights are learnt first, and all of it makes
    an artifact. Raises `InputError` where it cannot be fitted.
    """
    record = load(path)
    arm = record["arms"][SOLO]
    scored = Scored.read(path / "predictions.jsonl")
    there = _fitting_rows(path, scored, arm)
    decided = list(
        zip(scored.label[there].tolist(), scored.confidence[there].tolist(), strict=True)
    )
    if not len(there) or np.isnan(scored.confidence[there]).any():
        raise InputError("a calibration needs probabilities, these answers have none")
    kept_p = np.load(path / "posteriors.npz")
    p, seen = kept_p["p"].astype(float)[there], kept_p["seen"][there]
    labels = kept_p["labels"].tolist()
    gold = scored.gold[there].tolist()
    bound = bound_of(arm["identity"])
    learnt, first = None, None
    if share is None:
        share = usual_share(len(gold)) if kept is not None and kept.signals else 0.5
    if kept is not None and kept.signals:
        rows = scored.row[there].tolist()
        groups = _groups(path, there, group)
        first = parted(groups, share, seed)
        learnt = _learnt(kept, rows, gold, labels, groups, first, arm, seed)
        p, seen = learnt.p, np.ones(len(rows), dtype=bool)
        best = p.argmax(axis=1).tolist()
        decided = [(labels[i], float(row[i])) for i, row in zip(best, p, strict=True)]
        bound = bound | {"pool": learnt.pool.digest}
    fitting = partial(
        fit,
        p,
        seen,
        labels,
        gold,
        decided,
        taxonomy,
        bound=bound,
        first=first,
        mass=arm["label_mass"],
        version=record["llmcat"],
        fields=_fields(path),
        prior=prior,
        share=share,
        seed=seed,
    )
    try:
        made = fitting(plain=plain)
    except InputError:
        if learnt is None:
            raise
        made = fitting(plain=True)  # the weights are the gain: what they give is kept as it is
    found = _before_and_after(made, p, seen, labels, gold, decided, taxonomy)
    artifact = None
    if learnt is not None:
        artifact = artifact_of(arm["identity"], arm["settings"], learnt, made, record["llmcat"])
    return Fitted(made, found, artifact)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A calibration, metrics of the gating part `before` and `after` it, and the artifact."""

    calibration: Calibration
    metrics: dict[str, dict[str, Any]]
    artifact: Artifact | None = None


def _groups(path: Path, there: Any, group: str) -> list[int]:
    """Return which items belong together: near duplicates, and those of one group."""
    items = [orjson.loads(line) for line in (path / "items.jsonl").read_bytes().splitlines()]
    some = [items[i] for i in there.tolist()]
    names = [item["kept"].get(group, "") for item in some] if group else None
    return group_of([" ".join(item["fields"].values()) for item in some], names)


def _learnt(
    kept: Gathered,
    rows: Sequence[int],
    gold: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[int],
    first: Any,
    arm: Mapping[str, Any],
    seed: int,
) -> Learnt:
    """Learn weights, none rule, place prior and line from what was kept of an arm's items."""
    at = {label: i for i, label in enumerate(labels[:-1])}
    known = arm["evidence"]["place_prior"]
    return learn(
        kept,
        rows,
        np.array([at.get(label, -1) for label in gold]),
        groups,
        first,
        start=Pool(weights=arm["evidence"]["sources"]),
        prior=None if known is None else np.array(known),
        seed=seed,
    )


def artifact_of(
    identity: Mapping[str, str],
    settings: Mapping[str, Any],
    learnt: Learnt | None,
    made: Calibration | None,
    version: str,
) -> Artifact:
    """Put together what was learnt, each part bound to what it holds for.

    `identity` is that of the session that answered; `settings` are its choices.
    """
    reader = ("model", "codes", "prompt", "layout", "candidates", "about", "taxonomy")
    retrieval = ("sources", "source_category", "examples", "taxonomy")
    parts: dict[str, Part] = {}
    report: dict[str, Any] = {}
    if learnt is not None:
        bound = {key: identity[key] for key in retrieval}
        parts["pool"] = Part(bound=bound, learnt=learnt.pool.record())
        report["fitted_on"] = learnt.pool.n
        if learnt.prior is not None:
            prior = [float(x) for x in learnt.prior]
            bound = {key: identity[key] for key in reader}
            chosen_by = dict(learnt.first.weights)
            parts["reader"] = Part(
                bound=bound, learnt={"place_prior": prior, "chosen_by": chosen_by}
            )
            if math.isfinite(learnt.line):
                parts["line"] = Part(bound={}, learnt={"skip": learnt.line})
    if made is not None:
        parts["calibration"] = Part(bound={}, learnt=made.model_dump(mode="json"))
    kept = {name: settings[name] for name in CHOICES if settings.get(name)}
    return Artifact(llmcat=version, settings=kept, parts=parts, report=report).sealed()


def _fitting_rows(path: Path, scored: Scored, arm: Mapping[str, Any]) -> Any:
    """Return which items to fit on: answered, each text once, none that the prompt shows."""
    texts = [
        "\x1f".join(orjson.loads(line)["fields"].values())
        for line in (path / "items.jsonl").read_bytes().splitlines()
    ]
    leaked = set(arm["leaked"])
    rows = np.array(distinct(texts), dtype=int)
    keep = [scored.answered[i] and int(scored.row[i]) not in leaked for i in rows.tolist()]
    return rows[np.array(keep, dtype=bool)]


def _fields(path: Path) -> list[str]:
    """Return the columns that the items show."""
    lines = (path / "items.jsonl").read_bytes().splitlines()
    return sorted({name for line in lines for name in orjson.loads(line)["fields"]})


def _before_and_after(
    made: Calibration,
    p: Any,
    seen: Any,
    labels: Sequence[str],
    gold: Sequence[str],
    decided: Sequence[tuple[str, float]],
    taxonomy: Taxonomy,
) -> dict[str, dict[str, Any]]:
    """Measure the gating part: what came, and what the calibration makes of it."""
    judge = Calibrated(made, taxonomy, Wanted())
    rows = made.gating_rows
    found = {}
    for name in ("before", "after"):
        sure, right, p_gold = [], [], []
        for i in rows:
            scores = scores_of_row(p[i], bool(seen[i]), labels, decided[i])
            scores = judge.refine(scores) if name == "after" else scores
            sure.append(scores.confidence or 0.0)
            right.append(scores.label == gold[i])
            there = scores.p_none if gold[i] == NONE else scores.p.get(gold[i])
            p_gold.append(math.nan if there is None or not seen[i] else there)
        arrays = np.array(sure), np.array(right), np.array(p_gold)
        lacks = np.isnan(arrays[2]).any()
        found[name] = {
            "accuracy": asdict(metrics.accuracy(arrays[1])),
            "log_loss": asdict(
                metrics.nothing("labels without a probability")
                if lacks
                else metrics.log_loss(arrays[2])
            ),
            "ece_debiased": asdict(metrics.calibration_error(arrays[0], arrays[1])[1]),
            "coverage_at_95": asdict(metrics.coverage_at(arrays[0], arrays[1], precision=0.95)),
        }
    return found


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
    records = {name: load(path) for name, (path, _) in paths.items()}
    first = next(iter(records.values()))
    arms, scored = dict[str, Any](), dict[str, Scored]()
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
        scored[name] = Scored.read(path / named(arm, "predictions.jsonl"))
        same_items(next(iter(scored.values())), scored[name])
        if _ids(path) != _ids(next(iter(sources.values()))[0]):
            raise InputError("the runs have different items: they cannot be compared")
    labels = Labels.read(next(iter(sources.values()))[0])
    question = Question(metric or ("hierarchical_f1" if labels.depth > 1 else "accuracy"))
    stem = stem_of(first["items"]["file"])
    name = f"{stem}-{digest(*map(str, sources.values()), metric)[:8]}"
    path = Path(out) if out else Path(runs) / name
    record = {**first, "kind": "ab", "created": now(), "command": list(command)}
    record |= {"arms": arms, "identity": identity}
    registry = Registry(Path(runs))
    looks = registry.looks(_key(record))
    record["remarks"] = [
        *first["remarks"],
        *_second_look(looks, identity["items"], _rule(question)),
    ]
    folder = Folder.begin(path, record)
    try:
        for name, (source, arm) in sources.items():
            for suffix in ("predictions.jsonl", "asks.jsonl", "prefixes.jsonl"):
                _copy(source / named(arm, suffix), folder.file(named(name, suffix)))
        for arm, (source, _) in zip(arms.values(), sources.values(), strict=True):
            arm["inputs"] = {
                what: folder.keep(source / name) for what, name in arm["inputs"].items()
            }
        for file in ("items.jsonl", "labels.json"):
            _copy(next(iter(sources.values()))[0] / file, folder.file(file))
        result = finish(folder, question=question)
        folder.save("done")
        registry.note(path, folder.record, result)
        _noted(registry, path, folder.record, question)
    finally:
        folder.close()
        registry.close()
    return path


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
