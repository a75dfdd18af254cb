"""`llmcat student`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from llmcat.cli.options import (
    ITEMS,
    STORE,
    add_settings,
    all_but,
    flags_of,
    refuse_several,
    settings,
)
from llmcat.cli.options import parser as make_parser
from llmcat.errors import BadConfig
from llmcat.storage import wrote

__all__ = ["command", "stands_for"]


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


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    make = make_parser("student", STUDENT_EPILOG)
    actions = make.add_subparsers(dest="action", required=True, metavar="train|eval|predict")
    trained = actions.add_parser("train", help="learn from labelled items, from the store, or both")
    actions.add_parser("eval", help="measure it: llmcat eval with this engine")
    actions.add_parser("predict", help="label a file with it: llmcat classify with this engine")
    add_settings(
        trained,
        leave_out=all_but(*ITEMS[:-1], "out", "labels", "taxonomy", "seed", "store"),
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
    group.add_argument("--min-examples", type=int, default=3, metavar="N", help="categories with "
                       "fewer examples are left to the model (default: 3)")  # fmt: skip
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
    from llmcat.students.recipe import Recipe
    from llmcat.taxonomy.load import taxonomy_of

    given = flags_of(args)
    if "file" not in given and with_store:
        args.file = [""]  # everything comes from the store
    config = settings(args)
    refuse_several(config, "student train")
    taxonomy = taxonomy_of(config)
    recipe = Recipe(
        kind=args.kind,
        params=_params(args),
        least=max(1, args.min_examples),
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
    return 0


def _params(args: argparse.Namespace) -> dict[str, Any]:
    """Return an estimator's settings, by the flags."""
    import ast

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


def stands_for(argv: list[str]) -> tuple[str, list[str]]:
    """Return the command that `llmcat student eval` or `predict` stands for."""
    make = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    make.add_argument("--student", default="student")
    args, rest = make.parse_known_args(argv[1:])
    name = "eval" if argv[0] == "eval" else "classify"
    if {"-h", "--help"} & set(rest):
        print(f"llmcat student {argv[0]} --student FOLDER (default: student) stands for\n"
              f"llmcat {name} --engine student --model FOLDER:\n")  # fmt: skip
        return name, rest
    return name, [*rest, "--engine", "student", "--model", args.student]
