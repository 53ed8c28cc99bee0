"""A scenario that is measured in the background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gearshift.bench import runs
from gearshift.bench.background import Background
from gearshift.bench.scenarios import finished, scenario_series
from gearshift.bench.series import Series, Wish, measure, nothing_measured
from gearshift.errors import GearshiftError
from gearshift.settings import load_settings

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
    job = Job(scenario, wish, providers, command)
    job.begin()
    _last = job
    return job


class Job(Background):
    """Measures a scenario and keeps the record."""

    what = "a scenario is being measured"

    def __init__(self, scenario: str, wish: Wish, providers: Sequence[str], command: str) -> None:
        super().__init__()
        self.series: Series | None = None
        self.name: str | None = None
        """What the record is kept as, once it is."""
        self._known: tuple[int, dict[str, Any]] | None = None
        self._arguments = (scenario, wish, providers, command)

    def record(self) -> dict[str, Any] | None:
        """What has been measured so far; made anew only when a run was added."""
        series = self.series
        if series is None or not series.measured:
            return None
        count = len(series.measured)
        if self._known is None or self._known[0] != count or not self.running:
            self._known = (count, finished(series))
        return self._known[1]

    def work(self) -> None:
        scenario, wish, providers, command = self._arguments
        with scenario_series(scenario, wish, providers=providers) as series:
            series.command = command
            self.series = series
            measure(series, cancel=self.cancelled)
        self.problem = series.problem or nothing_measured(series)
        if any(one.run.requests for one in series.measured):
            try:
                self.name = runs.keep(finished(series), load_settings().home_dir)
            except GearshiftError as wrong:
                self.problem = self.problem or wrong
