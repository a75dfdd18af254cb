"""What a person sees of any command: progress bar, interruptions, tables.

Progress and remarks go to standard error, and only to a terminal; results go to standard
output, as a table on a terminal and as JSON lines into a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from typing import TYPE_CHECKING, Any, Self, TypeVar

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

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from llmcat.engines import Served

__all__ = ["Bar", "figure", "interruptible", "predictions_table"]


T = TypeVar("T")


_ERR = Console(stderr=True, highlight=False)


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
            console=_ERR,
            disable=quiet or not _ERR.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("opening the engine", total=None)

    def __enter__(self) -> Self:
        """Show it."""
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Take it away."""
        self._progress.stop()

    def start(self, served: Served, total: int | None, done: int) -> None:
        """Show the model and how much there is."""
        self._progress.update(self._task, description=served.model, total=total, completed=done)

    def step(self, rows: int) -> None:
        """Move on."""
        self._progress.advance(self._task, rows)


def interruptible(
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


def predictions_table(shown: Iterable[tuple[dict[str, Any], str]]) -> Table:
    """Return rows of predictions, each with its item's title, as a table."""
    table = Table(show_edge=False, pad_edge=False, expand=True)
    cut = {"overflow": "ellipsis", "no_wrap": True}
    table.add_column("id", min_width=6, max_width=14, **cut)  # type: ignore[arg-type]
    table.add_column("item", ratio=1, **cut)  # type: ignore[arg-type]
    table.add_column("label", ratio=1, **cut)  # type: ignore[arg-type]
    table.add_column("p", justify="right", min_width=4)
    table.add_column("decision", min_width=8)
    for row, title in shown:
        paths = [one["path"] for one in row.get("labels") or ()] or [
            row["path"] or row["reason"] or "none of these"
        ]
        label = ", ".join(path.rpartition(" > ")[2] for path in paths)
        style = {"error": "red", "none": "yellow", "review": "yellow"}.get(row["decision"], "")
        p = "" if row["confidence"] is None else f"{row['confidence']:.2f}"
        decision = f"{row['decision']}, degraded" if row.get("degraded") else row["decision"]
        table.add_row(*map(Text, (row["id"], title, label, p, decision)), style=style)
    return table


def figure(estimate: Mapping[str, Any]) -> str:
    """Return an estimate's value as it is printed."""
    return "none" if estimate["value"] != estimate["value"] else f"{estimate['value']:.4f}"
