"""The most people with whom a server holds the goals: by doubling, then by narrowing down.

It takes for granted that who holds with many holds with fewer. Between a load that holds and one
that does not, the next is where a straight line through the two meets the limit, and the middle
when that has not helped. Measured loads are asked again of `ask`, which may know them: that is how
an interrupted search goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from gearshift.bench.tuning.trial import Point

_FINE = 20  # the answer is exact up to here, and to 5 % beyond
_GUESSES = 2  # that did not halve what is left, before the middle is taken


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
    below, above = 0.0, None  # margins there, as far as they are known
    users, guesses = min(beat or first, most), 0
    while True:
        point, width = ask(users), high - low
        if point.holds:
            low, below = users, point.margin or 0.0
        else:
            high, above = users, point.margin
            if users == beat:
                return low, True
        if high - low <= max(1, low // _FINE):
            return low, False
        if high > most:
            users = min(2 * low, most)
            continue
        guesses = 0 if 2 * (high - low) <= width else guesses + 1
        if above is None or above <= below or guesses > _GUESSES:
            users, guesses = (low + high) // 2, 0
        else:
            share = (1 - below) / (above - below)
            users = min(max(low + int(share * (high - low)), low + 1), high - 1)
