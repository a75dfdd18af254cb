"""From labelled items to a student: cleaned, weighted, searched, trained, calibrated.

Labels come with the items, from the label store, or both. What is wrong with them is reported
before anything is learnt. This module does not know engines or runs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

import llmcat
from llmcat.annotations.store import CHECKED, Label, key_of
from llmcat.calibration.scaling import Scaling, fit_scaling, logs
from llmcat.errors import InputError
from llmcat.files.formats import Reading
from llmcat.files.sources import expand
from llmcat.items.readers import Columns, ItemReader
from llmcat.records import NONE, digest
from llmcat.retrieval.vectors import TFIDF, representation
from llmcat.students import novelty, worth
from llmcat.students.model import Manifest, OutOfFold, Student, text_of
from llmcat.students.recipe import bare, out_of_fold, search, trained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmcat.annotations.store import LabelStore, Source
    from llmcat.config import RunConfig
    from llmcat.students.recipe import Recipe
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["Corpus", "Example", "collect", "name_of", "train"]

Array = np.ndarray[Any, Any]

LEAST_WEIGHT = 0.05


@dataclass(frozen=True, slots=True)
class Example:
    """A text to learn from. `weight` is the chance that its label is right, 1 where checked."""

    text: str
    label: str
    source: Source
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Corpus:
    """Examples, and what was found while they were collected: the report, and lines that say it."""

    examples: list[Example]
    report: dict[str, Any]

    @property
    def digest(self) -> str:
        """A hash of texts, labels and weights."""
        return digest(*(f"{e.text}\x1f{e.label}\x1f{e.weight:.4f}" for e in self.examples))

    def lines(self) -> list[str]:
        """Say what was found, a line each."""
        found = self.report
        said = [
            f"{len(self.examples):,} examples of {found['categories']} categories: "
            + ", ".join(f"{n:,} {source}" for source, n in sorted(found["sources"].items()))
        ]
        words = {
            "unreadable": "rows cannot be read",
            "unlabelled": "rows have no label",
            "duplicates": "rows repeat a text with the same label: each text counts once",
            "contradicted": "texts have several labels: left out, mend them",
            "near": "texts differ from an earlier one of their label in digits and marks only",
            "inner": "labels are of categories that have others below them: left out",
            "doubtful": f"labels of the model have a confidence under {LEAST_WEIGHT:g}: left out",
        }
        said += [f"{found[name]:,} {what}" for name, what in words.items() if found[name]]
        if found["cleaned"]:
            each = ", ".join(f"{name} {n:,}" for name, n in found["cleaned"].items())
            said.append(f"cleaned: {each}")
        for text in found["contradictions"][:5]:
            said.append(f"  {text}")
        if found["small"]:
            named = ", ".join(f"{c} ({n})" for c, n in list(found["small"].items())[:10])
            more = f" and {len(found['small']) - 10} more" if len(found["small"]) > 10 else ""  # noqa: PLR2004
            said.append(f"too few examples, left to the model: {named}{more}")
        if found["without"]:
            said.append(f"{found['without']:,} categories have no example: they stay cold")
        return said


# -- collecting -------------------------------------------------------------------------------


def collect(
    config: RunConfig, taxonomy: Taxonomy, *, store: LabelStore | None = None, least: int = 3
) -> Corpus:
    """Read the items of the settings and the labels of the store; return what can be learnt from.

    A label in the store goes before one that came with the item. Labels of the primary are not
    learnt from. Raises `InputError` for labels that the taxonomy does not have, or for none at all.
    """
    reader = ItemReader(columns=Columns.of(config), labelled=True, others=store is not None)
    counts, foreign = Counter[str](), Counter[str]()
    examples, contradictions = dict[str, Example](), dict[str, set[str]]()
    for key, text, word in _words(config, reader, store, counts):
        node = taxonomy.resolve(word.label)
        weight = 1.0 if word.source in CHECKED else min(word.confidence or 0.0, 1.0)
        if node is None:
            foreign[word.label] += 1
        elif node != NONE and taxonomy.children(taxonomy.nodes[node]):
            counts["inner"] += 1
        elif weight < LEAST_WEIGHT:
            counts["doubtful"] += 1
        elif key not in examples:
            examples[key] = Example(text, node, word.source, weight)
        elif examples[key].label != node:
            contradictions.setdefault(key, {examples[key].label}).add(node)
        else:
            counts["duplicates"] += 1
    if foreign:
        named = ", ".join(f"{label!r} ({n:,})" for label, n in foreign.most_common(10))
        hint = "mend the labels or the taxonomy"
        raise InputError(f"labels that are not in the taxonomy: {named}", hint=hint)
    twice = [examples.pop(key) for key in contradictions]
    by_label = Counter(e.label for e in examples.values())
    small = {label: n for label, n in sorted(by_label.items()) if n < least}
    kept_ = [e for e in examples.values() if e.label not in small]
    near = len(kept_) - len({(bare(e.text), e.label) for e in kept_})
    if not kept_:
        hint = "the labels are read from the column --label; --min-examples N takes smaller ones"
        if store is not None and not examples:
            hint = "the store holds no texts: --file gives the items that its labels are of"
        raise InputError(
            f"nothing to learn from: {len(examples):,} labelled texts, no category with {least}",
            hint=hint,
        )
    labels = {e.label for e in kept_}
    kinds = ("rows", "unreadable", "unlabelled", "duplicates", "doubtful", "inner")
    report = {
        **{kind: counts[kind] for kind in kinds},
        "contradicted": len(twice),
        "contradictions": [
            f"{e.text.splitlines()[0][:80]!r}: {', '.join(sorted(contradictions[key]))}"
            for key, e in zip(contradictions, twice, strict=True)
        ][:100],
        "near": near,
        "small": small,
        "categories": len(labels),
        "without": sum(n.id not in labels for n in taxonomy.leaves) - len(small.keys() - {NONE}),
        "cleaned": dict(reader.counts),
        "sources": dict(Counter(e.source for e in kept_)),
    }
    return Corpus(kept_, report)


def _words(
    config: RunConfig, reader: ItemReader, store: LabelStore | None, counts: Counter[str]
) -> Iterator[tuple[str, str, Label]]:
    """Yield the key and the text of each labelled item, with the label that holds."""
    held = {word.key: word for word in store.holding("person", "gold", "model")} if store else {}
    seen: set[str] = set()
    files = expand(config.file) if config.file else []
    for item in reader.read(*files, how=Reading.of(config)) if files else ():
        counts["rows"] += 1
        if item.error is not None:
            counts["unreadable"] += 1
            continue
        key = key_of(item.content)
        seen.add(key)
        word = held.get(key)
        if item.gold is not None and (word is None or word.source not in CHECKED):
            word = Label(key, item.gold, "gold")
        if word is None:
            counts["unlabelled"] += 1
        else:
            yield key, text_of(item), word
    for key, kept in (store.texts() if store else {}).items():
        if key in held and key not in seen:
            yield key, "\n".join(kept.values()), held[key]


# -- training ---------------------------------------------------------------------------------


def train(
    corpus: Corpus, taxonomy: Taxonomy, recipe: Recipe, *, features: str = TFIDF
) -> tuple[Student, list[str]]:
    """Train a student; also return remarks.

    Its probabilities are scaled by what it said out of fold, and its eye for what is new is
    trained by the same (see `llmcat.students.novelty`); `features` is what distances are measured
    in. Raises `InputError` for fewer than two categories.
    """
    student, remarks = _trained_on(corpus, taxonomy, recipe, features)
    checked = [e.text for e in corpus.examples if e.source in CHECKED]
    names = {c: name_of(c, taxonomy) for c in student.classes_}
    warned = worth.warning(student.held, checked, names, features=features)
    return student, [*remarks, *filter(None, [warned])]


def _trained_on(
    corpus: Corpus, taxonomy: Taxonomy, recipe: Recipe, features: str
) -> tuple[Student, list[str]]:
    texts = [e.text for e in corpus.examples]
    labels = np.array([e.label for e in corpus.examples])
    weight = np.array([e.weight for e in corpus.examples])
    classes = sorted(set(labels.tolist()))
    if len(classes) < 2:  # noqa: PLR2004
        raise InputError(f"a student needs two categories with {recipe.least} examples or more")
    recipe = replace(recipe, names={c: name_of(c, taxonomy) for c in classes if c != NONE})
    remarks, params = list[str](), dict(recipe.params)
    if recipe.search:
        params |= search(recipe, params, texts, labels, weight, remarks)
    p = out_of_fold(recipe, params, texts, labels, weight)
    checked = np.array([e.source in CHECKED for e in corpus.examples])
    measured = checked if checked.sum() >= 2 * len(classes) else np.ones(len(texts), dtype=bool)
    fitting = logs(p)[measured], np.searchsorted(classes, labels)[measured]
    scaling, losses = fit_scaling(*fitting, seed=recipe.seed)
    scaling = _cap_mean_confidence(scaling, *fitting)
    q = np.exp(scaling(logs(p)))
    try:
        seen = _novelty(texts, labels.tolist(), q, classes, taxonomy, features, recipe.seed)
    except InputError as exc:
        seen = None
        remarks.append(f"{exc}: every item is taken for known")
    made = Manifest(
        llmcat=llmcat.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        kind=recipe.kind,
        params=params,
        classes=classes,
        paths=[list(taxonomy.nodes[c].path) if c in taxonomy.nodes else [c] for c in classes],
        taxonomy=taxonomy.digest,
        data=corpus.digest,
        examples=dict(Counter(labels.tolist())),
        checked=dict(Counter(labels[checked].tolist())),
        sources=dict(Counter(e.source for e in corpus.examples)),
        scaling=scaling.kind,
        weights=scaling.weights.tolist(),
        bias=scaling.bias.tolist(),
        features=features,
        novelty=seen.weights.tolist() if seen else [],
        levels=seen.levels.tolist() if seen else [],
        seed=recipe.seed,
        report={k: v for k, v in corpus.report.items() if k != "contradictions"}
        | {"cross_validated_log_loss": losses},
        files={},
    )
    best, rows = q.argmax(axis=1), np.flatnonzero(checked)
    held = OutOfFold(
        label=[classes[i] for i in best[rows].tolist()],
        gold=labels[rows].tolist(),
        confidence=q[rows, best[rows]].tolist(),
    )
    return Student(trained(recipe, params, texts, labels, weight), made, held, seen), remarks


def _novelty(
    texts: Sequence[str],
    labels: Sequence[str],
    q: np.ndarray[Any, Any],
    classes: Sequence[str],
    taxonomy: Taxonomy,
    features: str,
    seed: int,
) -> novelty.Novelty:
    """Return the eye for what is new. Raises `InputError` where it cannot be trained."""
    cold = sum(node.id not in classes for node in taxonomy.leaves)
    names = {c: name_of(c, taxonomy) for c in classes}
    return novelty.fit(
        texts,
        labels,
        q,
        classes,
        names,
        represent=representation(features).fit([*texts, *names.values()]),
        share=min(0.5, max(0.2, cold / (cold + len(classes)))),
        seed=seed,
    )


def _cap_mean_confidence(scaling: Scaling, log_p: Array, gold: Array) -> Scaling:
    """Return a scaling whose mean confidence is at most (right + 1) / (n + 2), Laplace's rule.

    Where nearly everything is right out of fold no temperature is too low, and what the student
    never saw would be called certain.
    """
    right = int((log_p.argmax(axis=1) == gold).sum())
    most = (right + 1) / (len(gold) + 2)

    def scaled(factor: float) -> Scaling:
        return replace(scaling, weights=scaling.weights * factor, bias=scaling.bias * factor)

    def mean(factor: float) -> float:
        return float(np.exp(scaled(factor)(log_p)).max(axis=1).mean())

    if mean(1.0) <= most:
        return scaling
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) <= most else (low, middle)
    kind = "temperature" if scaling.kind == "none" else scaling.kind
    return replace(scaled(low), kind=kind)


def name_of(id_: str, taxonomy: Taxonomy) -> str:
    """Return the text of a category's name: its path, description, synonyms and other names."""
    node = taxonomy.nodes.get(id_)
    if node is None:
        return id_
    return ". ".join(
        filter(None, (node.label, node.description, *node.synonyms, *node.names.values()))
    )
