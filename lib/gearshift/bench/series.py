"""A series of runs: providers × people × repetitions.

Repetitions are interleaved, so that what drifts (heat, other programs) meets all alike.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from gearshift.bench import machine, validity
from gearshift.bench import prompts as ask
from gearshift.bench.load import Load, Progress, run_load
from gearshift.bench.metrics import Goal, Run
from gearshift.bench.prompts import Messages, Workload
from gearshift.bench.target import Target, Tokens, count_tokens, off_the_gpu, takes_lengthening
from gearshift.errors import GearshiftError, unexpected
from gearshift.settings import is_loopback, load_settings

log = logging.getLogger(__name__)

QUESTIONS = "questions"
CONVERSATIONS = "conversations"
ANSWER_TOKENS = 128
"""The longest answer when nobody asked for another length."""
_UNKNOWN_NUMBER = 500  # prompts that are made for a run whose number of requests is not known
_LEFT_OVER = 2  # questions of a session that its person does not come to, at most


@dataclass(frozen=True)
class Wish:
    """What is to be measured.

    Attributes:
        users: People at once, a run for each; empty for an open loop without a limit.
        requests: In each run; by default four for each person, at least ten.
        duration_s: Instead: how long requests are begun.
        input_tokens: Makes the prompts synthetic, of this length.
        output_tokens: The length of each answer: exactly, where the server can be told so.
        rate, burstiness: An open loop: arrivals a second, and how evenly (1: a Poisson process).
        prompts: `questions` (of the sample handbook), `conversations` (of this installation), or a
            file's path.
        room: Tokens that a prompt may take; by default what the servers' contexts leave.
        repeat: How often everything is measured.
        warmup: Requests before each run that do not count.
    """

    users: tuple[int, ...] = (1,)
    requests: int | None = None
    duration_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    rate: float | None = None
    burstiness: float = 1.0
    think_s: float = 0.0
    prompts: str = QUESTIONS
    room: int | None = None
    repeat: int = 1
    warmup: int = 2
    seed: int = 0
    goals: tuple[Goal, ...] = ()

    def load(self, users: int | None, number: int) -> Load:
        """One run's; each repetition has arrivals of its own."""
        requests = self.requests
        if requests is None and self.duration_s is None:
            requests = max(10, 4 * (users or 1))
        return Load(
            users,
            requests,
            self.duration_s,
            self.rate,
            self.burstiness,
            self.think_s,
            self.warmup,
            self.seed + number,
            self.goals,
        )


@dataclass
class Measured:
    """A run with what it was a run of."""

    target: Target
    run: Run
    repetition: int
    load: Load
    workload: str
    exactly: bool
    invalid: str | None
    notes: list[str]


@dataclass
class Series:
    """All runs, as far as they are; safe to look at from other threads while it grows.

    `skipped` maps providers that could not be measured to why; `problem` is what ended it too soon.
    `mark` makes its prompts differ from those of all others.
    """

    wish: Wish
    targets: list[Target]
    started: str = ""
    measured: list[Measured] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=machine.describe)
    scenario: str | None = None
    command: str = ""
    cancelled: bool = False
    problem: GearshiftError | None = None
    mark: str = field(default_factory=lambda: secrets.token_hex(3))
    now: str = ""
    progress: Progress = field(default_factory=Progress)
    requests: int | None = None
    """Of the run that is under way; not known where the time ends it."""

    @property
    def planned(self) -> int:
        """Runs in all."""
        return len(self.targets) * max(1, len(self.wish.users)) * self.wish.repeat


OnStep = Callable[[Series], None]


def measure(
    series: Series, step: OnStep = lambda series: None, cancel: threading.Event | None = None
) -> Series:
    """Measures everything that `series` wants, and fills it in; `step` is told all along.

    Cancelling, by `cancel` or Ctrl-C, ends it with what was measured until then, and so does what
    goes wrong later (`problem`).

    Raises:
        GearshiftError: nothing was measured: the prompts cannot be had, or the load generator could
            not work.
    """
    series.started = datetime.now(UTC).isoformat(timespec="seconds")
    cancel = cancel or threading.Event()
    with ExitStack() as stack:
        for target in series.targets:
            stack.enter_context(target.service.in_use())
        try:
            _measure(series, step, cancel)
        except KeyboardInterrupt:
            series.cancelled = True
        except GearshiftError as problem:
            if not series.measured:
                raise
            series.problem = problem
        except Exception as bug:
            if not series.measured:
                raise
            log.exception("unexpected, after %d runs", len(series.measured))
            series.problem = unexpected(bug)
    series.now = ""
    return series


def _measure(series: Series, step: OnStep, cancel: threading.Event) -> None:
    wish = series.wish
    makers = {}
    # Once: what is read a second time may have changed, or be a pipe that is empty now.
    given = wish.prompts not in (QUESTIONS, CONVERSATIONS) and wish.input_tokens is None
    prompts = ask.from_file(Path(wish.prompts)) if given else None
    for target in series.targets:
        series.now = f"{target.label}: looking at the server"
        step(series)
        makers[id(target)] = _Maker(wish, target, series, prompts)
        if cancel.is_set():
            series.cancelled = True
            return
    number = 0
    for repetition in range(wish.repeat):
        for users in wish.users or (None,):
            for target in series.targets:
                people = f"{users} at once" if users else f"{wish.rate:g} arrivals a second"
                series.now = f"{target.label}: {people}" + (", warming up" if wish.warmup else "")
                series.progress = Progress()
                step(series)
                # The same prompts for each target, others for each repetition and number of people.
                load = wish.load(users, repetition)
                series.requests = load.requests
                found = makers[id(target)].run(load, number, repetition, series, step, cancel)
                series.measured.append(found)
                step(series)
                if found.run.cancelled:
                    series.cancelled = True
                    return
            number += 1


class _Maker:
    """Makes the workload of one target, which says how it counts tokens, and runs it."""

    def __init__(
        self, wish: Wish, target: Target, series: Series, given: list[list[Messages]] | None
    ) -> None:
        self.wish, self.target, self.mark, self.given = wish, target, series.mark, given
        self.notes: list[str] = []
        self.tokens = Tokens()
        shortest = min(one.context for one in series.targets)
        self.room = wish.room or shortest - self.answer_tokens
        self.passages = min(one.service.passages for one in series.targets)
        self.exactly = wish.output_tokens is not None
        if self.exactly and not target.lengthening(exactly=True):
            self.exactly = False
            self.notes.append(f"{target.provider} cannot be told an answer's exact length")
        elif self.exactly and wish.warmup and not takes_lengthening(target):
            self.exactly = False
            self.notes.append("the server refuses ignore_eos: answers end where they end")
        if wish.input_tokens is not None:
            if wish.warmup:
                self.tokens = count_tokens(target)
            if not self.tokens.measured:
                self.notes.append("input tokens are estimated: a word each")

    @property
    def answer_tokens(self) -> int:
        return self.wish.output_tokens or ANSWER_TOKENS

    def workload(self, requests: int, number: int) -> Workload:
        wish, seed = self.wish, f"{self.wish.seed} {number}"
        mark = f"({self.mark} {number})"
        if wish.input_tokens is not None:
            words = self.tokens.words(wish.input_tokens)
            name = f"synthetic, {wish.input_tokens} tokens"
            return Workload.of(name, ask.synthetic(requests, seed, words, mark))
        if wish.prompts == QUESTIONS:
            name = "questions about the sample handbook, with the passages found"
            found = ask.questions(requests, seed, self.room, self.passages)
            return Workload.of(name, found, mark)
        if wish.prompts == CONVERSATIONS:
            home = load_settings().home_dir
            found = ask.conversations(home, self.room)
            return Workload.of("conversations of this installation", found, mark)
        assert self.given is not None
        return Workload.of(f"prompts of {Path(wish.prompts).name}", self.given, mark)

    def run(
        self,
        load: Load,
        number: int,
        repetition: int,
        series: Series,
        step: OnStep,
        cancel: threading.Event,
    ) -> Measured:
        target, notes = self.target, [*self.notes]
        # As many more as warm up, which come from the end and are not met again, and as people can
        # leave over of what they would ask next.
        spare = 0 if load.rate else _LEFT_OVER * (load.users or 0)
        wanted = (load.requests or _UNKNOWN_NUMBER) + load.warmup + spare
        workload = self.workload(wanted, number)

        def progress(now: Progress) -> None:
            series.now = series.now.removesuffix(", warming up")
            series.progress = now
            step(series)

        wire = target.wire(self.answer_tokens, self.exactly)
        run = run_load(wire, workload, load, target.service.budgets, progress, cancel, notes)
        sent = [request.prompt for request in run.requests]
        if len(set(sent)) < len(sent) or len(sent) + load.warmup > len(workload.bodies):
            notes.append("prompts were sent more than once: a prefix cache makes those look fast")
        if load.users and load.requests is not None and load.requests < load.users:
            few = f"{load.requests} requests are fewer than {load.users} people"
            notes.append(f"{few}: so many were never under way at once")
        exactly = self.exactly and self._came_exactly(run, notes)
        here, cores = is_loopback(wire.endpoint.url), os.cpu_count() or 1
        invalid = validity.why_invalid(run, cores, here)
        notes += validity.notes(run, cores, here)
        if here and series.machine.get("gpus") and (slow := off_the_gpu(target)):
            notes.append(slow)
        log.info("measured %s, %s people: %d requests", target.label, load.users, len(run.requests))
        return Measured(target, run, repetition, load, workload.name, exactly, invalid, notes)

    def _came_exactly(self, run: Run, notes: list[str]) -> bool:
        """Whether answers were as long as was asked; some servers ignore what they do not know."""
        lengths = [r.output_tokens for r in run.completed if r.output_tokens is not None]
        if not lengths:
            return False  # the server does not count
        if all(length == self.answer_tokens for length in lengths):
            return True
        notes.append(
            f"answers had {median(lengths):g} tokens in the middle and not the "
            f"{self.answer_tokens} that were asked for: they end where they end"
        )
        return False


def nothing_measured(series: Series) -> GearshiftError | None:
    """Why there is not one figure, where not one request was answered."""
    runs = [found.run for found in series.measured]
    if series.cancelled or not runs:
        return None
    if any(run.completed for run in runs):
        return None
    failures = [failure for run in runs for failure in run.failures]
    if not failures:
        return GearshiftError(
            "not one request was sent in that time", hint="measure longer, or at a higher --rate"
        )
    kind, _, words = failures[0]
    if kind == "unreachable":
        return GearshiftError(words, hint="start the server, or check the address")
    if kind == "overloaded":
        return GearshiftError(words, hint="let fewer people ask at once (--concurrency)")
    return GearshiftError(
        f"not one request was answered: {words}",
        hint="see the server's log; or name another model (--model), or shorter prompts",
    )
