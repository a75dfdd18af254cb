"""Keep what a run found, and make the README's table from what was kept.

    python eval/results.py keep RUN_FOLDER NAME   writes eval/results/NAME.json and NAME.md
    python eval/results.py table                  writes the table into README.md

A kept file holds the figures, the command that made them, on what and when.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from llmcat.evaluation import report, report_markdown

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "eval" / "results"
README = ROOT / "README.md"
SHOWN = ("accuracy", "macro_f1", "log_loss", "ece_debiased", "coverage_at_95")
MARK = "<!-- results -->"


def keep(folder: Path, name: str) -> None:
    """Write down a run: its figures and, for the table, some of them again; no items."""
    found = report.read(folder)
    record = found.record
    arms = {
        arm: {
            "said": record["arms"][arm]["said"],
            "prompt": record["arms"][arm]["identity"]["prompt"].split()[0],
            "model": Path(record["arms"][arm]["served"]["model"]).name,
            "engine": record["arms"][arm]["served"]["engine"],
            "version": record["arms"][arm]["served"]["version"],
            "metrics": {m: measured["metrics"][m] for m in SHOWN},
        }
        for arm, measured in found.metrics.items()
    }
    kept = {
        "set": name,
        "n": record["items"]["n"],
        "command": [re.sub(r"^/.*/", "", word) for word in record["command"]],
        "date": record["created"][:10],
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "verdict": report.line(found),
        "arms": arms,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    head = f"    {' '.join(kept['command'])}\n\n{kept['date']}, {kept['machine']}\n\n"
    (RESULTS / f"{name}.md").write_text(
        f"# {name}\n\n{head}{report_markdown.markdown(found, items=False)}"
    )
    print(f"wrote {RESULTS / name}.json and .md")


def table() -> str:
    """Return the README's table."""
    lines = [
        "| set | items | prompt | accuracy | macro F1 | ECE, debiased | taken at 95 % precision |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    about = set()
    for path in sorted(RESULTS.glob("*.json")):
        kept = json.loads(path.read_text("utf-8"))
        for arm in kept["arms"].values():
            found = arm["metrics"]
            figures = [_share(found[m]) for m in SHOWN if m != "log_loss"]
            link = f"[{kept['set']}](eval/results/{path.stem}.md)"
            lines.append(f"| {link} | {kept['n']:,} | {arm['prompt']} | {' | '.join(figures)} |")
            model = (
                f"Model {arm['model']} by {arm['engine']}, vLLM {arm['version']}, {kept['machine']}"
            )
            about.add(f"{model}, {kept['date']}")
    return "\n".join([*lines, "", *(f"({one}.)" for one in sorted(about))])


def _share(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return "none"
    text = f"{100 * estimate['value']:.1f}"
    if estimate["low"] is None:
        return text
    return f"{text} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"


def with_table(text: str) -> str:
    """Return the README with its table as it should be."""
    before, rest = text.split(MARK)
    after = rest.split("<!-- end -->", 1)[1]
    return f"{before}{MARK}\n{table()}\n<!-- end -->{after}"


def main(argv: list[str]) -> int:
    """Keep a run, or write the table."""
    match argv:
        case ["keep", folder, name]:
            keep(Path(folder), name)
        case ["table"]:
            README.write_text(with_table(README.read_text("utf-8")), "utf-8")
            print(f"wrote {README}")
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
