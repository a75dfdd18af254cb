"""`llmcat apply`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from llmcat.cli.options import STORE, add_settings, all_but, not_over, settings
from llmcat.cli.options import parser as make_parser
from llmcat.errors import SHOWN, BadConfig
from llmcat.storage import wrote

__all__ = ["command"]

APPLY_EPILOG = """\
examples:
  llmcat apply out.csv --corrections checked.csv --taxonomy taxonomy.yaml -o final.csv
  llmcat apply out.jsonl --taxonomy taxonomy.yaml -o final.jsonl      # the label store's words
  llmcat apply out.csv --corrections checked.csv --labels a,b -o final.csv --gold cases.jsonl

A row of corrections has a `label`, and a `key`, an `id` or a `row` (from 0, as predictions have it)
that says of which item. The predictions themselves, edited, will do: what differs is a correction,
a label that was emptied says that no category fits.
Without --corrections, what people said in the label store (--store) is put over the predictions.
"""


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    parser = make_parser("apply", APPLY_EPILOG)
    parser.add_argument("predictions", help="a file that llmcat wrote, in any format")
    add_settings(parser, leave_out=all_but("out", "labels", "taxonomy", "store", "text", "id",
                                           "label"), also=STORE)  # fmt: skip
    parser.add_argument("--corrections", default="", metavar="FILE", help="people's labels: any "
                        "file with a label, and a key, id or row")  # fmt: skip
    parser.add_argument("--gold", default="", metavar="FILE", help="write the corrected rows that "
                        "have their text beside them as labelled items (.jsonl)")  # fmt: skip
    parser.add_argument("--replace", action="store_true", help="write over a file that is there")
    args = parser.parse_args(argv)
    config = settings(args)
    if not config.out:
        raise BadConfig("where to? -o FILE", hint="the predictions themselves are left as they are")
    read = [args.predictions, args.corrections, config.taxonomy]
    for out in filter(None, [config.out, args.gold]):
        not_over(out, read, replace=args.replace)
    from llmcat.annotations.store import LabelStore
    from llmcat.pipeline import corrections
    from llmcat.pipeline.read_back import as_run
    from llmcat.taxonomy.load import taxonomy_of

    config = as_run(args.predictions, config)
    taxonomy = taxonomy_of(config)
    if args.corrections:
        given = corrections.read(args.corrections, taxonomy, config)
    else:
        with LabelStore(Path(config.store), make=False) as store:
            given = corrections.of_store(store, taxonomy)
    said = wrote(Path(config.out))
    found: dict[str, Any] = corrections.apply(
        args.predictions, given, taxonomy, config, gold=args.gold
    )
    print(f"{found['rows']:,} rows: {found['changed']:,} changed, {found['same']:,} as they were "
          f"said to be, {found['rest']:,} not looked at", file=sys.stderr)  # fmt: skip
    if found["lost"]:
        print(f"WARNING: {found['lost']:,} corrections are of items that are not in the file",
              file=sys.stderr)  # fmt: skip
    for what, ids in given.notes.items():
        shown = ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
        print(f"{corrections.NOTES[what]} at {len(ids):,} items: {shown}", file=sys.stderr)
    print(said, file=sys.stderr)
    return int(found["lost"] == len(given) > 0)
