"""Which setting is tried next, and what is kept of those that were: optuna, in a journal file.

Everything that was measured is in the journal at once, so that whatever ends a search, the same
question asked again goes on where it stopped.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gearshift.bench.tuning.space import Space
from gearshift.bench.tuning.trial import Outcome, Setting, Trial, best_of, started

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("optuna").propagate = False

_TRIES = 20  # of the optimiser for a setting that was not tried yet
_ENOUGH = 10  # settings that were measured, for the optimiser to know more than their best one
_KEPT = "gearshift"
_STATES = {
    Outcome.MEASURED: TrialState.COMPLETE,
    Outcome.STOPPED: TrialState.COMPLETE,
    Outcome.PRUNED: TrialState.PRUNED,
    Outcome.FAILED: TrialState.PRUNED,  # as bad as can be, for the optimiser
}


class Study:
    """The settings that were tried, and the optimiser over them.

    Args:
        path: The journal's file; one that is there is gone on with.
        space: What is searched.
        seed: The optimiser's.
    """

    def __init__(self, path: Path, space: Space, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.space = space
        self._study = optuna.create_study(
            study_name=path.stem,
            storage=JournalStorage(JournalFileBackend(str(path))),
            direction="maximize",
            load_if_exists=True,
        )
        begun = len(self._study.trials)
        self._study.sampler = optuna.samplers.TPESampler(
            seed=seed + begun, n_startup_trials=len(space.beginnings())
        )
        self._dice = random.Random(seed + begun)
        self._open: optuna.Trial | None = None
        self.trials: list[Trial] = []
        self.interrupted: list[Trial] = []
        for old in self._study.trials:
            kept = old.user_attrs.get(_KEPT)
            if old.state is TrialState.RUNNING:
                self._study.tell(old.number, state=TrialState.FAIL)
                if kept and kept["outcome"] == Outcome.RUNNING:
                    self.interrupted.append(Trial.of(kept))
            elif kept and kept["outcome"] != Outcome.RUNNING:
                self.trials.append(Trial.of(kept))
        seen = {self._key(trial) for trial in self.trials}
        self.interrupted = [t for t in self.interrupted if self._key(t) not in seen][-1:]

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
        """Opens a trial of a setting that somebody else has chosen."""
        for old in self.interrupted:
            if self._key(old) == self.space.key(setting):
                self.interrupted.remove(old)
                return self._opened(old.label, setting, old)
        return self._opened(label, setting)

    def _opened(self, label: str, setting: Setting, before: Trial | None = None) -> Trial:
        indexes = self.space.indexes(setting)
        names = [one.name for one in self.space.parameters]
        self._study.enqueue_trial(dict(zip(names, indexes, strict=True)))
        self._open = self._study.ask(self._distributions())
        trial = Trial(len(self.trials) + 1, label, setting)
        if before is not None:
            trial.points = before.points
        self.keep(trial)
        return trial

    def suggest(self, forbidden: Callable[[Setting], bool]) -> Setting | None:
        """What is tried next; `None` when nothing is left.

        Of few trials the optimiser draws by lot: until it knows more, the next one is a neighbour
        of the best.
        """
        loaded = (Outcome.MEASURED, Outcome.STOPPED)
        measured = sum(trial.outcome in loaded for trial in self.trials)
        for _ in range(_TRIES if measured >= _ENOUGH or best_of(self.trials) is None else 0):
            asked = self._study.ask(self._distributions())
            setting = self.space.at([asked.params[one.name] for one in self.space.parameters])
            self._study.tell(asked, state=TrialState.FAIL)  # opened again when it is tried
            if self.tried(setting) is None and not forbidden(setting):
                return setting
        left = [s for s in self.space.settings() if self.tried(s) is None and not forbidden(s)]
        best = best_of(self.trials)
        if not left or best is None:
            return self._dice.choice(left) if left else None
        at = self.space.indexes(best.setting)
        steps = [_steps(self.space.indexes(one), at) for one in left]
        nearest = min(steps)
        near = [one for one, far in zip(left, steps, strict=True) if far == nearest]
        return self._dice.choice(near)

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {one.name: IntDistribution(0, len(one.choices) - 1) for one in self.space.parameters}

    def keep(self, trial: Trial) -> None:
        """Writes down how far it is."""
        assert self._open is not None
        self._open.set_user_attr(_KEPT, asdict(trial))

    def close(self, trial: Trial) -> None:
        """The trial has come to its end."""
        assert self._open is not None
        self.keep(trial)
        state = _STATES[trial.outcome]
        value = trial.score if state is TrialState.COMPLETE else None
        self._study.tell(self._open, value, state=state)
        self._open = None
        self.trials.append(trial)

    def note(self, name: str, value: Any) -> None:
        """Keeps something of the whole search."""
        self._study.set_user_attr(name, value)

    def noted(self, name: str) -> Any:
        """What was kept, else `None`."""
        return self._study.user_attrs.get(name)


def _steps(one: list[int], other: list[int]) -> int:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))
