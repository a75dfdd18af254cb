"""Menus to token tensors, through llmcat's own prompts: what is trained is what will be asked."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from network import Batch
from tokens import CODES

from llmcat.prompting.templates import NONE_IN, Names, available
from llmcat.records import Menu, Node

if TYPE_CHECKING:
    from data import Drawn
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

__all__ = ["Asked", "ask", "assemble", "bags"]

ABOUT = (
    "", "", "products of an online shop", "titles of shop listings", "goods", "short texts",
    "messages of customers", "names of goods and services", "business activities",
)  # fmt: skip
PROMPTS = {p.front.name: p for p in available()}
MOST_TOKENS = 80

FEET = {"en": "\n\nCode of the category:", "zh": "\n\n类目代码："}


@dataclass(frozen=True)
class Asked:
    """One menu as token ids: what is shared, then each item, and what is to be answered."""

    shared: list[int]
    items: list[list[int]]
    answers: list[list[int]]
    codes: list[str]


def ask(
    draw: random.Random,
    drawn: Drawn,
    tokenizer: PreTrainedTokenizerFast,
    *,
    shots: int = 0,
    text: bool = False,
    plain: bool = False,
) -> Asked:
    """Render and tokenize a menu; the first `shots` answered items become examples.

    `plain`: codes and language as llmcat would choose them.
    """
    n = len(drawn.labels)
    codes = list(CODES[: n + 1]) if plain else codes_of(draw, drawn)
    language = ("zh" if drawn.zh else "en") if plain else language_of(draw, drawn)
    if text:
        codes, kind = [*drawn.labels, NONE_IN[language]], "text"
    else:
        kind = "few-shot" if shots else "zero-shot"
    prompt = PROMPTS[f"{kind}.{language}"]
    nodes = tuple(Node(id=str(i), name=x, path=(x,)) for i, x in enumerate(drawn.labels))
    menu = Menu(nodes=nodes, codes=tuple(codes))
    names = Names({node.id: node.name for node in nodes})
    about = draw.choice(ABOUT)
    messages = [*prompt.shared(menu, names=names, about=about)]
    own = partial(prompt.own, menu=menu, names=names, about=about)
    answers = [codes[n if a is None else a] for a in drawn.answers]
    for i in range(shots):
        messages += [own(drawn.items[i]), {"role": "assistant", "content": answers[i]}]
    shared = tokenizer.apply_chat_template(messages, tokenize=False)
    users = [own(x)["content"] for x in drawn.items[shots:]]
    foot = FEET[language] if not text else "\n\n" + users[0].rsplit("\n\n", 1)[1]
    items = turns(tokenizer, users, foot)
    end = [tokenizer.eos_token_id] if text else []
    return Asked(
        shared=tokenizer(shared)["input_ids"],
        items=items,
        answers=[x + end for x in tokenizer(answers[shots:])["input_ids"]],
        codes=codes,
    )


def codes_of(draw: random.Random, drawn: Drawn) -> list[str]:
    """In alphabetical order mostly, as they will be asked; in any order sometimes."""
    n = len(drawn.labels) + 1
    codes = list(CODES[:n])
    style = draw.random()
    if style < 0.15:
        draw.shuffle(codes)
    elif style < 0.3:
        codes = draw.sample(CODES, n)
    return codes


def language_of(draw: random.Random, drawn: Drawn) -> str:
    """The prompt's language: the labels' mostly."""
    return "zh" if drawn.zh or draw.random() < 0.05 else "en"


def turns(tokenizer: PreTrainedTokenizerFast, users: list[str], foot: str) -> list[list[int]]:
    """Tokenize user turns up to where the answer begins; long ones lose their middle."""
    shown = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": u}], tokenize=False, add_generation_prompt=True
        )
        for u in users
    ]
    tail = len(tokenizer(foot + "<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
    items = tokenizer(shown)["input_ids"]
    return [x if len(x) <= MOST_TOKENS else x[: MOST_TOKENS - tail] + x[-tail:] for x in items]


def bags(
    draw: random.Random, drawn: Drawn, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the tokens that the circuit gathers: per item, and per line of the menu."""
    language = language_of(draw, drawn)
    prompt = PROMPTS[f"zero-shot.{language}"]
    own = partial(prompt.own, menu=None, names=Names(), about="")
    users = [own(x)["content"] for x in drawn.items]
    lines = [f". {x}\n" for x in drawn.labels] + [f". {NONE_IN[language]}\n\n"]
    return turns(tokenizer, users, FEET[language]), tokenizer(lines)["input_ids"]


def assemble(asked: list[Asked], *, pad: int) -> Batch:
    """Pad menus of equally many items into one batch."""
    r = max(len(x) for a in asked for x in a.answers)
    full = [[x + y[:-1] for x, y in zip(a.items, a.answers, strict=True)] for a in asked]
    m = max(len(x) for a in full for x in a)
    b, n = len(asked), len(asked[0].items)
    shared = padded([a.shared for a in asked], pad)
    items = torch.full((b, n, m), pad)
    read = torch.zeros(b, n, r, dtype=torch.long)
    target = torch.full((b, n, r), -100)
    for i, a in enumerate(asked):
        for j, x in enumerate(full[i]):
            items[i, j, : len(x)] = torch.tensor(x)
            answer, begin = a.answers[j], len(a.items[j]) - 1
            read[i, j, : len(answer)] = torch.arange(begin, begin + len(answer))
            target[i, j, : len(answer)] = torch.tensor(answer)
    return Batch(
        shared=shared,
        shared_len=torch.tensor([len(a.shared) for a in asked]),
        items=items,
        read=read,
        target=target,
    )


def padded(rows: list[list[int]], pad: int) -> Tensor:
    """Return (rows, longest), padding at the end."""
    out = torch.full((len(rows), max(map(len, rows))), pad)
    for i, x in enumerate(rows):
        out[i, : len(x)] = torch.tensor(x)
    return out
