"""The taxonomy that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcat.errors import BadConfig
from llmcat.taxonomy.tree import Taxonomy

if TYPE_CHECKING:
    from llmcat.config import RunConfig

__all__ = ["taxonomy_of"]


def taxonomy_of(config: RunConfig) -> Taxonomy:
    """Return the taxonomy that the settings name. Raises `BadConfig` or `BadTaxonomy`."""
    if config.labels and config.taxonomy:
        raise BadConfig("--labels and --taxonomy both name the categories", hint="give one")
    if config.labels:
        return Taxonomy.from_labels(config.labels.split(","))
    if config.taxonomy:
        return Taxonomy.load(config.taxonomy)
    raise BadConfig(
        "no categories", hint="--labels shoes,bags,toys or --taxonomy FILE (try `llmcat init`)"
    )
