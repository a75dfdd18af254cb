"""Write the demo model as GGUF, to try llama.cpp's servers: python serve/demo/to_gguf.py OUT.gguf.

Needs `pip install gguf` beside torch and transformers. GGUF has no name for this tokenizer's way of
splitting numbers, so texts with long numbers are read a little differently there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = Path(__file__).parent / "llmcat_demo" / "model"


def main(out: str) -> None:
    """Convert."""
    model: Any = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    config = model.config
    writer = gguf.GGUFWriter(out, "qwen2")
    writer.add_name("llmcat-demo")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        short = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if short and short != "output.weight":  # the head is tied to the embeddings
            writer.add_tensor(short, tensor.numpy())
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    special = set(tokenizer.all_special_ids)
    kinds = (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([kinds[id_ not in special] for _, id_ in vocabulary])
    merges = tokenizer.backend_tokenizer.to_str()
    writer.add_token_merges(_merges(merges))
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _merges(tokenizer: str) -> list[str]:
    """The merges of a `tokenizer.json`, each as two tokens with a space between."""
    import json

    pairs = json.loads(tokenizer)["model"]["merges"]
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]


if __name__ == "__main__":
    main(sys.argv[1])
