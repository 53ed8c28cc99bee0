"""The search: setting after setting is started, loaded and ended; then the winner is proven.

vLLM's defaults come first, the guide's profiles next, then what the study suggests. Each is
first asked for as many people as the best so far holds: who does not is a loser and is measured no
further. What is known not to work is not started.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from gearshift import __version__, gpu
from gearshift.bench import prompts as ask
from gearshift.bench.load import Progress
from gearshift.bench.series import ANSWER_TOKENS, CONVERSATIONS, QUESTIONS, Wish
from gearshift.bench.target import Target
from gearshift.bench.tuning import retest
from gearshift.bench.tuning.aim import Aim
from gearshift.bench.tuning.alone import alone, folder, own_port
from gearshift.bench.tuning.capacity import most_users
from gearshift.bench.tuning.lessons import Lesson, correction, learn, why_not
from gearshift.bench.tuning.measure import Cancelled, look, once, warm
from gearshift.bench.tuning.retest import Round
from gearshift.bench.tuning.server import StartFailed, check_alive, prepared, running
from gearshift.bench.tuning.space import Here, Space, make_space
from gearshift.bench.tuning.study import Study
from gearshift.bench.tuning.trial import Outcome, Point, Setting, Trial, best_of, started
from gearshift.engine import environment as engine
from gearshift.engine.models import find_model
from gearshift.engine.profiles import in_words
from gearshift.engine.records import Record
from gearshift.engine.start import Start
from gearshift.errors import EngineError, ProviderError
from gearshift.settings import Settings

log = logging.getLogger(__name__)

_QUESTION = 1500  # tokens of most questions about the handbook with their passages
_MOST_PRUNED = 200  # settings that are not started, until nothing better is to be hoped for


@dataclass
class Tuning:
    """A search, as far as it is; safe to look at from other threads while it grows.

    Attributes:
        rounds: The winner beside the defaults.
        now: What is being done, in words.
        trial: The one that is being measured.
        proving: The settings are tried, and the winner is measured beside the defaults.
        complete: It has come to its end, the proof included.
    """

    aim: Aim
    space: Space
    name: str
    trials: list[Trial] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    now: str = ""
    progress: Progress = field(default_factory=Progress)
    trial: Trial | None = None
    cancelled: bool = False
    proving: bool = False
    complete: bool = False

    def journal(self, home: Path) -> Path:
        """Where everything that was measured is kept."""
        return folder(home) / f"{self.name}.jsonl"

    @property
    def default(self) -> Trial | None:
        """vLLM's own choice, once it was tried."""
        key = self.space.key(self.space.fixed)
        return next((t for t in self.trials if self.space.key(t.setting) == key), None)

    @property
    def best(self) -> Trial | None:
        """The best so far that holds the goals with at least one person."""
        return best_of(self.trials)

    @property
    def starts(self) -> int:
        """Servers that the search has started; the proof afterwards is not in it."""
        return started(self.trials)

    @property
    def share(self) -> float:
        """How much is behind us, 0 to 1; how many loads a setting needs is not known."""
        ended = sum(trial.outcome is not Outcome.RUNNING for trial in self.trials)
        loads = len(self.trial.points) if self.trial else 0
        rounds = sum(one.whole for one in self.rounds)
        whole = self.aim.starts + self.aim.rounds
        return 1.0 if self.complete else min(1.0, (ended + loads / (loads + 2) + rounds) / whole)


OnStep = Callable[[Tuning], None]


def open_tuning(aim: Aim, settings: Settings) -> Tuning:
    """What would be searched; nothing is started.

    Raises:
        EngineError: there is no such model, or nothing to search.
        GearshiftError: the prompts cannot be had.
    """
    model = find_model(aim.model, settings)
    if model.problem:
        raise EngineError("model", model.problem, "name another model")
    gpus = gpu.look().gpus
    if aim.gpus:
        gpus = tuple(one for one in gpus if str(one.index) in aim.gpus or one.uuid in aim.gpus)
    load = aim.load
    prompt = load.input_tokens or (_QUESTION if load.prompts == QUESTIONS else 0)
    answer = load.output_tokens or ANSWER_TOKENS
    space = make_space(aim.parameters, Here(model, gpus, prompt + answer))
    space = Space(space.parameters, dict(aim.choices) | space.fixed, space.defaults)
    context = space.fixed.get("max_model_len") or model.number("max_position_embeddings")
    if context:  # else short contexts would be asked less, and win by that
        aim = replace(aim, load=replace(load, room=context - answer))
    machine = {
        "gpus": [one.name for one in gpus],
        "cores": os.cpu_count(),
        "space": [(one.name, one.choices) for one in space.parameters],
        "fixed": space.fixed,
        "vllm": [str(engine.python(settings)), engine.version(settings)],
        "source": model.source,
        "weights": _weights(Path(model.source)),
        "prompts": _prompts(load, settings.home_dir),
        "gearshift": __version__,
    }
    return Tuning(aim, space, aim.name(machine))


def _weights(folder: Path) -> list[tuple[str, int, int]]:
    """What tells a model's files from those that lay there before; none of one on the Hub."""
    found = ((path.name, path.stat()) for path in folder.glob("*") if path.is_file())
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def _prompts(load: Wish, home: Path) -> str:
    """A digest of the prompts of a person; others come with the version, or are made up."""
    if load.input_tokens is not None or load.prompts == QUESTIONS:
        return ""
    if load.prompts == CONVERSATIONS:
        found = ask.conversations(home, room=10**9)
    else:
        found = ask.from_file(Path(load.prompts))
    return hashlib.sha256(repr(found).encode()).hexdigest()


def tune(
    tuning: Tuning,
    settings: Settings,
    step: OnStep = lambda tuning: None,
    cancel: threading.Event | None = None,
    fresh: bool = False,
) -> Tuning:
    """Searches, and goes on where the same question was left; `step` is told all along.

    Cancelling, by `cancel` or Ctrl-C, keeps what was measured and ends the server.

    Args:
        fresh: Forgets what was measured before.

    Raises:
        EngineError: the defaults do not start and nothing that is searched would mend it, or
            somebody else is tuning.
    """
    home = settings.home_dir
    with alone(home):
        port = own_port(settings)
        if fresh:
            tuning.journal(home).unlink(missing_ok=True)
        study = Study(tuning.journal(home), tuning.space, tuning.aim.load.seed)
        tuning.trials = study.trials
        # Half a round would be completed at another time, when the machine may do something else.
        rounds = [Round.of(kept) for kept in study.noted("rounds") or []]
        tuning.rounds = [one for one in rounds if one.whole]
        try:
            _Search(tuning, study, settings, port, step, cancel or threading.Event()).run()
        except (Cancelled, KeyboardInterrupt):
            tuning.cancelled = True
        tuning.now, tuning.trial = "", None
        step(tuning)
    return tuning


class _Search:
    def __init__(
        self,
        tuning: Tuning,
        study: Study,
        settings: Settings,
        port: int,
        step: OnStep,
        cancel: threading.Event,
    ) -> None:
        self.tuning, self.study, self.settings, self.port = tuning, study, settings, port
        self.aim, self.space = tuning.aim, tuning.space
        self.step, self.cancel = step, cancel
        self.lessons = [_lesson_of(trial) for trial in study.trials if trial.lesson is not None]

    def run(self) -> None:
        for label, setting in self._next():
            if self.cancel.is_set():
                raise Cancelled
            self._try(label, setting)
        self._prove()
        self.tuning.complete = True

    # ---- what is tried

    def _next(self) -> Iterator[tuple[str, Setting]]:
        begun = list(self.space.beginnings())
        while self.study.starts < self.aim.starts:
            if self.study.interrupted:
                old = self.study.interrupted[0]
                yield old.label, old.setting
                continue
            mended = (correction(lesson, self.space) for lesson in self.lessons)
            due = [("a correction", one) for one in mended if one is not None]
            fresh = (pair for pair in [*begun, *due] if self.study.tried(pair[1]) is None)
            if (pair := next(fresh, None)) is not None:
                yield pair
                continue
            pruned = sum(trial.outcome is Outcome.PRUNED for trial in self.tuning.trials)
            setting = self.study.suggest(self._forbidden) if pruned < _MOST_PRUNED else None
            if setting is None:
                return
            yield "the search", setting

    def _forbidden(self, setting: Setting) -> bool:
        return self._lesson_against(setting) is not None

    def _lesson_against(self, setting: Setting) -> Lesson | None:
        return next((one for one in self.lessons if one.forbids(setting, self.space)), None)

    def _try(self, label: str, setting: Setting) -> None:
        trial = self.study.begin(label, setting)
        self.tuning.trial = trial
        is_default = self.space.key(setting) == self.space.key(self.space.fixed)
        against = self._lesson_against(setting)
        start: Start | None = None
        reason: str | None
        try:
            start = prepared(self.aim, setting, self.port, self.settings)
            reason = why_not(start, self.space, is_default)
        except EngineError as wrong:
            reason = wrong.message
        if against is not None:
            reason = f"it asks for as much as a start that failed with {against.cause}"
        if reason is not None or start is None:
            trial.outcome, trial.reason = Outcome.PRUNED, reason or ""
        else:
            self._measure(trial, start)
        self.study.close(trial)
        self.tuning.trial = None
        self._tell("")
        log.info("tuning: %s: %s %s", in_words(setting), trial.outcome, trial.reason)
        if is_default and trial.outcome in (Outcome.PRUNED, Outcome.FAILED):
            self._give_up_unless_mended(trial)

    def _give_up_unless_mended(self, trial: Trial) -> None:
        """When even the defaults do not start, and nothing that is searched is the reason."""
        lesson = self.lessons[-1] if self.lessons else None
        mended = lesson is not None and correction(lesson, self.space) is not None
        if not mended:
            cause = f" ({trial.cause})" if trial.cause else ""
            raise EngineError(
                "start",
                f"the model does not start with vLLM's defaults{cause}: {trial.reason}",
                f"{trial.fix or 'see: gearshift serve MODEL --dry-run'}; then begin anew: --fresh",
            )

    # ---- measuring one

    def _measure(self, trial: Trial, start: Start) -> None:
        words = in_words(trial.setting)
        began = time.monotonic()
        try:
            with running(start, self.settings, self.cancel, self._starting(words)) as (_, target):
                trial.start_s = time.monotonic() - began
                try:
                    self._load(trial, target, words)
                except ProviderError:
                    check_alive(self.port, self.settings)
                    raise
        except StartFailed as failed:
            self._note_failure(trial, start, failed)
        except ProviderError as wrong:
            trial.outcome, trial.reason = Outcome.FAILED, wrong.message

    def _load(self, trial: Trial, target: Target, words: str) -> None:
        self._tell(f"{words}: warming up")
        warm(target, self.aim, self.cancel)
        best = self.tuning.best
        beat = best.users if best is not None else 0

        def ask(users: int) -> Point:
            known = trial.point(users)
            if known is None or known.invalid:
                trial.points = [point for point in trial.points if point is not known]
                self._tell(f"{words}: {users} at once")
                known = look(target, self.aim, users, self.cancel, self._progress)
                check_alive(self.port, self.settings)
                trial.points.append(known)
                self.study.keep(trial)
                self._tell(f"{words}: {users} at once")
            return known

        users, loses = most_users(ask, self.aim.first, self.aim.most, beat)
        trial.settle()
        if loses:
            trial.outcome = Outcome.STOPPED
            trial.reason = f"it does not hold the goals with the {beat} people of the best so far"
            trial.users = users
        else:
            trial.outcome = Outcome.MEASURED
            if users == 0:
                trial.reason = "it does not hold the goals with one person"
        if invalid := next((point.invalid for point in trial.points if point.invalid), None):
            trial.reason = "; ".join(
                filter(None, (trial.reason, f"a load does not count: {invalid}"))
            )

    def _note_failure(self, trial: Trial, start: Start, failed: StartFailed) -> None:
        trial.outcome, trial.reason = Outcome.FAILED, failed.failure.message
        report = failed.report
        trial.fix = failed.failure.hint or None
        if report.causes:
            first = report.causes[0]
            trial.cause, trial.evidence, trial.fix = str(first.cause), first.evidence, first.fix
        lesson = learn(start.plan.launch, trial.setting, report, self.space)
        trial.lesson = lesson.changes
        self.lessons.append(lesson)

    # ---- the proof

    def _prove(self) -> None:
        best, default = self.tuning.best, self.tuning.default
        if best is None or default is None or best is default:
            return
        if default.outcome is not Outcome.MEASURED:  # it does not work: there is nothing to beat
            return
        self.tuning.proving = True
        whom = {"default": default, "best": best}
        if self.study.noted("proof") != best.number:  # another one has won since
            self.tuning.rounds = []
            self.study.note("proof", best.number)
        rounds = self.tuning.rounds
        todo = [
            (number, who)
            for number, who in retest.order(self.aim.rounds)
            if number >= len(rounds) or getattr(rounds[number], who) is None
        ]
        while todo:
            who = todo[0][1]
            count = next((n for n, (_, other) in enumerate(todo) if other != who), len(todo))
            self._rounds_of(who, whom[who], best.users, [number for number, _ in todo[:count]])
            todo = todo[count:]

    def _rounds_of(self, who: str, trial: Trial, users: int, numbers: list[int]) -> None:
        words = f"the proof: {in_words(trial.setting)}"
        start = prepared(self.aim, trial.setting, self.port, self.settings)
        try:
            with running(start, self.settings, self.cancel, self._starting(words)) as (_, target):
                self._tell(f"{words}: warming up")
                warm(target, self.aim, self.cancel)
                for number in numbers:
                    self._tell(f"{words}: round {number + 1} of {self.aim.rounds}")
                    seen = self._once(target, users, 200 + number)
                    while len(self.tuning.rounds) <= number:
                        self.tuning.rounds.append(Round())
                    setattr(self.tuning.rounds[number], who, seen)
                    self.study.note("rounds", retest.kept(self.tuning.rounds))
        except StartFailed as failed:
            raise EngineError(
                "start",
                f"{in_words(trial.setting)} started before and does not any more: {failed}",
                failed.failure.hint or "the same command goes on where it stopped",
            ) from None

    def _once(self, target: Target, users: int, number: int) -> Point:
        """A run of the proof; once more where the client was in the way."""
        for again in (0, 100):
            seen = once(target, self.aim, users, self.cancel, self._progress, number + again)
            check_alive(self.port, self.settings)
            if seen.invalid is None:
                break
        return seen

    # ---- telling

    def _starting(self, words: str) -> Callable[[Record], None]:
        def tell(record: Record) -> None:
            self._tell(f"{words}: {record.stage or record.state}")

        return tell

    def _progress(self, now: Progress) -> None:
        self.tuning.progress = now
        self.step(self.tuning)

    def _tell(self, now: str) -> None:
        self.tuning.now, self.tuning.progress = now, Progress()
        self.step(self.tuning)


def _lesson_of(trial: Trial) -> Lesson:
    return Lesson(trial.setting, trial.lesson or {}, trial.cause or "unknown")
