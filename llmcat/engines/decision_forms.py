"""What decision servers are sent and give back, in both forms there are.

    systemone   POST /v1/systemone (TypeSafe, vLLM, llama.cpp, SGLang, Ollama, sparrow-decider):
                a `state`, and `questions` by name; an answer holds `probabilities` by option
    decisions   POST /v1/decisions (OpenAI, vLLM): an `input`, and a list of questions

Only `probabilities` are read. `confidence` is the top probability on one server, the margin on
another, p times label mass on a third; and `choice` may break a tie either way. An answer that is
not what was asked for is an error, never `none` (see `probabilities_of`). Pure functions of JSON
values: no HTTP, no prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcat.errors import EngineRefused, Undecided
from llmcat.records import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["FORMS", "Asked", "Form", "Said", "probabilities_of", "rounding"]

SUM = 0.02
"""Probabilities that sum to 1 but for this are rounded; further off they are something else."""
_NUMBERS = {int, float}


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: the state, the instruction, and the options: name and description, if any.

    `scale`: the options are levels, lowest first.
    """

    state: str
    question: str
    options: Sequence[Mapping[str, str | None]]
    scale: bool = False

    @property
    def names(self) -> list[str]:
        """The options' names, in their order."""
        return [option["name"] or "" for option in self.options]


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: its value as it came, what it cost, the label mass where the server tells it."""

    answer: Any
    usage: Usage
    mass: float | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """A form: its path, what a body is made of, and where an answer stands in a reply.

    `spell` takes the model's name and questions by id; `find` a reply and an id.
    """

    name: str
    path: str
    spell: Callable[[str, Mapping[str, Asked]], dict[str, Any]]
    find: Callable[[Mapping[str, Any], str, Mapping[str, Asked]], Said]


def _spell_systemone(model: str, asked: Mapping[str, Asked]) -> dict[str, Any]:
    first = next(iter(asked.values()))
    questions = {
        id_: {
            "type": "score" if one.scale else "choice",
            "instructions": one.question,
            "criteria": [": ".join(filter(None, option.values())) for option in one.options]
            if one.scale
            else {option["name"]: option["description"] for option in one.options},
        }
        for id_, one in asked.items()
    }
    named = {"model": model} if model else {}
    return {**named, "state": first.state, "questions": questions}


def _find_systemone(reply: Mapping[str, Any], id_: str, asked: Mapping[str, Asked]) -> Said:
    answers = reply.get("answers")
    if not isinstance(answers, dict):
        raise EngineRefused("the reply has no `answers`")
    if unknown := sorted(map(str, set(answers) - set(asked))):
        raise EngineRefused(f"the reply answers what was not asked: {unknown[0]!r}")
    mass = None
    told = reply.get("diagnostics")
    if isinstance(told, dict) and isinstance(told.get(id_), dict):
        mass = _number(told[id_].get("label_mass"))
    used = reply.get("usage")
    used = used if isinstance(used, dict) else {}
    usage = Usage(
        prompt=_count(used.get("input_tokens")), generated=_count(used.get("output_tokens"))
    )
    answer = answers.get(id_)
    if asked[id_].scale and isinstance(answer, dict) and answer.get("type") == "score":
        answer = _as_choice(answer, [str(i) for i in range(len(asked[id_].options))], asked[id_])
    return Said(answer, usage, mass)


def _as_choice(answer: Mapping[str, Any], levels: Sequence[str], asked: Asked) -> dict[str, Any]:
    """Return a score's answer as a choice among the levels' names. Raises `EngineRefused`."""
    given = answer.get("probabilities")
    if not isinstance(given, dict) or set(given) != set(levels):
        raise EngineRefused("the answer has not one probability for each level")
    names = zip(asked.names, levels, strict=True)
    return {"type": "choice", "probabilities": {name: given[level] for name, level in names}}


def _spell_decisions(model: str, asked: Mapping[str, Asked]) -> dict[str, Any]:
    first = next(iter(asked.values()))
    questions = [
        {
            "type": "score" if one.scale else "choice",
            "name": id_,
            "instructions": one.question,
            "levels" if one.scale else "choices": [
                {"label" if one.scale else "value": option["name"]}
                | ({"description": option["description"]} if option["description"] else {})
                for option in one.options
            ],
        }
        for id_, one in asked.items()
    ]
    return {"model": model, "input": first.state, "questions": questions}


def _find_decisions(reply: Mapping[str, Any], id_: str, asked: Mapping[str, Asked]) -> Said:
    answers = reply.get("answers")
    if not isinstance(answers, list) or len(answers) != len(asked):
        raise EngineRefused("the reply has not one answer for each question")
    at = list(asked).index(id_)
    answer = answers[at]
    if not isinstance(answer, dict) or answer.get("name") not in (None, id_):
        raise EngineRefused("the reply answers another question in this place")
    listed = answer.get("probabilities")
    if isinstance(listed, list):
        scale = asked[id_].scale and answer.get("type") == "score"
        name_of = "label" if scale else "value"
        pairs = [(p.get(name_of), p.get("probability")) for p in listed if isinstance(p, dict)]
        if not all(isinstance(name, str) for name, _ in pairs):
            raise EngineRefused("an option of the answer is no text")
        if len({name for name, _ in pairs}) != len(listed):
            raise EngineRefused("an option stands twice in the answer")
        answer = {**answer, "probabilities": dict(pairs)}
        if scale:
            answer = _as_choice(answer, asked[id_].names, asked[id_])
    used = reply.get("usage")
    used = used if isinstance(used, dict) else {}
    details = used.get("input_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    usage = Usage(
        prompt=_count(used.get("input_tokens")),
        cached=_count(cached),
        generated=_count(used.get("output_tokens")),
    )
    return Said(answer, usage)


FORMS = {
    form.name: form
    for form in (
        Form("systemone", "/v1/systemone", _spell_systemone, _find_systemone),
        Form("decisions", "/v1/decisions", _spell_decisions, _find_decisions),
    )
}


def probabilities_of(answer: Any, names: Sequence[str]) -> list[float]:
    """Return the probability of each option, as they come. Raises `EngineRefused`.

    Refused is what is missing, a refusal, an answer of another type, with other options than were
    sent, with what is no probability, a sum that rounding does not explain, a `choice` that is not
    the likeliest. An exact tie at the top is `Undecided`.
    """
    if answer is None:
        raise EngineRefused("the question was not answered")
    if not isinstance(answer, dict):
        raise EngineRefused(f"the answer is {type(answer).__name__}, not an object")
    if answer.get("type") == "refusal":
        raise EngineRefused("the model declined to answer")
    if answer.get("type") != "choice":
        raise EngineRefused(f"the answer is of type {answer.get('type')!r}, not a choice")
    given = answer.get("probabilities")
    if not isinstance(given, dict):
        raise EngineRefused("the answer has no probabilities")
    try:
        p = [given[name] for name in names]
    except KeyError:
        p = []
    if len(given) != len(p):
        odd = sorted(map(str, given.keys() ^ set(names)))
        raise EngineRefused(f"the answer's options are not those that were sent: {odd[0]!r}")
    if not _NUMBERS.issuperset(map(type, p)):  # True is no number
        raise EngineRefused("a probability is not a number")
    total, top = math.fsum(p), max(p)
    if not (-SUM <= min(p) <= top <= 1 + SUM and math.isfinite(total)):
        raise EngineRefused("a probability is not between 0 and 1")
    if abs(total - 1) > SUM:
        raise EngineRefused(f"the probabilities sum to {total:.3f}, not to 1")
    if p.count(top) > 1:
        tied = [name for name, x in zip(names, p, strict=True) if x == top]
        raise Undecided(f"the model cannot tell {tied[0]!r} from {tied[1]!r}")
    chosen = answer.get("choice")
    if chosen is not None and chosen != names[p.index(top)]:
        raise EngineRefused(f"the answer chooses {chosen!r}, which is not the likeliest")
    return p


def rounding(seen: Sequence[float]) -> float:
    """Return the unit that probabilities are rounded to, 0 where they are not.

    It is a power of ten of which all seen are multiples, 1e-2 to 1e-6.
    """
    for digits in range(2, 7):
        unit = 10.0**-digits
        if all(abs(x - round(x, digits)) < unit * 1e-6 for x in seen):
            return unit
    return 0.0


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable and 0 < value <= 1 + SUM else None


def _count(value: Any) -> int:
    usable = isinstance(value, int) and not isinstance(value, bool)
    return value if usable and value > 0 else 0
