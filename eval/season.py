"""A simulated season: half of the categories begin cold, items arrive, a person checks some a day.

    python eval/season.py --set .cache/sets/shop32 --train TRAIN.jsonl --features MINILM
        --run RUN --fake 0.7,0.85,0.95 --out eval/results/season-shop32

Four ways to label the same items with the same checks, at several budgets of asks:

    primary     the classifier alone
    model       the model about a random share, the classifier about the rest
    threshold   the model where the classifier is least sure
    ours        llmcat's router: where asking is expected to bring most, both answers mixed

The classifier is trained anew every few days, in all four on checks and on the model's labels,
these by their confidence. `--plot --out eval/results/season-shop32` draws a result (needs
matplotlib). The model's answers: RUN is the folder of an evaluation with kept
probabilities (`llmcat calibrate` leaves one), each asked once over the whole menu and renormalised
over what is offered; `--fake` makes answers of an accuracy whose errors go to a partner category.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from llmcat.annotations.store import Label, LabelStore, key_of
from llmcat.candidates.codes import CANDIDATES
from llmcat.candidates.plan import Plan
from llmcat.fallback import decider, router
from llmcat.fallback import policy as deciding
from llmcat.fallback.primary import Placed
from llmcat.records import MOST_LABELS, NONE, Item, Menu, RowResult, Scores
from llmcat.retrieval.vectors import representation
from llmcat.students import training
from llmcat.students.model import Student
from llmcat.students.recipe import Recipe
from llmcat.students.training import Corpus, Example
from llmcat.taxonomy.tree import Taxonomy

Array = np.ndarray[Any, Any]

BUDGETS = (0.1, 0.25, 0.5, 1.0)
DAYS, PERIOD = 8, 2
CHECKS = 10
EXAMPLES = 12
FIRST = 100
"""Of the seeds: the first few were used to choose the priors of gate and pool."""


@dataclass
class World:
    """Items with gold labels, what the model says of each, and the first training part."""

    taxonomy: Taxonomy
    items: list[Item]
    train: list[Example]
    q: Array
    labels: list[str]
    cold: float = 0.5
    """The share of the categories that begin without examples."""


def read_items(path: Path, taxonomy: Taxonomy) -> list[Item]:
    """Return the items of a file, gold labels resolved."""
    found = []
    for row, line in enumerate(path.read_text("utf-8").splitlines()):
        item = json.loads(line)
        gold = taxonomy.resolve(item["label"])
        found.append(Item(row, item["id"], {"title": item["title"]}, gold=gold))
    return found


def recorded(run: Path, items: list[Item]) -> tuple[Array, list[str]]:
    """Return the probabilities that a run kept, `none` last."""
    kept = np.load(run / "posteriors.npz")
    ids = [json.loads(line)["id"] for line in (run / "items.jsonl").read_text().splitlines()]
    at = {id_: i for i, id_ in enumerate(ids)}
    return kept["p"].astype(float)[[at[item.id] for item in items]], kept["labels"].tolist()


def made_up(accuracy: float, items: list[Item], taxonomy: Taxonomy, seed: int = 1) -> Array:
    """Return answers that are right so often; two errors in three go to the category's partner."""
    labels = [n.id for n in taxonomy.leaves]
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(labels))
    partner = {int(a): int(b) for a, b in zip(order, np.roll(order, 1), strict=True)}
    q = np.zeros((len(items), len(labels) + 1))
    for i, item in enumerate(items):
        gold = best = labels.index(str(item.gold))
        if draw.random() >= accuracy:
            best = partner[gold] if draw.random() < 2 / 3 else int(draw.integers(len(labels)))
        logits = draw.normal(0, 0.7, len(labels) + 1)
        logits[best] += draw.normal(5, 1)
        logits[gold] += 1.5
        q[i] = np.exp(logits - logits.max())
    return np.asarray(q / q.sum(axis=1, keepdims=True))


class Season:
    """One way through a season."""

    def __init__(self, world: World, way: str, budget: float, seed: int, features: str) -> None:
        self.world, self.way, self.budget, self.features = world, way, budget, features
        draw = np.random.default_rng(seed)
        names = [n.id for n in world.taxonomy.leaves]
        warm = len(names) - round(world.cold * len(names))
        self.warm = {names[i] for i in draw.permutation(len(names))[:warm]}
        self.order = draw.permutation(len(world.items))
        self.draw = draw
        self.learnt: dict[str, Example] = {
            key_of(e.text): e for e in world.train if e.label in self.warm
        }
        self.store = LabelStore(Path(":memory:"))
        self.column = {label: i for i, label in enumerate(world.labels)}
        self.asked = 0
        self.right: list[bool] = []

    def train(self) -> Student:
        """Train a classifier on what is known."""
        examples = list(self.learnt.values())
        count: dict[str, int] = {}
        for e in examples:
            count[e.label] = count.get(e.label, 0) + 1
        kept = [e for e in examples if count[e.label] >= 3]
        corpus = Corpus(kept, {})
        recipe = Recipe(params={"features": self.features})
        student, _ = training.train(corpus, self.world.taxonomy, recipe, features=self.features)
        return student

    def scores(self, item: Item, menu: Menu) -> Scores:
        """Return the model's answer over a menu, by its answer over all."""
        q = self.world.q[item.row]
        p = {id_: float(q[self.column[id_]]) for id_ in menu.ids}
        none = float(q[self.column[NONE]])
        total = max(sum(p.values()) + none, 1e-12)
        p = {id_: x / total for id_, x in p.items()}
        none /= total
        best = max(p, key=p.__getitem__)
        return Scores(best if p[best] >= none else NONE, p, none)

    def run(self) -> dict[str, Any]:
        """Go through the days."""
        days = np.array_split(self.order, DAYS)
        by_period: list[float] = []
        for start in range(0, DAYS, PERIOD):
            student = self.train()
            before = len(self.right)
            for day in days[start : start + PERIOD]:
                self.day([self.world.items[i] for i in day], student)
            by_period.append(float(np.mean(self.right[before:])))
        n = len(self.world.items)
        return {
            "accuracy": float(np.mean(self.right)),
            "asks": self.asked / n,
            "by_period": by_period,
        }

    def day(self, items: list[Item], student: Student) -> None:
        """Label a day's items, learn from it."""
        most = round(self.budget * len(items))
        if self.way == "ours":
            given = self.ours(items, student, most)
        else:
            given = self.plain(items, student, most)
        self.right += [label == item.gold for item, (label, _) in zip(items, given, strict=True)]
        for item, (label, sure) in zip(items, given, strict=True):
            if sure is not None and label != NONE and sure >= training.LEAST_WEIGHT:
                text = item.fields["title"]
                self.learnt[key_of(text)] = Example(text, label, "model", sure)
        for i in self.draw.permutation(len(items))[:CHECKS]:
            item = items[i]
            text, gold = item.fields["title"], str(item.gold)
            self.learnt[key_of(text)] = Example(text, gold, "person")
            self.store.add([Label(key_of(item.content), gold, "person", item.id)])

    def plain(
        self, items: list[Item], student: Student, most: int
    ) -> list[tuple[str, float | None]]:
        """Label as primary, model or threshold do."""
        p = student.predict_proba([item.fields["title"] for item in items])
        given: list[tuple[str, float | None]] = [
            (str(student.classes_[i]), None) for i in p.argmax(axis=1)
        ]
        if self.way == "primary":
            return given
        order = np.argsort(p.max(axis=1), kind="stable")
        if self.way == "model":
            order = self.draw.permutation(len(items))
        for i in order[:most]:
            q = self.world.q[items[i].row]
            best = int(q.argmax())
            given[i] = (self.world.labels[best], float(q[best]))
        self.asked += most
        return given

    def ours(
        self, items: list[Item], student: Student, most: int
    ) -> list[tuple[str, float | None]]:
        """Label by llmcat's router."""
        taxonomy, policy = self.world.taxonomy, deciding.Policy()
        placed = Placed.of(student, taxonomy)
        stands = deciding.standings(
            placed.labels, student.manifest.checked, taxonomy, self.store, policy,
            f"{placed.name}@{placed.key[:8]}",
        )  # fmt: skip
        self.store.name_primary(placed.key, placed.labels)
        warm = frozenset(id_ for id_, one in stands.items() if one.decides)
        line = deciding.line_of(student.held, policy).threshold
        ours = router.Router(
            taxonomy, placed, warm, line,
            mixture=decider.fitted(self.store.opinions(), placed.labels), policy=policy,
            novelty=student.novelty, most=most, store=self.store,
            origin={"model": "model", "prompt": "", "taxonomy": ""},
        )  # fmt: skip
        ours = ours.choosing(items)
        plan = Plan(taxonomy, CANDIDATES[: MOST_LABELS + 1])
        given: list[tuple[str, float | None]] = []
        results = []
        for item in ours.ahead(items):
            walk = ours.walk(plan, item)
            asks = 0
            try:
                menu = next(walk)
                while True:
                    asks += 1
                    menu = walk.send(self.scores(item, menu))
            except StopIteration as end:
                scores: Scores = end.value
            self.asked += asks
            given.append((scores.label, scores.confidence if asks else None))
            results.append(RowResult(item, "labelled", scores))
        ours.keep(results)
        return given


_WORLDS: dict[str, World] = {}


def one(job: tuple[str, str, float, int, str]) -> tuple[str, str, float, int, dict[str, Any]]:
    """Run one season."""
    name, way, budget, seed, features = job
    return name, way, budget, seed, Season(_WORLDS[name], way, budget, seed, features).run()


def interval(values: Array) -> tuple[float, float, float]:
    """Return a mean with its 95 % t interval."""
    from scipy.stats import t

    mean, n = float(values.mean()), len(values)
    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def main() -> None:
    """Simulate, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", type=Path, help="folder that eval/sets.py wrote")
    parser.add_argument("--train", type=Path, help="labelled items to begin with")
    parser.add_argument("--plot", action="store_true", help="only draw what --out holds")
    parser.add_argument("--features", default="tfidf")
    parser.add_argument("--run", type=Path, help="an evaluation that kept its probabilities")
    parser.add_argument("--fake", default="", help="accuracies of made-up models")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--cold", type=float, default=0.5, help="share of cold categories")
    parser.add_argument("--items", type=int, default=0, help="only so many of the items")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="result, without a suffix")
    args = parser.parse_args()
    if args.plot:
        plot(args.out)
        return
    taxonomy = Taxonomy.load(args.set / "taxonomy.jsonl")
    items = read_items(args.set / "items.jsonl", taxonomy)
    if args.items:
        rows = np.sort(np.random.default_rng(0).permutation(len(items))[: args.items])
        items = [Item(k, items[i].id, items[i].fields, gold=items[i].gold)
                 for k, i in enumerate(rows)]  # fmt: skip
    train: list[Example] = []
    count: dict[str, int] = {}
    for item in read_items(args.train, taxonomy):
        gold = str(item.gold)
        count[gold] = count.get(gold, 0) + 1
        if count[gold] <= EXAMPLES:
            train.append(Example(item.fields["title"], gold, "gold"))
    labels = [*(n.id for n in taxonomy.leaves), NONE]
    if args.run:
        q, names = recorded(args.run, items)
        _WORLDS["demo model, recorded"] = World(taxonomy, items, train, q, names, args.cold)
    for accuracy in filter(None, args.fake.split(",")):
        q = made_up(float(accuracy), items, taxonomy)
        _WORLDS[f"made up, {float(accuracy):.0%}"] = World(
            taxonomy, items, train, q, labels, args.cold
        )
    jobs = [
        (name, way, budget, seed, args.features)
        for name in _WORLDS
        for seed in range(FIRST, FIRST + args.seeds)
        for way in ("primary", "model", "threshold", "ours")
        for budget in (BUDGETS if way != "primary" else (0.0,))
    ]
    if args.features != "tfidf":  # embedded once, before the workers part
        shared = representation(args.features)
        shared([e.text for e in train] + [i.fields["title"] for i in items])
        shared([training.name_of(n.id, taxonomy) for n in taxonomy.leaves])
    found: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(args.workers) as pool:
        for k, (name, way, budget, _, result) in enumerate(pool.map(one, jobs, chunksize=4), 1):
            found.setdefault((name, way, budget), []).append(result)
            if k % 50 == 0:
                print(f"{k} of {len(jobs)}", flush=True)
    write(args, found, len(items), len(taxonomy.leaves))


def write(
    args: argparse.Namespace,
    found: dict[tuple[str, str, float], list[dict[str, Any]]],
    items: int,
    labels: int,
) -> None:
    """Write table and figures."""
    lines = [
        f"# A season: {args.set.name}, {items} items, {labels} categories, "
        f"{'half' if args.cold == 0.5 else format(args.cold, '.0%')} of them cold", "",
        f"{args.seeds} seeds; {DAYS} days, trained anew every {PERIOD}; {CHECKS} checks a day; "
        f"{EXAMPLES} examples of each warm category to begin with; features "
        f"{Path(args.features).name if '/' in args.features else args.features}. Accuracy over the "
        "whole season in percent, asks per item; differences paired by seed, 95 % intervals.", "",
        f"`python {' '.join(Path(a).name if a.startswith('/') else a for a in sys.argv)}`, "
        f"{datetime.now(UTC).date()}, {platform.machine()}, CPU.",
    ]  # fmt: skip
    for name in dict.fromkeys(key[0] for key in found):
        lines += ["", f"## {name}", "",
                  "| budget | primary | model | threshold | ours | asks of ours | ours - threshold "
                  "| ours - model |", "|--:|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
        alone = np.array([r["accuracy"] for r in found[name, "primary", 0.0]])
        for budget in BUDGETS:
            acc = {way: np.array([r["accuracy"] for r in found[name, way, budget]])
                   for way in ("model", "threshold", "ours")}  # fmt: skip
            asks = np.mean([r["asks"] for r in found[name, "ours", budget]])
            cells = [f"{100 * alone.mean():.1f}"]
            cells += [f"{100 * acc[way].mean():.1f}" for way in ("model", "threshold", "ours")]
            cells.append(f"{asks:.2f}")
            for other in ("threshold", "model"):
                mean, low, high = interval(100 * (acc["ours"] - acc[other]))
                cells.append(f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]")
            lines.append(f"| {budget:.2f} | " + " | ".join(cells) + " |")
    args.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    figures = [
        {"model": n, "way": w, "budget": b, "seed": seed, **result}
        for (n, w, b), results in found.items()
        for seed, result in enumerate(results, FIRST)
    ]
    rows = "".join(json.dumps(row) + "\n" for row in figures)
    args.out.with_suffix(".jsonl").write_text(rows)
    print("\n".join(lines))


def plot(result: Path) -> None:
    """Draw accuracy against asks from a result's figures, into a .png beside them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figures = [json.loads(row) for row in result.with_suffix(".jsonl").read_text().splitlines()]
    names = list(dict.fromkeys(f["model"] for f in figures))
    figure, axes = plt.subplots(
        1, len(names), figsize=(3.4 * len(names), 3.6), sharey=True, squeeze=False
    )
    looks = {"ours": ("#b3331f", "o"), "threshold": ("#2b5c8a", "s"), "model": ("#777777", "^")}
    for axis, name in zip(axes[0], names, strict=True):
        here = [f for f in figures if f["model"] == name]
        alone = np.mean([f["accuracy"] for f in here if f["way"] == "primary"])
        for way, (colour, mark) in looks.items():
            xs, ys, half = [0.0], [100 * alone], [0.0]
            for budget in sorted({f["budget"] for f in here if f["way"] == way}):
                part = [f for f in here if f["way"] == way and f["budget"] == budget]
                mean, low, _ = interval(100 * np.array([f["accuracy"] for f in part]))
                xs.append(float(np.mean([f["asks"] for f in part])))
                ys.append(mean)
                half.append(mean - low)
            axis.errorbar(xs, ys, half, color=colour, marker=mark, markersize=4, capsize=2,
                          label={"model": "model, random share"}.get(way, way))  # fmt: skip
        axis.plot([0], [100 * alone], "k*", markersize=9, label="primary alone")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("asks per item")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy over the season, %")
    axes[0][-1].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(result.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
