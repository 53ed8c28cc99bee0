"""Whether the winner is better than vLLM's defaults, or was lucky: both again, taking turns.

A round is one run of each with as many people as the winner had, asking the same. The order turns
from round to round (A B, B A, A B …), so that a machine that grows slower meets both alike, and a
server that ends one round begins the next: so many rounds take one start more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from gearshift.bench.metrics import confidence_interval
from gearshift.bench.tuning.trial import Point


@dataclass
class Round:
    """One run of each with the same people."""

    default: Point | None = None
    best: Point | None = None

    @property
    def whole(self) -> bool:
        return self.default is not None and self.best is not None

    @property
    def valid(self) -> bool:
        """Whether the figures of both are the servers' own."""
        return not any(one and one.invalid for one in (self.default, self.best))

    @property
    def ratio(self) -> float:
        """Answers in time a second, the winner's by the default's."""
        assert self.default is not None
        assert self.best is not None
        return _rate(self.best) / _rate(self.default)

    @classmethod
    def of(cls, kept: dict[str, Any]) -> Round:
        """The round that `asdict` was made of."""
        return cls(**{who: point and Point(**point) for who, point in kept.items()})


def _rate(point: Point) -> float:
    """Where not one was in time, half an answer is taken to be, so that it can be divided by."""
    return max(point.goodput_per_s, 0.5 / point.seconds)


def order(rounds: int) -> list[tuple[int, str]]:
    """Which run comes after which: the number of the round, and who is measured."""
    found = []
    for number in range(rounds):
        pair = ("default", "best") if number % 2 == 0 else ("best", "default")
        found += [(number, who) for who in pair]
    return found


@dataclass(frozen=True)
class Gain:
    """What the winner gains in answers in time: 0.1 is ten percent more.

    `interval` is at 95 % (`metrics.confidence_interval`); `None` for fewer than three rounds.
    """

    gain: float
    interval: tuple[float, float] | None

    @property
    def certain(self) -> bool:
        return self.interval is not None and self.interval[0] > 0


def gain(rounds: list[Round]) -> Gain | None:
    """From the rounds that are whole and count; `None` if there is none."""
    ratios = [one.ratio for one in rounds if one.whole and one.valid]
    if not ratios:
        return None
    interval = confidence_interval(ratios)
    around = (interval[0] - 1, interval[1] - 1) if interval else None
    return Gain(median(ratios) - 1, around)


def kept(rounds: list[Round]) -> list[dict[str, Any]]:
    """The rounds as JSON; `Round.of` reads them."""
    return [asdict(one) for one in rounds]
