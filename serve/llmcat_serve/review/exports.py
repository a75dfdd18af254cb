"""Items to check in other tools: a table for a spreadsheet, tasks for Label Studio; groups of none.

What comes back has a `key` and a `label`: `llmcat labels import`, or `llmcat apply --corrections`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np
import orjson

from llmcat.errors import BadConfig
from llmcat.files import excel
from llmcat.pipeline.tables_out import safe
from llmcat.records import NONE, key_out
from llmcat.storage import text_in, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.taxonomy.tree import Taxonomy
    from llmcat_serve.review.queue import Entry

__all__ = ["Group", "export", "groups_of", "label_studio", "write_groups"]

TOP = 3
ALIKE = 0.2
"""Cosine of two texts' tf-idf from which on they may be of one group."""
WORD = r"(?u)\b[^\W\d_]{2,}\b"
LEAST = 3
"""Items that a proposed category stands for at least."""

Group = dict[str, Any]


def export(
    path: Path, entries: Sequence[Entry], taxonomy: Taxonomy, *, separator: str = ","
) -> None:
    """Write items to check as .csv, .xlsx or Label Studio's .json. Raises `BadConfig`."""
    suffix = path.suffix.lower()
    if suffix not in {".csv", ".xlsx", ".json"}:
        raise BadConfig(
            f"{path}: items to check are written as .csv, .xlsx, or .json (Label Studio)"
        )
    if suffix == ".json":
        with whole(path) as raw:
            raw.write(orjson.dumps(label_studio(entries), option=orjson.OPT_INDENT_2))
        return
    fields = list(dict.fromkeys(name for entry in entries for name in entry.shown))
    header = ["key", "id", *fields, *(f"suggestion {i + 1}" for i in range(TOP)), "label"]
    rows = (
        [key_out(e.key), e.id, *(e.shown.get(name, "") for name in fields), *_top(e), ""]
        for e in entries
    )
    with whole(path) as raw:
        if suffix == ".xlsx":
            allowed = [node.label for node in taxonomy.leaves] + [NONE]
            excel.write(raw, header, rows, choices=allowed)
            return
        with text_in(raw) as text:
            text.write("\ufeff")  # Excel opens it as what it is
            writer = csv.writer(text, delimiter=separator)
            writer.writerow(header)
            writer.writerows(map(safe, row) for row in rows)


def _top(entry: Entry) -> list[str]:
    paths = [str(one["path"]) for one in entry.said["menu"][:TOP]]
    return paths + [""] * (TOP - len(paths))


def label_studio(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return tasks as Label Studio imports them, the predictions as its pre-annotations.

    Its JSON-MIN export comes back with `key` and `label`, the name of the control in `config_of`.
    """
    tasks = []
    for entry in entries:
        text = "\n".join(f"{name}: {value}" for name, value in entry.shown.items())
        task: dict[str, Any] = {"data": {"key": key_out(entry.key), "id": entry.id, "text": text}}
        if entry.said["label"] is not None:
            value = {"choices": [entry.said["menu"][0]["path"]]}
            chosen = {"from_name": "label", "to_name": "text", "type": "choices", "value": value}
            task["predictions"] = [{"result": [chosen], "score": entry.said["confidence"]}]
        tasks.append(task)
    return tasks


def config_of(taxonomy: Taxonomy) -> str:
    """Return the labelling interface for these categories, as Label Studio reads it."""
    paths = [*(node.label for node in taxonomy.leaves), NONE]
    choices = "".join(f"    <Choice value={quoteattr(path)}/>\n" for path in paths)
    return (
        '<View>\n  <Text name="text" value="$text"/>\n'
        '  <Choices name="label" toName="text" choice="single" showInLine="false">\n'
        f"{choices}  </Choices>\n</View>\n"
    )


def groups_of(entries: Sequence[Entry]) -> list[Group]:
    """Return the items that got `none`, grouped by likeness: `{name, items}`, the largest first.

    Average linkage over the cosine of tf-idf; a group is called by the words that set it apart.
    """
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.feature_extraction.text import TfidfVectorizer

    left = [entry for entry in entries if entry.said["label"] is None]
    if len(left) < LEAST:
        return []
    texts = [" ".join(entry.shown.values()) for entry in left]
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=WORD)
    try:
        x = words.fit_transform(texts)
    except ValueError:  # no words at all
        return []
    made = AgglomerativeClustering(
        n_clusters=None, distance_threshold=1 - ALIKE, metric="cosine", linkage="average"
    )
    dense = np.asarray(x.todense())
    empty = ~dense.any(axis=1)
    dense[empty, 0] = 1e-9  # a text without words is like nothing
    of = made.fit_predict(dense)
    names = np.array(words.get_feature_names_out())
    found: list[Group] = []
    for group in range(of.max() + 1):
        members = np.flatnonzero((of == group) & ~empty)
        if len(members) < LEAST:
            continue
        best = np.argsort(-dense[members].mean(axis=0))[:3]
        found.append({"name": " ".join(names[best]), "items": [left[i] for i in members]})
    return sorted(found, key=lambda group: -len(group["items"]))


def write_groups(path: Path, groups: Sequence[Group]) -> None:
    """Write groups as categories to look at, name and put into the taxonomy: YAML."""
    import yaml

    proposed = [
        {
            "name": group["name"],
            "description": f"proposed: {len(group['items'])} items got none; "
            + " | ".join(next(iter(e.shown.values()), "") for e in group["items"][:5]),
        }
        for group in groups
    ]
    with whole(path) as raw:
        raw.write(
            yaml.safe_dump({"labels": proposed}, allow_unicode=True, sort_keys=False).encode()
        )
