"""Do the intervals and the decision keep what they say? Simulated labelled sets, known truth.

    python eval/simulate.py            all three tables, 1,000 sets each: minutes on 2 cores
    python eval/simulate.py --set-coverage 100 quicker, rougher

1. How often the 95 % interval of a paired difference holds the true difference: accuracy, micro and
   macro F1, log-loss, Brier; 400 and 2,000 items.
2. How often an arm is shipped that is not better: two arms, three, five planned looks.
3. The power that is predicted before anything is asked, beside the one that comes out.

Exit code 1 if a bar is missed: 93 to 97 %; at most 37 of 1,000 (2.5 % with 99 % tolerance: one side
of 5 %); 3 points.
"""

from __future__ import annotations

import argparse
import platform
import sys
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import scipy
from scipy.stats import binom

from llmcat.evaluation import metrics, paired, testing

CLASSES = 10
SHARES = np.array([0.2, 0.15, 0.12, 0.1, 0.1, 0.09, 0.08, 0.06, 0.05, 0.05])
NAMES = np.array([f"c{i}" for i in range(CLASSES)])
POPULATION = 1_000_000
Array = np.ndarray[Any, Any]


def arm(draw: np.random.Generator, gold: Array, shared: Array, skill: float) -> Array:
    """Return probabilities, shape `(n, classes)`: the gold label's logit stands out by `skill`.

    Half of the noise is what both arms share: an item that is hard for one is hard for the other.
    """
    logits = 1.1 * shared + 1.1 * draw.normal(size=shared.shape)
    logits[np.arange(len(gold)), gold] += skill
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def data(seed: int, n: int, skills: tuple[float, ...]) -> tuple[Array, list[Array]]:
    """Return gold indices and each arm's probabilities."""
    draw = np.random.default_rng(seed)
    gold = draw.choice(CLASSES, size=n, p=SHARES)
    shared = draw.normal(size=(n, CLASSES))
    return gold, [arm(draw, gold, shared, skill) for skill in skills]


def values(gold: Array, p: Array) -> dict[str, Array]:
    """Return what the metrics are made of, each of shape `(n,)`."""
    p_gold = p[np.arange(len(gold)), gold]
    return {
        "right": p.argmax(axis=1) == gold,
        "label": NAMES[p.argmax(axis=1)],
        "log_loss": metrics.losses(p_gold),
        "brier": metrics.squared_errors(p_gold, (p**2).sum(axis=1)),
    }


def differences(
    gold: Array, a: dict[str, Array], b: dict[str, Array], **how: Any
) -> dict[str, Any]:
    """Return the five paired differences."""
    labels = NAMES.tolist()
    f1 = paired.differences_of_f1(NAMES[gold], a["label"], b["label"], labels, **how)
    return {
        "accuracy": paired.difference_of_accuracy(a["right"], b["right"], **how),
        "micro F1": f1["micro"],
        "macro F1": f1["macro"],
        "log-loss": paired.difference_of_means(a["log_loss"], b["log_loss"], **how),
        "Brier": paired.difference_of_means(a["brier"], b["brier"], **how),
    }


SKILLS = (2.6, 2.8)
EVEN, UNEVEN = (200, 400, 600, 800, 1000), (100, 150, 400, 900, 2000)
LOOKS = (
    (2, (400,), 2.6),
    (3, (400,), 2.6),
    (2, EVEN, 2.6),
    (3, EVEN, 2.6),
    (3, UNEVEN, 2.6),
    (2, (400,), 6.5),
    (3, EVEN, 6.5),
)
"""Arms, the items at each look, and how well the arms do."""
PLANS = (
    (400, 0.05, 0.15),
    (1000, 0.03, 0.15),
    (640, 0.04, 0.10),
    (2000, 0.02, 0.20),
    (300, 0.04, 0.08),
)
"""Items, effect, share of items on which the arms differ."""


def truth() -> dict[str, float]:
    """Return the true differences, from a population."""
    found: dict[str, list[float]] = {}
    for seed in range(4):
        gold, (p, q) = data(10**6 + seed, POPULATION // 4, SKILLS)
        a, b = values(gold, p), values(gold, q)
        for name, one in differences(gold, a, b, draws=1).items():
            found.setdefault(name, []).append(one.value)
    return {name: float(np.mean(parts)) for name, parts in found.items()}


def held(seed: int, n: int, true: dict[str, float]) -> dict[str, bool]:
    """Tell for one set which intervals hold the truth."""
    gold, (p, q) = data(seed, n, SKILLS)
    found = differences(gold, values(gold, p), values(gold, q), seed=seed)
    return {name: one.low <= true[name] <= one.high for name, one in found.items()}


def shipped(seed: int, arms: int, sizes: tuple[int, ...], skill: float = 2.6) -> bool:
    """Tell whether any of `arms` - 1 arms is shipped at any look, none being better."""
    gold, ps = data(seed, sizes[-1], (skill,) * arms)
    right = [p.argmax(axis=1) == gold for p in ps]
    draws = 4000 * (5 if arms > 2 or len(sizes) > 1 else 1)  # as llmcat.evaluation.comparison
    for look in range(1, len(sizes) + 1):
        n = sizes[look - 1]

        def level(alpha: float, look: int = look) -> float:
            return testing.spend(sizes[:look], len(sizes), alpha)

        gains = {
            str(i): paired.difference_of_accuracy(right[0][:n], one[:n], draws=draws, seed=seed)
            for i, one in enumerate(right[1:])
        }
        for name, alpha in testing.step_down(gains, level=level).items():
            rule = paired.Rule(min_effect=0.01)
            if paired.decide(gains[name], rule, alpha=alpha, cheaper=False).verdict == "ship":
                return True
    return False


def detected(seed: int, n: int, effect: float, differing: float) -> bool:
    """Tell whether one set of n items shows a true difference in accuracy."""
    draw = np.random.default_rng(seed)
    kind = draw.choice(
        3, size=n, p=[1 - differing, (differing - effect) / 2, (differing + effect) / 2]
    )
    found = paired.difference_of_accuracy(kind == 1, kind == 2, seed=seed)
    return found.low > 0


def main() -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--set-coverage", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    sets, missed = args.sets, []
    versions = f"numpy {np.__version__}, scipy {scipy.__version__}"
    print("# Do the intervals and the decision keep what they say?\n")
    print(f"    {' '.join(['python', *sys.argv])}\n")
    print(f"{datetime.now(UTC).date()}; Python {platform.python_version()}, {versions}\n")
    true = truth()
    with get_context("spawn").Pool(args.processes) as pool:
        print(f"## Intervals that hold the true difference, of {sets:,} sets\n")
        print(f"| items | {' | '.join(true)} |")
        print("|--:" * (len(true) + 1) + "|")
        low, high = (binom.ppf(q, sets, p) for q, p in ((0.005, 0.95), (0.995, 0.95)))
        low, high = (0.93 * sets, 0.97 * sets) if sets >= 1000 else (low, high)
        for n in (400, 2000):
            rows = pool.map(partial(held, n=n, true=true), range(sets), chunksize=5)
            counts = {name: sum(row[name] for row in rows) for name in true}
            cells = " | ".join(f"{100 * c / sets:.1f} %" for c in counts.values())
            print(f"| {n:,} | {cells} |", flush=True)
            missed += [f"{name} at {n}" for name, c in counts.items() if not low <= c <= high]
        print(f"\n## Shipped although no arm is better, of {sets:,} comparisons\n")
        print("| arms | looks | items | differing | shipped |\n|--:|--:|--:|--:|--:|")
        most = binom.ppf(0.99, sets, 0.025)  # to ship, an arm has to be better: one side of 5 %
        for arms, sizes, skill in LOOKS:
            found = sum(
                pool.map(
                    partial(shipped, arms=arms, sizes=sizes, skill=skill), range(sets), chunksize=5
                )
            )
            gold, (p, q) = data(0, 100_000, (skill, skill))
            differ = np.mean((p.argmax(axis=1) == gold) != (q.argmax(axis=1) == gold))
            items = ", ".join(map(str, sizes))
            print(f"| {arms} | {len(sizes)} | {items} | {differ:.0%} | {found} |", flush=True)
            missed += [f"{found} shipped"] if found > most else []
        print(f"\n## Power, predicted and in {4 * sets:,} simulated sets\n")
        print("| items | effect | differing | predicted | found |\n|--:|--:|--:|--:|--:|")
        for n, effect, differing in PLANS:
            one = partial(detected, n=n, effect=effect, differing=differing)
            found_ = np.mean(pool.map(one, range(4 * sets), chunksize=50))
            predicted = testing.power(n, effect, differing=differing)
            plan = f"{n:,} | {100 * effect:.0f} points | {differing:.0%}"
            print(f"| {plan} | {predicted:.1%} | {found_:.1%} |")
            missed += [f"power at {n}"] if abs(found_ - predicted) > 0.03 else []
    print(f"\nmissed: {', '.join(missed) or 'nothing'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
