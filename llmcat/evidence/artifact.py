"""What was learnt from labels, in one file: a chain of parts, each bound to those before it.

    reader        model, prompt, layout, candidates, codes; its place prior
    pool          weights of the sources, none rule; sources, documents, taxonomy
    several       where items may have several labels: weights, a line, an offset per category
    calibration   what probabilities mean (see `llmcat.calibration.artifact`), if it was fitted
    line          above which the scorers are sure and no reader is asked, if it was drawn

A part's hash covers its own content and the hash of the part before it: a pool that was fitted on
one reader's answers is refused behind another. `llmcat tune` and `llmcat calibrate` write the file;
`--artifact` (in `llmcat.toml`) names it. This module does not know engines or items.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from llmcat.errors import BadConfig
from llmcat.records import digest
from llmcat.storage import whole

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CHOICES", "Artifact", "Part"]

CHAIN = ("reader", "pool", "several", "calibration", "line")
CHOICES = ("prompt", "candidates", "sources", "orders", "examples", "source_category")
"""Settings that an artifact chooses where no flag, variable or file does."""


class Part(BaseModel):
    """One part: what it is for (equal in every run that uses it), what was learnt, its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bound: dict[str, str]
    learnt: dict[str, Any]
    hash: str = ""


class Artifact(BaseModel):
    """The chain. `settings` are the choices that were made; `report` what was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["llmcat artifact"] = "llmcat artifact"
    version: Literal[1] = 1
    llmcat: str
    settings: dict[str, Any]
    parts: dict[str, Part]
    report: dict[str, Any] = {}

    @classmethod
    def load(cls, path: str) -> Artifact:
        """Read a file and check its chain. Raises `BadConfig`."""
        try:
            made = cls.model_validate(orjson.loads(Path(path).read_bytes()))
        except (OSError, orjson.JSONDecodeError, ValidationError) as exc:
            raise BadConfig(
                f"{path} is not an artifact: {str(exc).splitlines()[0]}",
                hint="llmcat tune or llmcat calibrate writes one",
            ) from exc
        if made != made.sealed():
            raise BadConfig(
                f"{path} was changed after it was written: a part does not have its hash",
                hint="make it anew: llmcat calibrate",
            )
        return made

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises `JournalError`."""
        with whole(path) as raw:
            options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
            raw.write(orjson.dumps(self.sealed().model_dump(mode="json"), option=options) + b"\n")

    def sealed(self) -> Artifact:
        """Return the same with every part's hash."""
        before, parts = "", dict[str, Part]()
        for name in CHAIN:
            if name in self.parts:
                part = self.parts[name]
                content = orjson.dumps([part.bound, part.learnt], option=orjson.OPT_SORT_KEYS)
                before = digest(before, name, content.decode())
                parts[name] = part.model_copy(update={"hash": before})
        return self.model_copy(update={"parts": parts})

    @property
    def hash(self) -> str:
        """The hash of the last part."""
        parts = self.sealed().parts
        return next((parts[name].hash for name in reversed(CHAIN) if name in parts), "")

    def learnt(self, name: str, identity: Mapping[str, str]) -> dict[str, Any] | None:
        """Return what a part holds, None if there is none.

        Raises `BadConfig`, naming each difference, where it was learnt for something else.
        """
        if name not in self.parts:
            return None
        bound = self.parts[name].bound
        other = [
            f"{key}: {value} then, {identity.get(key, '(not set)')} now"
            for key, value in bound.items()
            if identity.get(key, "") != value
        ]
        if other:
            raise BadConfig(
                "\n  ".join([f"the artifact's {name} was learnt for something else:", *other]),
                hint="fit one for these settings: llmcat calibrate; or leave --artifact out",
            )
        return self.parts[name].learnt
