"""What an evaluation keeps in its folder: questions, rows, items, inputs."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from llmcat.errors import JournalError
from llmcat.evaluation.metrics import LEAST
from llmcat.evaluation.opening import Opened
from llmcat.evaluation.run_folder import Folder, named
from llmcat.pipeline.writers import row_of
from llmcat.records import NONE, Request, each_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmcat.records import Item, Message, RowResult, Scores
    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["Sink", "judged", "keep_inputs", "nodes_of", "write_items"]


def keep_inputs(opened: Sequence[Opened], folder: Folder) -> None:
    """Copy what the arms were made of beside their results, and write down where from.

    Taxonomies, prompts and examples that are files; the items are in `items.jsonl`. Raises
    `JournalError` where it cannot be written.
    """
    for one in opened:
        kept = {}
        for what in ("taxonomy", "prompt", "examples", "calibration"):
            name = getattr(one.arm.config, what)
            if name and Path(name).is_file():
                kept[what] = folder.keep(Path(name))
        folder.record["arms"][one.arm.name]["inputs"] = kept


class Sink:
    """Where one arm's rows and requests go."""

    def __init__(self, folder: Folder, one: Opened, stack: ExitStack, *, posteriors: bool) -> None:
        self.folder, self.name = folder, one.arm.name
        self.scores: list[Scores | None] | None = [] if posteriors else None
        self.taxonomy, self.several = one.session.taxonomy, bool(one.arm.config.multi)
        self.shared: set[str] = set()
        try:
            self.rows, self.requests, self.prefixes = (
                stack.enter_context(folder.file(named(self.name, f"{kind}.jsonl")).open("wb"))
                for kind in ("predictions", "asks", "prefixes")
            )
        except OSError as exc:
            raise JournalError(f"{exc.filename}: {exc.strerror}") from exc

    def _put(self, sink: BinaryIO, value: Any) -> None:
        try:
            sink.write(orjson.dumps(value) + b"\n")
        except OSError as exc:
            raise JournalError(
                f"{sink.name}: {exc.strerror}", hint="make room, then run the same command again"
            ) from exc

    def ask(self, request: Request) -> None:
        """Write down what is asked, and once what requests share."""
        key = request.prefix.key
        if key not in self.shared:
            self.shared.add(key)
            self._put(self.prefixes, {"key": key, "messages": request.prefix.messages})
        tail = [without_images(message) for message in request.tail]
        self._put(self.requests, {"row": request.item.row, "prefix": key, "tail": tail})

    def row(self, result: RowResult) -> None:
        """Write down a result, and how far it was from the truth."""
        self._put(self.rows, row_of(result, self.taxonomy, several=self.several) | judged(result))
        if self.scores is not None:
            self.scores.append(result.scores)

    def finish(self) -> None:
        """Write the posteriors."""
        if self.scores is not None:
            import numpy as np

            ids = [node.id for node in self.taxonomy.leaves]
            p = np.zeros((len(self.scores), len(ids) + 1), dtype=np.float32)
            for row, scores in zip(p, self.scores, strict=True):
                if scores is not None and scores.p:
                    row[:] = [*(scores.p.get(id_, 0.0) for id_ in ids), scores.p_none or 0.0]
            seen = [s is not None and s.kind == "full" for s in self.scores]
            path = self.folder.file(named(self.name, "posteriors.npz"))
            np.savez_compressed(path, labels=np.array([*ids, NONE]), p=p, seen=np.array(seen))


def without_images(message: Message) -> Message:
    """Return a message with the bytes of images left out."""
    content = message["content"]
    if isinstance(content, str):
        return message
    parts = [
        {"type": "text", "text": f"(an image of {len(part['image_url']['url']):,} characters)"}
        if part.get("image_url", {}).get("url", "").startswith("data:")
        else part
        for part in content
    ]
    return {**message, "content": parts}


def judged(result: RowResult) -> dict[str, float | int | None]:
    """Return p of the gold label, the sum of all squared p, and the gold label's rank from 1.

    Where there may be several, p of all of them and of no other; the other two have no meaning.

    None where the answer does not say: of several menus, or without the gold label among them.
    """
    scores, gold = result.scores, result.item.gold
    nothing: dict[str, float | int | None] = dict.fromkeys(("p_gold", "p_squares", "rank"))
    if scores is not None and scores.several is not None:
        loss = loss_of_set(scores.p, each_of(gold))
        return nothing | {"p_gold": None if loss is None else math.exp(-loss), "loss": loss}
    if scores is None or scores.kind != "full":
        return nothing
    p_none = scores.p_none or 0.0  # a reader that was not offered it
    p_gold = p_none if gold == NONE else scores.p.get(gold or "")
    if p_gold is None:
        return nothing
    above = sum(p > p_gold for p in scores.p.values()) + (p_none > p_gold)
    squares = sum(p * p for p in scores.p.values()) + p_none**2
    return {"p_gold": float(f"{p_gold:.9g}"), "p_squares": round(squares, 9), "rank": above + 1}


def loss_of_set(p: Mapping[str, float], labels: Sequence[str]) -> float | None:
    """Return -log of the probability that just these labels apply; None where one has none.

    No decision costs more than one that was certain, and wrong.
    """
    if any(label not in p for label in labels):
        return None
    right = (value if id_ in labels else 1.0 - value for id_, value in p.items())
    return -math.fsum(math.log(max(each, LEAST)) for each in right)


def nodes_of(taxonomy: Taxonomy) -> dict[str, dict[str, Any]]:
    """Return the categories as `labels.json` has them (see `evaluation.predictions.Labels`)."""
    nodes = taxonomy.nodes.values()
    return {n.id: {"path": n.path, "parent": n.parent, "names": n.names} for n in nodes}


def write_items(folder: Folder, items: Sequence[Item], taxonomy: Taxonomy) -> None:
    """Write the items and the categories."""
    folder.write("labels.json", nodes_of(taxonomy))
    try:
        with folder.file("items.jsonl").open("wb") as sink:
            for item in items:
                row = {"row": item.row, "id": item.id, "gold": item.gold, "fields": item.fields}
                sink.write(orjson.dumps(row | {"kept": item.kept}) + b"\n")
    except OSError as exc:
        raise JournalError(f"{exc.filename}: {exc.strerror}") from exc
