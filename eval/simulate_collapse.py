"""Does the watch see a run whose answers do not depend on the item? Simulated runs, known truth.

    python eval/simulate_collapse.py              1,000 runs of each kind: some minutes on a core
    python eval/simulate_collapse.py --runs 100   quicker, rougher

Runs of 200 answers. In a sound one the right label's logit stands out by 3 to 12, under noise of a
sixth to a third of that, and codes have a bias of their own (standard deviation 0 to 2) in half of
the runs. In a collapsed one the logits are a preference for codes, or for labels, plus noise that
is small beside it, or small at all: standard deviation 0.05 to 0.5, up to 1 where the favourite
is ahead by four times the noise. Menus: all labels in one order, in a new order for every item, or
eight labels of all, drawn for every item.

Exit code 1 if a bar is missed: at most 10 alarms in 1,000 sound runs of each kind (with 99 %
tolerance where there are fewer), at least 99 % in collapsed ones.
"""

from __future__ import annotations

import argparse
import platform
import sys
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.stats import binom

from llmcat.candidates.codes import CANDIDATES
from llmcat.pipeline.collapse import Watch
from llmcat.records import NONE, Menu, Node, Scores

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = np.ndarray[Any, Any]
Menus = Literal["fixed", "shuffled", "shortlist"]

ANSWERS, SHORT = 200, 8
LABELS = (3, 8, 31, 127)
MENUS: tuple[Menus, ...] = ("fixed", "shuffled", "shortlist")


def offers(draw: np.random.Generator, labels: int, menus: Menus, gold: Array) -> Iterator[Array]:
    """Yield which labels each item's menu holds, in order; a shortlist mostly the gold one."""
    for right in gold.tolist():
        if menus == "fixed":
            yield np.arange(labels)
        elif menus == "shuffled":
            yield draw.permutation(labels)
        else:
            some = draw.permutation(labels)[:SHORT]
            if right < labels and right not in some and draw.random() < 0.95:
                some[draw.integers(SHORT)] = right
            yield some


def scores_of(logits: Array, ids: tuple[str, ...]) -> Scores:
    """Return what `llmcat.pipeline.decode.read` would, the exit last."""
    weights = np.exp(logits - logits.max())
    p = (weights / weights.sum()).tolist()
    best = int(np.argmax(logits))
    label = ids[best] if best < len(ids) else NONE
    return Scores(label, dict(zip(ids, p[:-1], strict=True)), p[-1])


def nodes_of(labels: int) -> list[Node]:
    """Return the labels as categories."""
    return [Node(f"l{i}", f"label {i}", (f"label {i}",)) for i in range(labels)]


def watched(
    draw: np.random.Generator, labels: int, menus: Menus, gold: Array, logits: Array, place: Array
) -> Watch:
    """Watch a run: `logits` by label, shape `(n, labels + 1)`, the exit last; `place` by place."""
    watch, nodes = Watch(), nodes_of(labels)
    for row, held in zip(logits, offers(draw, labels, menus, gold), strict=True):
        menu = Menu(tuple(nodes[i] for i in held), CANDIDATES[: len(held) + 1])
        there = np.append(held, labels)
        watch.add(scores_of(row[there] + place[: len(there)], menu.ids), menu)
    return watch


def sound(seed: int, labels: int, menus: Menus, *, most: float, n: int = ANSWERS) -> Watch:
    """Watch a run that reads its items; `most` of them have one label, 0 for none in particular."""
    draw = np.random.default_rng(seed)
    shares = draw.dirichlet(np.ones(labels + 1))
    if most:
        shares *= (1 - most) / (1 - shares[0])
        shares[0] = most
    gold = draw.choice(labels + 1, n, p=shares)
    skill = draw.uniform(3, 12)
    noise = skill * draw.uniform(1 / 6, 1 / 3)
    logits = draw.normal(0, noise, (n, labels + 1))
    logits[np.arange(n), gold] += skill
    bias = draw.uniform(0, 2) * draw.integers(2)
    return watched(draw, labels, menus, gold, logits, draw.normal(0, bias, labels + 1))


def collapsed(
    seed: int, labels: int, menus: Menus, *, by: Literal["code", "label"], n: int = ANSWERS
) -> Watch:
    """Watch a run of softmax(preference + noise), whatever the item."""
    draw = np.random.default_rng(seed)
    prefer = draw.normal(0, draw.choice([0.1, 1, 2, 4, 8]), labels + 1)
    held = SHORT + 1 if menus == "shortlist" else labels + 1
    first, second = np.sort(prefer[:held])[::-1][:2]
    ahead = 0.0 if menus == "shortlist" and by == "label" else (first - second) / 4
    noise = draw.uniform(0.05, max(0.5, min(1.0, ahead)))
    noises = draw.normal(0, noise, (n, labels + 1))
    gold, none = np.zeros(n, dtype=int), np.zeros(labels + 1)
    place = prefer if by == "code" else none
    return watched(draw, labels, menus, gold, noises + (prefer if by == "label" else 0), place)


def alarmed(seed: int, kind: str, labels: int, menus: Menus) -> bool:
    """Tell whether one run is called collapsed."""
    if kind in {"code", "label"}:
        watch = collapsed(seed, labels, menus, by=kind)  # type: ignore[arg-type]
    else:
        watch = sound(seed, labels, menus, most=float(kind))
    return watch.finding() is not None


KINDS = {
    "0": "sound, mixed items",
    "0.9": "sound, 90 % of one label",
    "code": "collapsed onto codes",
    "label": "collapsed onto labels",
}


def main() -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    runs, missed = args.runs, []
    print("# Does the watch see a run whose answers do not depend on the item?\n")
    print(f"    {' '.join(['python', *sys.argv])}\n")
    print(f"{datetime.now(UTC).date()}; Python {platform.python_version()}, "
          f"numpy {np.__version__}\n")  # fmt: skip
    print(f"Alarms in {runs:,} runs of {ANSWERS} answers.\n")
    print(f"| menus | | {' | '.join(f'{n} labels' for n in LABELS)} |")
    print("|---|---|" + "--:|" * len(LABELS))
    most = 10 if runs >= 1000 else binom.ppf(0.99, runs, 0.01)
    least = 0.99 * runs if runs >= 1000 else binom.ppf(0.01, runs, 0.99)
    with get_context("spawn").Pool(args.processes) as pool:
        for menus in MENUS:
            for kind, said in KINDS.items():
                cells = []
                for labels in LABELS:
                    if menus == "shortlist" and labels <= SHORT:
                        cells.append("")
                        continue
                    one = partial(alarmed, kind=kind, labels=labels, menus=menus)
                    found = sum(pool.map(one, range(runs), chunksize=10))
                    cells.append(f"{found:,}")
                    good = found <= most if kind[0] == "0" else found >= least
                    missed += [] if good else [f"{said}, {menus}, {labels} labels"]
                print(f"| {menus} | {said} | {' | '.join(cells)} |", flush=True)
    print(f"\nmissed: {', '.join(missed) or 'nothing'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
