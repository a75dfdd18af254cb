"""Servers that fail: HTTP statuses sorted into our errors, and the one place that tries again."""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from llmcat.errors import EngineBusy, EngineDown, EngineError, EngineRefused, EngineTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["insist", "refusal", "try_again", "try_again_if_well"]

T = TypeVar("T")
log = logging.getLogger(__name__)
LONGEST = 300.0
"""Seconds; no server is waited for longer because it says so."""


def refusal(status: int, what: str, headers: Mapping[str, str]) -> EngineError:
    """Return the error of an HTTP status other than 200.

    `what` is for the user and holds the server's own words. `headers` are the reply's, found by
    names in any case.
    """
    if status in {401, 403}:
        return EngineRefused(what, hint="set LLMCAT_API_KEY", fatal=True)
    if status == 404:  # noqa: PLR2004
        return EngineRefused(what, hint="are address and model right?", fatal=True)
    if status == 501:  # noqa: PLR2004  not implemented: never, for this model
        return EngineRefused(what, hint="this server or model cannot do that", fatal=True)
    if status in {408, 425, 429} or status >= 500:  # noqa: PLR2004
        wait = _seconds(headers.get("Retry-After"), headers.get("Date"))
        return EngineBusy(what, retry_after=wait, patient=status in {425, 429, 503})
    return EngineRefused(what)


async def insist(
    once: Callable[[], Awaitable[T]], *, attempts: int, seconds: float, met: Callable[[], bool]
) -> T:
    """Ask what an engine needs to open, with the patience that items have.

    Where nobody has answered yet (`met`), a server that is away or silent is told at once: the
    address may be wrong.
    """
    try:
        return await once()
    except EngineError as exc:
        away = isinstance(exc, (EngineDown, EngineTimeout))
        if not exc.retryable or (away and not met()):
            raise
        return await try_again(once, exc, attempts=attempts, seconds=seconds)


async def try_again(
    once: Callable[[], Awaitable[T]], failure: EngineError, *, attempts: int, seconds: float
) -> T:
    """Retry with growing, jittered pauses; `failure` counts as the first attempt.

    A request that fails for itself gets `attempts` tries; a server that is away or busy gets
    `seconds`. Raises the last error; one that is not retryable at once.
    """
    jitter = wait_random_exponential(multiplier=0.25, max=10)
    late = stop_after_delay(seconds)

    def wait(state: RetryCallState) -> float:
        left = seconds - (state.seconds_since_start or 0.0)
        return min(max(jitter(state), failure.retry_after), max(left, 0.0))

    def stop(state: RetryCallState) -> bool:
        used_up = state.attempt_number >= attempts
        return late(state) or (used_up and not failure.patient)

    async for attempt in AsyncRetrying(
        stop=stop, wait=wait, retry=retry_if_exception(_retryable), reraise=True
    ):
        with attempt:
            if attempt.retry_state.attempt_number == 1:
                log.info("asking again: %s", failure)
                raise failure
            try:
                return await once()
            except EngineError as exc:
                failure = exc
                log.debug("attempt %d failed: %s", attempt.retry_state.attempt_number, exc)
                raise
    raise AssertionError("tenacity returns or raises")


async def try_again_if_well(
    once: Callable[[], Awaitable[T]],
    failure: EngineError,
    *,
    attempts: int,
    seconds: float,
    ailment: Callable[[], Awaitable[str]],
    who: str,
) -> T:
    """Try again; if the server is unwell after that, the run cannot go on: raises `EngineDown`."""
    try:
        return await try_again(once, failure, attempts=attempts, seconds=seconds)
    except EngineError as exc:
        if exc.retryable and not exc.fatal and await ailment():
            raise EngineDown(f"{who} is not well: {exc}", hint="look at the server's log") from exc
        raise


def _retryable(exc: BaseException) -> bool:
    return isinstance(exc, EngineError) and exc.retryable


def _seconds(after: str | None, date: str | None) -> float:
    """Return how long a Retry-After header asks to wait, 0 where it says nothing usable.

    It holds seconds or a date. A date counts from the server's own `Date`, whose clock it is by;
    only where there is none, from ours. In the past it means at once.
    """
    try:
        seconds = float(after or 0.0)
    except ValueError:
        until, now = _moment(after), _moment(date) or datetime.now(UTC)
        seconds = (until - now).total_seconds() if until else 0.0
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST)


def _moment(header: str | None) -> datetime | None:
    """Read an HTTP date; one without a zone is in UTC, as all of them are."""
    try:
        found = parsedate_to_datetime(header or "")
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
