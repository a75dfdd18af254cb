"""The trained classifier beside the model: a student, anything of scikit-learn's kind, a server.

A primary has `classes_` and `predict_proba` of texts. Its classes are brought into the taxonomy
once, and whatever it raises later becomes an `EngineError`. This module does not know the model.
"""

from __future__ import annotations

import difflib
import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llmcat.errors import BadConfig, EngineBusy, EngineDown, EngineError, EngineRefused
from llmcat.records import NONE, digest
from llmcat.students.model import Student

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcat.taxonomy.tree import Taxonomy

__all__ = ["HttpPrimary", "Placed", "Primary", "open_primary"]

Array = np.ndarray[Any, Any]

MOST_BYTES = 1 << 26
BATCH = 256


class Primary(Protocol):
    """What scikit-learn calls a classifier; of texts."""

    @property
    def classes_(self) -> Any:
        """Its labels, one per column."""

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Return probabilities, shape `(n, k)`, columns as `classes_`, rows summing to 1."""


def open_primary(name: str, *, url: str = "") -> Primary:
    """Return the primary of a student's folder or an address.

    `url` is where a server answers for the student in the folder (vLLM, with the profile
    `classify`). Raises `InputError` or `EngineError`.
    """
    if name.startswith(("http://", "https://")):
        return HttpPrimary(name)
    student = Student.load(name)
    if not url:
        return student
    if student.manifest.kind != "encoder":
        raise BadConfig("only an encoder student can be served", hint="leave out --primary-url")
    return ServedStudent(student, url)


@dataclass
class HttpPrimary:
    """A server that classifies texts: `POST {"inputs": [text, ...]}` gives, for each text, a list
    of `{"label": ..., "score": ...}` of all labels.

    So do Text Embeddings Inference (`/predict`) and the text-classification endpoints of the
    Hugging Face inference toolkit. Opening asks one question to learn the labels.
    """  # noqa: D205

    url: str
    timeout: float = 30.0
    classes_: list[str] = field(default_factory=list)
    each_in_list: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Learn the labels, and how several texts are asked about. Raises `EngineError`.

        Text Embeddings Inference takes two texts for a pair, unless each stands in a list.
        """
        if not self.classes_:
            self.classes_ = sorted(self._ask(["?"])[0])
        try:
            self._ask(["one", "two", "three"])
        except EngineRefused:
            self.each_in_list = True
            self._ask(["one", "two", "three"])

    @property
    def digest(self) -> str:
        """Of its labels: a server does not say what it was trained on."""
        return digest(*self.classes_)

    def predict_proba(self, texts: Sequence[str]) -> Array:
        """Ask about texts. Raises `EngineError`."""
        p = np.zeros((len(texts), len(self.classes_)))
        at = {name: i for i, name in enumerate(self.classes_)}
        for start in range(0, len(texts), BATCH):
            for i, scores in enumerate(self._ask(list(texts[start : start + BATCH])), start):
                for name, score in scores.items():
                    if name not in at:
                        raise EngineRefused(f"{self.url} answers with a new label: {name!r}")
                    p[i, at[name]] = score
        return p

    def _ask(self, texts: list[str]) -> list[dict[str, float]]:
        said = post(
            self.url,
            {
                "inputs": [[t] for t in texts] if self.each_in_list else texts,
                "parameters": {"top_k": None},
                "truncate": True,
            },
            timeout=self.timeout,
        )
        try:
            rows = [said] if isinstance(said[0], dict) else said
            found = [{str(one["label"]): float(one["score"]) for one in row} for row in rows]
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            raise EngineRefused(
                f"{self.url} does not answer with lists of label and score",
                hint='{"inputs": ["a text"]} should give [[{"label": ..., "score": ...}]]',
            ) from exc
        if len(found) != len(texts):
            raise EngineRefused(f"{self.url} answered {len(found)} of {len(texts)} texts")
        return found


@dataclass
class ServedStudent:
    """An encoder student whose forward pass a vLLM server does (`/classify`)."""

    student: Student
    url: str
    timeout: float = 60.0

    @property
    def classes_(self) -> Array:
        """The student's."""
        return self.student.classes_

    @property
    def digest(self) -> str:
        """The student's."""
        return self.student.digest

    @property
    def name(self) -> str:
        """The student's."""
        return self.student.name

    def predict_proba(self, texts: Sequence[str]) -> Array:
        """Ask about texts, scaled as the student's own. Raises `EngineError`."""
        p = np.zeros((len(texts), len(self.classes_)))
        for start in range(0, len(texts), BATCH):
            part = list(texts[start : start + BATCH])
            said = post(self.url, {"input": part}, timeout=self.timeout)
            try:
                for row in said["data"]:
                    p[start + int(row["index"])] = row["probs"]
            except (KeyError, TypeError, ValueError, IndexError) as exc:
                raise EngineRefused(
                    f"{self.url} does not answer as vLLM's /classify for this student",
                    hint="llmcat serve model --profile classify --model FOLDER",
                ) from exc
        return self.student.scaled(p)


def post(url: str, body: Any, *, timeout: float) -> Any:
    """Send JSON and return the JSON that comes back. Raises `EngineError`."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310  http and https only
        url, data, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:  # noqa: S310
            raw = reply.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise EngineRefused(f"{url} does not stop answering")
        return json.loads(raw)
    except urllib.error.HTTPError as exc:
        exc.close()  # it holds the connection, and lives as long as what is raised from it
        if exc.code in {408, 425, 429} or exc.code >= 500:  # noqa: PLR2004
            raise EngineBusy(f"{url}: HTTP {exc.code}") from exc
        raise EngineRefused(f"{url}: HTTP {exc.code}") from exc
    except (OSError, ValueError, HTTPException) as exc:
        raise EngineDown(f"{url}: {exc or type(exc).__name__}") from exc


def _digest(primary: Primary, classes: Sequence[str]) -> str:
    """Return a hash of a primary in this process: of its classes, and what it says of their names.

    What it was trained on changes that; which process, machine or file it is in does not.
    """
    try:
        said = np.asarray(primary.predict_proba(list(classes)), dtype=float)
    except Exception:  # noqa: BLE001  it will say so when it is asked in earnest
        return digest(*classes)
    return digest(*classes, *(f"{x:.4f}" for x in said.ravel().tolist()))


@dataclass(frozen=True)
class Placed:
    """A primary whose classes are nodes: `labels[i]` is the node id, or `none`, of column i."""

    primary: Primary
    labels: tuple[str, ...]
    name: str
    key: str

    @classmethod
    def of(cls, primary: Primary, taxonomy: Taxonomy) -> Placed:
        """Find each class in the taxonomy. Raises `BadConfig` for those that are not there."""
        if hasattr(primary, "predict") and not hasattr(primary, "predict_proba"):
            raise BadConfig(
                f"the primary, a {type(primary).__name__}, gives no probabilities: nothing tells "
                "when it is sure",
                hint="CalibratedClassifierCV of scikit-learn adds predict_proba to a classifier",
            )
        try:
            classes = [str(c) for c in primary.classes_]
        except AttributeError as exc:
            raise BadConfig(
                "the primary has no classes_: is it trained?",
                hint="a classifier of scikit-learn's kind has predict_proba and classes_",
            ) from exc
        labels = [taxonomy.resolve(c) for c in classes]
        lost = [c for c, label in zip(classes, labels, strict=True) if label is None]
        if lost:
            known = [n.id for n in taxonomy.leaves]
            near = difflib.get_close_matches(lost[0], known, n=1, cutoff=0.4)
            nearest = f"; nearest to {lost[0]!r}: {near[0]!r}" if near else ""
            raise BadConfig(
                f"the primary has {len(lost)} classes that are not in the taxonomy: "
                f"{', '.join(map(repr, lost[:10]))}{nearest}",
                hint="add them to the taxonomy, or train the primary on its labels",
            )
        inner = [label for label in labels if label and label != NONE
                 and taxonomy.children(taxonomy.nodes[label])]  # fmt: skip
        if inner:
            raise BadConfig(
                f"the primary's classes {', '.join(map(repr, inner[:5]))} have categories below "
                "them in the taxonomy",
                hint="train it on the lowest categories",
            )
        twice = {label for label in labels if labels.count(label) > 1}
        if twice:
            raise BadConfig(f"several classes of the primary are {', '.join(map(str, twice))}")
        digest_ = getattr(primary, "digest", "") or _digest(primary, classes)
        name = getattr(primary, "name", "") or type(primary).__name__
        return cls(primary, tuple(str(label) for label in labels), name, digest_)

    def probabilities(self, texts: Sequence[str]) -> Array:
        """Return what the primary says, shape `(n, k)`, columns as `labels`.

        Raises `EngineError` for whatever goes wrong.
        """
        try:
            p = np.asarray(self.primary.predict_proba(texts), dtype=float)
        except EngineError:
            raise
        except Exception as exc:
            raise EngineRefused(f"the primary failed: {type(exc).__name__}: {exc}") from exc
        if p.shape != (len(texts), len(self.labels)) or not np.isfinite(p).all() or (p < 0).any():
            raise EngineRefused(
                f"the primary answered with shape {p.shape}, or with values that are not "
                "probabilities"
            )
        return np.asarray(p / np.maximum(p.sum(axis=1, keepdims=True), 1e-12))
