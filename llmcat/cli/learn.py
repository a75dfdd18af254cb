"""The commands of labels, students and the fallback labeler: arguments in, exit codes out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcat.cli.options import GROUPS, add_settings, flags_of, parser, settings
from llmcat.storage import wrote

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HANDLERS"]

DONE = 0
STORE = frozenset({"label store"})
ITEMS = ("file", "input_format", "text", "id", "label", "redact", "limit")


def _all_but(*names: str) -> frozenset[str]:
    """Return every setting that is not among these."""
    return frozenset(n for group in GROUPS.values() for n in group) - set(names)


# -- labels -----------------------------------------------------------------------------------

LABELS_EPILOG = """\
examples:
  llmcat labels import --file checked.csv --taxonomy taxonomy.yaml --source person --by anna
  llmcat labels export --sample 50 to_check.csv
  llmcat labels export --source person --source gold labeled.jsonl
  llmcat labels stats

The store keeps every label with its source (person, gold, model, primary); a person's latest word
is above all others. Texts are kept as hashes, with --keep-text as they are.
"""


def _labels(argv: list[str]) -> int:
    make = parser("labels", LABELS_EPILOG)
    actions = make.add_subparsers(dest="action", required=True, metavar="import|export|stats")
    brought = actions.add_parser("import", help="labelled items into the store")
    add_settings(
        brought,
        leave_out=_all_but(*ITEMS, "labels", "taxonomy", *GROUPS["label store"]),
        also=STORE,
    )
    brought.add_argument("--source", choices=["person", "gold"], default="person", help="who gave "
                         "the labels (default: person)")  # fmt: skip
    brought.add_argument("--by", default="", metavar="WHO", help="which person, or which file")
    sent = actions.add_parser("export", help="labels out of the store, as .jsonl or .csv")
    sent.add_argument("out", help="the file to write")
    add_settings(sent, leave_out=_all_but("store", "seed"), also=STORE)
    sent.add_argument("--source", action="append", choices=["person", "gold", "model", "primary"],
                      help="the label that holds by these sources (default: all)")  # fmt: skip
    sent.add_argument("--conflicts", action="store_true", help="texts whose sources disagree, each "
                      "source's word")  # fmt: skip
    sent.add_argument("--sample", type=int, metavar="N", help="a random sample of so many that "
                      "nobody has checked: to be checked, and imported")  # fmt: skip
    counted = actions.add_parser("stats", help="labels by source, agreement, conflicts")
    add_settings(counted, leave_out=_all_but("store"), also=STORE)
    args = make.parse_args(argv)
    config = settings(args)
    from llmcat.annotations import transfer
    from llmcat.annotations.store import LabelStore
    from llmcat.errors import BadConfig
    from llmcat.taxonomy.load import taxonomy_of

    path = Path(config.store)
    if args.action == "import":
        taxonomy = taxonomy_of(config)
        with LabelStore(path) as store:
            found = transfer.import_labels(config, taxonomy, store, source=args.source, by=args.by)
        print(f"{found['new']:,} new labels by {args.source}, {found['known']:,} known already, "
              f"{found['unlabelled']:,} rows without", file=sys.stderr)  # fmt: skip
        return DONE
    with LabelStore(path, make=False) as store:
        if args.action == "stats":
            return _stats(store)
        if args.sample is not None and args.sample < 1:
            raise BadConfig("--sample takes a number of labels, 1 or more")
        if args.conflicts:
            labels = [label for words in store.conflicts() for label in words]
        elif args.sample is not None:
            labels = store.unchecked(args.sample, seed=config.seed)
        else:
            labels = store.holding(*(args.source or ()))
        count = transfer.export(store, labels, Path(args.out), to_check=args.sample is not None)
    print(f"wrote {args.out}: {count:,} labels", file=sys.stderr)
    return DONE


def _stats(store: Any) -> int:
    """Print what a store holds."""
    from rich.console import Console
    from rich.table import Table

    from llmcat.annotations.store import SOURCES

    counts = store.counts()
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("label")
    for source in SOURCES:
        table.add_column(source, justify="right")
    for label, by_source in sorted(counts.items(), key=lambda pair: -sum(pair[1].values())):
        table.add_row(label, *(f"{by_source[s]:,}" if by_source[s] else "" for s in SOURCES))
    totals = {s: sum(by_source[s] for by_source in counts.values()) for s in SOURCES}
    table.add_section()
    table.add_row(f"{len(counts):,} labels", *(f"{totals[s]:,}" for s in SOURCES))
    Console(highlight=False).print(table)
    for source in ("model", "primary"):
        checks = store.checks(source)
        if checks:
            right = sum(check.right for check in checks)
            print(f"{source}: right on {right:,} of {len(checks):,} checked later "
                  f"({right / len(checks):.1%})")  # fmt: skip
    conflicts = store.conflicts()
    print(f"{len(conflicts):,} texts on which sources disagree")
    return DONE


# -- student ----------------------------------------------------------------------------------

STUDENT_EPILOG = """\
examples:
  llmcat student train --file labeled.jsonl --taxonomy taxonomy.yaml --out student
  llmcat student train --file items.jsonl --store labels.sqlite --taxonomy taxonomy.yaml \\
    --features sentence-transformers/all-MiniLM-L6-v2 --search grid
  llmcat student train --file labeled.jsonl --taxonomy taxonomy.yaml --kind encoder \\
    --encoder bert-base-uncased --augment 10
  llmcat student eval --student student --file test.jsonl --taxonomy taxonomy.yaml
  llmcat student predict --student student --file items.jsonl --taxonomy taxonomy.yaml

A student is --engine student --model FOLDER to every other command: ab compares it with a model,
calibrate draws its line. Exit codes as there.
"""

FEATURES = "tfidf, or a sentence-transformers model by name or folder (default: tfidf)"


def _student(argv: list[str]) -> int:
    make = parser("student", STUDENT_EPILOG)
    actions = make.add_subparsers(dest="action", required=True, metavar="train|eval|predict")
    trained = actions.add_parser("train", help="learn from labelled items, from the store, or both")
    actions.add_parser("eval", help="measure it: llmcat eval with this engine")
    actions.add_parser("predict", help="label a file with it: llmcat classify with this engine")
    add_settings(
        trained,
        leave_out=_all_but(*ITEMS[:-1], "out", "labels", "taxonomy", "seed", "store"),
        also=STORE,
        told={
            "file": "labelled items, or items whose labels are in the store",
            "out": "folder of the student (default: student)",
            "store": "learn from the labels of this store too; --file has the texts to them, "
            "unless it keeps them",
            "seed": "seed for folds, search and training (default: 0)",
        },
    )
    group = trained.add_argument_group("student")
    group.add_argument("--kind", choices=["linear", "encoder", "vote", "stack"], default="linear",
                       help="linear: logistic regression; encoder: a fine-tuned encoder; vote, "
                       "stack: several (default: linear)")  # fmt: skip
    group.add_argument("--features", default="tfidf", metavar="MODEL", help=FEATURES)
    group.add_argument("--encoder", default="bert-base-uncased", metavar="MODEL", help="encoder to "
                       "fine-tune, by name or folder (default: bert-base-uncased)")  # fmt: skip
    group.add_argument("--member", action="append", default=[], metavar="KIND:MODEL", help="one of "
                       "several, repeated: linear:tfidf, linear:MODEL, encoder:MODEL")  # fmt: skip
    group.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting "
                       "of the kind, repeated: C=3, epochs=4, dropout=0.2")  # fmt: skip
    group.add_argument("--least", type=int, default=3, metavar="N", help="categories with fewer "
                       "examples are left to the model (default: 3)")  # fmt: skip
    group.add_argument("--augment", type=int, default=0, metavar="N", help="fill categories up to "
                       "so many examples with variants of their texts (default: 0)")  # fmt: skip
    group.add_argument("--search", choices=["grid", "random"], default="", help="look for the best "
                       "settings by cross-validation")  # fmt: skip
    group.add_argument("--tries", type=int, default=10, metavar="N", help="settings tried at "
                       "random (default: 10)")  # fmt: skip
    args = make.parse_args(argv)
    return _train(args, with_store=args.store is not None)


def _train(args: argparse.Namespace, *, with_store: bool) -> int:
    from llmcat.annotations.store import LabelStore
    from llmcat.students import training
    from llmcat.students.model import check_out
    from llmcat.taxonomy.load import taxonomy_of

    given = flags_of(args)
    if "file" not in given and with_store:
        args.file = [""]  # everything comes from the store
    config = settings(args)
    taxonomy = taxonomy_of(config)
    recipe = training.Recipe(
        kind=args.kind,
        params=_params(args),
        least=max(1, args.least),
        augment=args.augment,
        search=args.search,
        tries=args.tries,
        seed=config.seed,
    )
    out = Path(config.out or "student")
    check_out(out)
    done = wrote(out)
    store = LabelStore(Path(config.store), make=False) if with_store else None
    try:
        corpus = training.collect(config, taxonomy, store=store, least=recipe.least)
    finally:
        if store:
            store.close()
    for line in corpus.lines():
        print(line)
    student, remarks = training.train(corpus, taxonomy, recipe, features=args.features)
    student = student.save(out)
    for line in remarks:
        print(line)
    held = student.held
    right = sum(a == b for a, b in zip(held.label, held.gold, strict=True))
    if held.gold:
        print(f"out of fold {right:,} of {len(held.gold):,} checked items right "
              f"({right / len(held.gold):.1%}); scaling: {student.manifest.scaling}")  # fmt: skip
    print(done, file=sys.stderr)
    return DONE


def _params(args: argparse.Namespace) -> dict[str, Any]:
    """Return an estimator's settings, by the flags."""
    import ast

    from llmcat.errors import BadConfig

    found: dict[str, Any] = {}
    if args.kind == "linear":
        found["features"] = args.features
    elif args.kind == "encoder":
        found["model"] = args.encoder
    else:
        members = []
        for word in args.member:
            kind, colon, model = word.partition(":")
            if kind not in {"linear", "encoder"} or not colon or not model:
                raise BadConfig(f"--member {word}: linear:FEATURES or encoder:MODEL")
            members.append([kind, {"features" if kind == "linear" else "model": model}])
        found["members"] = members
    for pair in args.set:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadConfig(f"--set {pair} is not NAME=VALUE")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


# -- fallback -----------------------------------------------------------------------------------


FALLBACK_EPILOG = """\
examples:
  llmcat fallback --file items.jsonl --taxonomy taxonomy.yaml --primary student \\
    --base-url http://localhost:8000
  llmcat fallback --file items.jsonl --taxonomy taxonomy.yaml --primary student \\
    --base-url http://localhost:8000 --max-asks 1000
  llmcat fallback --redo degraded --file items.jsonl --taxonomy taxonomy.yaml \\
    --primary student --base-url http://localhost:8000
  llmcat fallback status --taxonomy taxonomy.yaml --primary student

The primary decides what it is sure of; the model is asked where it is unsure, where an item is
unlike its training items, and where a category without examples is near. --accept-precision
(default here: 0.9) is the primary's gate, and with it given rows are to accept or to review. What
each said stands in the row and in the label store. Where the model is away the primary's answer
is marked degraded. Exit codes: 0 done; 1 some rows are errors; 2 bad input; 130 interrupted.
"""
_FALLBACK_LEAVE = frozenset(
    {"calibration", "by_branch", "back_off", "sets", "orders", "runs", "out_format", "image"}
)


def _fallback(argv: list[str]) -> int:
    if argv[:1] == ["status"]:
        return _status(argv[1:])
    make = parser("fallback", FALLBACK_EPILOG)
    make.add_argument("action", nargs="?", choices=["status"], help="status: where each category "
                      "stands (llmcat fallback status --help)")  # fmt: skip
    add_settings(make, leave_out=_FALLBACK_LEAVE, also=STORE | {"fallback"})
    make.add_argument("--redo", choices=["degraded"], help="ask again about the degraded rows of a "
                      "finished file")  # fmt: skip
    make.add_argument("--restart", action="store_true", help="start over instead of going on")
    make.add_argument("--quiet", action="store_true", help="no progress, no closing lines")
    args = make.parse_args(argv)
    config = settings(args)
    from llmcat.annotations.store import LabelStore
    from llmcat.cli import terminal
    from llmcat.errors import BadConfig
    from llmcat.fallback import assemble
    from llmcat.taxonomy.load import taxonomy_of

    taxonomy = taxonomy_of(config)
    if config.file == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise BadConfig("no items", hint="--file FILE, or pipe them in")
    with LabelStore(Path(config.store)) as store:
        opened = assemble.open_route(config, taxonomy, store=store)
        if not args.quiet:
            for line in opened.remarks:
                print(line, file=sys.stderr)
        if args.redo:
            return terminal.run_redo(config, opened, quiet=args.quiet)
        return terminal.run_fallback(
            config, opened, command=argv, restart=args.restart, quiet=args.quiet
        )


def _status(argv: list[str]) -> int:
    """Print where each category stands."""
    make = parser("fallback")
    make.prog = "llmcat fallback status"
    names = ("labels", "taxonomy", "store", "primary", "primary_url", "known", "features",
             "accept_precision", "risk", "label", "text", "id")  # fmt: skip
    add_settings(make, leave_out=_all_but(*names), also=STORE | {"fallback"})
    config = settings(make.parse_args(argv))
    from rich.console import Console
    from rich.table import Table

    from llmcat.annotations.store import SOURCES, LabelStore
    from llmcat.fallback import assemble, status
    from llmcat.taxonomy.load import taxonomy_of

    taxonomy = taxonomy_of(config)
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("category", no_wrap=True, overflow="ellipsis")
    for head in (*SOURCES, "stands", "decides", "checks", "agree", "missing"):
        left = head in {"stands", "decides"}
        table.add_column(head, justify="left" if left else "right", no_wrap=True,
                         min_width=len(head))  # fmt: skip
    with LabelStore(Path(config.store), make=False) as store:
        opened = assemble.open_route(config, taxonomy, store=store)
        found = status.status(config, taxonomy, opened, store)
    for one in found:
        stands = one.standing
        state = stands.state
        if stands.alarm >= 0.5:  # noqa: PLR2004
            state = f"{state}, slipping"  # type: ignore[assignment]
        table.add_row(
            taxonomy.nodes[one.label].name,
            *(f"{one.labels.get(source, 0) or ''}" for source in SOURCES),
            state,
            "primary" if stands.decides else "model",
            f"{stands.right}/{stands.checks}" if stands.checks else "",
            f"{one.agree}/{one.both}" if one.both else "",
            f"{one.missing or ('' if stands.decides else 'train')}",
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    elif console.width < 110:  # noqa: PLR2004  the numbers whole, the categories as they fit
        table.padding, table.expand, table.columns[0].ratio = (0, 0, 0, 0), True, 1
    console.print(table)
    said = (
        *opened.remarks,
        "checks: how often the primary was right where it was sure of the category; agree: with "
        "the model's label; missing: right checks, or checked examples to train on, until it "
        "decides (train: there are enough, train the student anew)",
    )
    for line in said:
        console.print(line, markup=False, soft_wrap=not console.is_terminal)
    return DONE


# -- explain ------------------------------------------------------------------------------------


def _explain(argv: list[str]) -> int:
    make = parser("explain", "example:\n  llmcat explain 00123 --run items.predictions.jsonl\n")
    make.add_argument("id", help="the row's id, or '#N' for row N")
    make.add_argument("--run", required=True, metavar="FILE", help="the predictions (.jsonl)")
    add_settings(make, leave_out=_all_but("store", "labels", "taxonomy"), also=STORE)
    args = make.parse_args(argv)
    from llmcat.fallback import explain

    config = settings(args)
    for line in explain.explain(Path(args.run), args.id, Path(config.store)):
        print(line)
    return DONE


HANDLERS: dict[str, Callable[[list[str]], int]] = {
    "labels": _labels,
    "student": _student,
    "fallback": _fallback,
    "explain": _explain,
}
