"""What a served model does: items per second, tokens computed, FLOP per second, ratio to bare HTTP.

    python eval/bench/throughput.py --model FOLDER [--items 20000] [--pairs 3] [-- VLLM OPTIONS]

Two clients take turns, 256 requests in flight: `llmcat classify` and a bare aiohttp loop that posts
the same kind of bodies; each turn has items that the server has not seen. FLOP: 2 per parameter
outside the embeddings and uncached token (Kaplan et al. 2020, section 2.1), attention left out,
so a lower bound.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import client
from common import alternate, gpu, header, items, table, vllm


def parameters(model: str) -> int:
    """Count a model's parameters without its embeddings, from its config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    embedded = {id(p) for p in built.get_input_embeddings().parameters()}
    return sum(p.numel() for p in built.parameters() if id(p) not in embedded)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("vllm", nargs="*")
    args = parser.parse_args()
    client.IN_FLIGHT = 256
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        used: list[dict[str, int]] = []
        seed = iter(range(1 << 30))
        with vllm(folder, args.model, "--max-model-len", "8192", *args.vllm) as url:
            warm = client.bodies(items(folder, 500, seed=next(seed)), url)
            client.bare(url, warm)  # compiles the grammar, fills the cache

            def llmcat() -> float:
                file = items(folder, args.items, seed=next(seed))
                rate = client.whole(url, file, args.items)
                record = file.with_suffix(".predictions.jsonl.run.json")
                used.append(json.loads(record.read_text())["sessions"][-1]["asks"]["usage"])
                return rate

            def bare() -> float:
                file = items(folder, args.items, seed=next(seed))
                return client.bare(url, client.bodies(file, url))

            rates = alternate({"llmcat": llmcat, "bare aiohttp": bare}, pairs=args.pairs)
    count = parameters(args.model)
    uncached = statistics.fmean(u["prompt"] - u["cached"] for u in used) / args.items
    rate = statistics.median(rates["llmcat"])
    print(header(f"# {args.model}: {args.items:,} items, {client.IN_FLIGHT} in flight, {gpu()}"))
    print(table(rates, of="llmcat"))
    print(
        f"\n{used[-1]['prompt'] / args.items:,.0f} prompt tokens per item, {uncached:,.0f} uncached"
    )
    print(f"{count:,} parameters outside the embeddings")
    print(f"achieved: {2 * count * uncached * rate / 1e12:,.3f} TFLOP/s")


if __name__ == "__main__":
    main()
