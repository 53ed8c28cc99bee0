"""What tuning learns of one setting: the loads that were tried, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Setting = dict[str, Any]
"""Values of `Launch` by their names; what is not in it is left to vLLM."""


class Outcome(StrEnum):
    """How a trial ended."""

    RUNNING = "running"
    MEASURED = "measured"
    STOPPED = "stopped"  # it cannot beat the best one, so that no more was measured
    PRUNED = "pruned"  # it was not started: it is known not to work
    FAILED = "failed"  # it did not start, or broke under load


_STARTED = (Outcome.MEASURED, Outcome.STOPPED, Outcome.FAILED)


@dataclass
class Point:
    """One load on one server.

    Attributes:
        holds: Whether every goal was met and nothing failed.
        margin: The worst of value by limit over the goals, below 1 where all are met; `None` when
            a request failed, or the load was ended because the goals were missed for certain.
        figures: The percentile that each goal looks at, in seconds.
        goodput_per_s: Answers a second that meet every goal.
        seconds: How long it took.
        runs: How often it was measured: once more near the limit.
        invalid: Why the figures are not the server's.
    """

    users: int
    holds: bool
    margin: float | None
    figures: dict[str, float | None]
    goodput_per_s: float
    output_tokens_per_s: float
    requests: int
    failed: int
    seconds: float
    runs: int = 1
    invalid: str | None = None


@dataclass
class Trial:
    """One setting.

    Attributes:
        label: Where it comes from: vLLM's defaults, the guide, a correction, the search.
        setting: What it is started with.
        users: The most people with whom the goals are met; 0 if they are not even with one.
        goodput_per_s, output_tokens_per_s: With that many people.
        reason: Why it was pruned or stopped, or what failed.
        cause, evidence, fix: What the doctor says of a failed start.
        lesson: What the fix changes, of what is searched over; `None` unless a start failed.
        start_s: How long the start took.
    """

    number: int
    label: str
    setting: Setting
    outcome: Outcome = Outcome.RUNNING
    points: list[Point] = field(default_factory=list)
    users: int = 0
    goodput_per_s: float | None = None
    output_tokens_per_s: float | None = None
    reason: str = ""
    cause: str | None = None
    evidence: str | None = None
    fix: str | None = None
    lesson: Setting | None = None
    start_s: float | None = None

    @property
    def rank(self) -> tuple[float, float, float]:
        """Most people first; among equals more answers in time, then more tokens."""
        return (self.users, self.goodput_per_s or 0.0, self.output_tokens_per_s or 0.0)

    @property
    def score(self) -> float:
        """The same order as one number, for the study; of a loser what its one load tells."""
        if self.outcome is Outcome.STOPPED or self.users == 0:
            return self._guess()
        goodput = self.goodput_per_s or 0.0
        return self.users + goodput / (goodput + 1)

    def _guess(self) -> float:
        """Were waiting to grow evenly with people, so many would be in time."""
        low = min(self.points, key=lambda point: point.users, default=None)
        if low is None:
            return 0.0
        return low.users / (low.margin or 4.0) if not low.holds else float(low.users)

    def point(self, users: int) -> Point | None:
        return next((point for point in self.points if point.users == users), None)

    def settle(self) -> None:
        """Takes over the figures of the largest load that holds."""
        holding = [point for point in self.points if point.holds]
        best = max(holding, key=lambda point: point.users, default=None)
        if best is not None:
            self.users = best.users
            self.goodput_per_s = best.goodput_per_s
            self.output_tokens_per_s = best.output_tokens_per_s

    @classmethod
    def of(cls, kept: dict[str, Any]) -> Trial:
        """The trial that `asdict` was made of."""
        points = [Point(**point) for point in kept["points"]]
        return cls(**kept | {"points": points, "outcome": Outcome(kept["outcome"])})


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The best that holds the goals with at least one person."""
    good = [t for t in trials if t.outcome is Outcome.MEASURED and t.users > 0]
    return max(good, key=lambda trial: trial.rank, default=None)


def started(trials: Sequence[Trial]) -> int:
    """How many of them cost a start of vLLM."""
    return sum(trial.outcome in _STARTED for trial in trials)
