"""What each step makes of the probabilities: orders, priors, scaling, the map of the decision.

    python eval/confidence.py URL SET [SET ...]     a running vLLM server; folders of eval/sets.py

For each set one table, on a half of the items that fitted nothing: accuracy, log-loss, debiased
calibration error, how much is right enough to take at 95 % precision, and asks per item. Priors:
batch calibration (Zhou et al. 2023), contextual calibration (Zhao et al. 2021: three items
without content), position priors (PriDe, Zheng et al. 2024: 40 items of the fitting half in every
cyclic order).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from llmcat import Classifier, Taxonomy
from llmcat.calibration import scaling
from llmcat.candidates.walks import SURE
from llmcat.evaluation import metrics
from llmcat.records import NONE

Array = np.ndarray[Any, Any]
EMPTY = ["N/A", "[MASK]", "..."]
TURNED = 40


@dataclass(frozen=True)
class Set:
    """Titles, gold columns, and the labels in the menu's order, the exit last."""

    titles: list[str]
    gold: Array
    labels: list[str]
    whole: bool


def read(folder: Path) -> tuple[Set, Taxonomy]:
    """Read a folder that eval/sets.py wrote."""
    taxonomy = Taxonomy.load(folder / "taxonomy.jsonl")
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text("utf-8").splitlines()]
    labels = [*(n.id for n in taxonomy.leaves), NONE]
    at = {label: i for i, label in enumerate(labels)}
    gold = [at[taxonomy.resolve(r["label"]) or NONE] for r in rows]
    found = Set([r["title"] for r in rows], np.array(gold), labels, len(labels) <= 128)
    return found, taxonomy


def ask(taxonomy: Taxonomy, labels: list[str], titles: list[str], **settings: Any) -> Array:
    """Return log-posteriors of items, columns as `labels`."""
    with Classifier(taxonomy, **settings) as clf:
        p = clf.predict_proba(titles)
        column = {label: i for i, label in enumerate(clf.classes_.tolist())}
    return scaling.logs(p[:, [column[label] for label in labels]])


def turned(labels: list[str], titles: list[str], **settings: Any) -> Array:
    """Return log-posteriors by position, shape `(items, orders, positions)`; the exit left out."""
    found = []
    for k in range(len(labels)):
        order = [*labels[k:], *labels[:k]]
        log_p = ask(Taxonomy.from_labels(order), [*order, NONE], titles, **settings)
        found.append(scaling.normalised(log_p[:, :-1]))
    return np.stack(found, axis=1)


def row(name: str, log_p: Array, gold: Array, asks: str, chance: Any = None) -> str:
    """Return a line of the table."""
    best = log_p.argmax(axis=1)
    sure, right = np.exp(log_p[np.arange(len(best)), best]), best == gold
    sure = sure if chance is None else chance(sure)
    loss = scaling.log_loss_of(log_p, gold)
    ece = metrics.calibration_error(sure, right)[1].value
    taken = metrics.coverage_at(sure, right, precision=0.95).value
    shown = f"{100 * right.mean():.1f} | {loss:.3f} | {100 * ece:.1f} | {100 * taken:.1f}"
    return f"| {name} | {shown} | {asks} |"


def table(folder: Path, url: str) -> list[str]:
    """Measure one set."""
    found, taxonomy = read(folder)
    settings = {"base_url": url, "about": taxonomy.about, "prompt": "zero-shot"}
    n = len(found.titles)
    fit = np.zeros(n, dtype=bool)
    fit[np.random.default_rng(0).permutation(n)[: n // 2]] = True
    head = "| step | accuracy | log-loss | ECE, debiased | taken at 95 % | asks per item |"
    lines = [f"## {folder.name}: {n:,} items, {len(found.labels) - 1} labels\n", head]
    lines.append("|---|--:|--:|--:|--:|--:|")
    if not found.whole:
        return [*lines, *_of_decisions(found, taxonomy, fit, settings)]
    gold, test = found.gold, ~fit
    by_orders = {}
    for m in (1, 2, 4):
        log_p = by_orders[m] = ask(taxonomy, found.labels, found.titles, orders=str(m), **settings)
        name = "as it comes" if m == 1 else f"{m} orders"
        lines.append(row(name, log_p[test], gold[test], str(m)))
    log_p = by_orders[1]
    unsure = np.exp(log_p.max(axis=1)) < SURE
    auto = np.where(unsure[:, None], by_orders[4], log_p)
    name = f"auto: 4 orders where under {SURE:g}"
    lines.append(row(name, auto[test], gold[test], f"{1 + 3 * unsure.mean():.2f}"))
    back = scaling.normalised(2 * by_orders[2] - log_p)  # what the reverse order alone said
    agree = (back.argmax(axis=1) == log_p.argmax(axis=1)).mean()
    sample = [found.titles[i] for i in np.flatnonzero(fit)[:TURNED]]
    names = {label: taxonomy.nodes[label].name for label in found.labels[:-1]}
    places = scaling.position_prior(turned(list(names.values()), sample, **settings))
    priors = {
        "batch prior": scaling.batch_prior(log_p[fit]),
        "content-free prior": scaling.content_free_prior(
            ask(taxonomy, found.labels, EMPTY, **settings)
        ),
        "position prior": np.append(places, places.mean()),
    }
    for name, prior in priors.items():
        off = scaling.without_prior(log_p[test], prior)
        lines.append(row(f"{name} taken off", off, gold[test], "1"))
    for name, used in (("", log_p), ("2 orders, ", by_orders[2])):
        off = scaling.without_prior(used, scaling.batch_prior(used[fit]))
        fitted, _ = scaling.fit_scaling(off[fit], gold[fit])
        scaled = fitted(off)
        asks = "2" if name else "1"
        lines.append(
            row(f"{name}batch prior, {fitted.kind} scaling", scaled[test], gold[test], asks)
        )
        best = scaled[fit].argmax(axis=1)
        sure = np.exp(scaled[fit][np.arange(len(best)), best])
        chance = scaling.fit_confidence(sure, best == gold[fit])
        what = f"{name}batch prior, {fitted.kind} scaling, map"
        lines.append(row(what, scaled[test], gold[test], asks, chance))
    moved = np.abs(np.exp(back) - np.exp(log_p)).max(axis=1)
    note = f"\nThe menu's order and its reverse give one answer for {agree:.1%} of the items; the "
    note += f"probability that differs most differs by {moved.mean():.3f} on average."
    return [*lines, note]


def _of_decisions(
    found: Set, taxonomy: Taxonomy, fit: Array, settings: dict[str, Any]
) -> list[str]:
    """Measure a set that takes several menus: only the decision's confidence is there."""
    with Classifier(taxonomy, **settings) as clf:
        rows = clf.classify(found.titles)
    sure = np.array([r["p_none"] if r["label"] is None else r["confidence"] for r in rows])
    at = {label: i for i, label in enumerate(found.labels)}
    right = np.array([at.get(r["label"] or NONE, -1) for r in rows]) == found.gold
    chance = scaling.fit_confidence(sure[fit], right[fit])
    lines = []
    for name, p in (("as it comes", sure), ("map", chance(sure))):
        ece = metrics.calibration_error(p[~fit], right[~fit])[1].value
        taken = metrics.coverage_at(p[~fit], right[~fit], precision=0.95).value
        share = 100 * right[~fit].mean()
        lines.append(f"| {name} | {share:.1f} | none | {100 * ece:.1f} | {100 * taken:.1f} | 2 |")
    return lines


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("sets", nargs="+", type=Path)
    args = parser.parse_args()
    print("# What each step makes of the probabilities\n")
    print(f"    {' '.join(['python', *sys.argv])}\n")
    print(f"{datetime.now(UTC).date()}; Python {platform.python_version()}, {platform.machine()}; "
          "percent, but for log-loss; on the half that fitted nothing\n")  # fmt: skip
    for folder in args.sets:
        print("\n".join(table(folder, args.url)) + "\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
