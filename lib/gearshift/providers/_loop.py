"""The one event loop, in a background thread of each process, that owns all HTTP sessions.

Streamlit's pages are threads without a loop and a notebook awaits on a loop of its own, while an
HTTP session belongs to the loop that made it. So every coroutine that touches the network runs
here: `run` waits for it from a thread, `on_loop` from another loop, and a `Relay` carries a stream
across.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop; its daemon thread is started on first use."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="gearshift-loop", daemon=True).start()
        return _loop


def submit(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Starts the coroutine on the background loop; cancelling the future cancels it."""
    return asyncio.run_coroutine_threadsafe(coroutine, background_loop())


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs the coroutine on the background loop and waits, from a thread that has no loop.

    Whatever interrupts the wait (Ctrl-C) cancels the coroutine.
    """
    future = submit(coroutine)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def on_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs the coroutine on the background loop and awaits it on the caller's."""
    if asyncio.get_running_loop() is background_loop():
        return await coroutine
    return await asyncio.wrap_future(submit(coroutine))


class Relay(Generic[T]):
    """Carries batches from the background loop to one consumer on any loop.

    A batch wakes the consumer only if it sleeps, so a burst costs one wake-up, not one a piece.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._batches: deque[list[T]] = deque()
        self._sleeper: asyncio.Future[None] | None = None
        self._ended = False
        self._error: BaseException | None = None

    def put(self, batch: list[T]) -> None:
        """Hands over a batch; called on the background loop."""
        self._batches.append(batch)
        self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """Says that nothing more comes, and why if something went wrong."""
        self._error, self._ended = error, True
        self._wake()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._rouse)

    def _rouse(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def batches(self) -> AsyncIterator[list[T]]:
        """The batches in order, until the end; raises what the producer ended with."""
        while True:
            while self._batches:
                yield self._batches.popleft()
            if self._ended and not self._batches:
                if self._error is not None:
                    raise self._error
                return
            # The sleeper is set before the second look, so that a `put` in between rouses it.
            self._sleeper = self._loop.create_future()
            if not self._batches and not self._ended:
                await self._sleeper
            self._sleeper = None
