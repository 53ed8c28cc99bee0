"""The one event loop, in a background thread of each process, that owns all HTTP sessions.

Streamlit's pages are threads without a loop and a notebook awaits on a loop of its own, while an
HTTP session belongs to the loop that made it. So every coroutine that touches the network runs
here: `run` waits for it from a thread, `on_loop` from another loop, and a `Relay` carries a stream
across.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_PACE = 0.005  # seconds between wakings under load
_CREDIT = 20  # wakings that idle time is worth
_THREADS = 64

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


class _Moderated(selectors.DefaultSelector):
    """Looks for events as its base does, but under load only every five milliseconds.

    What network cards do with their interrupts: a waking costs more than a token's bytes, so many
    streams share one. A loop that has been idle gets twenty wakings before this begins.
    """

    def __init__(self) -> None:
        super().__init__()
        self._due = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        early = self._due - time.monotonic()
        if early > 0:
            if timeout is not None and timeout <= 0:
                return []  # callbacks wait: they go first
            time.sleep(early if timeout is None else min(early, timeout))
            timeout = None if timeout is None else max(0.0, timeout - early)
        events = super().select(timeout)
        if events:
            self._due = max(self._due, time.monotonic() - _CREDIT * _PACE) + _PACE
        return events


class _Threads(ThreadPoolExecutor):
    """Cancels whoever wants a thread when the process already ends: there are no new ones then."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            raise asyncio.CancelledError from None


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop; its daemon thread is started on first use."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.SelectorEventLoop(_Moderated())
            # Searches run in these; one whose embedder hangs must not keep other people's waiting.
            _loop.set_default_executor(_Threads(_THREADS, "gearshift"))
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


_sleepers: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
"""Who is to be roused, by the loop it sleeps on; only the background loop touches it."""


def _rouse_soon(sleeper: asyncio.Future[None]) -> None:
    """Rouses a consumer; those of one loop share a wake-up, which costs more than a token does."""
    if not _sleepers:
        asyncio.get_running_loop().call_soon(_rouse_all)
    _sleepers.setdefault(sleeper.get_loop(), []).append(sleeper)


def _rouse_all() -> None:
    for loop, sleepers in _sleepers.items():
        with suppress(RuntimeError):  # a closed loop has nobody left who waits
            loop.call_soon_threadsafe(_rouse, sleepers)
    _sleepers.clear()


def _rouse(sleepers: list[asyncio.Future[None]]) -> None:
    for sleeper in sleepers:
        if not sleeper.done():
            sleeper.set_result(None)


class Relay(Generic[T]):
    """Carries batches from the background loop to one consumer on any loop.

    A batch rouses only a consumer that sleeps, so a burst costs one wake-up, not one a piece.
    """

    def __init__(self) -> None:
        self._batches: deque[list[T]] = deque()
        self._sleeper: asyncio.Future[None] | None = None
        self._ended = False
        self._error: BaseException | None = None

    def put(self, batch: list[T]) -> None:
        """Hands over a batch; called on the background loop."""
        if batch:
            self._batches.append(batch)
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """Says that nothing more comes, and why if something went wrong."""
        self._error, self._ended = error, True
        self._wake()

    def _wake(self) -> None:
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            _rouse_soon(sleeper)

    async def get(self) -> list[T]:
        """The next batch, an empty one at the end; raises what the producer ended with."""
        while True:
            ended = self._ended
            if self._batches:
                return self._batches.popleft()
            if ended:
                if self._error is not None:
                    raise self._error
                return []
            # The sleeper is set before the second look, so that a `put` in between rouses it.
            self._sleeper = sleeper = asyncio.get_running_loop().create_future()
            if not self._batches and not self._ended:
                await sleeper
