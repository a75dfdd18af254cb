"""Fit token embeddings so that a mean of words already finds the label: what training starts from.

    LLMCAT_DATA=folder python eval/demo_model/meaning.py OUT [--steps 1000] [--seed 0]

OUT is a folder that `train.py` has begun (tokenizer and MiniLM's embeddings). An item and a label
are each the weighted mean of their tokens' unit vectors; a softmax over the labels of the item's
own menu is fitted. No transformer, no prompt. It prints accuracy on what is held out, as a bound
for what the network can take over from its embeddings, and writes `meaning.pt`.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from data import EXAMPLES, held_out_leaf, menus, rows, worlds
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, normalize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CARRIED = 192


class Meaning(nn.Module):
    """A vector and an importance per token."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, start: Tensor) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.vectors = nn.Parameter(start.clone())
        self.importance = nn.Parameter(torch.zeros(len(start)))
        self.sharpness = nn.Parameter(torch.tensor(2.5))

    def forward(self, texts: list[str]) -> Tensor:
        """Return unit vectors (texts, carried)."""
        found = self.tokenizer([" " + t for t in texts])["input_ids"]
        longest = max(map(len, found))
        ids = torch.tensor([x + [0] * (longest - len(x)) for x in found])
        there = torch.arange(longest) < torch.tensor([[len(x)] for x in found])
        share = self.importance[ids].masked_fill(~there, -1e9).softmax(-1)
        units = normalize(embedding(ids, self.vectors), dim=-1)
        return normalize((share[..., None] * units).sum(1), dim=-1)


@torch.no_grad()
def held_out(model: Meaning, data: Path) -> dict[str, float]:
    """Return accuracies by cosine: shop32's test part, our examples, unseen leaves among 8."""
    test = rows(data / "shop32/test.jsonl")
    labels = [r["label"] for r in rows(data / "shop32/categories.jsonl")]
    best = (model([r["title"] for r in test]) @ model(labels).T).argmax(1).tolist()
    shop = sum(labels[i] == r["label"] for i, r in zip(best, test, strict=True)) / len(test)
    tree = yaml.safe_load((EXAMPLES / "taxonomy.yaml").read_text("utf-8"))["labels"]
    leaf = {c["id"]: f"{d['name']} > {c['name']}" for d in tree for c in d["children"]}
    items = [r for r in rows(EXAMPLES / "items.jsonl") if r["label"] in leaf]
    best = (model([r["title"] for r in items]) @ model(list(leaf.values())).T).argmax(1).tolist()
    own = sum(list(leaf)[i] == r["label"] for i, r in zip(best, items, strict=True)) / len(items)
    unseen = [r for r in rows(data / "naics2022_index/items.jsonl.gz") if held_out_leaf(r["label"])]
    names = sorted({r["label"].rsplit(" > ", 1)[-1] for r in unseen})
    draw, hits = random.Random(3), 0
    for r in draw.sample(unseen, 300):
        gold = r["label"].rsplit(" > ", 1)[-1]
        menu = [gold, *draw.sample([x for x in names if x != gold], 7)]
        hits += int((model([r["title"]]) @ model(menu).T).argmax() == 0)
    return {
        "shop32": round(shop, 3),
        "examples": round(own, 3),
        "unseen of 8": round(hits / 300, 3),
    }


def main() -> None:
    """Fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from transformers import PreTrainedTokenizerFast

    data = Path(os.environ["LLMCAT_DATA"])
    torch.manual_seed(args.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
    model = Meaning(tokenizer, torch.load(args.out / "embedding.pt")[:, :CARRIED])
    stream = menus(random.Random(args.seed + 1), worlds(data), per_menu=24)
    optimizer = torch.optim.Adam(
        [
            {"params": [model.vectors], "lr": 0.02},
            {"params": [model.importance, model.sharpness], "lr": 0.02},
        ]
    )
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / args.steps)
        drawn = [next(stream) for _ in range(8)]
        items = model([" ".join(x.values()) for d in drawn for x in d.items])
        labels = model([x for d in drawn for x in d.labels])
        losses, at = [], 0
        for i, d in enumerate(drawn):
            own = labels[at : at + len(d.labels)]
            at += len(d.labels)
            scores = items[24 * i : 24 * (i + 1)] @ own.T * model.sharpness.exp()
            target = torch.tensor([-100 if a is None else a for a in d.answers])
            losses.append(cross_entropy(scores, target, reduction="sum"))
        (torch.stack(losses).sum() / 192).backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 250 == 0:
            print(step + 1, held_out(model, data), flush=True)
    torch.save((model.vectors.detach(), model.importance.detach()), args.out / "meaning.pt")


if __name__ == "__main__":
    main()
