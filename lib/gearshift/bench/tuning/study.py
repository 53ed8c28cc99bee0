"""Which setting is tried next, and what is kept of those that were, in a journal of JSON lines.

Everything that was measured is in the journal at once, so that whatever ends a search, the same
question asked again goes on where it stopped.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gearshift.bench.tuning.alone import written
from gearshift.bench.tuning.space import Space
from gearshift.bench.tuning.surrogate import promise
from gearshift.bench.tuning.trial import Outcome, Setting, Trial, best_of, started

_TOLD = (Outcome.MEASURED, Outcome.STOPPED, Outcome.FAILED)  # they say how good a setting is


class Study:
    """The settings that were tried, and what comes next.

    Args:
        path: The journal's file; one that is there is gone on with.
        space: What is searched.
        seed: Of the choice between settings that promise the same.
    """

    def __init__(self, path: Path, space: Space, seed: int) -> None:
        self.space = space
        self._path = path
        self._notes: dict[str, Any] = {}
        last = self._read()
        self._dice = random.Random(seed + len(last))
        self.trials = [trial for trial in last if trial.outcome is not Outcome.RUNNING]
        seen = {self._key(trial) for trial in self.trials}
        cut = [t for t in last if t.outcome is Outcome.RUNNING and self._key(t) not in seen]
        self.interrupted = cut[-1:]

    def _read(self) -> list[Trial]:
        """What was last written of each trial; the line that a kill has cut is none."""
        last: dict[int, Trial] = {}
        data = self._path.read_bytes() if self._path.exists() else b""
        if data and not data.endswith(b"\n"):
            self._append(b"\n")
        for line in data.splitlines():
            try:
                kept = json.loads(line)
            except ValueError:
                continue
            if "trial" in kept:
                trial = Trial.of(kept["trial"])
                last[trial.number] = trial
            else:
                self._notes |= kept["note"]
        return list(last.values())

    def _write(self, what: dict[str, Any]) -> None:
        self._append(json.dumps(what).encode() + b"\n")

    def _append(self, data: bytes) -> None:
        with written(self._path.parent), self._path.open("ab") as journal:
            journal.write(data)

    def _key(self, trial: Trial) -> tuple[Any, ...]:
        return self.space.key(trial.setting)

    def tried(self, setting: Setting) -> Trial | None:
        """The trial of a setting that comes to the same, if there was one."""
        key = self.space.key(setting)
        return next((trial for trial in self.trials if self._key(trial) == key), None)

    @property
    def starts(self) -> int:
        """How many servers were started."""
        return started(self.trials)

    def begin(self, label: str, setting: Setting) -> Trial:
        """Opens a trial of a setting; one that was interrupted has the loads that it had."""
        for old in self.interrupted:
            if self._key(old) == self.space.key(setting):
                self.interrupted.remove(old)
                return old
        number = max((one.number for one in self.trials + self.interrupted), default=0) + 1
        trial = Trial(number, label, setting)
        self.keep(trial)
        return trial

    def suggest(self, forbidden: Callable[[Setting], bool]) -> Setting | None:
        """What is tried next: of the best one's nearest neighbours that are left the one that
        promises most; `None` when nothing is left.
        """
        seen = {self._key(trial) for trial in self.trials}
        fresh = (one for one in self.space.settings() if self.space.key(one) not in seen)
        left = [one for one in fresh if not forbidden(one)]
        told = [trial for trial in self.trials if trial.outcome in _TOLD]
        loaded = [trial for trial in told if trial.outcome is not Outcome.FAILED]
        if not left or not loaded:
            return self._dice.choice(left) if left else None
        best = best_of(self.trials) or max(loaded, key=lambda trial: trial.score)
        at = self.space.indexes(best.setting)
        steps = [_steps(self.space.indexes(one), at) for one in left]
        nearest = max(1, min(steps))
        near = [one for one, far in zip(left, steps, strict=True) if far <= nearest]
        promises = promise(
            [self.space.position(trial.setting) for trial in told],
            [-1.0 if trial.outcome is Outcome.FAILED else trial.score for trial in told],
            [self.space.position(one) for one in near],
        )
        most = np.flatnonzero(np.isclose(promises, promises.max()))
        return near[int(self._dice.choice(most))]

    def keep(self, trial: Trial) -> None:
        """Writes down how far it is."""
        self._write({"trial": asdict(trial)})

    def close(self, trial: Trial) -> None:
        """The trial has come to its end."""
        self.keep(trial)
        self.trials.append(trial)

    def note(self, name: str, value: Any) -> None:
        """Keeps something of the whole search."""
        self._notes[name] = value
        self._write({"note": {name: value}})

    def noted(self, name: str) -> Any:
        """What was kept, else `None`."""
        return self._notes.get(name)


def _steps(one: list[int], other: list[int]) -> int:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))
