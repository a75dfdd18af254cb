"""What a person sees: progress bar, closing line, tables. Nothing here decides anything.

Progress and remarks go to standard error, and only to a terminal; results go to standard
output, as a table on a terminal and as JSON lines into a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import shlex
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from llmcat.errors import InputError
from llmcat.evaluation.speed import duration
from llmcat.items.formats import bare, lines_of, open_bytes
from llmcat.items.readers import Columns, ItemReader
from llmcat.items.sources import expand
from llmcat.pipeline import file_run
from llmcat.storage import wrote

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from llmcat.calibration.artifact import Calibration
    from llmcat.checks.tune import Tuned
    from llmcat.config import RunConfig
    from llmcat.engines import Served
    from llmcat.evaluation.arms import Arm
    from llmcat.evaluation.experiment import Options
    from llmcat.evaluation.report import Result
    from llmcat.evidence.artifact import Artifact
    from llmcat.fallback.assemble import Opened
    from llmcat.pipeline.file_run import Summary

__all__ = [
    "compare_runs",
    "export_run",
    "list_runs",
    "run_classify",
    "run_doctor",
    "run_evaluation",
    "run_preview",
    "show",
    "show_run",
]

T = TypeVar("T")
LOW_MASS = 0.5
_err = Console(stderr=True, highlight=False)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} items/s" if task.speed else "", style="cyan")


class Bar:
    """A live progress bar on standard error; silent where that is no terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=_err,
            disable=quiet or not _err.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("opening the engine", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def start(self, served: Served, total: int | None, done: int) -> None:
        """Show the model and how much there is."""
        self._progress.update(self._task, description=served.model, total=total, completed=done)

    def step(self, rows: int) -> None:
        """Move on."""
        self._progress.advance(self._task, rows)


def run_classify(
    config: RunConfig, *, command: Sequence[str], restart: bool, quiet: bool, strict: bool = False
) -> int:
    """Classify, show how it goes, say how it went; return the exit code.

    `strict`: 1 where the answers hardly depend on the items.
    """
    out = config.out or file_run.default_out(config.file)
    config = config.model_copy(update={"out": out})
    if out == "-":
        summary = file_run.Summary(out=out, price_per_hour=config.price_per_hour)
        _interruptible(lambda stop: _stream(config, summary, stop))
    else:
        with Bar(quiet=quiet) as bar:
            summary = _interruptible(
                lambda stop: file_run.classify_file(config, restart=restart, watch=bar, stop=stop)
            )
    code = _closed(summary, "classify", command, quiet=quiet)
    return code or int(strict and summary.collapse is not None)


def _closed(summary: file_run.Summary, name: str, command: Sequence[str], *, quiet: bool) -> int:
    """Say how a run went, and how it goes on; return the exit code."""
    out = summary.out
    if not quiet:
        for line in closing(summary):
            print(line, file=sys.stderr)
    if summary.interrupted:
        if out == "-" or not summary.resumable:
            print("interrupted; items from a pipe, or results into one, cannot be resumed: "
                  "use --file and --out", file=sys.stderr)  # fmt: skip
        else:
            kept = [word for word in command if word != "--restart"]
            print("interrupted; this goes on:", file=sys.stderr)
            print(f"  {shlex.join(['llmcat', name, *kept])}", file=sys.stderr)
        return 130
    return 1 if summary.decisions["error"] else 0


def run_fallback(
    config: RunConfig, opened: Opened, *, command: Sequence[str], restart: bool, quiet: bool
) -> int:
    """Label with a primary and a model; show how it goes and went; return the exit code."""
    from llmcat.fallback.file_run import fallback_file, opener

    out = config.out or file_run.default_out(config.file)
    config = config.model_copy(update={"out": out})
    if out == "-":
        summary = file_run.Summary(out=out, price_per_hour=config.price_per_hour)
        _interruptible(lambda stop: _stream(config, summary, stop, opener(opened)))
    else:
        with Bar(quiet=quiet) as bar:
            summary = _interruptible(
                lambda stop: fallback_file(
                    config, opened=opened, restart=restart, watch=bar, stop=stop
                )
            )
    if not quiet:
        for line in opened.route.counts.told():
            print(line, file=sys.stderr)
    return _closed(summary, "fallback", command, quiet=quiet)


def run_redo(config: RunConfig, opened: Opened, *, quiet: bool) -> int:
    """Ask again about degraded rows; say how many are left."""
    from llmcat.fallback.file_run import redo

    asked, left = _interruptible(lambda stop: redo(config, opened=opened, stop=stop))
    if not quiet:
        print(f"{asked:,} degraded rows asked about again, {left:,} are still degraded",
              file=sys.stderr)  # fmt: skip
    return 0


def _interruptible(
    work: Callable[[asyncio.Event], Coroutine[Any, Any, T]], *, graceful: bool = True
) -> T:
    """Run a coroutine. The first Ctrl-C lets what is in flight finish, the second does not."""

    async def main() -> T:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work(stop))

        def on_signal() -> None:
            if stop.is_set() or not graceful:
                task.cancel()
            else:
                stop.set()
                print("\nstopping: what is in flight is finished first", file=sys.stderr)

        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, on_signal)
        try:
            return await task
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    gc.freeze()  # what is loaded by now stays
    gc.set_threshold(50_000, 20, 100)  # items come and go in no cycles
    try:
        return asyncio.run(main())
    finally:
        gc.unfreeze()  # else some bindings take at exit for leaked what was only kept


async def _stream(
    config: RunConfig,
    summary: Summary,
    stop: asyncio.Event,
    opener: file_run.Opener | None = None,
) -> None:
    """Print rows as they come: JSON lines into a pipe, a table on a terminal."""
    pairs = file_run.classify_stream(config, summary, stop=stop, opener=opener)
    if sys.stdout.isatty():
        shown = [(row, next(iter(item.fields.values()), "")) async for item, row in pairs]
        Console().print(_table(shown))
        return
    async for _, row in pairs:
        sys.stdout.buffer.write(orjson.dumps(row) + b"\n")
        sys.stdout.buffer.flush()


def closing(summary: Summary) -> list[str]:
    """Return the closing line, and a line each for what the user should know."""
    counts, tally = summary.decisions, summary.tally
    used = tally.usage
    fallen = [summary.collapse["said"]] if summary.collapse else []
    if summary.already_done:
        return [f"nothing to do: {summary.out} is complete, {summary.rows:,} rows", *fallen]
    accepted = f"{counts['accept']:,} accepted" if counts["accept"] else ""
    review = f"{counts['review']:,} to review" if counts["review"] else ""
    labelled = f"{counts['labelled']:,} labelled" if not (accepted or review) else ""
    parts = [p for p in (accepted, review, labelled) if p]
    parts += [f"{counts['none']:,} none", f"{counts['error']:,} errors"]
    rate = summary.written / summary.seconds if summary.seconds > 0 else 0.0
    parts.append(f"{rate:,.0f} items/s" if rate >= 10 else f"{rate:.2g} items/s")  # noqa: PLR2004
    if used.prompt:
        parts.append(f"{used.cached / used.prompt:.0%} of prompt tokens cached")
    parts.append(f"{used.prompt:,} + {used.generated:,} tokens")
    if summary.cost is not None:
        parts.append(f"cost {summary.cost:,.4f}")
    lines = [f"{summary.rows:,} row{'s' * (summary.rows != 1)}: " + ", ".join(parts), *fallen]
    steps = {**summary.cleaned, "cut to the context": tally.cut}
    cleaned = ", ".join(f"{step} {n:,}" for step, n in steps.items() if n)
    if cleaned:
        lines.append(f"cleaned: {cleaned}")
    if tally.again:
        lines.append(
            f"asked in several orders: {tally.again:,} items, {tally.turned:,} with several "
            f"answers; {tally.asked:,} asks in all"
        )
    lines += summary.promises
    if tally.duplicates:
        lines.append(f"exact duplicates, asked once: {tally.duplicates:,}")
    if summary.double_ids:
        lines.append(f"duplicate ids: {summary.double_ids:,} (the first: {summary.double_id})")
    if summary.foreign_gold:
        lines.append(f"gold labels not in the taxonomy: {summary.foreign_gold:,}")
    if tally.mass is not None:
        low = ": the model wants to say something else; try another prompt or model"
        lines.append(
            f"label mass {tally.mass:.3g}, the mean of {tally.mass_count:,} sampled"
            + (low if tally.mass < LOW_MASS else "")
        )
    lines += [f"error: {n:,} x {reason}" for reason, n in summary.errors.most_common(5)]
    if summary.out != "-":
        lines.append(f"wrote {summary.out}")
    return lines


def _table(shown: Iterable[tuple[dict[str, Any], str]]) -> Table:
    table = Table(show_edge=False, pad_edge=False, expand=True)
    cut = {"overflow": "ellipsis", "no_wrap": True}
    table.add_column("id", min_width=6, max_width=14, **cut)  # type: ignore[arg-type]
    table.add_column("item", ratio=1, **cut)  # type: ignore[arg-type]
    table.add_column("label", ratio=1, **cut)  # type: ignore[arg-type]
    table.add_column("p", justify="right", min_width=4)
    table.add_column("decision", min_width=8)
    for row, title in shown:
        label = (row["path"] or row["reason"] or "none of these").rpartition(" > ")[2]
        style = {"error": "red", "none": "yellow", "review": "yellow"}.get(row["decision"], "")
        p = "" if row["confidence"] is None else f"{row['confidence']:.2f}"
        decision = f"{row['decision']}, degraded" if row.get("degraded") else row["decision"]
        table.add_row(*map(Text, (row["id"], title, label, p, decision)), style=style)
    return table


def show(path: str, items: str, *, text: str, limit: int, decision: str | None) -> int:
    """Print rows of a predictions file as a table, beside their titles if the items are given."""
    if not bare(path).endswith(".jsonl"):
        raise InputError(f"{path}: only .jsonl predictions can be shown")
    columns = Columns(text=tuple(filter(None, [text])))
    titles = ItemReader(columns=columns).read(*expand(items)) if items else None
    shown: list[tuple[dict[str, Any], str]] = []
    total = 0
    with open_bytes(path) as raw:
        for line in lines_of(raw):
            item = next(titles, None) if titles else None
            title = next(iter(item.fields.values()), "") if item else ""
            total += 1
            try:
                row = orjson.loads(line)
                fits = decision is None or row["decision"] == decision
                if fits and len(shown) < limit:
                    _table([(row, title)])  # finds out whether it is a prediction
                    shown.append((row, title))
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as exc:
                raise InputError(f"{path}: line {total} is not a prediction") from exc
    Console().print(_table(shown))
    print(f"{len(shown)} of {total} rows")
    return 0


# -- evaluations ------------------------------------------------------------------------------


def run_evaluation(arms: Sequence[Arm], options: Options, shown: Mapping[str, Any]) -> int:
    """Evaluate, print what was found, return the exit code."""
    from llmcat.evaluation import experiment

    def say(text: str) -> None:
        if not shown["quiet"]:
            print(text, file=sys.stderr)

    with Bar(quiet=shown["quiet"]) as bar:
        folder = _interruptible(
            lambda stop: experiment.evaluate(arms, options, watch=bar, stop=stop, say=say)
        )
    if folder is None:
        print("interrupted; this goes on, and asks nothing twice:", file=sys.stderr)
        print(f"  {shlex.join(options.command)}", file=sys.stderr)
        return 130
    return print_result(folder, options, shown)


def print_result(folder: Path, options: Options | None, shown: Mapping[str, Any]) -> int:
    """Print a run's result; return 1 if rows are errors, or an arm is worse and that matters."""
    from llmcat.evaluation import report, report_explain, report_markdown

    found = report.read(folder)
    if shown["form"] == "md":
        print(report_markdown.markdown(found), end="")
    else:
        _print_tables(found)
    if shown["explain"]:
        print("\n".join(report_explain.explain(found)))
    if options is not None and options.audit:
        _print_audit(folder)
    if not shown["quiet"]:
        asked = sum(arm["asked_now"] for arm in found.record["arms"].values())
        asks = sum(arm["asks"] for arm in found.record["arms"].values())
        before = max(0, asks - asked)
        print(f"{asks:,} asks, {before:,} of them answered before", file=sys.stderr)
        print(f"wrote {folder / 'report.html'}", file=sys.stderr)
    worse = shown["fail_if_worse"] and (found.comparison or {}).get("worse")
    return 1 if worse or any(m["errors"] for m in found.metrics.values()) else 0


def _print_tables(found: Result) -> None:
    """Print what decides, the metrics, the costs, and the segments in which the sign turns."""
    from llmcat.evaluation import report

    console = Console(highlight=False)
    console.print(Text(report.line(found), style="bold"))
    for name, arm in found.record["arms"].items():
        if fallen := arm.get("collapse"):
            of = f"arm {name}: " if found.comparison is not None else ""
            console.print(Text(of + fallen["said"]))
    for section in report.sections(found):
        rows = section.rows
        if section.title.startswith("Segments"):
            rows = [row for row in rows if row[-1]]
        if not rows or section.title == "Arms":
            continue
        table = Table(title=section.title, title_justify="left", show_edge=False, pad_edge=False)
        for at, head in enumerate(section.heads):
            table.add_column(Text(head), justify="left" if at < section.text_columns else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print()
        console.print(table)
        for note in section.notes:
            console.print(Text(note, style="dim"))


def _print_audit(folder: Path) -> None:
    from llmcat.evaluation import label_audit
    from llmcat.evaluation.run_folder import SOLO

    found = label_audit.audit(folder, SOLO)
    (folder / "audit.jsonl").write_bytes(
        b"".join(orjson.dumps(issue) + b"\n" for issue in found.issues)
    )
    table = Table(title="Doubtful gold labels", title_justify="left", show_edge=False)
    for head, justify in (
        ("row", "right"), ("item", "left"), ("gold", "left"), ("p", "right"),
        ("rather", "left"), ("p", "right"),
    ):  # fmt: skip
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    for issue in found.issues[:20]:
        cells = (issue["row"], issue["title"], issue["gold"], f"{issue['p_gold']:.3f}",
                 issue["label"], f"{issue['p_label']:.3f}")  # fmt: skip
        table.add_row(*(Text(str(cell)) for cell in cells))
    Console(highlight=False).print(table)
    print(f"{len(found.issues):,} of {found.n:,} gold labels are confidently contradicted; all in "
          f"{folder / 'audit.jsonl'}")  # fmt: skip
    if found.partial:
        print(f"approximate: {found.partial:,} answers gave not every label a probability")
    if found.elsewhere:
        print(f"not judged: {found.elsewhere:,} items that get a label no item here has")
    if found.left_out:
        print(f"left out: {found.left_out:,} items without probabilities")


def run_calibrate(
    config: RunConfig,
    *,
    command: Sequence[str],
    share: float | None,
    prior: bool,
    plain: bool,
    quiet: bool,
) -> int:
    """Ask about labelled items, fit a calibration, say what it does and what it would promise."""
    from llmcat.calibration.decider import UNCALIBRATED, Calibrated, Wanted, check
    from llmcat.evaluation import experiment, fitting
    from llmcat.evaluation.arms import Arm
    from llmcat.evaluation.run_folder import SOLO, load
    from llmcat.evidence.gather import Gathered
    from llmcat.taxonomy.load import taxonomy_of

    kept = Gathered()
    taxonomy, wanted = taxonomy_of(config), Wanted.of(config)
    check(wanted, taxonomy)
    arm = Arm(SOLO, config.model_copy(update={"out": "", **UNCALIBRATED}))
    options = experiment.Options(command=tuple(command), posteriors=True, kept=kept)

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr)

    with Bar(quiet=quiet) as bar:
        folder = _interruptible(
            lambda stop: experiment.evaluate([arm], options, watch=bar, stop=stop, say=say)
        )
    if folder is None:
        print("interrupted; this goes on, and asks nothing twice:", file=sys.stderr)
        print(f"  {shlex.join(options.command)}", file=sys.stderr)
        return 130
    if fallen := load(folder)["arms"][SOLO]["collapse"]:
        print(fallen["said"])
    fitted = fitting.fit_calibration(
        folder, taxonomy, share=share, prior=prior, plain=plain, seed=config.seed,
        kept=kept, group=config.group,
    )  # fmt: skip
    made, found = fitted.calibration, fitted.metrics
    out = Path(config.out or ("artifact.json" if fitted.artifact else "calibration.json"))
    done = wrote(out)
    if fitted.artifact is not None:
        fitted.artifact.save(out)
        print(_weights_line(fitted.artifact))
    else:
        made.save(out)
    judge = Calibrated(made, taxonomy, wanted)
    for text in _doubts(made, found["after"]["log_loss"]["value"], plain=plain):
        print(text)
    console = Console(highlight=False)
    table = Table(show_edge=False, pad_edge=False)
    for head in ("on the gating part", "before", "after"):
        table.add_column(head, justify="left" if head[0] == "o" else "right")
    for name in found["before"]:
        cells = [found[when][name] for when in ("before", "after")]
        table.add_row(name.replace("_", " "), *map(_figure, cells))
    console.print(table)
    fits = len(made.fitting.correct)
    print(f"scaling: {made.scaling}; prior: {'taken off' if made.prior else 'left in'}; "
          f"{fits:,} items fit, {len(made.gating.correct):,} draw lines")  # fmt: skip
    for text in judge.promise():
        print(text)
    for name, line in judge.gates.items():
        if line.accepted:
            print(f"line{' of ' + name if name else ''}: {line.threshold:.4f}, accepts "
                  f"{line.coverage:.1%}; of {line.accepted:,} accepted {line.right:,} are right, "
                  f"at least {line.bound:.1%}")  # fmt: skip
    if config.sets:
        print(f"sets hold the right label in {config.sets:.0%} on average")
    print(done, file=sys.stderr)
    return 0


def run_tune(
    config: RunConfig,
    *,
    arms: Mapping[str, Mapping[str, Any]],
    max_requests: int,
    max_minutes: float,
    command: Sequence[str],
    quiet: bool,
) -> int:
    """Try arms on labelled items, show the table, write the winner's artifact."""
    from llmcat.checks import tune as tuning
    from llmcat.evaluation.adds import sentence

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr)

    options = tuning.Options(max_requests, max_minutes, arms)
    found = _interruptible(lambda stop: tuning.tune(config, options, stop=stop, say=say))
    Console(highlight=False).print(_tune_table(found))
    if found.stopped == tuning.INTERRUPTED:
        print("interrupted: nothing is chosen; this goes on, and asks nothing twice:",
              file=sys.stderr)  # fmt: skip
        print(f"  {shlex.join(command)}", file=sys.stderr)
        return 130
    if found.stopped:
        print(f"stopped early: {found.stopped}")
    print(f"chosen: {found.winner.name}; on {found.checked.n:,} held-back items "
          f"{_figure(asdict(found.checked))} right")  # fmt: skip
    if found.adds is not None:
        print(sentence(found.adds))
    if found.winner.name == tuning.ALONE:
        print("retrieval alone is as good as any model here: use --engine retriever")
    out = Path(config.out or "artifact.json")
    done = wrote(out)
    found.artifact.save(out)
    if "pool" in found.artifact.parts:
        print(_weights_line(found.artifact))
    print(f"{done}; in llmcat.toml: artifact = {str(out)!r}; then llmcat calibrate with these "
          "settings draws lines", file=sys.stderr)  # fmt: skip
    return 1 if any(one.fate.startswith("ERROR") for one in found.tried) else 0


def _tune_table(found: Tuned) -> Table:
    """Return what tuning found as a table, an arm a line."""
    from llmcat.checks import tune as tuning

    best = tuning.pareto(found.tried)
    whole = found.stopped != tuning.INTERRUPTED
    table = Table(show_edge=False, pad_edge=False)
    for head in ("arm", "items", "accuracy", "tokens an item", "against alone", ""):
        table.add_column(head, justify="left" if head in {"arm", ""} else "right")
    alone = next((one for one in found.tried if one.name == tuning.ALONE), None)
    for one in found.tried:
        gain = ""
        if alone is not None and one is not alone and one.rows:
            step = tuning.against(one, alone)
            gain = f"{100 * step.value:+.1f} [{100 * step.low:+.1f}, {100 * step.high:+.1f}]"
        pareto = "Pareto" if one.name in best else ""
        notes = [one.fate, *(["chosen" if one.best else "", pareto] if whole else [])]
        table.add_row(
            one.name,
            f"{len(one.rows):,}",
            _figure(asdict(one.accuracy)) if one.rows else "",
            f"{one.tokens:,.0f}",
            gain,
            ", ".join(filter(None, notes)),
        )
    return table


def run_suppose(config: RunConfig, supposed: float) -> int:
    """Say how many labels a promise would take, by unlabelled items' confidences."""
    from llmcat.calibration.decider import UNCALIBRATED
    from llmcat.checks.tune import labels_for_a_promise

    precision = config.accept_precision or 0.95
    limited = config.model_copy(update=UNCALIBRATED | {"limit": config.limit or 200, "out": "-"})
    summary, sure = file_run.Summary(out="-"), list[float]()

    async def ask(stop: asyncio.Event) -> None:
        async for _, row in file_run.classify_stream(limited, summary, stop=stop):
            if row["confidence"] is not None:
                sure.append(row["confidence"])

    _interruptible(ask)
    if not sure:
        raise InputError("no item got an answer with a probability")
    found = labels_for_a_promise(sure, supposed=supposed, precision=precision, risk=config.risk)
    if found is None:
        print(f"if {supposed:.0%} of the answers are right, no number of labels would draw a line "
              f"at precision {precision:g}")  # fmt: skip
    else:
        print(f"if {supposed:.0%} of the answers are right, about {2 * found:,} labels draw a line "
              f"at precision {precision:g}: half of them fit, half draw it "
              f"(by the confidences of {len(sure):,} items)")  # fmt: skip
    return 0


def _weights_line(artifact: Artifact) -> str:
    """Say what the sources weigh, and above which line the model is not missed."""
    weights = artifact.parts["pool"].learnt["weights"]
    said = ", ".join(f"{name} {w:.2f}" if w else f"{name} left out" for name, w in weights.items())
    line = artifact.parts.get("line")
    skip = f"; --skip-sure leaves the model out above {line.learnt['skip']:.3f}" if line else ""
    return f"weights: {said}{skip}"


def _doubts(made: Calibration, loss: float, *, plain: bool) -> list[str]:
    """Say where a calibration is worth little: `loss` is the log-loss of what it gives or keeps."""
    from llmcat.calibration.fit import no_line

    parts = made.fitting, made.gating
    said = [
        no_line(
            [c for part in parts for c in part.confidence],
            [hit for part in parts for hit in part.correct],
        )
    ]
    even = math.log(max(1, len(made.labels)))
    if made.labels and loss > even:
        said.append(
            f"WARNING: {'kept as they are, ' if plain else ''}these probabilities are worse than "
            f"an even share: log loss {loss:.2f}, an even share over {len(made.labels)} labels has "
            f"{even:.2f}"
        )
    return [text for text in said if text]


def _figure(estimate: Mapping[str, Any]) -> str:
    return "none" if estimate["value"] != estimate["value"] else f"{estimate['value']:.4f}"


def list_runs(folder: str) -> int:
    """Print the runs of a folder, the latest first."""
    from llmcat.evaluation.run_folder import Registry

    registry = Registry.existing(folder)
    for one in registry.runs():
        created = one["created"][:16].replace("T", " ")
        print(f"{one['name']}  {created}  {one['kind']}  {one['n']:,} items  {one['status']}")
        if one["result"]:
            print(f"    {one['result']}")
        for name, said in one["arms"].items():
            if said:
                print(f"    {name}: {said}")
    registry.close()
    return 0


def show_run(folder: str, name: str, *, form: str) -> int:
    """Print what a run found, and how to repeat it."""
    path = _found(folder, name)
    shown = {"form": form, "explain": False, "quiet": True, "fail_if_worse": False}
    print_result(path, None, shown)
    if form == "text":
        record = orjson.loads((path / "run.json").read_bytes())
        print(f"\nfolder   {path}")
        print(f"begun    {record['created']}, llmcat {record['llmcat']}")
        for arm, what in record["arms"].items():
            print(f"arm {arm}    {what['identity']['prompt']}, {what['identity']['model']}")
        print(f"repeat   {shlex.join(record['command'])}")
    return 0


def compare_runs(
    folder: str, names: Sequence[str], *, metric: str, out: str, command: Sequence[str]
) -> int:
    """Compare arms of two finished runs, and print the result."""
    from llmcat.evaluation import experiment

    paths = {}
    for arm, name in zip("ab", names, strict=True):
        wanted, _, of = name.partition(":") if not Path(name).exists() else (name, "", "")
        paths[arm] = (_found(folder, wanted), of)
    path = experiment.compare_runs(paths, folder, out=out, metric=metric, command=command)
    shown = {"form": "text", "explain": False, "quiet": False, "fail_if_worse": False}
    shown["quiet"] = True
    print_result(path, None, shown)
    print(f"wrote {path / 'report.html'}", file=sys.stderr)
    return 0


def export_run(folder: str, name: str, file: str) -> int:
    """Pack a run's folder into a zip file."""
    from llmcat.evaluation import experiment

    packed = experiment.export_run(_found(folder, name), Path(file))
    print(f"wrote {file}: {', '.join(packed)}")
    return 0


def _found(folder: str, name: str) -> Path:
    from llmcat.evaluation.run_folder import Registry

    if (Path(name) / "run.json").is_file():
        return Path(name)
    registry = Registry.existing(folder)
    try:
        return registry.find(name)
    finally:
        registry.close()


# -- a look ahead, and at the installation -----------------------------------------------------


def run_preview(config: RunConfig) -> int:
    """Print what a run would do and take."""
    count = config.limit or 20
    from llmcat.pipeline.preview import preview

    found = _interruptible(lambda stop: preview(config, count=count), graceful=False)  # noqa: ARG005
    for message in found.messages:
        print(f"--- {message['role']} ---\n{message['content']}")
    print()
    shown = [(row, next(iter(item.fields.values()), "")) for item, row in found.shown]
    Console().print(_table(shown))
    used, scale = found.usage, found.scale
    cost = "no price known (--price-per-hour)" if found.cost is None else f"{found.cost:,.4f}"
    print(f"\nmodel {found.served.model}; the whole file would take about:")
    print(f"  rows    {found.rows:>14,}")
    each = used.generated * scale / found.asks if found.asks else 0
    print(f"  asks    {found.asks:>14,.0f}  of {each:.3g} generated tokens each")
    print(f"  tokens  {used.prompt * scale:>14,.0f}  of prompt, {used.cached * scale:,.0f} cached")
    if found.rate:
        print(
            f"  speed   {found.rate:>14,.0f}  tokens of prompt read in a second, cached ones aside"
        )
    print(f"  time    {duration(found.seconds):>14}  at the pace of these {len(shown)} items")
    print(f"  cost    {cost:>14}")
    print("nothing was written")
    return 0


def run_doctor(config: RunConfig) -> int:
    """Print the findings; return 0, 1 with warnings, 3 with failures."""
    from llmcat.checks import doctor

    findings = _interruptible(lambda stop: doctor.examine(config), graceful=False)  # noqa: ARG005
    marks = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(f"{marks[finding.level]} [bold]{finding.what}[/]: ", end="")
        console.print(finding.found, markup=False)
        if finding.todo:
            console.print(f"       -> {finding.todo}", markup=False)
    levels = {finding.level for finding in findings}
    return 3 if "fail" in levels else 1 if "warn" in levels else 0
