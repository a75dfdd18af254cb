#!/usr/bin/env python3
"""Measure a decision model under llmcat, zero-shot and with labels, beside what costs nothing.

    python eval/decisions.py [--base-url URL] [--data FOLDER] [--runs FOLDER] [--write NAME]

Without --base-url the server of the package sparrow-decider is started here: 2.2 MB of real
weights. The model is asked about all categories of each set; --sources lexical shows what it adds
to a retriever without embeddings. Sets come from --data, prepared folders as eval/sets.py
describes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from real import SETS, rows, shop32, write

from llmcat.evaluation.metrics import calibration_error, coverage_at
from llmcat.evaluation.paired import mcnemar

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def served(url: str) -> Iterator[str]:
    """Give the address of a server, one that is started here if none is named."""
    if url:
        yield url
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from sparrow_decider.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.1)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base-url", default="")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--write", default="")
    args = parser.parse_args()
    table = [
        "| set | items | sources | model alone | retrieval alone | both | it adds | p | p, alone |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    with served(args.base_url) as url:
        engine = ["--engine", "systemone", "--base-url", url]
        for name in ("shop32", "banking77", "banking77-10"):
            for sources in ("auto", "lexical"):
                if name == "banking77-10" and sources == "lexical":
                    continue
                table.append(zero_shot(name, sources, engine, args))
                print(table[-1], flush=True)
        notes = promise(engine, args)
    text = "\n".join([*table, "", *notes])
    print(text)
    if args.write:
        date = datetime.now(UTC).date().isoformat()
        machine = f"{os.cpu_count()} CPU cores, {platform.machine()}"
        head = f"# A decision model of 2.2 MB\n\n    python eval/decisions.py\n\n{date}, "
        head += f"sparrow-decider 0.2.0 (sparrow-nano-general-v1.1), {machine}; test parts\n\n"
        (ROOT / "eval" / "results" / f"{args.write}.md").write_text(f"{head}{text}\n")


def zero_shot(name: str, sources: str, engine: Sequence[str], args: argparse.Namespace) -> str:
    """Ask about a whole test part; return its row."""
    found = SETS[name](args.data)
    here = args.runs / "decisions" / f"{name}-{sources}"
    here.mkdir(parents=True, exist_ok=True)
    write(here / "items.jsonl", found.items)
    write(here / "taxonomy.jsonl", found.taxonomy)  # type: ignore[arg-type]
    flags = ["--sources", sources]
    if found.examples:
        write(here / "examples.jsonl", found.examples)
        flags += ["--examples", str(here / "examples.jsonl")]
    out = here / "run"
    llmcat(["eval", "--file", here / "items.jsonl", "--taxonomy", here / "taxonomy.jsonl",
            *engine, *flags, "--runs", args.runs, "--out", out])  # fmt: skip
    (arm,) = json.loads((out / "run.json").read_text())["arms"].values()
    adds = arm["adds"]
    predicted = rows(out / "predictions.jsonl")
    both = np.array([row["label"] == row["gold"] for row in predicted])
    alone = model_alone(here, engine, args.runs)
    gain, low, high = (100 * adds[key] for key in ("gain", "low", "high"))
    shares = (alone.mean(), adds["alone"], adds["with_model"])
    cells = [found.name, f"{adds['n']:,}", sources, *(f"{100 * share:.1f}" for share in shares)]
    cells += [f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]", f"{adds['p']:.3g}"]
    return f"| {' | '.join([*cells, f'{mcnemar(alone, both).p:.3g}'])} |"


def model_alone(here: Path, engine: Sequence[str], runs: Path) -> Any:
    """Ask the model alone about the same items; return which it has right."""
    out = here / "alone"
    llmcat(["eval", "--file", here / "items.jsonl", "--taxonomy", here / "taxonomy.jsonl",
            *engine, "--sources", "none", "--runs", runs, "--out", out])  # fmt: skip
    return np.array([row["label"] == row["gold"] for row in rows(out / "predictions.jsonl")])


def promise(engine: Sequence[str], args: argparse.Namespace) -> list[str]:
    """Calibrate on 300 labelled items of shop32's training part, look at the test part.

    Once on all of them, once with the first 100 as examples for retrieval, on the other 200.
    """
    here = args.runs / "decisions" / "promise"
    here.mkdir(parents=True, exist_ok=True)
    test, labelled = shop32(args.data), shop32(args.data, "train").items[:300]
    write(here / "items.jsonl", test.items)
    write(here / "taxonomy.jsonl", test.taxonomy)  # type: ignore[arg-type]
    said = []
    for shown in (0, 100):
        write(here / "examples.jsonl", labelled[:shown])
        write(here / "labelled.jsonl", labelled[shown:])
        common = ["--taxonomy", here / "taxonomy.jsonl", *engine]
        common += ["--examples", here / "examples.jsonl"] if shown else []
        artifact, out = here / f"artifact-{shown}.json", here / f"out-{shown}.jsonl"
        llmcat(["calibrate", "--file", here / "labelled.jsonl", *common, "--runs", args.runs,
                "--out", artifact])  # fmt: skip
        llmcat(["classify", "--file", here / "items.jsonl", *common, "--artifact", artifact,
                "--accept-precision", "0.9", "--out", out, "--restart"])  # fmt: skip
        how = f"the first {shown} of them examples" if shown else "all to calibrate"
        said.append(f"- 300 labelled items of shop32, {how}: {promised(rows(out))}")
    return said


def promised(predicted: Sequence[dict[str, Any]]) -> str:
    """Say what became of a promise of 90 %."""
    sure = np.array([row["confidence"] for row in predicted])
    right = np.array([(row["label"] or "none") == row["gold"] for row in predicted])
    taken = np.array([row["decision"] == "accept" for row in predicted])
    ece = calibration_error(sure, right)[1].value
    return (
        f"{100 * right.mean():.1f} % right of {len(right)} others, ECE (debiased) {ece:.3f}; "
        f"accepted at a promise of 90 % {100 * taken.mean():.1f} %, of which "
        f"{100 * right[taken].mean() if taken.any() else 0:.1f} % right; at most "
        f"{100 * coverage_at(sure, right, precision=0.9).value:.1f} % can be had"
    )


def llmcat(arguments: Sequence[Any]) -> None:
    """Run a command of llmcat. Rows that are errors (ties, of the model alone) count as wrong."""
    command = [sys.executable, "-m", "llmcat", *map(str, arguments), "--quiet"]
    code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    if code not in {0, 1}:
        raise SystemExit(f"{' '.join(command)}: exit {code}")


if __name__ == "__main__":
    main()
