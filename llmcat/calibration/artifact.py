"""A calibration: fitted once on labelled items, kept in a file, bound to what it was fitted for.

    scores ─ prior off ─ scaling ─▶ probabilities ─ confidence map ─▶ chance to be right
           ─ gate ─▶ accept, review or none

The file also holds the confidences of the gating items, so that a line can be drawn for any
precision without asking again. This module does not know engines or the loop.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from llmcat.errors import BadConfig
from llmcat.records import digest
from llmcat.storage import whole

if TYPE_CHECKING:
    from collections.abc import Mapping


__all__ = ["ALL", "Array", "Calibration", "HoldoutScores", "bound_of"]

Array = np.ndarray[Any, Any]

BOUND = ("model", "codes", "prompt", "examples", "about", "taxonomy", "menu_size", "orders", "text",
         "image", "candidates", "sources", "source_category", "pool")  # fmt: skip
"""What a calibration is good for: a run that differs in one of these refuses it."""
ALL = ""
"""The group of all labels together, where branches have no lines of their own."""


class HoldoutScores(BaseModel):
    """Items of a part: confidence of the decision, whether right, branch, gold rank."""

    model_config = ConfigDict(frozen=True)

    confidence: list[float]
    correct: list[bool]
    branch: list[str]
    nonconformity: list[float | None]
    depth: list[list[tuple[float, bool]]]

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, given: Any) -> Any:
        """Read a file of 0.1, which says `strangeness`."""
        if isinstance(given, dict) and "strangeness" in given:
            given = {**given, "nonconformity": given["strangeness"]}
            del given["strangeness"]
        return given


class Calibration(BaseModel):
    """What `llmcat calibrate` writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    llmcat: str
    bound: dict[str, str]
    labels: list[str]
    prior: list[float] | None
    scaling: Literal["none", "temperature", "vector"]
    weights: list[float]
    bias: list[float]
    slope: float
    intercept: float
    fitting: HoldoutScores
    gating: HoldoutScores
    bounds: list[float]
    counts: list[int]
    none: int
    mass: float | None
    gating_rows: list[int]
    fields: list[str]
    share: float
    report: dict[str, Any]

    @classmethod
    def load(cls, path: str) -> Calibration:
        """Read a file. Raises `BadConfig` if it is none."""
        try:
            return cls.model_validate(orjson.loads(Path(path).read_bytes()))
        except (OSError, orjson.JSONDecodeError, ValidationError) as exc:
            first = str(exc).splitlines()[0]
            raise BadConfig(
                f"{path} is not a calibration file: {first}", hint="llmcat calibrate writes one"
            ) from exc

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises `JournalError`."""
        with whole(path) as raw:
            raw.write(orjson.dumps(self.model_dump(mode="json")) + b"\n")

    @property
    def crossed(self) -> bool:
        """Whether all items draw the line, each judged by what others taught."""
        return not self.fitting.confidence

    @property
    def digest(self) -> str:
        """A hash of everything in it, by the words of 0.1: a run that began then goes on."""
        text = orjson.dumps(self.model_dump(mode="json")).decode()
        return digest(text.replace('"nonconformity":', '"strangeness":'))

    def check(self, identity: Mapping[str, str]) -> None:
        """Raise `BadConfig` if it was fitted for something else, naming each difference."""
        found = bound_of(identity)
        other = [
            f"{key}: {self.bound.get(key, '(not set)')} then, {found.get(key, '(not set)')} now"
            for key in BOUND
            if self.bound.get(key, "") != found.get(key, "")
        ]
        if other:
            raise BadConfig(
                "\n  ".join(["the calibration was fitted for something else:", *other]),
                hint="fit one for these settings: llmcat calibrate",
            )


def bound_of(identity: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an identity that a calibration is bound to."""
    return {key: identity[key] for key in BOUND if key in identity}
