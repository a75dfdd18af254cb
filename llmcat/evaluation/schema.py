"""What `run.json` and `comparison.json` of an evaluation hold: keys and types, checked when read.

Written by `collect`, `experiment` and `comparison`, read by `report`, `fitting` and `runs`. A
number that is not there is null. Files of 0.1 lack what is `NotRequired`.
"""

from __future__ import annotations

from typing import Any, NotRequired, cast

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

__all__ = [
    "ArmRecord",
    "Comparison",
    "Costs",
    "Decision",
    "DifferenceRecord",
    "Evidence",
    "McNemarRecord",
    "RunRecord",
    "Segment",
    "Versus",
    "checked_comparison",
    "checked_run",
]

Estimate = dict[str, Any]
"""`value`, `low`, `high`, `n`, `why`: see `llmcat.evaluation.metrics.Estimate`."""


class Items(TypedDict):
    """The labelled items of a run."""

    file: str
    rows: int
    unlabelled: int
    n: int
    limit: int
    seed: int


class Evidence(TypedDict):
    """What was added up (see `Session.evidence_record`)."""

    sources: dict[str, float]
    fitted_on: int
    examples: int
    candidates: int
    place_prior: list[float] | None
    artifact: str


class Costs(TypedDict):
    """What an arm takes (see `llmcat.evaluation.costs`)."""

    prompt_tokens_per_item: float | None
    cached_tokens_per_item: float | None
    generated_tokens_per_item: float | None
    server_seconds_per_1000: float | None
    price_per_1000: float | None
    joules_per_1000: float | None


class ArmRecord(TypedDict):
    """One arm: what it was, what it used, what it costs. Tokens and requests are of the whole run.

    `asks` counts requests, `asked_now` those that were not answered before.
    """

    said: str
    settings: dict[str, Any]
    identity: dict[str, str]
    served: dict[str, Any]
    prompt_text: str
    menus: list[str]
    kind: str
    usage: dict[str, float]
    asks: int
    asked_now: int
    label_mass: float | None
    leaked: list[int]
    price_per_hour: float
    speed: dict[str, Any] | None
    collapse: NotRequired[dict[str, Any] | None]
    evidence: NotRequired[Evidence | None]
    inputs: NotRequired[dict[str, str]]
    costs: NotRequired[Costs]
    adds: NotRequired[dict[str, Any] | None]


class RunRecord(TypedDict):
    """`run.json`. `kind` is `eval` or `ab`; `status` new, running, interrupted, failed or done."""

    kind: str
    created: str
    llmcat: str
    python: str
    machine: str
    command: list[str]
    identity: dict[str, str]
    items: Items
    remarks: list[str]
    arms: dict[str, ArmRecord]
    status: NotRequired[str]


class Decision(TypedDict):
    """See `llmcat.evaluation.paired.ArmDecision`; `gain` is what decided."""

    verdict: str
    why: str
    low: float | None
    high: float | None
    alpha: float
    more: int | None
    worse: bool
    gain: float | None


class DifferenceRecord(TypedDict):
    """A difference arm - base with its 95 % interval; `why` there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    why: str
    differing: int
    classes: int
    approximate: bool


class McNemarRecord(TypedDict):
    """Items that only one arm got right, and the exact p."""

    only_a: int
    only_b: int
    p: float


class Segment(TypedDict):
    """A part of the items: accuracies of base (`a`) and arm (`b`), and the difference."""

    by: str
    value: str
    n: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    turned: bool
    p_adjusted: NotRequired[float]
    clear: NotRequired[bool]


class Versus(TypedDict):
    """An arm against the first one, the base."""

    arm: str
    base: str
    decision: Decision
    cheaper: bool
    mcnemar: McNemarRecord
    both_right: int
    both_wrong: int
    differences: dict[str, DifferenceRecord]
    segments: list[Segment]


class Comparison(TypedDict):
    """`comparison.json`. `ship` names the arm that is better than all, None if none is."""

    metric: str
    rule: dict[str, float | None]
    looks: dict[str, Any]
    n: int
    arms: list[str]
    costs: dict[str, float | None]
    cost_by: str
    versus: list[Versus]
    ship: str | None
    worse: list[str]
    verdict: str


_RUN, _COMPARISON = TypeAdapter(RunRecord), TypeAdapter(Comparison)


def checked_run(value: Any) -> RunRecord:
    """Return a value that is the record of an evaluation, as it is. Raises `ValueError`."""
    _check(_RUN, value)
    return cast("RunRecord", value)


def checked_comparison(value: Any) -> Comparison:
    """Return a value that is a comparison, as it is. Raises `ValueError`."""
    _check(_COMPARISON, value)
    return cast("Comparison", value)


def _check(of: TypeAdapter[Any], value: Any) -> None:
    try:
        of.validate_python(value)
    except ValidationError as exc:
        (first, *_) = exc.errors()
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{where}: {first['msg']}") from exc
