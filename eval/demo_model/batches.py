"""Menus to token tensors, through llmcat's own prompts: what is trained is what will be asked."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from network import Batch
from tokens import CODES

from llmcat.prompts import available
from llmcat.records import Menu, Node

if TYPE_CHECKING:
    from data import Drawn
    from transformers import PreTrainedTokenizerFast

__all__ = ["Asked", "ask", "assemble"]

ABOUT = (
    "", "", "products of an online shop", "titles of shop listings", "goods", "short texts",
    "messages of customers", "names of goods and services", "business activities",
)  # fmt: skip
PROMPTS = {p.front.name: p for p in available()}
MOST_TOKENS = 56
NONE = {"en": "None of these", "zh": "以上都不是"}


@dataclass(frozen=True)
class Asked:
    """One menu as token ids: what is shared, then each item up to and with its answer.

    `lines` are the token ranges (start, end) of the menu's lines, the code first, the exit last.
    `read` is the number of tokens of each answer.
    """

    shared: list[int]
    lines: list[tuple[int, int]]
    items: list[list[int]]
    text: list[tuple[int, int]]
    answers: list[list[int]]
    gold: list[int]


def ask(
    draw: random.Random, drawn: Drawn, tokenizer: PreTrainedTokenizerFast, *, shots: int = 0
) -> Asked:
    """Render and tokenize a menu; the first `shots` answered items become examples."""
    n = len(drawn.labels)
    style = draw.random()
    codes = list(CODES[: n + 1])
    if style < 0.15:
        draw.shuffle(codes)
    elif style < 0.25:
        codes = draw.sample(CODES, n + 1)
    language = "zh" if drawn.zh or draw.random() < 0.05 else "en"
    prompt = PROMPTS[f"{'few' if shots else 'zero'}-shot.{language}"]
    nodes = tuple(Node(id=str(i), name=x, path=(x,)) for i, x in enumerate(drawn.labels))
    parent = None
    menu = Menu(nodes=nodes, codes=tuple(codes), parent=parent)
    names = {node.id: node.name for node in nodes}
    messages = [prompt.system(menu, names=names, about=draw.choice(ABOUT))]
    exit_code = codes[-1]
    code_of = [exit_code if a is None else codes[a] for a in drawn.answers]
    for i in range(shots):
        messages += [prompt.user(drawn.items[i]), {"role": "assistant", "content": code_of[i]}]
    shared = tokenizer.apply_chat_template(messages, tokenize=False)
    encoded = tokenizer(shared, return_offsets_mapping=True)
    starts: list[int] = []
    at = 0
    lines = [f"{c}. {x}\n" for c, x in zip(codes, [*drawn.labels, NONE[language]], strict=True)]
    for line in lines:
        at = shared.index("\n" + line, max(0, at - 1)) + 1
        starts.append(at)
        at += len(line)
    token_at = {start: i for i, (start, _) in reversed(list(enumerate(encoded["offset_mapping"])))}
    ends = [token_at.get(s + len(x), -1) for s, x in zip(starts, lines, strict=True)]
    ranges = [(token_at[s], e) for s, e in zip(starts, ends, strict=True)]
    ranges[-1] = (ranges[-1][0], ranges[-1][0] + len(tokenizer(lines[-1])["input_ids"]))
    users = [prompt.user(x)["content"] for x in drawn.items[shots:]]
    shown = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": u}], tokenize=False, add_generation_prompt=True
        )
        for u in users
    ]
    items = tokenizer(shown)["input_ids"]
    foot = len(
        tokenizer("\n\nCode of the category:<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    )
    items = [x if len(x) <= MOST_TOKENS else x[: MOST_TOKENS - foot] + x[-foot:] for x in items]
    answers = tokenizer.convert_tokens_to_ids(code_of[shots:])
    head = len(tokenizer("<|im_start|>user\nTitle:")["input_ids"])
    return Asked(
        shared=encoded["input_ids"],
        lines=ranges,
        items=items,
        text=[(head, max(head + 1, len(x) - foot)) for x in items],
        answers=[[a] for a in answers],
        gold=[n if a is None else a for a in drawn.answers[shots:]],
    )


def assemble(asked: list[Asked], *, pad: int) -> Batch:
    """Pad menus of equally many items into one batch."""
    b, n = len(asked), len(asked[0].items)
    s = max(len(a.shared) for a in asked)
    r = max(len(x) for a in asked for x in a.answers)
    full = [[x + y[:-1] for x, y in zip(a.items, a.answers, strict=True)] for a in asked]
    m = max(len(x) for a in full for x in a)
    shared = torch.full((b, s), pad)
    items = torch.full((b, n, m), pad)
    read = torch.zeros(b, n, r, dtype=torch.long)
    target = torch.full((b, n, r), -100)
    line_code = torch.full((b, s), -1)
    line = torch.full((b, s), -1)
    text = torch.zeros(b, n, m, dtype=torch.bool)
    for i, a in enumerate(asked):
        shared[i, : len(a.shared)] = torch.tensor(a.shared)
        for number, (start, end) in enumerate(a.lines):
            line[i, start:end] = number
            line_code[i, start + 1 : end] = start
        for j, x in enumerate(full[i]):
            items[i, j, : len(x)] = torch.tensor(x)
            answer, begin = a.answers[j], len(a.items[j]) - 1
            read[i, j, : len(answer)] = torch.arange(begin, begin + len(answer))
            target[i, j, : len(answer)] = torch.tensor(answer)
            text[i, j, a.text[j][0] : a.text[j][1]] = True
    return Batch(
        shared=shared,
        shared_len=torch.tensor([len(a.shared) for a in asked]),
        items=items,
        read=read,
        target=target,
        line_code=line_code,
        line=line,
        gold=torch.tensor([a.gold for a in asked]),
        text=text,
    )
