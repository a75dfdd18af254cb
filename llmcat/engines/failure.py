"""Servers that fail: HTTP statuses sorted into our errors, and the one place that tries again."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from llmcat.errors import EngineBusy, EngineError, EngineRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["refusal", "try_again"]

T = TypeVar("T")


def refusal(status: int, what: str, *, retry_after: str | None = None) -> EngineError:
    """Return the error of an HTTP status other than 200.

    `what` is for the user and holds the server's own words; `retry_after` is the header, if any.
    """
    if status in {401, 403}:
        return EngineRefused(what, hint="set LLMCAT_API_KEY", fatal=True)
    if status == 404:  # noqa: PLR2004
        return EngineRefused(what, hint="are address and model right?", fatal=True)
    if status in {408, 425, 429} or status >= 500:  # noqa: PLR2004
        wait = _seconds(retry_after)
        return EngineBusy(what, retry_after=wait, patient=status in {425, 429, 503})
    return EngineRefused(what)


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
                raise failure
            try:
                return await once()
            except EngineError as exc:
                failure = exc
                raise
    raise AssertionError("tenacity returns or raises")


def _retryable(exc: BaseException) -> bool:
    return isinstance(exc, EngineError) and exc.retryable


def _seconds(header: str | None) -> float:
    """Read a Retry-After header given in seconds; a date counts as no statement."""
    try:
        return min(max(float(header or 0.0), 0.0), 300.0)
    except ValueError:
        return 0.0
