"""`llmcat review`: people check predictions on a local page."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcat.cli.options import STORE, add_settings, all_but, not_over, settings
from llmcat.cli.options import parser as make_parser
from llmcat.cli.show import DECISIONS
from llmcat.errors import BadConfig, InputError, LlmcatNote
from llmcat.files.formats import form_of
from llmcat.files.opened import open_bytes
from llmcat.files.sources import fingerprint
from llmcat.items.readers import Columns, ItemReader
from llmcat.items.values import as_text
from llmcat.pipeline.read_back import HOW, as_run, predictions_in
from llmcat.pipeline.tables_out import OURS
from llmcat.records import digest
from llmcat.storage import whole
from llmcat_serve.review.queue import ORDERS, Entry, Queue, in_order

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from llmcat.config import RunConfig
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["main"]

EPILOG = """\
examples:
  llmcat review out.csv --taxonomy taxonomy.yaml               # then open the address it prints
  llmcat review out.jsonl --items items.csv --taxonomy taxonomy.yaml --order random --sample 200
  llmcat review out.csv --taxonomy taxonomy.yaml --share 0.1   # a tenth is seen by two people
  llmcat review out.csv --taxonomy taxonomy.yaml --static check.html --sample 50
  llmcat review out.csv --taxonomy taxonomy.yaml --export check.xlsx   # or .csv, or .json
  llmcat review out.csv --taxonomy taxonomy.yaml --groups proposed.yaml
  llmcat apply out.csv --corrections answers.json --taxonomy taxonomy.yaml -o final.csv
  llmcat apply out.csv --taxonomy taxonomy.yaml -o final.csv           # people's labels put in

Keys: 1 to 9 choose, / searches, n none of these, s skip, u undo, o second opinion, t the taxonomy
is wrong here. Every answer is in the label store (--store) at once. The page is on loopback only.
"""


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("review", EPILOG)
    parser.add_argument("predictions", help="a file that llmcat wrote, in any format")
    parser.add_argument("--items", default="", metavar="FILE", help="the items, where their text "
                        "is not beside the predictions")  # fmt: skip
    add_settings(parser, leave_out=all_but("labels", "taxonomy", "text", "id", "image", "store",
                                           "seed"), also=STORE)  # fmt: skip
    parser.add_argument("--order", choices=ORDERS, default="unsure", help="which come first: the "
                        "least sure, where retrieval disagrees, of categories with few labels, or "
                        "at random (default: unsure)")  # fmt: skip
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="only the first N of "
                        "them")  # fmt: skip
    parser.add_argument("--decision", action="append", choices=DECISIONS, help="only rows with "
                        "this decision; may be repeated")  # fmt: skip
    parser.add_argument("--share", type=float, default=0.0, metavar="S", help="this share is shown "
                        "to two people, to see how far they agree")  # fmt: skip
    parser.add_argument("--queue", default="", metavar="FILE", help="who has seen what (default: "
                        "beside the predictions)")  # fmt: skip
    parser.add_argument("--port", type=int, default=8765, help="port on loopback (default: 8765)")
    parser.add_argument("--static", default="", metavar="FILE.html", help="write one page that "
                        "needs no server, and start none")  # fmt: skip
    parser.add_argument(
        "--export",
        default="",
        metavar="FILE",
        help="write the items to check for "
        "another tool, and start no server: .csv, .xlsx, .json (Label Studio)",
    )
    parser.add_argument("--groups", default="", metavar="FILE.yaml", help="write what got `none`, "
                        "grouped by likeness, as categories to think about")  # fmt: skip
    parser.add_argument("--replace", action="store_true", help="write over files that are there")
    return parser


def main(argv: list[str]) -> int:
    """Run it; return the exit code."""
    args = _parser().parse_args(argv)
    if not 0 <= args.share <= 1:
        raise BadConfig("--share is between 0 and 1")
    for out in filter(None, [args.static, args.export, args.groups]):
        not_over(out, [args.predictions, args.items], replace=args.replace)
    config = as_run(args.predictions, settings(args))
    from llmcat.annotations.store import LabelStore
    from llmcat.taxonomy.load import taxonomy_of

    taxonomy = taxonomy_of(config)
    with LabelStore(Path(config.store)) as store:
        counts = {label: sum(by.values()) for label, by in store.counts().items()}
        entries = in_order(
            entries_of(args.predictions, args.items, config, args.decision, taxonomy),
            args.order,
            counts=counts, seed=config.seed,
        )  # fmt: skip
        entries = entries[: args.sample or None]
        if not entries:
            raise InputError(f"{args.predictions}: no rows to check")
        if args.export or args.groups:
            return _write_files(args, entries, taxonomy)
        if args.static:
            return _write_page(Path(args.static), entries, taxonomy, args.predictions)
        path = Path(args.queue or f"{args.predictions}.review.sqlite")
        queue = Queue(path, store, taxonomy.digest)
        try:
            asked = f"{args.order} {args.sample} {args.decision} {config.seed}"
            source = digest(fingerprint([args.predictions])[0], asked)
            count = queue.fill(entries, share=args.share, source=source)
            return _serve(queue, taxonomy, args.port, args.predictions, count)
        finally:
            queue.close()


def entries_of(
    path: str, items: str, config: RunConfig, decisions: list[str] | None, taxonomy: Taxonomy
) -> Iterator[Entry]:
    """Yield the items of predictions with what was predicted, each text once.

    Raises `InputError` where the items' text is nowhere, or the items are others.
    """
    columns = Columns.of(config)
    beside = next((bool(set(kept) - set(row)) for row, kept in predictions_in(path)), False)
    if not (items or beside):
        raise InputError(f"{path} has no text of the items beside it", hint="--items FILE")
    seen: set[str] = set()
    reader = ItemReader(columns=columns).read(items or path)
    for item, (row, kept) in zip(reader, predictions_in(path, columns.id), strict=False):
        key = row.get("key") or digest(item.content)
        if items and key != digest(item.content):
            raise InputError(
                f"{items}: row {item.row + 1} is not the item of {path}",
                hint="the same file, with the same --text",
            )
        if (
            item.error is not None
            or key in seen
            or (decisions and row["decision"] not in decisions)
        ):
            continue
        seen.add(key)
        menu = [{**one, "label": found} for one in row["alternatives"]
                if (found := taxonomy.resolve(one["label"])) is not None]  # fmt: skip
        if row["label"] is not None:
            first = {"label": row["label"], "path": row["path"], "p": row["confidence"]}
            menu = [first, *menu]
        said: dict[str, Any] = {
            "label": row["label"], "confidence": row["confidence"], "decision": row["decision"],
            "menu": menu, "image": next(iter(item.images), ""),
            "alone": (row.get("evidence") or {}).get("alone"),
        }  # fmt: skip
        yield Entry(key, row["id"], {**item.fields, **({} if items else _rest(kept, row))}, said)


def _separator(path: str) -> str:
    """Return what separates the columns of predictions, a comma where they are no table."""
    with open_bytes(path) as raw, warnings.catch_warnings():
        warnings.simplefilter("ignore", LlmcatNote)  # it has been said
        form = form_of(path, raw, HOW)
    return form.dialect.separator if form.format == "csv" else ","


def _rest(kept: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, str]:
    """Return the user's other columns, which help a person to decide."""
    texts = {name: as_text(value) for name, value in kept.items() if name.strip()}
    ours = {*row, *OURS}
    return {name: text for name, text in texts.items() if text and name not in ours}


def _write_page(path: Path, entries: list[Entry], taxonomy: Taxonomy, title: str) -> int:
    import orjson

    from llmcat_serve.review.app import nodes_of, page

    data = {
        "items": [orjson.loads(entry.as_json()) for entry in entries],
        "nodes": nodes_of(taxonomy),
    }
    with whole(path) as raw:
        raw.write(page(title, data).encode())
    print(f"wrote {path}: {len(entries):,} items; what it saves goes to `llmcat apply "
          "--corrections`", file=sys.stderr)  # fmt: skip
    return 0


def _write_files(args: argparse.Namespace, entries: list[Entry], taxonomy: Taxonomy) -> int:
    from llmcat_serve.review import exports

    if args.export:
        separator = _separator(args.predictions)
        exports.export(Path(args.export), entries, taxonomy, separator=separator)
        print(f"wrote {args.export}: {len(entries):,} items to check", file=sys.stderr)
        if args.export.endswith(".json"):
            print("Label Studio's labelling interface for it:", file=sys.stderr)
            print(exports.config_of(taxonomy), end="")
    if args.groups:
        groups = exports.groups_of(entries)
        exports.write_groups(Path(args.groups), groups)
        count = sum(len(group["items"]) for group in groups)
        print(f"wrote {args.groups}: {len(groups):,} groups of {count:,} items that got none; give "
              "them names, and put what is right into the taxonomy", file=sys.stderr)  # fmt: skip
    return 0


def _serve(queue: Queue, taxonomy: Taxonomy, port: int, title: str, count: int) -> int:
    import asyncio
    import contextlib

    from aiohttp import web

    from llmcat_serve.review.app import make_app

    async def work() -> None:
        runner = web.AppRunner(make_app(queue, taxonomy, title=title), access_log=None)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, "127.0.0.1", port).start()
            except OSError as exc:
                said = f"port {port} cannot be had: {exc.strerror}"
                raise BadConfig(said, hint="--port N names another") from exc
            print(f"{count:,} items to check: http://127.0.0.1:{port}/  (Ctrl-C ends it; every "
                  "answer is stored at once)", file=sys.stderr, flush=True)  # fmt: skip
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work())
    done = queue.progress()
    print(f"{done['done']:,} of {done['total']:,} checked", file=sys.stderr)
    if doubted := queue.doubted():
        print(f"somebody doubts the taxonomy at {', '.join(doubted)}", file=sys.stderr)
    return 0
