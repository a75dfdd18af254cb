"""A model that is not there: deterministic answers with true log-probabilities, for tests and
for trying the plumbing.

Without a truth it prefers the labels that share words (or Chinese characters) with the item.
With one it is right with a set probability, and wrong in a set way: the draw depends on the
item's text, the seed and nothing else, so runs repeat and orders do not matter. Two with the
same seed draw alike: the items that one of accuracy 0.8 gets right, one of 0.9 gets right too.
"""  # noqa: D205

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmcat.candidates.codes import CANDIDATES
from llmcat.engines import Capabilities, Served, in_flight
from llmcat.records import MOST_LABELS, NONE, Answer, Message, Node, Request, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

__all__ = ["FakeEngine"]

_WORD = re.compile(r"[a-z0-9]{2,}|[\u4e00-\u9fff]")


@dataclass
class FakeEngine:
    """`truth` maps item id to the path of its label (`A > B`), or to `none`.

    `accuracy`: how often the truth gets the highest probability; given without `truth`, the
    item's own gold label is the truth. `noise`: standard deviation
    of the logits. `sharpness`: how far the preferred label's logit stands out. `mass`: the
    share of probability on the menu before a constraint. `latency`: seconds per answer.
    """

    truth: Mapping[str, str] = field(default_factory=dict)
    accuracy: float | None = None
    noise: float = 0.5
    sharpness: float = 4.0
    mass: float = 0.9
    latency: float = 0.0
    seed: int = 0
    concurrency: int = 64
    context: int = 32_768
    name: str = "fake"
    capabilities: Capabilities = Capabilities(
        scores=("full", "label_only"),
        constraints=("outlines", "tokens"),
        labels=MOST_LABELS,
        whole_menus=True,
    )

    async def open(self) -> Served:
        """Nothing to connect to."""
        return Served(
            engine=self.name,
            model="fake",
            version="1",
            context=self.context,
            alphabet=CANDIDATES[: MOST_LABELS + 1],
            mass=self.mass,
            facts={"warning": "no model: the labels come from word overlap or a given truth"},
        )

    async def answer(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Answer, None]:
        """Answer each request after `latency`, `concurrency` of them at a time."""
        async with aclosing(in_flight(requests, self._later, self.concurrency)) as answers:
            async for answer in answers:
                yield answer

    async def _later(self, request: Request) -> Answer:
        await asyncio.sleep(self.latency)
        return self._one(request)

    def _one(self, request: Request) -> Answer:
        logits = self._logits(request)
        tokens = sum(len(m["content"]) for m in request.messages) // 4
        if request.read != "code":
            text = request.menu.codes[logits.index(max(logits))]
            if request.read == "reason":
                text = json.dumps({"rationale": f"its words are those of {text}"})
            used = Usage(prompt=tokens, cached=0, generated=1 + len(text) // 4)
            return Answer(request=request, text=text, usage=used, seconds=self.latency)
        top = max(logits)
        log_total = top + math.log(math.fsum(math.exp(x - top) for x in logits))
        masked = request.constraint == "outlines"
        shift = 0.0 if masked else math.log(self.mass)
        return Answer(
            request=request,
            logprobs=tuple(x - log_total + shift for x in logits),
            masked=masked,
            usage=Usage(prompt=tokens, cached=0, generated=1),
            seconds=self.latency,
        )

    def _logits(self, request: Request) -> list[float]:
        draw = random.Random(f"{self.seed}\0{request.item.content}")
        ids = [n.id for n in request.menu.nodes] + [NONE]
        noise = {id_: draw.gauss(0.0, self.noise) for id_ in sorted(ids)}
        truth = self.truth.get(request.item.id)
        if truth is None and self.accuracy is not None:
            truth = request.item.gold
        if truth is not None:
            preferred = next((n.id for n in request.menu.nodes if _leads_to(n, truth)), NONE)
            if self.accuracy is not None and draw.random() >= self.accuracy:
                preferred = draw.choice(sorted(i for i in ids if i != preferred))
            pull = {preferred: self.sharpness}
        else:
            words = set(_WORD.findall(request.item.content.lower()))
            pull = {n.id: self.sharpness * _overlap(words, n) for n in request.menu.nodes}
            pull[NONE] = self.sharpness * 0.25
        return [pull.get(id_, 0.0) + noise[id_] for id_ in ids]

    async def count_tokens(self, messages: list[Message]) -> int:
        """Guess four characters to a token."""
        return sum(len(m["content"]) for m in messages) // 4

    async def close(self) -> None:
        """Nothing to let go of."""


def _leads_to(node: Node, truth: str) -> bool:
    """Tell whether the truth, an id or a path, is the node's or goes on below it."""
    return truth in {node.id, node.label} or truth.startswith(f"{node.label} > ")


def _overlap(words: set[str], node: Node) -> float:
    """Return the share of the label's words that the item has."""
    text = " ".join((node.label, *node.synonyms, *node.names.values())).lower()
    label = set(_WORD.findall(text))
    return len(words & label) / math.sqrt(len(label)) if label else 0.0
