"""A search that goes on in the background."""

from __future__ import annotations

from gearshift.bench.background import Background
from gearshift.bench.tuning.aim import Aim
from gearshift.bench.tuning.result import failed, keep
from gearshift.bench.tuning.tune import Tuning, open_tuning, tune
from gearshift.settings import Settings

_last: Job | None = None


def last_job() -> Job | None:
    """The one that runs, else the one that ran last."""
    return _last


def start(aim: Aim, settings: Settings, name: str | None = None, fresh: bool = False) -> Job:
    """Begins to search, or goes on where the same question was left.

    Raises:
        GearshiftError: something is being measured already, or there is nothing to search.
    """
    global _last
    job = Job(open_tuning(aim, settings), settings, name, fresh)
    job.begin()
    _last = job
    return job


class Job(Background):
    """Searches and keeps the record."""

    what = "a search for settings is under way"

    def __init__(self, tuning: Tuning, settings: Settings, name: str | None, fresh: bool) -> None:
        super().__init__()
        self.tuning = tuning
        self._settings, self._name, self._fresh = settings, name, fresh

    def work(self) -> None:
        try:
            tune(self.tuning, self._settings, cancel=self.cancelled, fresh=self._fresh)
            self.problem = failed(self.tuning)
        finally:
            if self.tuning.trials:  # else what was kept before stays as it is
                keep(self.tuning, self._settings, self._name)
