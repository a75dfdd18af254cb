"""What an arm costs: tokens, seconds, money."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING

from llmcat.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmcat.evaluation.schema import ArmRecord, Costs


__all__ = ["cheapness", "costs_of", "read_costs"]


def costs_of(arm: ArmRecord, n: int) -> Costs:
    """Return what an arm takes: tokens per item, seconds and price per 1,000 items.

    The price is the provider's own where it says one, else the server's hourly price for the time
    of the solo pass; None where neither is known.
    """
    used, speed = arm["usage"], arm["speed"] or {}
    seconds = speed.get("server_seconds_per_1000")
    price = None
    if used["cost"] and n:
        price = 1000 * used["cost"] / n
    elif arm["price_per_hour"] and seconds is not None:
        price = arm["price_per_hour"] * seconds / 3600
    prompt, cached, generated = (
        used[name] / n if n else None for name in ("prompt", "cached", "generated")
    )
    return {
        "prompt_tokens_per_item": prompt,
        "cached_tokens_per_item": cached,
        "generated_tokens_per_item": generated,
        "server_seconds_per_1000": seconds,
        "price_per_1000": price,
        "joules_per_1000": speed.get("joules_per_1000"),
    }


def cheapness(arms: Mapping[str, ArmRecord]) -> tuple[str, dict[str, float | None]]:
    """Return by what arms can be called cheaper, and each one's: the best that all have.

    Tokens tell only between arms of one model.
    """
    price = {name: arm["costs"]["price_per_1000"] for name, arm in arms.items()}
    seconds = {name: arm["costs"]["server_seconds_per_1000"] for name, arm in arms.items()}
    for by, cost in (("price per 1000", price), ("server seconds per 1000", seconds)):
        if all(value is not None for value in cost.values()):
            return by, cost
    if len({arm["served"]["model"] for arm in arms.values()}) > 1:
        return "", dict.fromkeys(arms)
    tokens: dict[str, float | None] = {}
    for name, arm in arms.items():
        costs = arm["costs"]
        each = costs["prompt_tokens_per_item"], costs["generated_tokens_per_item"]
        tokens[name] = sum(value or 0.0 for value in each)
    return "tokens per item", tokens


def read_costs(path: str) -> dict[tuple[str, str], float]:
    """Read what errors cost: a CSV with the columns gold, label, cost. Raises `InputError`."""
    found = {}
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines), 2):
                try:
                    cost = found[row["gold"], row["label"]] = float(row["cost"])
                    if not 0 <= cost < math.inf:
                        raise ValueError("a cost is a number from 0")
                except (KeyError, TypeError, ValueError) as exc:
                    raise InputError(
                        f"{path}: line {number}: a gold label, a label and a number are needed",
                        hint="the columns are gold, label, cost",
                    ) from exc
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InputError(f"{path}: {exc}") from exc
    return found
