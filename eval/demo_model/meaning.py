"""What the circuit looks up by: a vector and an importance per token, fitted without a network.

An item, and a line of a menu, is the mean of its tokens' vectors, weighted by importance; a
softmax over the lines of the item's menu, the exit included, is fitted. This is exactly what
`wiring.py` makes of the network, at a hundredth of the cost, so it is learned first. Vectors start
from MiniLM's (`tokens.meanings`).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from batches import bags, padded
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding
from wiring import CARRIED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from data import Drawn
    from transformers import PreTrainedTokenizerFast

__all__ = ["Meaning", "fit"]


class Meaning(nn.Module):
    """Vectors and log-importances of tokens; how sharp the softmax is; the exit's head start.

    `start` (words, 384) and `word` (vocab,) come from `tokens.meanings`. A vector is a linear map
    of the word's start, learned from all words, plus what is learned of the word itself: so a word
    that training never shows still has a place.
    """

    def __init__(self, start: Tensor, word: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start / start.norm(dim=1).max())
        self.register_buffer("word", word)
        _, _, basis = torch.pca_lowrank(start[start.norm(dim=1) > 0], q=CARRIED, center=False)
        self.map = nn.Parameter(basis.clone())
        self.own = nn.Parameter(0.01 * torch.randn(len(start), CARRIED))
        self.tilt = nn.Parameter(torch.zeros(start.shape[1]))
        self.own_weight = nn.Parameter(torch.where(start.norm(dim=1) > 0, 0.0, -2.0))
        self.sharpness = nn.Parameter(torch.tensor(3.0))
        self.leaving = nn.Parameter(torch.tensor(1.0))

    def of(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (n, CARRIED) and log-importances (n,) of words."""
        start = self.start[words]
        # Blanks mean nothing: the circuit reads at line ends, and must find only what it gathered.
        own = self.own[words] * (words > 0)[:, None]
        return start @ self.map + own, start @ self.tilt + self.own_weight[words]

    @torch.no_grad()
    def tokens(self) -> tuple[Tensor, Tensor]:
        """Return vectors (vocab, CARRIED) and log-importances (vocab,) of tokens."""
        vectors, weights = self.of(torch.arange(len(self.start)))
        return vectors[self.word], weights[self.word]

    def forward(self, rows: list[list[int]]) -> Tensor:
        """Return the weighted means (rows, CARRIED)."""
        ids = padded(rows, 0)
        there = torch.arange(ids.shape[1]) < torch.tensor([[len(x)] for x in rows])
        words, at = self.word[ids].unique(return_inverse=True)
        vectors, weights = self.of(words)
        share = weights[at].masked_fill(~there, -1e9).softmax(-1)
        return (share[:, None] @ embedding(at, vectors))[:, 0]

    def scores(self, items: Tensor, lines: Tensor) -> Tensor:
        """Return logits (items, lines); the last line is the exit."""
        out = items @ lines.T * self.sharpness.exp()
        return torch.cat([out[:, :-1], out[:, -1:] + self.leaving], 1)


def fit(
    start: tuple[Tensor, Tensor],
    stream: Iterator[Drawn],
    tokenizer: PreTrainedTokenizerFast,
    *,
    steps: int,
    seed: int,
    menus: int = 8,
    rate: float = 0.003,
    report: Callable[[int, Meaning], None] | None = None,
) -> Meaning:
    """Fit by Adam with a rate that falls to zero."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    model = Meaning(*start)
    single = [model.own_weight, model.tilt, model.sharpness, model.leaving]
    optimizer = torch.optim.Adam(
        [
            {"params": [model.own], "share": 1.0},
            {"params": [model.map], "share": 0.5},
            {"params": single, "share": 2.0},
        ]
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"] * (1 - step / steps)
        drawn = [next(stream) for _ in range(menus)]
        found = [bags(draw, d, tokenizer) for d in drawn]
        items = model([x for items, _ in found for x in items])
        lines = model([x for _, lines in found for x in lines])
        losses, i, j = [], 0, 0
        for d, (own_items, own_lines) in zip(drawn, found, strict=True):
            n = len(own_lines)
            scores = model.scores(items[i : i + len(own_items)], lines[j : j + n])
            i, j = i + len(own_items), j + n
            target = torch.tensor([n - 1 if a is None else a for a in d.answers])
            losses.append(cross_entropy(scores, target, reduction="sum"))
        (torch.stack(losses).sum() / i).backward()
        optimizer.step()
        optimizer.zero_grad()
        if report and (step + 1) % 250 == 0:
            report(step + 1, model)
    return model
