"""A trained student: an estimator, what its probabilities mean, and what it was trained on.

    student/
      manifest.json   kind, settings, classes, data, hashes of the files below, versions
      held.json       what it said of each training item while it had not seen it
      novelty.skops   its training items as vectors
      ...             what the estimator wrote: skops, safetensors, json; no pickle

This module does not know how it was trained, engines or stores.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from llmcat.calibration.scaling import Scaling, logs
from llmcat.errors import BadConfig, InputError, JournalError
from llmcat.records import digest
from llmcat.retrieval.vectors import Tfidf, representation
from llmcat.students import Estimator, archive
from llmcat.students.novelty import Novelty
from llmcat.students.registry import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.records import Item

__all__ = ["Manifest", "OutOfFold", "Student", "check_out", "text_of"]

Array = np.ndarray[Any, Any]


def text_of(item: Item) -> str:
    """Return what a student reads of an item: its fields' texts, a line each."""
    return "\n".join(item.fields.values())


class Manifest(BaseModel):
    """Everything about a student that is not in its files.

    `examples` and `checked` count training items by class: all of them, and those that a person or
    gold labelled. `scaling`, `weights`, `bias`: see `llmcat.calibration.scaling.Scaling`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    llmcat: str
    created: str
    kind: Literal["linear", "encoder", "vote", "stack"]
    params: dict[str, Any]
    classes: list[str]
    paths: list[list[str]]
    taxonomy: str
    data: str
    examples: dict[str, int]
    checked: dict[str, int]
    sources: dict[str, int]
    scaling: Literal["none", "temperature", "vector"]
    weights: list[float]
    bias: list[float]
    features: str
    novelty: list[float]
    levels: list[float]
    seed: int
    report: dict[str, Any]
    files: dict[str, str]


class OutOfFold(BaseModel):
    """Out-of-fold: the label that was given to each training item, the gold one, how sure.

    Only items that a person or gold labelled are among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: list[str]
    gold: list[str]
    confidence: list[float]


@dataclass
class Student:
    """A trained student, with scikit-learn's `classes_`, `predict` and `predict_proba` of texts."""

    estimator: Estimator
    manifest: Manifest
    held: OutOfFold
    novelty: Novelty | None = None
    name: str = "student"
    _scaling: Scaling = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Put the scaling together."""
        made = self.manifest
        self._scaling = Scaling(made.scaling, np.array(made.weights), np.array(made.bias))

    @property
    def classes_(self) -> Array:
        """The node ids it can name (`none` may be one), sorted. Shape `(k,)`."""
        return np.array(self.manifest.classes)

    @cached_property
    def digest(self) -> str:
        """A hash of what it learnt: trained twice on the same by the same settings, it is the same.

        When it was made does not count, nor how its files are packed.
        """
        made = self.manifest.model_dump(mode="json", exclude={"created", "files"})
        return digest(orjson.dumps([made, self.held.model_dump()]).decode())

    def predict_proba(self, texts: Sequence[str]) -> Array:
        """Return calibrated probabilities, shape `(n, k)`, columns as `classes_`."""
        if not len(texts):
            return np.zeros((0, len(self.manifest.classes)))
        return self.scaled(self.estimator.predict_proba(texts))

    def scaled(self, p: Array) -> Array:
        """Return calibrated probabilities for the estimator's own, both of shape `(n, k)`."""
        return np.asarray(np.exp(self._scaling(logs(p))))

    def predict(self, texts: Sequence[str]) -> Array:
        """Return the likeliest node id of each text, shape `(n,)`."""
        found: Array = self.classes_[self.predict_proba(texts).argmax(axis=1)]
        return found

    # -- files ------------------------------------------------------------------------------------

    def save(self, folder: Path) -> Student:
        """Write it, whole or not at all; in a folder that holds nothing else but an older one.

        Returns it with the hashes of its files. Raises `JournalError`.
        """
        check_out(folder)
        folder = folder.resolve()
        aside = Path()
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            draft = aside / "new"
            draft.mkdir()
            self.estimator.save(draft)
            (draft / "held.json").write_bytes(orjson.dumps(self.held.model_dump()))
            if self.novelty is not None:
                kept = {"matrix": self.novelty.matrix}
                if isinstance(self.novelty.represent, Tfidf):
                    kept["vectorizer"] = self.novelty.represent.vectorizer
                archive.write(draft / "novelty.skops", kept)
            made = self.manifest.model_copy(update={"files": _hashes(draft)})
            (draft / "manifest.json").write_bytes(
                orjson.dumps(made.model_dump(mode="json"), option=orjson.OPT_INDENT_2) + b"\n"
            )
            if folder.exists():
                folder.replace(aside / "old")
            draft.replace(folder)
        except OSError as exc:
            raise JournalError(f"{folder}: {exc.strerror or exc}") from exc
        finally:
            if aside.name:
                shutil.rmtree(aside, ignore_errors=True)
        return Student(self.estimator, made, self.held, self.novelty, folder.name)

    @classmethod
    def load(cls, folder: str | Path) -> Student:
        """Read one. Raises `BadConfig` if there is none, `InputError` if its files were changed."""
        folder = Path(folder)
        try:
            made = Manifest.model_validate(orjson.loads((folder / "manifest.json").read_bytes()))
            held = OutOfFold.model_validate(orjson.loads((folder / "held.json").read_bytes()))
        except (OSError, orjson.JSONDecodeError, ValidationError) as exc:
            raise BadConfig(
                f"{folder} is not a student folder: {str(exc).splitlines()[0]}",
                hint="llmcat student train --out FOLDER makes one",
            ) from exc
        found = _hashes(folder)
        other = [name for name, sha in made.files.items() if found.get(name) != sha]
        if other:
            raise InputError(f"{folder}: {', '.join(other)} changed after the student was trained")
        estimator = load(made.kind, folder, made.params)
        novelty = None
        if "novelty.skops" in made.files:
            kept = archive.read(folder / "novelty.skops")
            represent = representation(made.features)
            if isinstance(represent, Tfidf):
                represent.vectorizer = kept["vectorizer"]
            novelty = Novelty(
                represent, kept["matrix"], np.array(made.levels), np.array(made.novelty)
            )
        return cls(estimator, made, held, novelty, folder.resolve().name)


def check_out(folder: Path) -> None:
    """Raise `JournalError` unless a folder can take a student: it is new, empty, or one."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise JournalError(f"{folder} is not a folder", hint="choose another --out")
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    if not there and not any(folder.iterdir()):
        return
    try:
        made = Manifest.model_validate(orjson.loads((folder / "manifest.json").read_bytes()))
        known = {"manifest.json", *made.files}
    except (OSError, orjson.JSONDecodeError, ValidationError):
        known = set()
    if not known or there - known:
        raise JournalError(
            f"{folder} holds files that are not a student's", hint="choose another --out"
        )


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder but the manifest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
