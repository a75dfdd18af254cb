"""A run's folder to sections: tables that terminal, Markdown and page show alike.

This module computes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from llmcat.errors import JournalError
from llmcat.evaluation.adds import sentence
from llmcat.evaluation.comparison import LOSSES, OF_SEVERAL, gained, show
from llmcat.evaluation.predictions import ERROR, Labels, label_in
from llmcat.evaluation.run_folder import load, named
from llmcat.evaluation.schema import checked_comparison

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmcat.evaluation.schema import Comparison, RunRecord

__all__ = [
    "PAIRS",
    "Result",
    "Section",
    "files_line",
    "interest",
    "joined",
    "line",
    "read",
    "requests_of",
    "sections",
    "shared_messages",
]

PAIRS = 10
FRACTIONS = ("brier", "kappa", "kappa_quadratic", "level_error", "log_loss")
"""Metrics that are no shares: shown as they are, not in percent."""


@dataclass(frozen=True)
class Result:
    """What a run's folder holds."""

    path: Path
    record: RunRecord
    labels: Labels
    metrics: Mapping[str, Mapping[str, Any]]
    comparison: Comparison | None


@dataclass(frozen=True)
class Section:
    """A table with its heading: the first column is text, the others are aligned right."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default=())
    text_columns: int = 1


def read(path: Path) -> Result:
    """Read a run's folder. Raises `JournalError` if it is not one that was measured."""
    record = load(path)
    try:
        found = {
            a: orjson.loads((path / named(a, "metrics.json")).read_bytes()) for a in record["arms"]
        }
        compared = path / "comparison.json"
        comparison = None
        if record["kind"] == "ab":
            comparison = checked_comparison(orjson.loads(compared.read_bytes()))
    except (OSError, ValueError) as exc:
        raise JournalError(
            f"{path}: the run is not finished ({record['status']})",
            hint="run its command again: what was answered is not asked again",
        ) from exc
    return Result(path, record, Labels.read(path), found, comparison)


# -- tables -----------------------------------------------------------------------------------


def line(result: Result) -> str:
    """Return the result in one line: what is wrong with a run, the decision, or the accuracy."""
    fallen = [name for name, arm in result.record["arms"].items() if arm.get("collapse")]
    warning = ""
    if fallen:
        of = f" of {', '.join(fallen)}" if result.comparison is not None else ""
        warning = f"WARNING: the answers{of} hardly depend on the item; "
    if result.comparison is not None:
        return warning + _failed(result) + result.comparison["verdict"] + _are(result)
    (found,) = result.metrics.values()
    name = next(name for name in ("accuracy", "example_f1") if name in found["metrics"])
    errors = sum(found["errors"].values())
    broken = f", {errors:,} errors" if errors else ""
    how = f"{show(name)} {_estimate(name, found['metrics'][name])} of {found['n']:,} items{broken}"
    (arm,) = result.record["arms"].values()
    adds = arm.get("adds")
    added = f"; {sentence(adds)}" if adds else ""
    return warning + how + added


def _are(result: Result) -> str:
    """Say what arms are whose names do not: those that `--a` and `--b` gave."""
    arms = result.record["arms"].items()
    said = [f"{name}: {arm['said']}" for name, arm in arms if len(name) == 1 and arm["said"]]
    return f" ({'; '.join(said)})" if said else ""


def _failed(result: Result) -> str:
    """Say of which arms items failed, which is part of what was compared."""
    said = []
    for name, measured in result.metrics.items():
        if count := sum(measured["errors"].values()):
            reason = max(measured["errors"], key=measured["errors"].__getitem__)
            said.append(f"{name} failed on {count:,} of {measured['n']:,} items ({reason}); ")
    return "".join(said)


def sections(result: Result) -> list[Section]:
    """Return all tables, the important ones first."""
    found = [*_versus(result), _metrics(result), _adds(result), _sent(result), _costs(result)]
    found += [*_segments(result), *_confusions(result), *_errors(result), _arms(result)]
    return [section for section in found if section.rows]


def _adds(result: Result) -> Section:
    """What each arm's model adds to retrieval alone."""
    rows = []
    for name, arm in result.record["arms"].items():
        if found := arm.get("adds"):
            gain, low, high = (100 * found[key] for key in ("gain", "low", "high"))
            recall = "" if found["recall"] is None else f"{100 * found['recall']:.1f} %"
            rows.append([
                name,
                f"{100 * found['alone']:.1f} %",
                f"{100 * found['with_model']:.1f} %",
                f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]",
                f"{found['p']:.3g}",
                f"{recall} at {found['candidates']}" if recall else "",
                f"{100 * found['sent']:.0f} %",
            ])  # fmt: skip
    heads = ("arm", "alone", "with model", "points", "p", "recall", "sent")
    return Section("what the model adds to retrieval alone", heads, rows)


def _sent(result: Result) -> Section:
    """What accuracy is had when only the items that retrieval is least sure of are sent."""
    rows = []
    for name, arm in result.record["arms"].items():
        if (found := arm.get("adds")) and found.get("curve"):
            tokens, curve = found["tokens_per_item"], found["curve"]
            for share, accuracy in (curve[round(i * (len(curve) - 1) / 4)] for i in range(5)):
                cost = "" if not tokens else f"{tokens * share / found['sent']:,.0f}"
                rows.append([name, f"{100 * share:.0f} %", cost, f"{100 * accuracy:.1f} %"])
    notes = [
        "Those that retrieval is least sure of first; `calibrate` or `tune` draws the line of "
        "`--skip-sure`."
    ]
    heads = ("arm", "sent", "tokens an item", "accuracy")
    return Section("accuracy against what is sent", heads, rows, notes)


def _estimate(name: str, estimate: Mapping[str, Any]) -> str:
    """Write a value with its interval: 91.2 % [89.0, 93.1]."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return f"none ({estimate['why']})"
    scale, digits, unit = (1, 4, "") if name in FRACTIONS else (100, 1, " %")
    text = f"{scale * value:.{digits}f}{unit}"
    if low is None or high is None:
        return text
    return f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def _metrics(result: Result) -> Section:
    arms = list(result.metrics)
    names = list(result.metrics[arms[0]]["metrics"])
    rows = [
        [show(name), *(_estimate(name, result.metrics[a]["metrics"][name]) for a in arms)]
        for name in names
    ]
    note = "in brackets 95 % intervals: Wilson's for shares, bootstrap (BCa) for averages over"
    note += " classes of at least 10 items each, normal ones for means; coverage at a precision is"
    note += " chosen on these items"
    return Section("Metrics", ["metric", *arms], rows, [note])


def _versus(result: Result) -> list[Section]:
    """Return a table per comparison with the first arm."""
    if result.comparison is None:
        return []
    found = []
    primary = result.comparison["metric"]
    for versus in result.comparison["versus"]:
        rows = []
        for name, difference in versus["differences"].items():
            loss = name in LOSSES
            scale, digits = (1, 4) if name in FRACTIONS else (100, 1)
            value, low, high = (difference[k] for k in ("value", "low", "high"))
            if value is None or low is None or high is None:
                rows.append([show(name), "none", difference["why"]])
                continue
            span = f"[{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"
            marks = [
                "decides" if name == primary else "",
                f"{difference['classes']} classes of 10 items" if difference["classes"] else "",
                "less is better" if loss else "",
                "approximate" if difference["approximate"] else "",
            ]
            text = f"{scale * value:+.{digits}f}"
            rows.append([show(name), text, span, ", ".join(filter(None, marks))])
        mcnemar, decision = versus["mcnemar"], versus["decision"]
        a, b = versus["base"], versus["arm"]
        level = 100 * (1 - decision["alpha"])
        ends = gained(primary, decision["low"]), gained(primary, decision["high"])
        notes = [
            f"{_word(decision)}: {decision['why']}; "
            f"the {level:.4g} % interval of the gain that decides is [{ends[0]}, {ends[1]}]",
            f"right: both {versus['both_right']:,}, only {a} {mcnemar['only_a']:,}, only {b} "
            f"{mcnemar['only_b']:,}, neither {versus['both_wrong']:,}; "
            f"McNemar's exact p = {mcnemar['p']:.3g}",
        ]
        by = result.comparison["cost_by"]
        if result.comparison["rule"]["non_inferior"] is not None:
            notes.append(
                f"{b} is {'the' if versus['cheaper'] else 'not the'} cheaper arm, by {by}"
                if by
                else "nothing says which arm is cheaper (--speed, prices): it has to gain"
            )
        heads = ["difference", "points", "95 % interval", ""]
        found.append(Section(f"{b} against {a}", heads, rows, notes))
    return found


def _word(decision: Mapping[str, Any]) -> str:
    words = {"ship": "ship", "don't": "don't ship"}
    return words.get(decision["verdict"]) or f"about {decision['more']:,} more items are needed"


def _costs(result: Result) -> Section:
    arms = result.record["arms"]
    rows = []
    for title, of, key, digits in (
        ("prompt tokens per item", "costs", "prompt_tokens_per_item", 1),
        ("of these cached", "costs", "cached_tokens_per_item", 1),
        ("generated tokens per item", "costs", "generated_tokens_per_item", 2),
        ("items/s, alone", "speed", "items_per_second", 1),
        ("latency p50, s", "latency", "p50", 3),
        ("latency p95, s", "latency", "p95", 3),
        ("latency p99, s", "latency", "p99", 3),
        (
            "server-seconds per 1,000 items (GPU-seconds, with one GPU)",
            "costs",
            "server_seconds_per_1000",
            1,
        ),
        ("price per 1,000 items", "costs", "price_per_1000", 4),
        ("energy per 1,000 items, J", "costs", "joules_per_1000", 0),
    ):
        values = []
        for arm in arms.values():
            speed = arm["speed"] or {}
            holder = {
                "costs": arm["costs"],
                "speed": speed,
                "latency": speed.get("latency_seconds"),
            }
            value = (holder[of] or {}).get(key)
            missing = "no price known" if key.startswith("price") else "not measured"
            values.append(missing if value is None else f"{value:,.{digits}f}")
        rows.append([title, *values])
    notes = []
    if any(arm["speed"] for arm in arms.values()):
        timed = next(arm["speed"] for arm in arms.values() if arm["speed"])
        notes.append(
            f"each arm alone on {timed['items']:,} items, {timed['concurrency']} in flight, after "
            f"{timed['warmed_with']} to warm up"
        )
    else:
        notes.append("--speed measures rates and latencies, each arm alone")
    return Section("Cost and speed", ["", *arms], rows, notes)


def _segments(result: Result) -> list[Section]:
    if result.comparison is None:
        return []
    found = []
    for versus in result.comparison["versus"]:
        rows = [
            [
                f"{s['by']}: {s['value']}",
                f"{s['n']:,}",
                f"{100 * s['a']:.1f} %",
                f"{100 * s['b']:.1f} %",
                f"{100 * s['difference']:+.1f}",
                f"[{100 * s['low']:+.1f}, {100 * s['high']:+.1f}]",
                f"{s['p_adjusted']:.2g}",
                "sign turns" if s["turned"] else "",
            ]
            for s in sorted(versus["segments"], key=lambda s: (not s["turned"], s["by"], -s["n"]))
        ]
        heads = ["segment", "items", versus["base"], versus["arm"], "points", "95 %", "p", ""]
        turned = sum(s["turned"] and s["clear"] for s in versus["segments"])
        notes = [
            "p by McNemar's exact test, adjusted for the number of segments (Holm); "
            f"the sign turns clearly in {turned} of {len(rows)}"
        ]
        several = (
            result.comparison["metric"] in OF_SEVERAL
            and "subset_accuracy" in (versus["differences"])
        )
        of = "all labels right" if several else "accuracy"
        title = f"Segments: {versus['arm']} against {versus['base']}, {of}"
        found.append(Section(title, heads, rows, notes))
    return found


def _confusions(result: Result) -> list[Section]:
    found = []
    for arm, measured in result.metrics.items():
        pairs = measured["confusions"]
        dear = any(pair["cost"] != pair["count"] for pair in pairs)
        rows = [
            [
                result.labels.path(pair["gold"]),
                result.labels.path(pair["label"]),
                f"{pair['count']:,}",
                *([f"{pair['cost']:,.4g}"] if dear else []),
            ]
            for pair in pairs[:PAIRS]
        ]
        heads = ["gold", "given", "items", *(["cost"] if dear else [])]
        left = [f"and {len(pairs) - PAIRS:,} other pairs"] if len(pairs) > PAIRS else []
        found.append(Section(f"Confused most: {arm}", heads, rows, left, text_columns=2))
    return found


def _errors(result: Result) -> list[Section]:
    rows = [
        [reason, arm, f"{count:,}"]
        for arm, measured in result.metrics.items()
        for reason, count in measured["errors"].items()
    ]
    notes = ["a row without an answer counts as wrong; it is asked again when the command is run"]
    return [Section("Errors", ["reason", "arm", "items"], rows, notes, text_columns=2)]


def _arms(result: Result) -> Section:
    rows = []
    for name, arm in result.record["arms"].items():
        served, identity = arm["served"], arm["identity"]
        what = f"{served['engine']} {served['version']}, {served['model']}"
        rows.append([name, arm["said"], identity["prompt"], what])
    items = result.record["items"]
    notes = [
        f"{items['n']:,} of {items['rows']:,} rows of {files_line(result)}"
        + (f", a sample with seed {items['seed']}" if items["limit"] else ""),
        f"llmcat {result.record['llmcat']}, {result.record['created']}",
    ]
    return Section("Arms", ["arm", "changes", "prompt", "engine and model"], rows, notes, 4)


def files_line(result: Result) -> str:
    """Return the names of the items' files, without their folders."""
    return ", ".join(Path(name).name for name in result.record["items"]["file"].split("\n"))


# -- rows -------------------------------------------------------------------------------------


def joined(result: Result) -> Iterator[dict[str, Any]]:
    """Yield each item with what every arm said."""
    arms = list(result.metrics)
    sources = [(result.path / named(arm, "predictions.jsonl")).open("rb") for arm in arms]
    try:
        with (result.path / "items.jsonl").open("rb") as items:
            for raw, *rows in zip(items, *sources, strict=True):
                item, said = orjson.loads(raw), [orjson.loads(row) for row in rows]
                yield {
                    "row": item["row"],
                    "id": item["id"],
                    "gold": item["gold"],
                    "fields": item["fields"],
                    "title": next(iter(item["fields"].values()), ""),
                    "labels": [ERROR if s["decision"] == "error" else label_in(s) for s in said],
                    "p": [s["confidence"] for s in said],
                    "notes": [s["reason"] for s in said],
                }
    except (OSError, ValueError, KeyError) as exc:
        raise JournalError(f"{result.path}: the files do not fit together: {exc}") from exc
    finally:
        for source in sources:
            source.close()


def interest(row: Mapping[str, Any]) -> tuple[int, float]:
    """Sort what people want to see to the front: disagreements, then sure mistakes."""
    right = [label == row["gold"] for label in row["labels"]]
    sure = max((p or 0.0) for p in row["p"])
    if any(right) and not all(right):
        return 0, -sure
    if len(set(row["labels"])) > 1:
        return 1, -sure
    return (2, -sure) if not any(right) else (3, sure)


def requests_of(path: Path, arm: str, rows: set[int]) -> dict[int, list[tuple[str, list[Any]]]]:
    """Return the requests of some rows: the key of what is shared, and the messages after that."""
    found: dict[int, list[tuple[str, list[Any]]]] = {}
    try:
        with (path / named(arm, "asks.jsonl")).open("rb") as lines:
            for raw in lines:
                request = orjson.loads(raw)
                if request["row"] in rows:
                    found.setdefault(request["row"], []).append(
                        (request["prefix"], request["tail"])
                    )
    except OSError:
        return {}
    return found


# -- what to change ---------------------------------------------------------------------------


def shared_messages(path: Path, arm: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield what requests share: a key, and the messages."""
    try:
        with (path / named(arm, "prefixes.jsonl")).open("rb") as lines:
            for raw in lines:
                shared = orjson.loads(raw)
                yield shared["key"], shared["messages"]
    except OSError as exc:
        raise JournalError(f"{exc.filename}: {exc.strerror}") from exc
