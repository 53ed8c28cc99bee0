"""A search under way, apart from the page that shows it; there is one at a time in a process."""

from __future__ import annotations

import logging
import threading

from gearshift.bench.tuning.aim import Aim
from gearshift.bench.tuning.result import failed, keep
from gearshift.bench.tuning.tune import Tuning, open_tuning, tune
from gearshift.errors import GearshiftError
from gearshift.settings import Settings

log = logging.getLogger(__name__)

_lock = threading.Lock()
_last: Job | None = None


def last_job() -> Job | None:
    """The one that runs, else the one that ran last."""
    return _last


def start(aim: Aim, settings: Settings, name: str | None = None, fresh: bool = False) -> Job:
    """Begins to search, or goes on where the same question was left.

    Raises:
        GearshiftError: one runs already, or there is nothing to search.
    """
    global _last
    with _lock:
        if _last is not None and _last.running:
            raise GearshiftError("a search runs already", hint="wait for its end, or cancel it")
        _last = Job(open_tuning(aim, settings), settings, name, fresh)
    return _last


class Job:
    """Searches in a thread of its own and keeps the record, however it ends."""

    def __init__(self, tuning: Tuning, settings: Settings, name: str | None, fresh: bool) -> None:
        self.tuning = tuning
        self.problem: GearshiftError | None = None
        self._settings, self._name, self._fresh = settings, name, fresh
        self._cancel = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gearshift-tune", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def cancelling(self) -> bool:
        return self._cancel.is_set()

    def cancel(self) -> None:
        """Ends it and its server; what was measured is kept."""
        self._cancel.set()

    def _run(self) -> None:
        try:
            tune(self.tuning, self._settings, cancel=self._cancel, fresh=self._fresh)
            self.problem = failed(self.tuning)
            keep(self.tuning, self._settings, self._name)
        except GearshiftError as problem:
            self.problem = problem
        except Exception as bug:
            log.exception("unexpected, while tuning")
            self.problem = GearshiftError(
                f"unexpected {type(bug).__name__}: {bug}", hint="please report it; see the log"
            )
