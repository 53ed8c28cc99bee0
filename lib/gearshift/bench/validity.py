"""Whether a run measured the server, or the client and the machine around it."""

from __future__ import annotations

import numpy as np

from gearshift.bench.metrics import Run

_BUSY = 0.8  # of a core; a process of the load generator that needs more asks too late
# Of all cores, what a client on the server's own machine takes from it: worth a note, too much.
_SHARE, _TOO_MUCH = 0.15, 1 / 3
_WOKEN_LATE, _TOO_LATE = 0.005, 0.1  # seconds, for one waking in twenty
_LATE = 0.05  # seconds that an arrival may be behind its plan


def why_invalid(run: Run, cores: int, on_this_machine: bool) -> str | None:
    """Why the figures are not the server's, or `None` when they are.

    Args:
        cores: Of this machine.
        on_this_machine: Whether the server shares them.
    """
    if run.duration_s <= 0 or not run.requests:
        return None if run.cancelled else "nothing was measured"
    busiest = max((client.cpu_s for client in run.clients), default=0.0) / run.duration_s
    if busiest > _BUSY:
        return (
            f"the client was the bottleneck: one of its processes used {busiest:.0%} of a core, so "
            "it asked too late"
        )
    if on_this_machine and run.client_cpu_percent > 100 * cores * _TOO_MUCH:
        return (
            f"the client was in the way: it took {run.client_cpu_percent:.0f} % of a core from a "
            f"server on the same {cores} cores"
        )
    woken = _late_wakings(run)
    if woken > _TOO_LATE:
        return (
            f"the machine was too busy: the client woke up {woken:.2f} s late, or later, once in "
            "twenty times, and so late were its next questions"
        )
    waited = [
        r.started - r.due for r in run.requests if r.due is not None and r.started is not None
    ]
    if waited and run.users is None and float(np.percentile(waited, 95)) > _LATE:
        late = float(np.percentile(waited, 95))
        return (
            f"the client could not keep to the plan of arrivals: 5 % left {late:.2f} s late or more"
        )
    return None


def notes(run: Run, cores: int, on_this_machine: bool) -> list[str]:
    """What a reader of the figures should know, valid as they are."""
    found = []
    if on_this_machine and run.client_cpu_percent > 100 * cores * _SHARE:
        found.append(
            f"the client took {run.client_cpu_percent:.0f} % of a core from a server on the same "
            f"{cores} cores"
        )
    woken, between = _late_wakings(run), run.percentiles("itl").mean
    if woken > _WOKEN_LATE:
        found.append("the machine was busy: in some runs the client woke up 5 ms late, or later")
    if between and woken > max(between, _WOKEN_LATE):
        found.append("it woke up later than tokens follow each other: ITL percentiles are coarse")
    if lingering := sum(request.lingered for request in run.requests):
        found.append(
            f"the server left {lingering} answers open after their end, which people waited for: "
            "tokens and answers a second would be more"
        )
    if run.counted_by in ("messages", "both"):
        found.append("the server did not count its tokens: each message counts as one")
    if run.completed and len(run.completed) < 100:
        found.append("p99 of fewer than a hundred requests is little more than the worst of them")
    return found


def _late_wakings(run: Run) -> float:
    """How late the client was in the worst of twenty wakings, seconds."""
    late = [value for client in run.clients for value in client.late_s]
    return float(np.percentile(late, 95)) if late else 0.0
