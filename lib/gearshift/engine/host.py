"""What the machine itself does: its processor and its memory.

Of a container it knows no more than the kernel tells it: mostly the whole machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Host:
    """The machine at one moment; times of all its processors together, seconds since its start."""

    busy_s: float
    idle_s: float
    memory_used_bytes: int
    memory_total_bytes: int

    def load_since(self, earlier: Host) -> float | None:
        """Percent of all processors that was used in between; `None` without time in between.

        Not `psutil.cpu_percent`: that compares with the last call of the same thread, and says 0
        to a thread that calls it first.
        """
        busy, idle = self.busy_s - earlier.busy_s, self.idle_s - earlier.idle_s
        return 100 * max(0.0, busy) / (busy + idle) if busy + idle > 0 else None


def look() -> Host:
    """The machine now."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted twice
    memory = psutil.virtual_memory()
    return Host(sum(times) - guests - idle, idle, memory.total - memory.available, memory.total)
