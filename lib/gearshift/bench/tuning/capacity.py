"""The most people with whom a server holds the goals, by doubling and halving.

It takes for granted that who holds with many holds with fewer. Measured loads are asked again of
`ask`, which may know them: that is how an interrupted search goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from gearshift.bench.tuning.trial import Point

_FINE = 20  # the answer is exact up to here, and to 5 % beyond


def most_users(
    ask: Callable[[int], Point], first: int, most: int, beat: int = 0
) -> tuple[int, bool]:
    """The number, and whether the search was given up because `beat` was not reached.

    Args:
        ask: Measures so many people.
        first: Where to begin when there is nothing to beat.
        most: More are not tried.
        beat: What the best setting so far holds; who does not hold that is a loser at once.
    """
    low, high = 0, most + 1
    users = min(beat or first, most)
    while True:
        if ask(users).holds:
            low = users
        else:
            high = users
            if users == beat:
                return low, True
        if high - low <= max(1, low // _FINE):
            return low, False
        users = min(2 * low, most) if high > most else (low + high) // 2
