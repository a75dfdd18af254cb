"""What is on record about one row: what was offered, what each source said, who decided.

Read from the predictions, the run's record beside them, and the label store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmcat.annotations.store import LabelStore
from llmcat.errors import InputError
from llmcat.items.readers import Columns
from llmcat.pipeline.journal import record_of
from llmcat.pipeline.read_back import as_run, predictions_in
from llmcat.records import CORRECTED, ROUTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from llmcat.config import RunConfig

__all__ = ["explain"]


def explain(run: Path, id_: str, store: Path, config: RunConfig) -> list[str]:
    """Return what is on record about the rows of an id, or about row N for `#N`, line by line.

    The run's record says in which column ids stand, `config` where nobody wrote one. Raises
    `InputError` where there is no such row, or the file is no predictions file.
    """
    rows = list(_rows(run, id_, Columns.of(as_run(run, config)).id))
    if not rows:
        raise InputError(
            f"{run} has no row {id_!r}", hint="llmcat show lists the ids; '#N' is row N"
        )
    record = record_of(run) or {}
    said: list[str] = []
    for row in rows:
        said += _row(row, record.get("about", {}).get("served", {})) + _run(record)
    if store.is_file():
        with LabelStore(store) as kept:
            key = rows[0].get("key") or ""
            words = kept.history(key=key) if key else []
            for label in words or kept.history(item=str(rows[0]["id"])):
                sure = "" if label.confidence is None else f" {label.confidence:.3f}"
                by = f" ({label.by})" if label.by else ""
                said.append(f"store     {label.at[:19]} {label.source}{by}: {label.label}{sure}")
    return said


def _rows(run: Path, id_: str, id_column: str) -> Iterator[dict[str, Any]]:
    number = int(id_[1:]) if id_[:1] == "#" and id_[1:].isdigit() else None
    for row, _ in predictions_in(run, id_column):
        if row["id"] == id_ or row["row"] == number:
            yield row


def _row(row: Mapping[str, Any], served: Mapping[str, str]) -> list[str]:
    sure = "" if row["confidence"] is None else f", confidence {row['confidence']:.3f}"
    said = [f"row       {row['row']}, id {row['id']}"]
    given = row["path"] or row["label"] or "none"
    if several := row.get("labels"):
        given = "; ".join(
            one["path"] if one["p"] is None else f"{one['path']} {one['p']:.3f}" for one in several
        )
    said.append(f"decision  {row['decision']}: {given}{sure}")
    if row.get("reason"):
        said.append(f"reason    {row['reason']}")
    if row.get("gold"):
        said.append(f"gold      {row['gold']}")
    sources = row.get("sources")
    if row.get("evidence") and row["decision"] != CORRECTED:
        return [*said, *_evidence(row["evidence"], row["alternatives"], row["p_none"])]
    others = ", ".join(f"{o['path']} {o['p']:.3f}" for o in row["alternatives"])
    rest = [f"next      {others}"] if others else []
    if not row.get("by") or row["decision"] == CORRECTED:
        return [*said, f"decided   by {_who(row, served)}", *rest]
    degraded = " (degraded: the model was away)" if row.get("degraded") else ""
    said.append(f"decided   by {row['by']}{degraded}; {row['why']}")
    if not isinstance(sources, dict):  # a table holds only who decided, and why
        return [*said, *rest]
    if sources["primary"] is not None:
        said.append(f"primary   {_list(sources['primary']['top'])}")
    said.append(
        f"novelty   {sources['novelty']:.3f} that the primary cannot name its category, "
        f"{sources['cold']:.3f} that it is not the primary's to decide; "
        f"further from the training items than {sources['unlike']:.0%} of them from each other"
    )
    if "model" in sources:
        said.append(f"offered   {', '.join(sources['offered'])}, none")
        said.append(f"model     {_list(sources['model']['top'])}")
        said.append(f"mixture   {sources['new']:.3f} for a new category, after both")
    return said


def _who(row: Mapping[str, Any], served: Mapping[str, str]) -> str:
    """Say who decided a row that no fallback labeler routed."""
    if row["decision"] == CORRECTED:
        return "a person (llmcat apply)"
    engine, model = served.get("engine", ""), served.get("model", "?")
    if row["kind"] == "label_only" and (row.get("reason") or "").startswith("rule "):
        return "a fixed rule, before the model"
    if engine == "student":
        return f"{model}, a trained classifier: no language model was asked"
    if engine == "retriever":
        return "retrieval alone"
    return f"the model {model}" if engine else "the model"


def _evidence(
    found: Mapping[str, Any], others: Sequence[Mapping[str, Any]], p_none: float
) -> list[str]:
    """Say what each source adds to log P of the likeliest categories, in nats, and the outcome."""
    said = []
    if "offered" in found:
        exit_ = ", none" if found.get("none_offered", True) else "; none was not"
        said.append(f"offered   {', '.join(found['offered'])}{exit_}")
    else:
        said.append("offered   nothing: retrieval decided alone")
    alone = found["alone"]
    alone = ", ".join(alone) or "none" if isinstance(alone, list) else alone
    said.append(f"alone     {alone}: what retrieval would have answered")
    wide = max(9, *map(len, found["sources"]))
    for name, parts in found["sources"].items():
        worth = ", ".join(f"{label} {value:+.2f}" for label, value in parts.items())
        said.append(f"{name:<{wide}} {worth}")
    after = ", ".join(f"{o['path']} {o['p']:.3f}" for o in others)
    return [*said, f"next      {after}", f"none      {p_none:.3f}"]


def _list(p: Mapping[str, float]) -> str:
    return ", ".join(f"{label} {value:.3f}" for label, value in p.items())


def _run(record: Mapping[str, Any]) -> list[str]:
    """Say under which versions a run was made."""
    if not record:
        return ["run       no record beside the file"]
    about, identity = record.get("about", {}), record.get("identity", {})
    served = about.get("served", {})
    model = f"{served.get('model', '?')} by {served.get('engine', '?')} {served.get('version', '')}"
    said = [
        f"run       llmcat {about.get('llmcat', '?')}, {about.get('started', '?')}",
        f"          {model.strip()}",
        f"          prompt {identity.get('prompt', '?')}, taxonomy {identity.get('taxonomy', '?')}",
    ]
    if primary := about.get("settings", {}).get("primary"):
        said.append(f"          primary {primary}, route {identity.get(ROUTE, '?')}")
    return said
