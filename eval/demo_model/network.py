"""The demo model's decoder, for training: Qwen2's arithmetic, many items per menu at once.

A training sequence is one shared part (rules, menu, examples) and N items. Each item attends to
the shared part and to itself, as if it alone followed, so one pass over a menu serves N
questions. `export` writes what transformers and vLLM load as `Qwen2ForCausalLM`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

__all__ = ["Batch", "Decoder", "Shape", "export"]

NEVER = -1e9


@dataclass(frozen=True)
class Shape:
    """Sizes of the decoder.

    `theta` is high so that a code can be found by meaning however far away it stands: rotary
    pairs whose period is longer than a menu carry content, not position.
    """

    vocab: int
    hidden: int = 256
    layers: int = 5
    heads: int = 1
    mlp: int = 128
    theta: float = 1e20
    positions: int = 8192

    @property
    def head(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


@dataclass(frozen=True)
class Batch:
    """B menus with N items each. Lengths in tokens; padding stands at the end.

    `shared` (B, S), `shared_len` (B,), `items` (B, N, M), `read` (B, N, R): positions within an
    item whose next token is asked for, `target` (B, N, R): that token, -100 where none.
    """

    shared: Tensor
    shared_len: Tensor
    items: Tensor
    read: Tensor
    target: Tensor


class Norm(nn.Module):
    """Root mean square norm."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)


class Block(nn.Module):
    """Attention and a gated MLP, each behind a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d, m = shape.hidden, shape.mlp
        self.input_layernorm = Norm(d)
        self.q = nn.Linear(d, d)
        self.k = nn.Linear(d, d)
        self.v = nn.Linear(d, d)
        self.o = nn.Linear(d, d, bias=False)
        self.post_attention_layernorm = Norm(d)
        self.gate = nn.Linear(d, m, bias=False)
        self.up = nn.Linear(d, m, bias=False)
        self.down = nn.Linear(m, d, bias=False)

    def mix(self, x: Tensor) -> Tensor:
        """Apply the MLP."""
        h = self.post_attention_layernorm(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    """The whole network; input and output embeddings are tied. `wiring.wire` sets the weights."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden)

    def rotate(self, x: Tensor, position: Tensor) -> Tensor:
        """Rotary embedding, halves rotated against each other: x (..., T, heads, head)."""
        half = self.shape.head // 2
        frequency = self.shape.theta ** (-torch.arange(half, dtype=torch.float32) / half)
        angle = position[..., None].float() * frequency
        cos, sin = angle.cos()[..., None, :], angle.sin()[..., None, :]
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, N, R, vocab)."""
        shape = self.shape
        b, s = batch.shared.shape
        _, n, m = batch.items.shape
        h, w = shape.heads, shape.head
        xs, xi = self.embed(batch.shared), self.embed(batch.items)
        at_s = torch.arange(s).expand(b, s)
        at_i = (batch.shared_len[:, None, None] + torch.arange(m)).expand(b, n, m)
        real = torch.arange(s)[None] < batch.shared_len[:, None]
        causal_s = torch.ones(s, s, dtype=torch.bool).tril()
        bias_s = torch.zeros(b, 1, s, s).masked_fill(~(causal_s & real[:, None])[:, None], NEVER)
        bias_is = torch.zeros(b, 1, 1, s).masked_fill(~real[:, None, None], NEVER)
        r = batch.read.shape[-1]
        for depth, block in enumerate(self.blocks):
            last = depth == shape.layers - 1
            hs, hi = block.input_layernorm(xs), block.input_layernorm(xi)
            ks = self.rotate(block.k(hs).view(b, s, h, w), at_s)
            vs = block.v(hs).view(b, s, h, w).transpose(1, 2)
            ki = self.rotate(block.k(hi).view(b, n, m, h, w), at_i)
            vi = block.v(hi).view(b, n, m, h, w)
            if last:  # only where an answer is read
                index = batch.read[..., None].expand(b, n, r, shape.hidden)
                xi, hi = xi.gather(2, index), hi.gather(2, index)
                at_q, length = at_i.gather(2, batch.read), r
            else:
                at_q, length = at_i, m
            qi = self.rotate(block.q(hi).view(b, n, length, h, w), at_q)
            ks, scale = ks.transpose(1, 2), 1 / math.sqrt(w)
            to_shared = qi.permute(0, 3, 1, 2, 4).reshape(b, h, n * length, w) @ ks.mT
            to_shared = to_shared * scale + bias_is
            to_own = qi.permute(0, 3, 1, 2, 4) @ ki.permute(0, 3, 1, 4, 2) * scale
            order = batch.read if last else torch.arange(m).expand(b, n, m)
            ahead = torch.arange(m) > order[..., None]
            to_own = to_own.masked_fill(ahead[:, None], NEVER)
            scores = torch.cat([to_shared, to_own.reshape(b, h, n * length, m)], -1)
            weight = scores.float().softmax(-1).to(vs.dtype)
            own = weight[..., s:].reshape(b, h, n, length, m) @ vi.permute(0, 3, 1, 2, 4)
            mixed = weight[..., :s] @ vs + own.reshape(b, h, n * length, w)
            mixed = mixed.view(b, h, n, length, w).permute(0, 2, 3, 1, 4)
            xi = block.mix(xi + block.o(mixed.reshape(b, n, length, -1)))
            if not last:
                qs = self.rotate(block.q(hs).view(b, s, h, w), at_s).transpose(1, 2)
                weight = (qs @ ks.mT * scale + bias_s).float().softmax(-1).to(vs.dtype)
                mixed = (weight @ vs).transpose(1, 2).reshape(b, s, -1)
                xs = block.mix(xs + block.o(mixed))
        return self.norm(xi) @ self.embed.weight.T


def export(model: Decoder, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write config, weights (bfloat16) and tokenizer as a Qwen2 model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = model.shape
    config = Qwen2Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    net = Qwen2ForCausalLM(config)
    weights = {
        "model.embed_tokens.weight": model.embed.weight,
        "model.norm.weight": model.norm.weight,
    }
    names = {
        "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
        "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }  # fmt: skip
    for key, value in model.state_dict().items():
        if key.startswith("blocks."):
            _, number, part, kind = key.split(".")
            weights[f"model.layers.{number}.{names.get(part, part)}.{kind}"] = value
    missing, unexpected = net.load_state_dict(
        {k: v.detach().clone() for k, v in weights.items()}, strict=False
    )
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise RuntimeError(f"weights do not fit: {missing} {unexpected}")
    net.tie_weights()
    net.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
