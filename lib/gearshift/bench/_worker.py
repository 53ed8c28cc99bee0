"""A process of the load generator: people (or arrivals) on an event loop of its own.

Reads its task as one line of JSON, says that it is ready, waits for the moment to begin, and writes
what it measured; a second line, or the end of its input, cancels it. It has nothing else to do, so
that questions leave at once and its processor time is the load generator's.

What it does not know: what its figures mean, and that there are other processes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import msgspec

from gearshift.bench._arrivals import stamping_socket
from gearshift.bench._exchange import departures, exchange, reader_maker
from gearshift.bench.metrics import Goal, Request
from gearshift.providers import _http
from gearshift.providers._http import Budgets, Endpoint

_STAGGER = 0.0005  # seconds between people who begin; one process sends about that fast
_PROGRESS = 0.25  # seconds
_TICK = 0.05  # seconds
_REST = 0.5  # seconds before a person asks a server again that is gone or full
_REFUSED = ("unreachable", "overloaded")


@dataclass(frozen=True)
class Task:
    """What one process sends.

    Attributes:
        bodies: Payloads; sessions, warm and arrivals name them by index.
        sessions: Requests that one person sends one after the other; a closed loop's. They are
            taken again when there are no more.
        requests: How many are begun; `None` where the time decides, or the arrivals.
        first_user, step: The numbers of its people among all: first, first + step …
        arrivals: Seconds after the beginning and prompts; an open loop's.
        limit: Requests on their way at once, for an open loop.
        duration_s: Nothing is begun after that.
        think_s: Mean of the pauses between an answer and the next question, seconds.
    """

    endpoint: Endpoint
    path: str
    bodies: list[dict[str, Any]]
    reader: str
    budgets: Budgets
    warm: list[int]
    sessions: list[list[int]]
    requests: int | None
    users: int
    first_user: int
    step: int
    arrivals: list[tuple[float, int]]
    limit: int | None
    duration_s: float | None
    think_s: float
    seed: int
    goals: list[Goal]


@dataclass
class Result:
    """What it measured; `ended` is when the last answer was whole, or when it was cancelled."""

    requests: list[Request]
    ended: float
    cpu_s: float
    late_s: list[float]
    unfinished: int


class _Worker:
    def __init__(self, task: Task) -> None:
        self.task = task
        self.make_reader = reader_maker(task.reader, task.endpoint.who)
        # A run's percentile of ITL is one of all its gaps: what one request had does not decide it.
        self.goals = [goal for goal in task.goals if goal.metric != "itl"]
        self.requests: list[Request] = []
        self.done = self.failed = self.tokens = self.missed = 0
        self.under_way: set[int] = set()  # of `requests`, by index
        self.late_s: list[float] = []
        self.sessions = cycle(task.sessions)
        self.began = self.ended = 0.0
        self.told: asyncio.Queue[bytes] = asyncio.Queue()

    async def run(self) -> None:
        asyncio.get_running_loop().add_reader(0, self._listen)
        client = _http.open_client(departures(), socket_factory=stamping_socket)
        warm = [await self._send(Request(prompt)) for prompt in self.task.warm]
        gc.collect()
        gc.freeze()
        gc.disable()
        _say({"ready": [request.reason for request in warm if request.error]})
        word = await self.told.get()
        if word in (b"", b"stop\n"):  # whoever started us has gone, or does not want it any more
            await client.close()
            _say({"result": Result([], time.monotonic(), 0.0, [], 0)})
            return
        self.began = float(word)
        cpu = time.process_time()
        work = asyncio.ensure_future(self._work())
        stop = asyncio.ensure_future(self.told.get())
        helps = [asyncio.ensure_future(help()) for help in (self._tick, self._report)]
        await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        spent = time.process_time() - cpu
        ended = self.ended if work.done() else time.monotonic()
        for task in (work, stop, *helps):
            task.cancel()
        failures = await asyncio.gather(work, return_exceptions=True)
        await client.close()
        for failure in failures:
            if isinstance(failure, Exception):
                raise failure
        finished = [r for r in self.requests if r.ended is not None or r.error is not None]
        unfinished = len(self.requests) - len(finished)
        _say({"result": Result(finished, ended, spent, self.late_s, unfinished)})

    def _listen(self) -> None:
        data = os.read(0, 100)
        if not data:
            asyncio.get_running_loop().remove_reader(0)
            self.told.put_nowait(b"")
        for line in data.splitlines(keepends=True):  # who cancels at once says two things
            self.told.put_nowait(line)

    async def _work(self) -> None:
        if self.task.arrivals:
            await self._open_loop()
        else:
            async with asyncio.TaskGroup() as people:
                for number in range(self.task.users):
                    people.create_task(self._person(self.task.first_user + number * self.task.step))

    @property
    def _over(self) -> bool:
        """Whether nothing more is begun."""
        requests, limit = self.task.requests, self.task.duration_s
        if requests is not None and len(self.requests) >= requests:
            return True
        return limit is not None and time.monotonic() >= self.began + limit

    async def _person(self, number: int) -> None:
        """One of the closed loop: takes a session, asks, reads, thinks, asks again."""
        dice = random.Random(f"{self.task.seed} {number}")
        await _until(self.began + number * _STAGGER)
        for session in self.sessions:
            for prompt in session:
                if self._over:
                    return
                request = Request(prompt)
                await self._record(request)
                if request.error in _REFUSED:  # else a dead server is asked a thousand times
                    await asyncio.sleep(_REST)
                if self.task.think_s:
                    await asyncio.sleep(dice.expovariate(1 / self.task.think_s))

    async def _open_loop(self) -> None:
        limit = self.task.limit
        slots = asyncio.Semaphore(limit) if limit else nullcontext()

        async def arrive(request: Request) -> None:
            async with slots:
                await self._record(request)

        async with asyncio.TaskGroup() as arriving:
            for offset, prompt in self.task.arrivals:
                due = self.began + offset
                await _until(due)
                arriving.create_task(arrive(Request(prompt, due=due)))

    async def _record(self, request: Request) -> None:
        number = len(self.requests)
        self.requests.append(request)
        self.under_way.add(number)
        await self._send(request)
        self.ended = max(self.ended, request.ended or time.monotonic())
        self.under_way.discard(number)
        self.done += request.completed
        self.failed += not request.completed
        self.tokens += request.tokens
        self.missed += not request.completed or not all(g.met_by(request) for g in self.goals)

    async def _send(self, request: Request) -> Request:
        task = self.task
        body = task.bodies[request.prompt]
        reader = self.make_reader()
        await exchange(request, task.endpoint, task.path, body, reader, task.budgets)
        return request

    async def _tick(self) -> None:
        """Looks how late this process wakes up: so late are the questions that follow an answer."""
        while True:
            due = time.monotonic() + _TICK
            await asyncio.sleep(_TICK)
            self.late_s.append(max(0.0, time.monotonic() - due))

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS)
            sent = len(self.requests)
            counts = {"sent": sent, "done": self.done, "failed": self.failed}
            missed = self.missed + sum(map(self._misses, self.under_way))
            _say({"progress": counts | {"tokens": self.tokens, "missed": missed}})

    def _misses(self, number: int) -> bool:
        """Whether a request that is under way has taken too long already."""
        request, now = self.requests[number], time.monotonic()
        waited = now - (request.started or now)
        return any(
            waited > goal.limit_s
            for goal in self.goals
            if goal.metric == "e2el" or (goal.metric == "ttft" and not request.pieces)
        )


async def _until(moment: float) -> None:
    wait = moment - time.monotonic()
    if wait > 0:
        await asyncio.sleep(wait)


def _say(what: dict[str, Any]) -> None:
    data = memoryview(msgspec.json.encode(what) + b"\n")
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    """Does the one task that stands on standard input."""
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    asyncio.run(_Worker(task).run())


if __name__ == "__main__":
    main()
