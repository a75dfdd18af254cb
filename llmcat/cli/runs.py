"""`llmcat runs`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from llmcat.cli.options import parser as make_parser
from llmcat.cli.results import print_result

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["command"]

RUNS_EPILOG = """\
examples:
  llmcat runs list
  llmcat runs show items-7a3e0bb5
  llmcat runs compare items-7a3e0bb5 items-91c40d2e    # the first is what is compared with
"""


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    parser = make_parser("runs", RUNS_EPILOG)
    parser.add_argument("--runs", metavar="FOLDER", help="folder of the runs (default: runs)")
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="list|show|compare|export"
    )
    actions.add_parser("list", help="all runs, the latest first")
    shown = actions.add_parser("show", help="what a run found, and how to repeat it")
    shown.add_argument("run", help="its name, or the end of it, or its folder")
    shown.add_argument(
        "--format", choices=["text", "md"], default="text", help="tables or Markdown"
    )
    compared = actions.add_parser("compare", help="compare two finished runs on the same items")
    compared.add_argument("run", nargs=2, help="the first is what the second is compared with; "
                          "RUN:ARM for an arm of a comparison")  # fmt: skip
    compared.add_argument("--metric", default="", help="what decides (default: as for ab)")
    compared.add_argument("--out", default="", help="folder of the comparison")
    exported = actions.add_parser("export", help="all of a run, to repeat or archive it, as a .zip")
    exported.add_argument("run", help="its name, or the end of it, or its folder")
    exported.add_argument("file", help="the .zip to write")
    args = parser.parse_args(argv)
    from llmcat import config

    folder = args.runs or config.load().runs
    if args.action == "list":
        return list_runs(folder)
    if args.action == "show":
        return show_run(folder, args.run, form=args.format)
    if args.action == "export":
        return export_run(folder, args.run, args.file)
    command = ["llmcat", "runs", *argv]
    return compare_runs(folder, args.run, metric=args.metric, out=args.out, command=command)


def list_runs(folder: str) -> int:
    """Print the runs of a folder, the latest first."""
    from llmcat.evaluation.run_folder import Registry

    registry = Registry.existing(folder)
    for one in registry.runs():
        created = one["created"][:16].replace("T", " ")
        print(f"{one['name']}  {created}  {one['kind']}  {one['n']:,} items  {one['status']}")
        if one["result"]:
            print(f"    {one['result']}")
        for name, said in one["arms"].items():
            if said:
                print(f"    {name}: {said}")
    registry.close()
    return 0


def show_run(folder: str, name: str, *, form: str) -> int:
    """Print what a run found, and how to repeat it."""
    path = _found(folder, name)
    shown = {"form": form, "explain": False, "quiet": True, "fail_if_worse": False}
    print_result(path, None, shown)
    if form == "text":
        record = orjson.loads((path / "run.json").read_bytes())
        print(f"\nfolder   {path}")
        print(f"begun    {record['created']}, llmcat {record['llmcat']}")
        for arm, what in record["arms"].items():
            print(f"arm {arm}    {what['identity']['prompt']}, {what['identity']['model']}")
        print(f"repeat   {shlex.join(record['command'])}")
    return 0


def compare_runs(
    folder: str, names: Sequence[str], *, metric: str, out: str, command: Sequence[str]
) -> int:
    """Compare arms of two finished runs, and print the result."""
    from llmcat.evaluation import experiment

    paths = {}
    for arm, name in zip("ab", names, strict=True):
        wanted, _, of = name.partition(":") if not Path(name).exists() else (name, "", "")
        paths[arm] = (_found(folder, wanted), of)
    path = experiment.compare_runs(paths, folder, out=out, metric=metric, command=command)
    shown = {"form": "text", "explain": False, "quiet": False, "fail_if_worse": False}
    shown["quiet"] = True
    print_result(path, None, shown)
    print(f"wrote {path / 'report.html'}", file=sys.stderr)
    return 0


def export_run(folder: str, name: str, file: str) -> int:
    """Pack a run's folder into a zip file."""
    from llmcat.evaluation import experiment

    packed = experiment.export_run(_found(folder, name), Path(file))
    print(f"wrote {file}: {', '.join(packed)}")
    return 0


def _found(folder: str, name: str) -> Path:
    from llmcat.evaluation.run_folder import Registry

    if (Path(name) / "run.json").is_file():
        return Path(name)
    registry = Registry.existing(folder)
    try:
        return registry.find(name)
    finally:
        registry.close()
