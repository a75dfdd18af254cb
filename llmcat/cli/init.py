"""`llmcat init`: a starter project made from the shipped examples. Never overwrites."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from llmcat import resources
from llmcat.cli.options import parser as make_parser
from llmcat.config import CONFIG_FILE
from llmcat.errors import InputError, JournalError

__all__ = ["command", "write"]

ITEMS = 20

SETTINGS = """\
# Settings of llmcat. Flags and LLMCAT_* environment variables win over this file.
# Secrets do not belong here: set LLMCAT_API_KEY.

taxonomy = "taxonomy.yaml"
# prompt = "mine.jinja"          # the default suits most models; llmcat prompts list

# The model server (llmcat serve model --model NAME starts one):
# base_url = "http://127.0.0.1:8000"
# model = ""                     # empty if the server has just one
# price_per_hour = 0.0           # for costs
"""

NEXT_STEPS = """\
next:
  put your categories into taxonomy.yaml and your items into items.jsonl (or any .csv)
  llmcat doctor                                          # what is missing?
  llmcat classify --file items.jsonl --limit 20 --preview
  llmcat classify --file items.jsonl
"""


def write(folder: str) -> list[Path]:
    """Write the starter files into a folder; return their paths.

    Raises `InputError` if one of them is there already, `JournalError` if it cannot be written.
    """
    examples = resources.folder("examples")
    with (examples / "items.jsonl").open(encoding="utf-8") as lines:
        items = "".join(islice(lines, ITEMS))
    texts = {
        CONFIG_FILE: SETTINGS,
        "taxonomy.yaml": (examples / "taxonomy.yaml").read_text("utf-8"),
        "items.jsonl": items,
    }
    paths = {Path(folder) / name: text for name, text in texts.items()}
    there = [str(path) for path in paths if path.exists()]
    if there:
        raise InputError(f"there already: {', '.join(there)}", hint="llmcat init NEW_FOLDER")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path, text in paths.items():
            path.write_text(text, "utf-8")
    except OSError as exc:
        raise JournalError(f"{folder}: {exc.strerror}") from exc
    return list(paths)


def command(argv: list[str]) -> int:
    """Run it; return the exit code."""
    parser = make_parser(
        "init", "example:\n  llmcat init shop      # shop/llmcat.toml, taxonomy.yaml, items.jsonl\n"
    )
    parser.add_argument("folder", nargs="?", default=".", help="where (default: here)")
    args = parser.parse_args(argv)
    for path in write(args.folder):
        print(f"wrote {path}")
    print(NEXT_STEPS, end="")
    return 0
