"""A measurement under way, apart from the page that shows it.

There is one at a time in a process, a benchmark or a search: two would measure each other.
"""

from __future__ import annotations

import atexit
import logging
import threading
from abc import ABC, abstractmethod
from typing import ClassVar

from gearshift.errors import GearshiftError, unexpected

log = logging.getLogger(__name__)

_GRACE = 30.0  # seconds for the end of servers, when the process ends

_lock = threading.Lock()
_last: Background | None = None


class Background(ABC):
    """Works in a thread of its own; what it has measured is kept, however it ends."""

    what: ClassVar[str]
    """What goes on meanwhile, in words."""

    def __init__(self) -> None:
        self.problem: GearshiftError | None = None
        self.cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gearshift-measure", daemon=True)

    @abstractmethod
    def work(self) -> None:
        """What is done, until it is done or `cancelled` is set."""

    def begin(self) -> None:
        """Starts the work.

        Raises:
            GearshiftError: something is being measured already.
        """
        global _last
        with _lock:
            if _last is not None and _last.running:
                raise GearshiftError(
                    f"{_last.what} already, and two would measure each other",
                    hint="wait for its end, or cancel it",
                )
            _last = self
            self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def cancelling(self) -> bool:
        return self.cancelled.is_set()

    def cancel(self) -> None:
        """Ends it; what was measured until then is kept."""
        self.cancelled.set()

    def join(self, timeout: float) -> None:
        """Waits for its end, so many seconds at most."""
        self._thread.join(timeout)

    def dismiss(self) -> None:
        """The problem was read, and is not shown again."""
        self.problem = None

    def _run(self) -> None:
        try:
            self.work()
        except GearshiftError as problem:
            self.problem = problem
        except Exception as bug:
            log.exception("unexpected, while measuring")
            self.problem = unexpected(bug)


@atexit.register
def _end() -> None:
    """What was started to be measured must not outlive us."""
    if _last is not None and _last.running:
        _last.cancel()
        _last.join(_GRACE)
