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
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

_PACE = 0.005  # seconds between wakings under load
_CREDIT = 0.1  # seconds; what idle time is worth at most

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


class _Moderated(selectors.DefaultSelector):
    """Waits like its base, but returns at most 200 times a second once it is busy.

    What network cards do with their interrupts: a waking costs more than a token's bytes, so under
    load several streams are served at each. Idle, and up to 50 wakings in a row, nothing waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self._paid = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        now = time.monotonic()
        self._paid = max(self._paid + _PACE, now - _CREDIT)
        if self._paid > now:
            wait = self._paid - now
            if timeout is not None:
                wait = min(wait, timeout)
                timeout -= wait
            time.sleep(wait)
        return super().select(timeout)


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop; its daemon thread is started on first use."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.SelectorEventLoop(_Moderated())
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


class _Bell:
    """Rouses the sleepers of one consumer loop, all that are due at once with a single wake-up.

    A wake-up of another thread costs more than reading a token, so they are gathered over a turn
    of the background loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: list[asyncio.Future[None]] = []

    def ring(self, sleeper: asyncio.Future[None]) -> None:
        """Rouses `sleeper` soon; called on the background loop."""
        if not self._due:
            background_loop().call_soon(self._wake)
        self._due.append(sleeper)

    def _wake(self) -> None:
        due, self._due = self._due, []
        # A loop that was closed has nobody left who waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_rouse, due)


def _rouse(sleepers: list[asyncio.Future[None]]) -> None:
    for sleeper in sleepers:
        if not sleeper.done():
            sleeper.set_result(None)


_bells: WeakKeyDictionary[asyncio.AbstractEventLoop, _Bell] = WeakKeyDictionary()


def _bell() -> _Bell:
    """The bell of the loop that this is called on."""
    loop = asyncio.get_running_loop()
    with _lock:
        return _bells.setdefault(loop, _Bell(loop))


class Relay(Generic[T]):
    """Carries batches from the background loop to one consumer on any loop.

    A batch rings only for a consumer that sleeps, so a burst costs one wake-up, not one a piece.
    """

    def __init__(self) -> None:
        self._bell = _bell()
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
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            self._bell.ring(sleeper)

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
            self._sleeper = sleeper = asyncio.get_running_loop().create_future()
            if not self._batches and not self._ended:
                await sleeper
