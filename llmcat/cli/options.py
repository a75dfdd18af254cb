"""Settings as flags: what every command's arguments are made of."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmcat.config import RunConfig

__all__ = [
    "BUDGET",
    "COMMANDS",
    "GROUPS",
    "ITEMS",
    "RULES",
    "STORE",
    "add_settings",
    "all_but",
    "check_items",
    "flags_of",
    "not_over",
    "parser",
    "refuse_several",
    "settings",
]

COMMANDS = {
    "init": "write a starter project: settings, categories, a few items",
    "classify": "put the items of a file into categories",
    "diff": "compare two predictions files",
    "review": "check predictions on a local page, by keyboard, alone or with others",
    "apply": "put people's labels over a predictions file, without a request",
    "show": "print a predictions file as a table",
    "export": "write what a run has answered so far as a file, in any format",
    "eval": "measure on labelled items how good the labels are",
    "ab": "compare prompts, models or settings on labelled items, and decide",
    "tune": "choose prompt, candidates and sources on labelled items, and learn their weights",
    "calibrate": "fit on labelled items what the probabilities mean, and draw a line",
    "runs": "list, show, compare or export evaluation runs",
    "student": "train a classifier on labels, measure it, use it",
    "fallback": "let a trained classifier label what it knows, and the model the rest",
    "labels": "the label store: import, export, statistics",
    "explain": "say of one row what was offered, who said what, and who decided",
    "prompts": "list the prompts, show one, or render it for an item",
    "doctor": "check the installation, the server and how well they fit",
    "serve": "start a model server: llmcat serve model --model NAME",
}

GROUPS: dict[str, tuple[str, ...]] = {
    "items": (
        "file", "out", "input_format", "delimiter", "encoding", "escape", "sheet", "out_format",
        "keep", "bom", "since",
        "text", "image", "id", "label", "limit", "redact",
    ),
    "categories": ("labels", "taxonomy", "multi", "ordered", "about", "menu_size"),
    "prompt": ("prompt", "examples", "select", "shots", "seed", "orders"),
    "evidence": (
        "sources", "candidates", "source_category", "group", "reference", "skip_sure", "artifact",
    ),
    "engine": (
        "engine", "engine_option", "base_url", "model", "constraint", "mass_sample",
        "concurrency", "timeout", "retry_seconds", "price_per_hour",
    ),
    "confidence": (
        "min_confidence", "calibration", "accept_precision", "risk", "by_branch", "back_off",
        "set_coverage",
    ),
    "rules": ("rules",),
    "budget": ("max_requests", "max_tokens", "max_cost"),
    "fallback": (
        "primary", "primary_url", "primary_labelled", "features", "max_distance", "cold_threshold",
        "max_items",
    ),
    "label store": ("store", "keep_text"),
    "evaluation": ("runs",),
}  # fmt: skip
ELSEWHERE = {"rules", "budget", "fallback", "label store"}
"""Groups that a command has only where it says so."""
STORE = frozenset({"label store"})
BUDGET = frozenset({"budget"})
RULES = frozenset({"rules"})
ITEMS = (
    "file", "input_format", "delimiter", "encoding", "escape", "sheet", "text", "id", "label",
    "redact", "limit",
)  # fmt: skip
"""Settings of what is read."""
SHORT = {"file": "-f", "out": "-o"}


class _Parser(argparse.ArgumentParser):
    """Says in a line what is wrong, and which flag may be meant."""

    def error(self, message: str) -> NoReturn:
        """Raise `BadConfig`."""
        from difflib import get_close_matches

        from llmcat.errors import BadConfig

        hint = f"{self.prog} --help"
        for word in message.split():
            flag = word.split("=")[0]
            if "unrecognized" in message and flag.startswith("-"):
                if near := get_close_matches(flag, self._option_string_actions, n=1):
                    hint = f"did you mean {near[0]}? see {self.prog} --help"
                break
        raise BadConfig(message, hint=hint)


def parser(name: str, epilog: str = "") -> argparse.ArgumentParser:
    """Return the parser of a command, without arguments."""
    return _Parser(
        prog=f"llmcat {name}",
        description=COMMANDS[name][0].upper() + COMMANDS[name][1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_settings(
    to: argparse.ArgumentParser,
    *,
    leave_out: frozenset[str] = frozenset(),
    also: frozenset[str] = frozenset(),
    told: Mapping[str, str] | None = None,
) -> None:
    """Add a flag for every setting but the secrets; what is not given stays unset.

    `also` names groups of `ELSEWHERE`; `told` has other words for some.
    """
    from llmcat.config import MULTI, RunConfig

    for title, names in GROUPS.items():
        if leave_out.issuperset(names) or (title in ELSEWHERE and title not in also):
            continue
        group = to.add_argument_group(title)
        for name in names:
            if name in leave_out:
                continue
            field = RunConfig.model_fields[name]
            flags = [f"--{name.replace('_', '-')}", *([SHORT[name]] if name in SHORT else [])]
            options: dict[str, Any] = {"dest": name, "default": None}
            options["help"] = (told or {}).get(name, field.description)
            choices = [c for c in getattr(field.annotation, "__args__", ()) if isinstance(c, str)]
            if field.annotation is bool:
                options["action"] = "store_true"
            elif name == "engine_option":
                options |= {"action": "append", "metavar": "NAME=VALUE"}
                options["help"] = "NAME=VALUE for the engine; may be repeated"
            elif name == "file":
                options |= {"action": "extend", "nargs": "+", "metavar": "FILE"}
                to.add_argument("files", nargs="*", metavar="FILE", help="items, as with --file")
            elif choices:
                options["choices"] = [c for c in choices if c]
                if name == "multi":
                    options |= {"nargs": "?", "const": MULTI}
                    options["help"] += f" (without a value: {MULTI})"
            else:
                options["metavar"] = name.upper().split("_")[-1]
            if field.default is not False and field.default != "" and name not in (told or {}):
                options["help"] += f" (default: {field.default})"
            group.add_argument(*flags, **options)


def flags_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings among the flags that were given."""
    from llmcat import config

    known = config.RunConfig.model_fields
    flags = {k: v for k, v in vars(args).items() if k in known and v is not None}
    if named := getattr(args, "files", None):
        flags["file"] = [*named, *flags.get("file", [])]
    for name, between in (("engine_option", ","), ("file", "\n")):
        if isinstance(flags.get(name), list):
            flags[name] = between.join(flags[name])
    return flags


def settings(args: argparse.Namespace) -> Any:
    """Merge the flags that were given over environment and file."""
    from llmcat import config

    return config.load(**flags_of(args))


def refuse_several(config: RunConfig, what: str) -> None:
    """Raise `BadConfig` where items may have several labels, and `what` gives or takes one."""
    from llmcat.errors import BadConfig

    if config.multi:
        raise BadConfig(
            f"{what}: one label an item, and `multi` (LLMCAT_MULTI, llmcat.toml) says several"
        )


def all_but(*names: str) -> frozenset[str]:
    """Return every setting that is not among these."""
    return frozenset(n for group in GROUPS.values() for n in group) - set(names)


def not_over(out: str, read: Iterable[str], *, replace: bool) -> None:
    """Raise `BadConfig` where a file is there already, or is one of those that are read."""
    from pathlib import Path

    from llmcat.errors import BadConfig

    path = Path(out)
    if path.exists() and any(name and path.resolve() == Path(name).resolve() for name in read):
        raise BadConfig(f"{out} is read here, and cannot be written", hint="choose another name")
    if path.exists() and not replace:
        raise BadConfig(f"{out} is there already", hint="--replace writes over it")


def check_items(config: RunConfig) -> None:
    """Raise `BadConfig` where there is nothing to read."""
    from llmcat.errors import BadConfig

    if config.file == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise BadConfig("no items", hint="--file FILE, or pipe them in")
