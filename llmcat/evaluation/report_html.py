"""The report as a page that stands alone: no network, opens from disk, data included.

Item text goes into it as JSON and onto the page as text, never as markup.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from llmcat.evaluation.predictions import ERROR
from llmcat.evaluation.report import (
    Result,
    Section,
    files_line,
    interest,
    joined,
    line,
    requests_of,
    sections,
    shared_messages,
)

__all__ = ["html"]


ASSETS = Path(__file__).parent / "_report"


ROWS = 20_000
"""Rows in the page; the interesting ones come first."""


PROMPTS = 2_000
"""Rows whose prompts are in the page."""


def html(result: Result) -> str:
    """Return the page."""
    data = orjson.dumps(_data(result)).decode()
    for mark, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        data = data.replace(mark, code)
    page = (ASSETS / "page.html").read_text("utf-8")
    for name in ("style.css", "script.js"):
        page = page.replace(f"/* {name} */", (ASSETS / name).read_text("utf-8"))
    return page.replace("null /* data */", data)


def _data(result: Result) -> dict[str, Any]:
    arms = list(result.metrics)
    labels: dict[str, int] = {}

    def at(label: str) -> int:
        return labels.setdefault(label, len(labels))

    rows = sorted(joined(result), key=interest)
    shown = rows[:ROWS]
    with_prompts = {row["row"] for row in shown[:PROMPTS]}
    return {
        "title": " against ".join(reversed(arms)) if len(arms) > 1 else "Evaluation",
        "file": files_line(result),
        "line": line(result),
        "verdict": (result.comparison and result.comparison["ship"]) or "",
        "decided": result.comparison is not None,
        "remarks": result.record["remarks"],
        "sections": [_section(section) for section in sections(result)],
        "arms": arms,
        "classes": {
            arm: [
                [at(c["label"]), c["support"], c["given"], c["precision"], c["recall"], c["f1"]]
                for c in result.metrics[arm]["classes"]
            ]
            for arm in arms
        },
        "confusions": {
            arm: [
                [at(c["gold"]), at(c["label"]), c["count"], c["cost"]]
                for c in result.metrics[arm]["confusions"]
            ]
            for arm in arms
        },
        "sent": {arm: (result.record["arms"][arm].get("adds") or {}).get("curve") for arm in arms},
        "reliability": {arm: result.metrics[arm]["reliability"] for arm in arms},
        "risk_coverage": {arm: result.metrics[arm]["risk_coverage"] for arm in arms},
        "rows": [
            [
                row["row"],
                row["id"],
                row["title"],
                at(row["gold"]),
                [at(label) for label in row["labels"]],
                row["p"],
                row["notes"],
                row["fields"] if len(row["fields"]) > 1 else None,
            ]
            for row in shown
        ],
        "total": len(rows),
        "prompts": {arm: _prompts(result, arm, with_prompts) for arm in arms},
        "labels": [result.labels.path(label) for label in labels],
        "error": labels.get(ERROR, -1),
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "heads": section.heads,
        "rows": section.rows,
        "notes": section.notes,
        "text": section.text_columns,
    }


def _prompts(result: Result, arm: str, rows: set[int]) -> dict[str, Any]:
    """Return an arm's questions about some rows; what they share stands once."""
    requests = requests_of(result.path, arm, rows)
    used = {key for tails in requests.values() for key, _ in tails}
    return {
        "shared": {k: v for k, v in shared_messages(result.path, arm) if k in used},
        "asks": {str(row): said for row, said in requests.items()},
    }
