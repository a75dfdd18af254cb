"""The taxonomy that the settings, or a program, name."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from llmcat.errors import BadConfig
from llmcat.taxonomy.tree import Taxonomy

if TYPE_CHECKING:
    from llmcat.config import RunConfig

__all__ = ["Labels", "labels_in", "taxonomy_from", "taxonomy_of"]

Labels: TypeAlias = "Taxonomy | Mapping[str, str] | Iterable[str | Mapping[str, Any]] | str | Path"


def taxonomy_of(config: RunConfig) -> Taxonomy:
    """Return the taxonomy that the settings name. Raises `BadConfig` or `BadTaxonomy`."""
    if config.labels and config.taxonomy:
        raise BadConfig("--labels and --taxonomy both name the categories", hint="give one")
    if config.labels:
        return _scale(config, Taxonomy.from_labels(labels_in(config.labels)))
    if config.taxonomy:
        return _scale(config, Taxonomy.load(config.taxonomy))
    raise BadConfig(
        "no categories", hint="--labels shoes,bags,toys or --taxonomy FILE (try `llmcat init`)"
    )


def labels_in(text: str) -> list[str]:
    """Return the names in a flag's text: a line of CSV, or a JSON list. Raises `BadConfig`."""
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except json.JSONDecodeError as exc:
            raise BadConfig(f"--labels: not a JSON list: {exc}") from exc
        if not all(isinstance(name, str) for name in found):
            raise BadConfig("--labels: a JSON list of names is expected")
        return list(found)
    try:
        (names,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as exc:
        raise BadConfig(
            f"--labels: {exc}",
            hint="""a name with a comma stands in quotes: '"Bags, cases",shoes'""",
        ) from exc
    other = next((mark for mark in ";|\t" if mark in text), "")
    if len(names) == 1 and other:
        raise BadConfig(
            f"--labels {text!r} is one category", hint=f"commas separate categories, not {other!r}"
        )
    return names


def _scale(config: RunConfig, taxonomy: Taxonomy) -> Taxonomy:
    """Return the categories, as a scale where the settings or their file say so."""
    if not (config.ordered or taxonomy.ordered):
        return taxonomy
    if taxonomy.depth > 1:
        raise BadConfig("--ordered is for the levels of a scale, and these categories are a tree")
    return replace(taxonomy, ordered=True)


def taxonomy_from(labels: Labels) -> Taxonomy:
    """Return the categories that labels name. Raises `BadTaxonomy` or `BadConfig`."""
    if isinstance(labels, Taxonomy):
        return labels
    if isinstance(labels, str | Path):
        return Taxonomy.load(labels)
    if isinstance(labels, Mapping):
        labels = [{"id": k, "name": k, "description": v} for k, v in labels.items()]
    every = list(labels)
    rows = [dict(row) for row in every if isinstance(row, Mapping)]
    if not rows:
        return Taxonomy.from_labels([str(name) if name is not None else "" for name in every])
    if len(rows) < len(every):
        raise BadConfig("labels are names or mappings, not both")
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return Taxonomy.parse(text, suffix=".jsonl", source="labels")
