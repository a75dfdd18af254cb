"""The arms of a comparison: what each changes in the settings, and the question they answer.

An arm is written `prompt=few-shot,examples=pool.jsonl` (or just a prompt), or as a table of a TOML
file. This module does not know files of items, engines or metrics.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcat import config as settings
from llmcat.engines.registry import ENGINES
from llmcat.errors import BadConfig
from llmcat.evaluation.run_folder import SOLO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmcat.config import RunConfig

__all__ = ["Arm", "arms_of", "definition"]

SHARED = ("file", "out", "out_format", "input_format", "id", "label", "limit", "runs", "api_key")
"""What all arms have in common: the items, and where results go."""
_FREE = [name for name in settings.RunConfig.model_fields if name not in SHARED]
_BETWEEN = re.compile(rf",(?=(?:{'|'.join(_FREE)})=)")
_OF_ENGINES = frozenset(option for _, options in ENGINES.values() for option in options)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to classify; `said` is how it was asked for."""

    name: str
    config: RunConfig
    said: str = ""


def arms_of(changes: Mapping[str, str | Mapping[str, Any]], common: Mapping[str, Any]) -> list[Arm]:
    """Return the arms: `changes` maps each name to what it changes in the `common` settings.

    Raises `BadConfig` where a setting is none, or cannot differ between arms.
    """
    arms = []
    for name, change in changes.items():
        if not _NAME.fullmatch(name) or name == SOLO:
            raise BadConfig(f"an arm cannot be called {name!r}", hint="letters, digits, - and _")
        own = _parsed(change) if isinstance(change, str) else dict(change)
        for key in own:
            if key not in _FREE:
                why = "is the same for all arms" if key in SHARED else "is not a setting"
                raise BadConfig(f"arm {name}: {key!r} {why}", hint="see llmcat ab --help")
        said = ",".join(f"{key}={value}" for key, value in own.items())
        try:
            arms.append(Arm(name, settings.load(**{**common, **own}), said))
        except BadConfig as exc:
            raise BadConfig(f"arm {name}: {exc}", hint=exc.hint) from exc
    return arms


def _parsed(text: str) -> dict[str, str]:
    """Read `prompt=zh,shots=4`; text without a setting's name in front is a prompt.

    What follows `engine_option` and is an option of an engine belongs to it.
    """
    found: dict[str, str] = {}
    key = ""
    for part in _BETWEEN.split(text):
        before, (key, equals, value) = key, part.partition("=")
        if before == "engine_option" and key in _OF_ENGINES:  # `seed` is one of both kinds
            key = before
            found[key] += f",{part}"
        elif equals and re.fullmatch(r"[a-z_]+", key):
            found[key] = value
        else:
            found["prompt"] = part
    return found


def definition(path: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Mapping[str, Any]]]:
    """Read a comparison from TOML: `(settings, [decision], [arms.NAME])`. Raises `BadConfig`.

    Paths in it are taken as they stand, from the current folder.
    """
    try:
        keys = tomllib.loads(Path(path).read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
        raise BadConfig(f"{path}: {exc}") from exc
    arms, decision = keys.pop("arms", {}), keys.pop("decision", {})
    if not isinstance(decision, dict):
        raise BadConfig(f"{path}: decision is a table", hint="[decision] and below it its keys")
    if not isinstance(arms, dict) or not all(isinstance(arm, dict) for arm in arms.values()):
        raise BadConfig(f"{path}: arms are tables", hint="[arms.a] and below it its settings")
    for key in keys:
        if key not in settings.RunConfig.model_fields or key == "api_key":
            raise BadConfig(f"{path}: {key!r} is not a setting that can stand in a file")
    return keys, decision, arms
