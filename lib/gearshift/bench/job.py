"""A measurement under way, apart from the page that shows it.

There is one at a time in a process: two would measure each other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from gearshift.bench import runs
from gearshift.bench.scenarios import finished, scenario_series
from gearshift.bench.series import Series, Wish, measure
from gearshift.errors import GearshiftError
from gearshift.settings import load_settings

log = logging.getLogger(__name__)

_lock = threading.Lock()
_last: Job | None = None


def last_job() -> Job | None:
    """The one that runs, else the one that ran last."""
    return _last


def start(scenario: str, wish: Wish, providers: Sequence[str], command: str) -> Job:
    """Begins to measure a scenario.

    Raises:
        GearshiftError: something is being measured already.
    """
    global _last
    with _lock:
        if _last is not None and _last.running:
            raise GearshiftError(
                "something is being measured already", hint="wait for its end, or cancel it"
            )
        _last = Job(scenario, wish, providers, command)
    return _last


class Job:
    """Measures in a thread of its own and keeps the record, however it ends."""

    def __init__(self, scenario: str, wish: Wish, providers: Sequence[str], command: str) -> None:
        self.series: Series | None = None
        self.problem: GearshiftError | None = None
        self.name: str | None = None
        """What the record is kept as, once it is."""
        self._cancel = threading.Event()
        self._known: tuple[int, dict[str, Any]] | None = None
        self._arguments = (scenario, wish, providers, command)
        self._thread = threading.Thread(target=self._run, name="gearshift-bench", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def cancelling(self) -> bool:
        return self._cancel.is_set()

    def cancel(self) -> None:
        """Ends it; what was measured until then is kept."""
        self._cancel.set()

    def record(self) -> dict[str, Any] | None:
        """What has been measured so far; made anew only when a run was added."""
        series = self.series
        if series is None or not series.measured:
            return None
        count = len(series.measured)
        if self._known is None or self._known[0] != count or not self.running:
            self._known = (count, finished(series))
        return self._known[1]

    def _run(self) -> None:
        scenario, wish, providers, command = self._arguments
        try:
            with scenario_series(scenario, wish, providers=providers) as series:
                series.command = command
                self.series = series
                measure(series, cancel=self._cancel)
            if series.measured:
                self.name = runs.keep(finished(series), load_settings().home_dir)
        except GearshiftError as problem:
            self.problem = problem
        except Exception as bug:
            log.exception("unexpected, while measuring")
            self.problem = GearshiftError(
                f"unexpected {type(bug).__name__}: {bug}", hint="please report it; see the log"
            )
