#!/usr/bin/env python3
"""What a short list behind the item saves on a real model: served by vLLM, three layouts, one run.

    python eval/bench/real_speed.py MODEL ITEMS TAXONOMY [--limit 30]

candidates: 8 behind the item. whole: all categories behind the item. cached: all categories first,
from the prefix cache, as the released prompts have it. Items per second from first to last item and
prompt tokens computed (not from the cache) per item, as the server counts them; the ratio to
`whole`. ITEMS need labels: how many are right stands beside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import vllm

ARMS = {
    "candidates": ("--prompt", "zero-shot-item-first"),
    "whole": ("--prompt", "zero-shot-item-first", "--sources", "none"),
    "cached": ("--prompt", "zero-shot"),
}


def main() -> None:
    """Serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("items")
    parser.add_argument("taxonomy")
    parser.add_argument("--limit", type=int, default=30)
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as kept, vllm(Path(kept), args.model) as url:
        for name, flags in ARMS.items():
            out = Path(kept) / f"{name}.jsonl"
            command = [sys.executable, "-m", "llmcat", "classify", "--file", args.items]
            command += ["--taxonomy", args.taxonomy, "--base-url", url, "--out", str(out)]
            command += ["--limit", str(args.limit), "--quiet", *flags]
            subprocess.run(command, check=True)
            record = json.loads(out.with_name(f"{out.name}.run.json").read_text())
            (session,) = record["sessions"]
            used, rows = session["asks"]["usage"], map(json.loads, out.open())
            right = [(row["label"] or "none") == row["gold"] for row in rows]
            found[name] = (
                len(right) / session["seconds"],
                (used["prompt"] - used["cached"]) / len(right),
                sum(right) / len(right),
            )
            rate, tokens, share = found[name]
            said = f"{rate:.2f} items/s; {tokens:.0f} tokens computed an item; {share:.1%} right"
            print(f"{name:<11} {said}", flush=True)
    print(f"candidates / whole: {found['candidates'][0] / found['whole'][0]:.1f} x the rate, "
          f"{found['candidates'][1] / found['whole'][1]:.2f} of the tokens")  # fmt: skip


if __name__ == "__main__":
    main()
