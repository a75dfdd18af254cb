"""Train the demo model.

    LLMCAT_DATA=folder python eval/demo_model/train.py OUT [--steps 12000] [--seed 0]

It does not reach the bars yet: docs/decisions/0004 says how far it comes and what is next. The
rotary base is high, so that meaning can be matched over any distance. Early on the attention
itself is supervised (`guide`): a label's words to their code, evenly to each other, the answer
evenly to the item's words, then to the right line of the menu; the weight of this falls to zero.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

import torch
from batches import ask, assemble
from data import Size, menus, rows, shopify, worlds
from network import Batch, Decoder, Shape, export
from tokens import embedding, train_tokenizer
from torch import Tensor
from torch.nn import functional

from llmcat.prompts import available

HERE = Path(__file__).resolve().parent


def corpus(data: Path, found: list, draw: random.Random) -> list[str]:
    """Texts for the tokenizer: a bounded sample of everything."""
    texts: list[str] = []
    for drawn, _ in zip(menus(draw, found, per_menu=24), range(3000), strict=False):
        texts += [t for x in drawn.items for t in x.values()]
        texts += [" " + x for x in drawn.labels]
    for r in rows(data / "taxonomy_shopify/nodes.jsonl.gz"):
        texts += [r["path"].rsplit(" > ", 1)[-1], r.get("path_zh", "").rsplit(" > ", 1)[-1]]
    texts += [p.body for p in available()] * 50
    return texts


def guide(batch: Batch, shared: list[Tensor], items: list[Tensor]) -> dict[str, Tensor]:
    """Return what attention misses: negative log of the weight on what should be attended to."""
    b, s = batch.shared.shape
    _, n, m = batch.items.shape
    eps = 1e-4
    inside = batch.line_code >= 0
    to_code = shared[0][:, 0].gather(2, batch.line_code.clamp(min=0)[..., None])[..., 0]
    own_code = -(to_code[inside] + eps).log().mean()
    # Evenly over the words: any of them alone would satisfy a sum, and lose the meaning.
    words = torch.arange(s) >= batch.line_code + 2
    same = batch.line[:, :, None] == batch.line[:, None]
    spread = (same & (inside & words)[:, None] & (inside & words)[:, :, None]).tril().float()
    weight = shared[1].mean(1)
    own_line = even(weight, spread)[inside & words].mean()
    last = batch.read[..., 0]
    w = items[1][..., s:].reshape(b, -1, n, m, m).mean(1)
    w = w.gather(2, last[..., None, None].expand(b, n, 1, m))[:, :, 0]
    to_item = even(w, batch.text.float()).mean()
    right = batch.line[:, None] == batch.gold[..., None]  # (b, n, s)
    hits = []
    for depth in (2, 3):
        weight = items[depth][..., :s]
        q = weight.shape[2] // n
        weight = weight.reshape(b, -1, n, q, s)
        index = last if q == m else torch.zeros_like(last)
        index = index[:, None, :, None, None].expand(b, weight.shape[1], n, 1, s)
        weight = weight.gather(3, index)[:, :, :, 0].mean(1)
        hits.append(-((weight * right).sum(-1) + eps).log().mean())
    return {"code": own_code, "line": own_line, "item": to_item, "match": sum(hits) / 2}


def best(batch: Batch, weight: Tensor) -> Tensor:
    """Share of items whose answer attends most to the right line."""
    b, s = batch.shared.shape
    _, n, m = batch.items.shape
    weight = weight[..., :s].reshape(b, -1, n, m, s)
    index = batch.read[..., 0][:, None, :, None, None].expand(b, weight.shape[1], n, 1, s)
    weight = weight.gather(3, index)[:, :, :, 0].mean(1)
    lines = functional.one_hot(batch.line + 1)[..., 1:].float()
    mean = weight.float() @ (lines / lines.sum(1, keepdim=True).clamp(min=1))
    return (mean.argmax(-1) == batch.gold).float().mean()


def even(weight: Tensor, spread: Tensor) -> Tensor:
    """Kullback-Leibler divergence of attention from an even spread over what is marked."""
    count = spread.sum(-1).clamp(min=1)
    return -((weight + 1e-6).log() * spread).sum(-1) / count - count.log()


def main() -> None:  # noqa: PLR0912, PLR0915  one loop, read from top to bottom
    """Train, with progress and checkpoints; go on from a checkpoint that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--menus", type=int, default=4, help="menus per step")
    parser.add_argument("--items", type=int, default=24, help="items per menu")
    parser.add_argument("--vocab", type=int, default=16_384)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--guide", type=int, default=3000, help="steps until attention is free")
    parser.add_argument("--gather", type=int, default=200)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    data = Path(os.environ["LLMCAT_DATA"])
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    found = worlds(data)
    tok_file = args.out / "tokenizer.json"
    if not tok_file.exists():
        tokenizer = train_tokenizer(corpus(data, found, random.Random(args.seed)), vocab=args.vocab)
        tokenizer.save_pretrained(args.out)
        tree = shopify(data)
        pairs = [(p[-1], tree.path_zh[k][-1]) for k, p in tree.path.items() if k in tree.path_zh]
        torch.save(
            embedding(tokenizer, pairs, hidden=256, carried=192, seed=args.seed),
            args.out / "embedding.pt",
        )
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
    model = Decoder(Shape(vocab=len(tokenizer)), torch.load(args.out / "embedding.pt"))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    matrices = [p for k, p in model.named_parameters() if p.ndim == 2 and "embed" not in k]
    others = [p for k, p in model.named_parameters() if p.ndim != 2 or "embed" in k]
    optimizers = [
        torch.optim.Muon(matrices, lr=args.rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    draw = random.Random(args.seed + 1)
    size = Size()
    stream = menus(draw, found, per_menu=args.items + 8, size=size)
    started, seen = time.monotonic(), 0
    kept: dict[str, list[float]] = {}
    for step in range(args.steps):
        least = min(1.0, step / (args.guide or 1))
        gathering = step < args.gather
        for name, parameter in model.named_parameters():
            early = name.startswith(("blocks.0.", "blocks.1.")) and (".q." in name or ".k." in name)
            parameter.requires_grad_(early or not gathering)
        size.most = round(6 + 34 * min(1, max(0, step - args.gather) / 1000))
        asked = []
        shots = draw.randint(2, 8) if draw.random() < 0.25 * least else 0
        while len(asked) < args.menus:
            drawn = next(stream)
            drawn.items[shots + args.items :], drawn.answers[shots + args.items :] = [], []
            one = ask(draw, drawn, tokenizer, shots=shots)
            if len(one.shared) < 900:
                asked.append(one)
        batch = assemble(asked, pad=tokenizer.pad_token_id)
        factor = (
            min(1, (step + 1) / 100)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
            * (4 if gathering else min(1, 0.1 + (step - args.gather) / 500))
        )
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.rate * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            logits, shared, items = model(batch)
        loss = functional.cross_entropy(logits.float().flatten(0, 2), batch.target.flatten())
        parts = {"answer": loss}
        weight = max(0.0, 1 - step / args.guide) if args.guide else 0
        if weight:
            guided = guide(batch, shared, items)
            parts |= guided
            parts["best"] = best(batch, items[2])
            matched = guided.pop("match")
            loss = (
                sum(guided.values())
                if gathering
                else loss + weight * (0.5 * sum(guided.values()) + matched)
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seen += int(batch.shared_len.sum()) + batch.items.numel()
        right = (logits[:, :, 0].argmax(-1) == batch.target[:, :, 0]).float()
        parts["right"] = right.mean()
        for i, a in enumerate(asked):
            kept.setdefault(
                f"n{'<=5' if len(a.lines) <= 6 else '<=15' if len(a.lines) <= 16 else '>15'}", []
            ).append(float(right[i].mean()))
        for key, value in parts.items():
            kept.setdefault(key, []).append(float(value.detach()))
        if (step + 1) % 50 == 0:
            mean = {k: round(sum(v) / len(v), 3) for k, v in sorted(kept.items())}
            kept.clear()
            spent = time.monotonic() - started
            print(
                f"{step + 1} {spent:.0f}s {seen / spent:.0f} tok/s {json.dumps(mean)}", flush=True
            )
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            export(model, tokenizer, args.out / "model")
    print("done")


if __name__ == "__main__":
    main()
