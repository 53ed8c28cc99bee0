"""One load on one server, against the goals."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gearshift.bench.load import Progress
from gearshift.bench.metrics import Goal, Run
from gearshift.bench.series import Measured, Series, Wish, measure
from gearshift.bench.target import Target
from gearshift.bench.tuning.aim import Aim
from gearshift.bench.tuning.trial import Point

_NEAR = (0.85, 1.15)  # of the limit: chance may decide there, so that it is measured again
_WARM_PEOPLE, _WARM_REQUESTS = 4, 8


class Cancelled(Exception):
    """Somebody wants it to end; what was measured is kept."""


Tell = Callable[[Progress], None]


def warm(target: Target, aim: Aim, cancel: threading.Event) -> None:
    """A load that does not count: the first requests of a server are slower than all others."""
    wish = replace(aim.wish(_WARM_PEOPLE, 900), requests=_WARM_REQUESTS, duration_s=None, warmup=1)
    _run(target, wish, cancel, lambda now: None)


def look(
    target: Target, aim: Aim, users: int, cancel: threading.Event, tell: Tell, repetition: int = 0
) -> Point:
    """Measures so many people; once more near the limit, or when the client was in the way.

    What the client was in the way of does not count beside what it was not. A load is ended as
    soon as it is certain that the goals are missed.

    Raises:
        Cancelled: it did not come to its end.
    """
    found = [_until_lost(target, aim.wish(users, repetition), cancel, tell)]
    first = _point(users, found, aim.goals)
    near = first.margin is not None and _NEAR[0] < first.margin < _NEAR[1]
    if near or first.invalid:
        found.append(_until_lost(target, aim.wish(users, repetition + 100), cancel, tell))
    valid = [one for one in found if one.invalid is None]
    return _point(users, valid or found, aim.goals)


def once(
    target: Target, aim: Aim, users: int, cancel: threading.Event, tell: Tell, number: int
) -> Point:
    """One whole run and no more, for comparisons that repeat by themselves."""
    return _point(users, [_run(target, aim.wish(users, number), cancel, tell)], aim.goals)


def _run(target: Target, wish: Wish, cancel: threading.Event, tell: Tell) -> Measured:
    series = Series(wish, [target], machine={})
    measure(series, lambda now: tell(now.progress), cancel)
    if not series.measured or (series.cancelled and not isinstance(cancel, _Lost)):
        raise Cancelled
    return series.measured[0]


class _Lost(threading.Event):
    """Set when a load is lost, or when `cancel` is."""

    def __init__(self, cancel: threading.Event) -> None:
        super().__init__()
        self._cancel = cancel

    def is_set(self) -> bool:
        return super().is_set() or self._cancel.is_set()


def _until_lost(target: Target, wish: Wish, cancel: threading.Event, tell: Tell) -> Measured:
    lost = _Lost(cancel)
    # So many may miss their goal; of several goals each may be missed by others.
    most = sum((1 - goal.percentile / 100) * (wish.requests or math.inf) + 1 for goal in wish.goals)

    def watch(now: Progress) -> None:
        tell(now)
        if now.missed > most:
            lost.set()

    found = _run(target, wish, lost, watch)
    if cancel.is_set() or (found.run.cancelled and not threading.Event.is_set(lost)):
        raise Cancelled
    return found


def _point(users: int, found: list[Measured], goals: tuple[Goal, ...]) -> Point:
    runs = [one.run for one in found]
    whole = pooled(runs)
    figures = {str(goal): value_of(goal, whole) for goal in goals}
    shares = [
        value / goal.limit_s
        for goal, value in zip(goals, figures.values(), strict=True)
        if value is not None
    ]
    complete = len(shares) == len(goals) and not whole.failed and not whole.cancelled
    invalid = next((one.invalid for one in found if one.invalid), None)
    return Point(
        users=users,
        holds=complete and invalid is None and all(goal.met(whole) for goal in goals),
        margin=max(shares) if complete else None,
        figures=figures,
        goodput_per_s=_mean([run.goodput(goals) for run in runs]),
        output_tokens_per_s=_mean([run.output_tokens_per_s for run in runs]),
        requests=len(whole.requests),
        failed=whole.failed,
        seconds=sum(run.duration_s for run in runs),
        runs=len(runs),
        invalid=invalid,
    )


def pooled(runs: list[Run]) -> Run:
    """The requests of several runs of the same load as those of one."""
    requests = [request for run in runs for request in run.requests]
    clients = [client for run in runs for client in run.clients]
    lost = any(run.cancelled for run in runs)
    return Run(runs[0].users, requests, runs[0].began, runs[-1].ended, clients, cancelled=lost)


def value_of(goal: Goal, run: Run) -> float | None:
    """What a goal looks at, in seconds."""
    values = run.values(goal.metric)
    return float(np.percentile(values, goal.percentile)) if values else None


def _mean(values: list[float | None]) -> float:
    known = [value or 0.0 for value in values]
    return sum(known) / len(known)
