"""Build a tiny Qwen2 with random weights: it proves the plumbing, it knows nothing.

    python eval/demo_model/build_random.py OUT [--seed 0] [--max-position 8192]

Two layers, hidden size 128, about half a million parameters, a byte-level BPE of its
own and a ChatML template, so that vLLM and transformers load it like any instruct
model. Takes a second; needs torch, transformers and tokenizers.
"""

from __future__ import annotations

import argparse
import string
from pathlib import Path

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
    "{% if not (loop.last and continue_final_message) %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def corpus() -> list[str]:
    """Text for the BPE: words of prompts, and every pair of capitals, so that pairs merge."""
    words = "Choose the category of this shop item. Answer with the code of one category only."
    capitals = string.ascii_uppercase
    return [words] * 50 + ["\n".join(a + b for b in capitals) for a in capitals] * 5


def build(out: Path, *, seed: int, max_position: int) -> None:
    """Write config, weights and tokenizer to `out`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=2048,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    tokenizer.chat_template = CHATML
    tokenizer.model_max_length = max_position

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_position,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.2,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Build the model that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-position", type=int, default=8192)
    args = parser.parse_args()
    build(args.out, seed=args.seed, max_position=args.max_position)
    print(f"wrote {args.out}: random weights, plumbing only")


if __name__ == "__main__":
    main()
