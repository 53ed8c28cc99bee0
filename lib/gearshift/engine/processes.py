"""Processes that are ours: known by pid *and* start, found whole, ended by the clock.

vLLM's workers rename themselves, start sessions of their own and outlive their parents, so neither
names nor process groups find them. Three things do: descent, what was seen before, and our log
pipe, which all of them hold open for writing.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

_PR_SET_CHILD_SUBREAPER = 36


class Process(NamedTuple):
    """A process: its pid may be given to another one later, its start (clock ticks) not."""

    pid: int
    start: int


def processors() -> list[int]:
    """The processors that we may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def boot_id() -> str:
    """Which boot this is: pids and starts of another one mean nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def identify(pid: int) -> Process | None:
    """The process of that pid, `None` if there is none or it is only waited for (a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold anything
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[19]))


def alive(process: Process) -> bool:
    """Whether that very process is still there."""
    return identify(process.pid) == process


def name_of(pid: int) -> str:
    """What the process calls itself."""
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "?"


def adopt_orphans() -> None:
    """Makes this process the parent of descendants that lose theirs (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(pid: int) -> set[Process]:
    """All living processes below `pid`."""
    with suppress(psutil.Error):
        found = (identify(child.pid) for child in psutil.Process(pid).children(recursive=True))
        return {process for process in found if process is not None}
    return set()


def writers_of(pipe: Path) -> set[Process]:
    """All living processes but this one that hold `pipe` open for writing; readers do not count."""
    try:
        wanted = pipe.stat()
    except OSError:
        return set()
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        with suppress(OSError):  # it is gone, or somebody else's
            for number in os.listdir(f"/proc/{pid}/fd"):
                facts = os.stat(f"/proc/{pid}/fd/{number}")
                same = (facts.st_dev, facts.st_ino) == (wanted.st_dev, wanted.st_ino)
                if same and _writes(pid, number) and (process := identify(int(pid))):
                    found.add(process)
                    break
    return found


def _writes(pid: str, descriptor: str) -> bool:
    text = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text("ascii")
    flags = next(line.split()[1] for line in text.splitlines() if line.startswith("flags:"))
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


def send(process: Process, number: signal.Signals) -> bool:
    """Signals that very process, never another that has its pid by now; whether it was there."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(process):  # looked at while the pid is held, so it cannot change any more
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(descriptor)


def wait_gone(processes: Iterable[Process], seconds: float) -> set[Process]:
    """Waits until they are gone; those that are still there when the time is up."""
    deadline = time.monotonic() + seconds
    left = set(processes)
    while True:
        left = {process for process in left if alive(process)}
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.02)


_SHARED_MEMORY = re.compile(r" (/dev/shm/.+)$", re.MULTILINE)


def shared_memory_of(pids: Iterable[int]) -> set[str]:
    """The files in shared memory that processes have mapped; they outlive who made them."""
    found: set[str] = set()
    for pid in pids:
        with suppress(OSError):  # it is gone, or somebody else's
            text = Path(f"/proc/{pid}/maps").read_text("utf-8", "replace")
            found.update(_SHARED_MEMORY.findall(text))
    return {name for name in found if not name.endswith(" (deleted)")}


def remove_shared_memory(names: Iterable[str]) -> None:
    """Removes what ended processes have left in shared memory, unless somebody still uses it."""
    left = {name for name in names if os.path.exists(name)}
    if left:
        for name in left - shared_memory_of(map(int, filter(str.isdigit, os.listdir("/proc")))):
            with suppress(OSError):
                os.unlink(name)


def somebody_listens(port: int) -> bool:
    """Whether clients of that port of this machine reach anybody."""
    with suppress(OSError), socket.create_connection(("localhost", port), 1.0):
        return True
    return False


def port_owner(port: int) -> Process | None:
    """Who listens on the TCP port of this machine, `None` if nobody or it is not ours to know."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                return identify(connection.pid) if connection.pid else None
    return None
