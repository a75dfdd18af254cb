"""`llmcat labels`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llmcat.cli.options import GROUPS, ITEMS, STORE, add_settings, all_but, refuse_several, settings
from llmcat.cli.options import parser as make_parser
from llmcat.errors import BadConfig

__all__ = ["command"]


LABELS_EPILOG = """\
examples:
  llmcat labels import --file checked.csv --taxonomy taxonomy.yaml --source person --by anna
  llmcat labels export --sample 50 to_check.csv
  llmcat labels export --source person --source gold labeled.jsonl
  llmcat labels stats

The store keeps every label with its source (person, gold, model, primary); a person's latest word
is above all others. Texts are kept as hashes, with --keep-text as they are.
"""


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    make = make_parser("labels", LABELS_EPILOG)
    actions = make.add_subparsers(dest="action", required=True, metavar="import|export|stats")
    brought = actions.add_parser("import", help="labelled items into the store")
    add_settings(
        brought,
        leave_out=all_but(*ITEMS, "labels", "taxonomy", *GROUPS["label store"]),
        also=STORE,
    )
    brought.add_argument("--source", choices=["person", "gold"], default="person", help="who gave "
                         "the labels (default: person)")  # fmt: skip
    brought.add_argument("--by", default="", metavar="WHO", help="which person, or which file")
    sent = actions.add_parser("export", help="labels out of the store, as .jsonl or .csv")
    sent.add_argument("out", help="the file to write")
    add_settings(sent, leave_out=all_but("store", "seed"), also=STORE)
    sent.add_argument("--source", action="append", choices=["person", "gold", "model", "primary"],
                      help="the label that holds by these sources (default: all)")  # fmt: skip
    sent.add_argument("--conflicts", action="store_true", help="texts whose sources disagree, each "
                      "source's word")  # fmt: skip
    sent.add_argument("--sample", type=int, metavar="N", help="a random sample of so many that "
                      "nobody has checked: to be checked, and imported")  # fmt: skip
    counted = actions.add_parser("stats", help="labels by source, agreement, conflicts")
    add_settings(counted, leave_out=all_but("store"), also=STORE)
    args = make.parse_args(argv)
    config = settings(args)
    if args.action == "import":
        refuse_several(config, "labels import")
    from llmcat.annotations import transfer
    from llmcat.annotations.store import LabelStore
    from llmcat.taxonomy.load import taxonomy_of

    path = Path(config.store)
    if args.action == "import":
        taxonomy = taxonomy_of(config)
        with LabelStore(path) as store:
            found = transfer.import_labels(config, taxonomy, store, source=args.source, by=args.by)
        print(f"{found['new']:,} new labels by {args.source}, {found['known']:,} known already, "
              f"{found['unlabelled']:,} rows without", file=sys.stderr)  # fmt: skip
        return 0
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
    return 0


def _stats(store: Any) -> int:
    """Print what a store holds."""
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
    return 0
