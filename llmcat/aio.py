"""An event loop in a thread of its own, so that plain programs and notebooks can wait for it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """Runs coroutines, one at a time; the thread starts with the first and ends with `close`."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self.lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine and return what it returns; Ctrl-C cancels it."""
        with self.lock:
            running = self.submit(work)
            try:
                return running.result()
            except KeyboardInterrupt:
                running.cancel()
                raise

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a coroutine; whoever calls holds `lock`."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="llmcat", daemon=True
            )
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End the thread. It starts again with the next coroutine."""
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
