"""The circuit that training starts from: how five layers look an answer up, written as weights.

Learning the look-up from nothing stayed at chance (docs/decisions/0004). It is four hops of one
head each, and simple enough to write down:

    layer 0   a token looks one back: does it stand at the start of a line?
    layer 1   a token looks at the last line start (a code, a number) or turn: that is its group
    layer 2   the end of a menu line, and the answer's position, gather the meaning of their group
    layer 3   the answer's position compares what it gathered with every line's end, takes the code
    layer 4   ... and every word of the chosen line, for answers that spell names

The residual stream is laid out in parts: what a token means (`MEANING`), which code its group has
(`CODE`), and flags. Rotary pairs that turn fast tell positions; slow ones compare content at any
distance. Everything, these weights included, is trained further afterwards.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from tokens import CODES, IM, NUMBERS

if TYPE_CHECKING:
    from network import Decoder
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

__all__ = ["CARRIED", "code_vectors", "groups", "widen", "wire"]

CARRIED = 176
MEANING = slice(0, CARRIED)
CODE = slice(CARRIED, CARRIED + 64)
NEWLINE, DOUBLE, CODED, NUMBERED, TURN, STARTS = range(CARRIED + 64, CARRIED + 70)
OF_TURN, OF_CODE, OF_NUMBER, WEIGHT, CONSTANT = range(CARRIED + 70, CARRIED + 75)
LEVEL = 30.0  # the constant's size: it dominates the norm, so that normalising changes little
GATHERED = 4.0
FAST = 28  # rotary pairs before this one turn within a prompt's length
SAME, GATE = 40.0, 15.0
TAKEN = 7.0
WINDOW = 70.0  # tokens that an answer looks back


def code_vectors(count: int) -> Tensor:
    """Return (count, 64) unit vectors for up to 128 codes, no two closer than cosine 1/8.

    The axes, then the columns of a Hadamard matrix: mutually unbiased bases.
    """
    hadamard = torch.ones(1, 1)
    while len(hadamard) < 64:
        hadamard = torch.cat(
            [torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)]
        )
    return torch.cat([torch.eye(64), hadamard / 8])[:count]


def kernel(frequency: Tensor, target: Tensor) -> Tensor:
    """Return coefficients c so that sum c_p cos(f_p t) follows target(t), t = 0, 1, ..."""
    t = torch.arange(len(target), dtype=torch.float64)
    waves = torch.cos(t[:, None] * frequency.double())
    waves = torch.cat([waves, torch.ones(len(t), 1, dtype=torch.float64)], 1)
    near = (1 / (1 + t))[:, None].sqrt()
    ridge = 0.05 * torch.eye(waves.shape[1], dtype=torch.float64)
    system = torch.cat([waves * near, ridge])
    wanted = torch.cat([target.double()[:, None] * near, torch.zeros(len(ridge), 1)])
    return torch.linalg.lstsq(system, wanted).solution[:-1, 0].float()


def wire(  # noqa: PLR0915  one layer after the other
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    *,
    vectors: Tensor,
    weights: Tensor,
    sharpness: float,
    leaving: float,
) -> None:
    """Write the circuit into the weights.

    `vectors` (vocab, CARRIED) and `weights` (vocab,) are meanings and log-importances of tokens,
    `sharpness` multiplies the dot product of two gathered meanings, `leaving` is the exit's head
    start.
    """
    shape = model.shape
    half, root = shape.head // 2, math.sqrt(shape.head)
    frequency = shape.theta ** (-torch.arange(half, dtype=torch.float32) / half)
    slow = [i for i in range(shape.head) if i % half >= FAST]
    table = model.embed.weight.data
    table.zero_()
    table[:, MEANING] = vectors
    table[:, WEIGHT] = weights
    table[:, CONSTANT] = LEVEL
    ids = tokenizer.convert_tokens_to_ids
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(len(NUMBERS), 64, generator=generator)
    for names, flag, found in (
        (CODES, CODED, code_vectors(len(CODES))),
        (NUMBERS, NUMBERED, numbers / numbers.norm(dim=1, keepdim=True)),
    ):
        table[ids(list(names)), CODE] = found
        table[ids(list(names)), flag] = 1
        table[ids(list(names)), MEANING] = 0  # no letter is liked for what it means
    table[ids(list(IM)), TURN] = 1
    newline, double = (tokenizer(x)["input_ids"][0] for x in ("\n", "\n\n"))
    table[newline, NEWLINE] = 1
    table[double, DOUBLE] = 1
    for block in model.blocks:
        for layer in (block.q, block.k, block.v):
            layer.weight.data.zero_()
            layer.bias.data.zero_()
        torch.nn.init.normal_(block.o.weight, std=0.02)
        for layer in (block.gate, block.up):
            torch.nn.init.normal_(layer.weight, std=0.3)
            layer.weight.data[:, CONSTANT] = 0
        block.down.weight.data.zero_()
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight.data.fill_(LEVEL / root)
    first, group, gather, match, spell = model.blocks

    def position(block: torch.nn.Module, coefficients: Tensor, *, on: int | None) -> None:
        """Add a function of the distance to the scores, for queries with a flag or for all."""
        size = (coefficients.abs() * root).sqrt()
        block.k.bias.data[:FAST] = size * coefficients.sign()
        if on is None:
            block.q.bias.data[:FAST] = size
        else:
            block.q.weight.data[:FAST, on] = size

    def carry(
        block: torch.nn.Module, at: int, source: slice | int, to: slice | int, by: float
    ) -> None:
        """Let attention carry one part of the stream into another, by values `at` and on."""
        rows = list(range(shape.hidden))
        from_, to_ = ([x] if isinstance(x, int) else rows[x] for x in (source, to))
        for i, (a, b) in enumerate(zip(from_, to_, strict=True)):
            block.v.weight.data[at + i, a] = 1
            block.o.weight.data[:, at + i] = 0
            block.o.weight.data[b, at + i] = by

    # 0: one back. Rotating the query by one step puts the peak there.
    peak = 18.0
    angle = frequency[:12]
    first.q.bias.data[:12] = peak * angle.cos()
    first.q.bias.data[half : half + 12] = -peak * angle.sin()
    first.k.bias.data[:12] = peak
    first.v.weight.data[0, [NEWLINE, DOUBLE]] = 1
    first.o.weight.data[:, 0] = 0
    first.o.weight.data[STARTS, 0] = 1

    # 1: the last boundary. A code at a line's start, or a turn, is one; nearest wins.
    t = torch.arange(6000)
    target = -10 * torch.log1p(t / 2).clamp(max=5)
    position(group, kernel(frequency[:FAST], target), on=None)
    size = math.sqrt(60 * root)
    group.q.bias.data[slow[0]] = size
    group.k.weight.data[slow[0], [CODED, NUMBERED, STARTS]] = size
    group.k.weight.data[slow[0], TURN] = 2 * size
    carry(group, 0, CODE, CODE, 1)
    carry(group, 64, CODED, OF_CODE, 1)
    carry(group, 65, TURN, OF_TURN, 1)
    carry(group, 66, NUMBERED, OF_NUMBER, 1)

    # 2: the meaning of the group: weighted by importance; in a turn, the near counts more.
    size = math.sqrt(SAME * root)
    for i in range(64):
        gather.q.weight.data[slow[i], CARRIED + i] = size
        gather.k.weight.data[slow[i], CARRIED + i] = size
    gather.q.weight.data[slow[64], OF_TURN] = size
    gather.k.weight.data[slow[64], OF_TURN] = size
    gather.q.bias.data[slow[65]] = math.sqrt(root)
    gather.k.weight.data[slow[65], WEIGHT] = math.sqrt(root)
    gather.q.bias.data[slow[66]] = size
    gather.k.weight.data[slow[66], [CODED, NUMBERED]] = -1.5 * size
    position(gather, kernel(frequency[:FAST], -((t / WINDOW) ** 2).clamp(max=20)), on=OF_TURN)
    carry(gather, 0, MEANING, MEANING, GATHERED)

    # 3: the line whose meaning is nearest; only ends of menu lines can be chosen.
    size = math.sqrt(sharpness * root) / GATHERED
    for i in range(CARRIED):
        match.q.weight.data[slow[i], i] = size
        match.k.weight.data[slow[i], i] = size
    size = math.sqrt(GATE * root)
    match.q.bias.data[slow[CARRIED]] = size
    match.k.weight.data[slow[CARRIED], [NEWLINE, DOUBLE, OF_CODE, OF_NUMBER]] = size
    match.q.bias.data[slow[CARRIED + 1]] = math.sqrt(root)
    match.k.weight.data[slow[CARRIED + 1], DOUBLE] = leaving * math.sqrt(root)
    # What stands in a line chooses nothing: it looks at turns, which have no code to take.
    size = math.sqrt(2 * SAME * root)
    match.q.weight.data[slow[CARRIED + 2], [OF_CODE, OF_NUMBER]] = size
    match.k.weight.data[slow[CARRIED + 2], TURN] = size
    carry(match, 0, CODE, CODE, TAKEN)
    carry(match, 64, MEANING, MEANING, 0.5)
    # Where lines have codes, any code rather than any word; where they are numbered, any word.
    carry(match, 64 + CARRIED, OF_CODE, CODED, 9)
    carry(match, 65 + CARRIED, OF_NUMBER, NUMBERED, -12)
    match.o.weight.data[CODED, 65 + CARRIED] = -6

    # 4: the words of the line whose code was taken.
    size = math.sqrt(GATE * root)
    for i in range(64):
        spell.q.weight.data[slow[i], CARRIED + i] = size / TAKEN
        spell.k.weight.data[slow[i], CARRIED + i] = size
    spell.q.bias.data[slow[64]] = size
    spell.k.weight.data[slow[64], [CODED, NUMBERED, NEWLINE, DOUBLE]] = -4 * size
    carry(spell, 0, MEANING, MEANING, 16.0)

    out = model.norm.weight.data
    out.zero_()
    out[CODE] = 1.1 * LEVEL / root
    out[[CODED, NUMBERED]] = 1.4 * LEVEL / root
    out[MEANING] = 0.45 * LEVEL / root


def widen(model: Decoder) -> None:
    """Let the answer look further back for its item, late in training.

    A narrow window keeps few-shot examples out while the rest is learned; an item with a
    description wants its title to count as much as the lines that follow it.
    """
    half, root = model.shape.head // 2, math.sqrt(model.shape.head)
    frequency = model.shape.theta ** (-torch.arange(half, dtype=torch.float32) / half)
    t = torch.arange(6000)
    narrow = kernel(frequency[:FAST], -((t / WINDOW) ** 2).clamp(max=20))
    wide = kernel(frequency[:FAST], -((((t - 90).clamp(min=0)) / 40.0) ** 2).clamp(max=20))
    gather = model.blocks[2]
    for sign, found in ((-1, narrow), (1, wide)):
        size = (found.abs() * root).sqrt()
        gather.k.bias.data[:FAST] += sign * size * found.sign()
        gather.q.weight.data[:FAST, OF_TURN] += sign * size


def groups(model: Decoder) -> list[dict[str, object]]:
    """Return parameter groups with their shares of the learning rate.

    What writes into the stream learns slowly, or it drowns the meanings there (a few tenths a
    dimension). Codes and flags of the embedding stay as they are. So does what the constant
    contributes: it is thirty times larger than anything else, and so would be the steps of
    whatever multiplies it.
    """
    shares: dict[float, list[torch.nn.Parameter]] = {0.05: [], 0.1: [], 0.5: []}
    for name, parameter in model.named_parameters():
        inner = any(part in name for part in (".gate.", ".up."))
        last = name.startswith(f"blocks.{model.shape.layers - 1}.") and "norm" not in name
        shares[0.05 if ".down." in name else 0.5 if inner or last else 0.1].append(parameter)
    meaning, varying = torch.zeros(model.shape.hidden), torch.ones(model.shape.hidden)
    meaning[MEANING] = 1
    varying[CONSTANT] = 0
    model.embed.weight.register_hook(lambda gradient: gradient * meaning)
    for block in model.blocks:
        for layer in (block.q, block.k, block.v, block.gate, block.up):
            layer.weight.register_hook(lambda gradient: gradient * varying)
    return [{"params": found, "share": share} for share, found in shares.items()]
