"""What a reader prefers whatever stands there: log-probabilities by place, to be taken off.

A model asked with letters likes some places (or letters) better than others. Where candidates
stand in an order that has nothing to do with what they are (shuffled by item), the mean answer by
place over some items is that preference and nothing else (Zhou et al. 2023, batch calibration,
section 3; Zheng et al. 2024, PriDe, section 4). It is measured on reference items or on labelled
ones, never on the run that is judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["estimate", "without"]

Array = np.ndarray[Any, Any]

LEAST = 1e-6
HOLD = 8.0
"""Answers that an even share counts for: few answers say little about a place."""


def estimate(readings: Sequence[Array]) -> Array:
    """Return the log of the mean probability by place, shape `(places,)`.

    Each reading holds the log-probabilities of one menu, the exit last; all are of one length. The
    exit keeps what it has (its preference is the none rule's): it is left as an even share of it.
    """
    p = np.exp(np.stack([_normal(np.asarray(reading, dtype=float)) for reading in readings]))
    places = p.shape[1] - 1
    inside = p[:, :places] / p[:, :places].sum(axis=1, keepdims=True)
    mean = (inside.sum(axis=0) + HOLD / places) / (len(p) + HOLD)
    exit_mean = (p[:, -1].sum() + HOLD / (places + 1)) / (len(p) + HOLD)
    return np.asarray(np.log(np.append(mean * (1 - exit_mean), exit_mean)))


def without(reading: Array, prior: Array | None) -> Array:
    """Return a menu's log-probabilities with the preference for places taken off, normalised.

    A prior of another length (a shorter menu) says nothing, and nothing is taken off.
    """
    reading = np.asarray(reading, dtype=float)
    if prior is None or len(prior) != len(reading):
        return _normal(reading)
    return _normal(reading - prior)


def _normal(logs: Array) -> Array:
    top = logs.max()
    return np.asarray(logs - top - np.log(np.exp(logs - top).sum()))
