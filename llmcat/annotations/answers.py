"""What an engine answers, put into the label store as it comes: to be checked, and learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcat.annotations.store import Label, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmcat.annotations.store import LabelStore, Source
    from llmcat.config import RunConfig
    from llmcat.records import RowResult

__all__ = ["Answers", "wanted"]


def wanted(config: RunConfig) -> bool:
    """Tell whether answers are to be kept: somebody named a store, and items have one label."""
    return "store" in config.model_fields_set and not config.multi


@dataclass
class Answers:
    """An open store, and what its labels are to say of model (`by`), prompt and taxonomy.

    `source` is `primary` where a trained classifier answers. `keep_text`: the texts go in, too.
    """

    store: LabelStore
    source: Source
    by: str
    prompt: str
    taxonomy: str
    keep_text: bool = False
    count: int = 0

    def keep(self, results: Iterable[RowResult]) -> None:
        """Put in what was answered; what only repeats the latest word adds nothing."""
        labels, texts = [], {}
        for result in results:
            scores, item = result.scores, result.item
            if scores is None:
                continue
            key, sure = key_of(item.content), scores.confidence
            sure = None if sure is None else round(sure, 6)  # as rows have it
            labels.append(
                Label(
                    key, scores.label, self.source, item.id, sure,
                    by=self.by, prompt=self.prompt, taxonomy=self.taxonomy,
                )
            )  # fmt: skip
            if self.keep_text:
                texts[key] = item.fields
        self.count += len(labels)
        self.store.add(labels, texts=texts)
