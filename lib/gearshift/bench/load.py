"""The load generator: people or arrivals, in processes of their own, cancelled at any time.

    run = run_load(target.wire, workload, Load(users=10, requests=100))

A closed loop has so many people who ask, read, think and ask again; an open loop has arrivals at a
rate, whatever the server does: a Poisson process, or burstier or steadier, with gamma-distributed
intervals as `vllm bench serve` has them. One process is enough for most; many people are spread
over several, since one that is busy asks too late.
"""

from __future__ import annotations

import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import IO, Any

import msgspec
import numpy as np

from gearshift.bench._worker import Result, Task
from gearshift.bench.metrics import Client, Goal, Run
from gearshift.bench.prompts import Workload
from gearshift.errors import GearshiftError
from gearshift.providers._base import Wire
from gearshift.providers._http import Budgets

PEOPLE_A_PROCESS = 64
_ARRIVALS_A_PROCESS = 100  # a second
_LOOK = 0.1  # seconds between looks whether it was cancelled
_LEAD = 0.05  # seconds from the word to the beginning
_END = 10.0  # seconds that a process has for its result after it was told to stop


@dataclass(frozen=True)
class Load:
    """How much is asked of a server.

    Attributes:
        users: People at once; for an open loop the most requests on their way, or no limit.
        requests: How many are sent in all: people ask until so many are begun; or
        duration_s: for how long requests are begun, seconds.
        rate: Arrivals a second; makes it an open loop.
        burstiness: 1 is a Poisson process; less comes in bursts, more is steadier.
        think_s: Mean pause between an answer and the same person's next question, seconds.
        warmup: Requests that are sent before and not counted.
        goals: What `Progress.missed` counts by.
    """

    users: int | None = 1
    requests: int | None = None
    duration_s: float | None = None
    rate: float | None = None
    burstiness: float = 1.0
    think_s: float = 0.0
    warmup: int = 0
    seed: int = 0
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Progress:
    """How far a run is: requests sent, completed and failed, and output tokens so far.

    `missed` are those that did not meet a goal, or cannot any more.
    """

    sent: int = 0
    done: int = 0
    failed: int = 0
    tokens: int = 0
    missed: int = 0


OnProgress = Callable[[Progress], None]
Said = queue.Queue[tuple[int, dict[str, Any]]]


def arrivals(load: Load) -> list[float]:
    """When an open loop's requests come, in seconds from the beginning; the same for a seed.

    Intervals are gamma-distributed with shape `burstiness` and mean 1/rate. With a number of
    requests they are stretched so that these take requests/rate seconds.
    """
    assert load.rate
    dice = np.random.default_rng(load.seed)
    expected = load.requests or int(load.rate * (load.duration_s or 0) * 2) + 100
    gaps = dice.gamma(load.burstiness, 1 / (load.rate * load.burstiness), expected)
    moments = np.cumsum(gaps)
    if load.requests:
        moments *= load.requests / load.rate / moments[-1]
    if load.duration_s is not None:
        moments = moments[moments < load.duration_s]
    return [float(moment) for moment in moments]


def run_load(
    wire: Wire,
    workload: Workload,
    load: Load,
    budgets: Budgets,
    progress: OnProgress = lambda now: None,
    cancel: threading.Event | None = None,
    notes: list[str] | None = None,
) -> Run:
    """Sends the load and measures it; blocks until the last answer, or until it is cancelled.

    What interrupts it (Ctrl-C) cancels it as `cancel` does: what was measured is returned, with
    `cancelled` set.

    Args:
        notes: Gets what is worth knowing of the warm-up.

    Raises:
        GearshiftError: a process of the load generator could not work.
    """
    tasks = _tasks(wire, workload, load, budgets)
    crew = _Crew(tasks, progress, cancel or threading.Event())
    with ExitStack() as stack:
        for process in crew.processes:
            stack.enter_context(process)
        return crew.measure(load, notes if notes is not None else [])


def _tasks(wire: Wire, workload: Workload, load: Load, budgets: Budgets) -> list[Task]:
    bodies = [wire.payload | body for body in workload.bodies]
    people = load.users or 0
    wanted = math.ceil(max(people / PEOPLE_A_PROCESS, (load.rate or 0) / _ARRIVALS_A_PROCESS))
    count = max(1, min(wanted, os.cpu_count() or 1, load.users or wanted))
    sessions: list[list[int]] = []
    planned: list[tuple[float, int]] = []
    if load.rate:
        prompts = cycle(prompt for session in workload.sessions for prompt in session)
        planned = list(zip(arrivals(load), prompts, strict=False))
    else:
        sessions = list(islice(cycle(workload.sessions), max(len(workload.sessions), count)))
    # The warm-up takes prompts from the end, which come last in the run.
    last_first = [prompt for session in reversed(workload.sessions) for prompt in session]
    warm = list(islice(cycle(last_first), load.warmup))
    return [
        Task(
            endpoint=wire.endpoint,
            path=wire.path,
            bodies=bodies,
            reader=wire.reader,
            budgets=budgets,
            warm=warm[number::count],
            sessions=sessions[number::count],
            requests=_part(load.requests, number, count),
            users=len(range(number, people, count)),
            first_user=number,
            step=count,
            arrivals=planned[number::count],
            limit=len(range(number, people, count)) or None,
            duration_s=load.duration_s,
            think_s=load.think_s,
            seed=load.seed,
            goals=list(load.goals),
        )
        for number in range(count)
    ]


def _part(whole: int | None, number: int, count: int) -> int | None:
    """What falls to one of so many processes."""
    return None if whole is None else len(range(number, whole, count))


class _Process:
    """A child that runs `_worker.py`, and the thread that passes on what it says."""

    def __init__(self, task: Task, number: int, said: Said) -> None:
        self._task, self._number, self._said = task, number, said

    def __enter__(self) -> _Process:
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        self._child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "gearshift.bench._worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # What ends all processes of a terminal is for whoever started this one: it is told.
            process_group=0,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.tell(msgspec.json.encode(self._task) + b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._errors):
            if pipe is not None:
                pipe.close()

    def tell(self, line: bytes) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(line)
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: what it said last tells why

    def _read(self) -> None:
        assert self._child.stdout is not None
        with suppress(ValueError):  # it was closed: nobody listens any more
            for line in self._child.stdout:
                self._said.put((self._number, msgspec.json.decode(line)))
        self._said.put((self._number, {}))

    def problem(self) -> GearshiftError:
        """Why it ended without a result."""
        status = self._child.wait()
        self._errors.seek(0)
        words = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return GearshiftError(
            f"the load generator's process ended with status {status}: {' / '.join(words[-3:])}",
            hint="measure again; if memory is short, with fewer people",
        )


class _Crew:
    """All processes of one run, and how far they are."""

    def __init__(self, tasks: list[Task], progress: OnProgress, cancel: threading.Event) -> None:
        self._said: Said = queue.Queue()
        self.processes = [_Process(task, i, self._said) for i, task in enumerate(tasks)]
        self._progress, self._cancel = progress, cancel
        self._counts = [Progress()] * len(tasks)
        self._results: dict[int, Result] = {}
        self._ready: dict[int, list[str]] = {}
        self._told = 0.0
        self.cancelled = False

    def measure(self, load: Load, notes: list[str]) -> Run:
        self._listen_until(lambda: len(self._ready) == len(self.processes) or self.cancelled)
        began = time.monotonic() + _LEAD
        if self.cancelled:
            return Run(load.users, [], began, began, [], cancelled=True)
        notes += [f"the warm-up failed: {why[0]}" for why in self._ready.values() if why][:1]
        for process in self.processes:
            process.tell(f"{began!r}\n".encode())
        self._listen_until(lambda: len(self._results) == len(self.processes))
        results = list(self._results.values())
        return _put_together(load, began, results, self.cancelled)

    def _listen_until(self, enough: Callable[[], bool]) -> None:
        while not enough():
            try:
                self._listen()
                if self._cancel.is_set() and not self.cancelled:
                    self._stop()
            except KeyboardInterrupt:
                if self.cancelled:
                    raise
                self._stop()

    def _stop(self) -> None:
        self.cancelled, self._told = True, time.monotonic()
        for process in self.processes:
            process.tell(b"stop\n")

    def _listen(self) -> None:
        try:
            number, said = self._said.get(timeout=_LOOK)
        except queue.Empty:
            if self.cancelled and time.monotonic() - self._told > _END:
                raise GearshiftError(
                    "the load generator's process did not stop", hint="measure again"
                ) from None
            return
        if "progress" in said:
            self._counts[number] = Progress(**said["progress"])
            rows = [asdict(count) for count in self._counts]
            self._progress(Progress(**{key: sum(row[key] for row in rows) for key in rows[0]}))
        elif "ready" in said:
            self._ready[number] = said["ready"]
        elif "result" in said:
            self._results[number] = msgspec.convert(said["result"], Result)
        elif number not in self._results:
            raise self.processes[number].problem()


def _put_together(load: Load, began: float, results: list[Result], cancelled: bool) -> Run:
    requests = [request for result in results for request in result.requests]
    requests.sort(key=lambda request: request.started or 0.0)
    first = min((r.started for r in requests if r.started is not None), default=began)
    return Run(
        users=load.users,
        requests=requests,
        began=first,
        ended=max([first, *(result.ended for result in results)]),
        clients=[Client(result.cpu_s, result.late_s) for result in results],
        unfinished=sum(result.unfinished for result in results),
        cancelled=cancelled,
    )
