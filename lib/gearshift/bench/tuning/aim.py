"""What a person wants tuned: the model, the goals, the load, and how much may be tried."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gearshift.bench.metrics import Goal
from gearshift.bench.series import Wish

_REQUESTS = 24  # of a run, at least: a p95 of fewer is little more than the worst of them
_FOR_EACH, _FOR_EACH_AT_LEAST = 4, 2  # requests of each person


@dataclass(frozen=True)
class Aim:
    """The question.

    Attributes:
        goals: All of them are to be met by a load.
        parameters: What is searched over, as `space.parse` reads it; `None` for the guide's.
        load: Prompts, answers and think time; `users` and `goals` of it are not looked at, and with
            more people there are more requests than it says.
        starts: Settings that are started at most, vLLM's defaults among them.
        rounds: How often the winner is measured beside the defaults.
        first, most: People to begin with, and at most.
        gpus: Which ones; empty for the first.
        choices: Values of `Launch` that every setting has.
    """

    model: str
    goals: tuple[Goal, ...]
    parameters: str | None = None
    load: Wish = field(default_factory=Wish)
    starts: int = 12
    rounds: int = 5
    first: int = 4
    most: int = 256
    gpus: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)

    def wish(self, users: int, repetition: int) -> Wish:
        """One load: the same questions at every setting, and others at each repetition."""
        load = self.load
        requests = load.requests
        if requests is not None:
            requests = max(requests, _FOR_EACH_AT_LEAST * users)
        elif load.duration_s is None:
            requests = max(_REQUESTS, _FOR_EACH * users)
        seed = load.seed + 1000 * users + repetition
        return replace(
            load, users=(users,), requests=requests, seed=seed, repeat=1, goals=self.goals
        )

    def name(self, machine: dict[str, Any]) -> str:
        """What it is kept as: the same question on the same machine has the same name."""
        asked = asdict(replace(self, starts=0, rounds=0, first=0))
        text = json.dumps([asked, machine], sort_keys=True, default=str)
        return f"{slug(self.model)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def slug(model: str) -> str:
    """A model's name as files may be called."""
    last = model.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9.]+", "-", last).strip("-.")[:60] or "model"
