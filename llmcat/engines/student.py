"""A trained student as an engine: what it says of an item, over whatever menu is asked about.

So everything that works with a model works with a student: evaluation, comparison with a model,
calibration, files of any size. No prompt is read; the item's own text is.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmcat.candidates.codes import CANDIDATES
from llmcat.engines import Capabilities, Served, in_batches
from llmcat.records import MOST_LABELS, NONE, Answer, Message, Request
from llmcat.students.model import Student, text_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from llmcat.records import Menu

__all__ = ["StudentEngine"]


@dataclass
class StudentEngine:
    """`folder` is what `llmcat student train` wrote; `batch`: items looked at together."""

    folder: str
    batch: int = 64
    name: str = "student"
    capabilities: Capabilities = Capabilities(
        scores=("full",),
        constraints=("outlines",),
        labels=MOST_LABELS,
        reads=("code",),
        whole_menus=True,
    )
    _student: Student | None = field(default=None, repr=False)

    async def open(self) -> Served:
        """Load the student. Raises `InputError` if it cannot be."""
        self._student = student = await asyncio.to_thread(Student.load, self.folder)
        made = student.manifest
        return Served(
            engine=self.name,
            model=student.name,
            version=f"llmcat {made.llmcat}",
            context=1 << 20,
            alphabet=CANDIDATES[: MOST_LABELS + 1],
            facts={"root": student.digest, "kind": made.kind, "classes": str(len(made.classes))},
        )

    async def answer(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        """Answer a stream of requests in batches, computed in a thread."""
        async with aclosing(in_batches(requests, self.batch)) as batches:
            async for batch in batches:
                for answer in await asyncio.to_thread(self._batch, batch):
                    yield answer

    def _batch(self, requests: list[Request]) -> list[Answer]:
        assert self._student is not None  # noqa: S101  opened first
        started = time.perf_counter()
        made = self._student.manifest
        p = self._student.predict_proba([text_of(request.item) for request in requests])
        seconds = (time.perf_counter() - started) / len(requests)
        return [
            Answer(request=request, logprobs=_over(request.menu, p_of, made.paths), seconds=seconds)
            for request, row in zip(requests, p.tolist(), strict=True)
            if (p_of := dict(zip(made.classes, row, strict=True)))
        ]

    async def count_tokens(self, messages: list[Message]) -> int:  # noqa: ARG002
        """Students read no prompt."""
        return 0

    async def close(self) -> None:
        """Let go of the student."""
        self._student = None


def _over(menu: Menu, p_of: Mapping[str, float], paths: list[list[str]]) -> tuple[float, ...]:
    """Return log-probabilities over a menu; what is on none of its branches goes to the exit.

    At an inner node, given that the item is somewhere below it.
    """
    of_path = list(zip(map(tuple, paths), p_of.items(), strict=True))
    depth = len(menu.parent.path) if menu.parent else 0
    inside = sum(
        p for path, (_, p) in of_path if menu.parent is None or path[:depth] == menu.parent.path
    )
    shares = [
        math.fsum(p for path, (id_, p) in of_path if id_ == n.id or path[: len(n.path)] == n.path)
        for n in menu.nodes
    ]
    rest = max(inside - math.fsum(shares), p_of.get(NONE, 0.0) if menu.parent is None else 0.0)
    total = math.fsum([*shares, rest])
    if total <= 0:
        shares, rest, total = [0.0] * len(shares), 1.0, 1.0
    return tuple(math.log(x / total) if x > 0 else -math.inf for x in [*shares, rest])
