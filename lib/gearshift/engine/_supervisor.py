"""The process that keeps one server: starts it, watches it, ends it, and then ends itself.

`python -m gearshift.engine._supervisor PORT` acts on the record of that port. It is the parent of
every process of the server, also of those that lost theirs, so none gets lost. If it is killed
itself, another one takes over: the server is known by its record and by who writes to its log pipe.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gearshift import gpu, logs
from gearshift.engine import _scratch as scratch
from gearshift.engine import environment as engine
from gearshift.engine._log import Drain
from gearshift.engine.cards import card_of
from gearshift.engine.launch import environment
from gearshift.engine.learned import remember
from gearshift.engine.probe import Probe
from gearshift.engine.processes import (
    Process,
    adopt_orphans,
    alive,
    boot_id,
    descendants,
    identify,
    name_of,
    processors,
    remove_shared_memory,
    send,
    shared_memory_of,
    wait_gone,
    writers_of,
)
from gearshift.engine.records import STARTS, STOPS, Failure, Place, Record, State
from gearshift.engine.redact import Redactor, secrets
from gearshift.engine.stages import root_cause
from gearshift.engine.startup_log import Startup, read_startup
from gearshift.errors import EngineError, GearshiftError
from gearshift.settings import Settings, environment_for_vllm, load_settings

log = logging.getLogger(__name__)

DRAIN = 15.0
"""Seconds that running requests get before a server is told to end."""
_GRACE = 8.0  # seconds after TERM, before KILL
_GRACE_IN_START = 3.0  # vLLM may lose a TERM while it starts
_CLEARING = 3.0  # seconds for the others, once the API server has ended
_GPU_PATIENCE = 10.0  # seconds for a driver to give memory back
_RESTARTS = 3
_WITHIN = 600.0  # seconds in which no more than that many restarts happen
_TICK = 0.1


class Supervisor:
    """Keeps the server of one port."""

    def __init__(self, settings: Settings, place: Place, record: Record) -> None:
        self._settings, self._place, self._record = settings, place, record
        self._secrets = secrets(settings)
        _make_pipe(place.pipe)
        self._drain = Drain(place.pipe, record.log, Redactor(self._secrets.values()))
        self._probe = Probe(record.launch.port, self._secrets.get("VLLM_API_KEY", ""))
        self._stop_asked = False
        self._not_ready: str | None = "it has not answered yet"
        self._healthy = False
        self._status: int | None = None
        self._restarted: list[float] = []
        self._looked = 0.0
        self._seen = set(record.tree)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def run(self) -> None:
        """Until the server has ended."""
        try:
            found = self._record
            self._note(supervisor=identify(os.getpid()), boot=boot_id())
            if found.state in (State.FAILED, State.STOPPED):  # something of it is left
                self._report(self._end_all())
                return
            self._start() if found.supervisor is None else self._take_over()
            threading.Thread(target=self._keep_asking, name="probe", daemon=True).start()
            while not self._stop_asked:
                if self._look() and not self._restart():
                    return
                self._pause(_TICK)
            self._stop()
        except GearshiftError as error:
            kind = error.kind if isinstance(error, EngineError) else "start"
            self._fail(Failure(kind=kind, message=error.message, hint=error.hint))
        except Exception as bug:
            log.exception("unexpected")
            self._fail(Failure(kind="bug", message=f"unexpected {type(bug).__name__}: {bug}"))
        finally:
            self._note(supervisor=None, process=None)
            self._drain.close()
            for path in (self._place.pipe, self._place.stop):
                path.unlink(missing_ok=True)

    def _ask_to_stop(self, *_: object) -> None:
        # A plain flag: an event has a lock, which the thread that is interrupted may hold.
        self._stop_asked = True

    def _pause(self, seconds: float) -> bool:
        """Waits; whether somebody asked us to stop."""
        deadline = time.monotonic() + seconds
        while not self._stop_asked and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
        return self._stop_asked

    # ---- starting

    def _start(self) -> None:
        if not self._settings.vllm_python and not self._record.docker:
            self._install()
        if self._stop_asked:
            return
        record = self._record
        inherited = environment_for_vllm()
        cpus = processors()
        folder = scratch.make()
        self._note(scratch=folder)
        self._drain.begin()
        self._drain.write(f"{STARTS} {shlex.join(record.command)}")
        self._not_ready, self._healthy, self._status = "it has not answered yet", False, None
        output = os.open(self._place.pipe, os.O_RDWR)  # so that there always is a reader
        try:
            child = subprocess.Popen(
                record.command,
                env=environment(record.launch, inherited, self._secrets, cpus)
                | scratch.environment(folder, inherited),
                cwd=self._place.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as wrong:
            raise EngineError(
                "start",
                f"{record.command[0]} cannot be started: {wrong.strerror or wrong}",
                "check GEARSHIFT_VLLM_PYTHON, or: gearshift engine check",
            ) from None
        finally:
            os.close(output)
        child.returncode = 0  # waited for in `_reap`, as all that lose their parents are
        process = identify(child.pid) or Process(child.pid, 0)
        self._note(state=State.STARTING, process=process, tree=[process], stage="starting Python")

    def _install(self) -> None:
        if engine.installed(self._settings):
            return
        self._note(state=State.INSTALLING, stage="installing vLLM")
        failed: list[BaseException] = []

        def work() -> None:
            try:
                engine.install(self._settings, on_line=self._drain.write)
            except BaseException as error:  # noqa: BLE001 (raised again below, in the main thread)
                failed.append(error)

        thread = threading.Thread(target=work, name="install", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_TICK)
            if self._stop_asked:
                self._end_all()
        if failed and not self._stop_asked:
            raise failed[0]

    def _take_over(self) -> None:
        """Goes on where a supervisor that was killed left off."""
        self._drain.write("gearshift: another supervisor takes over")
        if self._record.process is None:
            raise EngineError("lost", "its supervisor was ended before there was a process")
        if self._record.state is State.STOPPING:
            self._stop_asked = True
        elif self._record.ready is not None:
            self._drain.starting = False
            self._healthy = self._record.state is State.READY

    # ---- watching

    def _keep_asking(self) -> None:
        """In a thread of its own: a server that hangs must not keep us from seeing it die."""
        while True:
            launch = self._record.launch
            if self._record.state is State.STARTING:
                pooling = launch.runner == "pooling"
                self._not_ready = self._probe.why_not_ready(self._record.model, pooling)
                self._healthy = self._not_ready is None
                time.sleep(0.2)
            else:
                self._healthy = self._probe.healthy()
                time.sleep(1.0)

    def _look(self) -> bool:
        """Looks once at the server; whether it has ended."""
        self._reap()
        record = self._record
        assert record.process is not None
        if not alive(record.process):
            self._died()
            return True
        self._remember_tree()
        stage, progress = self._drain.stage
        if record.state is State.STARTING:
            if self._healthy and self._not_ready is None:
                self._ready()
            elif time.monotonic() - self._drain.progressed > self._settings.start_timeout:
                raise EngineError(
                    "stalled",
                    f"nothing new for {self._settings.start_timeout:.0f} s while {stage}; "
                    f"{self._not_ready}",
                    f"look at its log: gearshift logs {record.name}",
                )
            elif (stage, progress) != (record.stage, record.progress):
                self._note(stage=stage, progress=progress)
        elif record.state is State.READY and not self._healthy:
            self._note(state=State.DEGRADED)
        elif record.state is State.DEGRADED and self._healthy:
            self._note(state=State.READY)
        return False

    def _remember_tree(self) -> None:
        """Once a second, for whoever takes over: the kernel itself keeps ours together."""
        if time.monotonic() - self._looked < 1.0:
            return
        self._looked = time.monotonic()
        tree = sorted(self._below())
        shared = sorted(self._shared_memory(tree))
        if (tree, shared) != (self._record.tree, self._record.shared_memory):
            self._note(tree=tree, shared_memory=shared)

    def _shared_memory(self, tree: Iterable[Process]) -> set[str]:
        mapped = shared_memory_of(process.pid for process in tree)
        return mapped.union(filter(os.path.exists, self._record.shared_memory))

    def _ready(self) -> None:
        now = time.time()
        self._drain.starting = False
        # First, so that whoever waited for the server plans with what it has shown.
        remember(self._settings, self._startup(now - self._record.started))
        self._note(state=State.READY, ready=now, stage="", progress=None)

    def _startup(self, seconds: float) -> Startup:
        """What this start showed, for the next plan and for the time that the next one takes."""
        launch, found = self._record.launch, None
        with suppress(OSError), self._record.log.open(encoding="utf-8", errors="replace") as lines:
            found = read_startup(lines)
        ours = {"model": launch.model, "seconds": seconds}
        there = {str(gpu.index): gpu for gpu in gpu.look().gpus} if found else {}
        used = [there[index] for index in launch.gpus if index in there]
        if found is None or not used:
            return Startup.model_validate(ours)
        # Ranks are alike: the card with least memory decides how much each of them takes.
        card = min((card_of(each) for each in used), key=lambda card: card.usable_gib or 0.0)
        ours |= {"gpu": used[0].name, "usable_gib": card.usable_gib}
        return found.model_copy(update=ours)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if self._record.process and pid == self._record.process.pid:
                    self._status = os.waitstatus_to_exitcode(status)

    def _died(self) -> None:
        self._drain.settle()
        self._reap()
        was_ready = self._record.ready is not None
        cause = root_cause(self._drain.lines)
        status = self._status
        how = (
            "it ended"
            if status is None
            else f"signal {signal.Signals(-status).name} ended it"
            if status < 0
            else f"it ended with status {status}"
        )
        when = "after it had been ready" if was_ready else "while it started"
        self._fail(
            Failure(
                kind="died" if was_ready else "start",
                message=cause
                if cause and not was_ready
                else f"{how} {when}" + (f": {cause}" if cause else ""),
                hint=f"look at its log: gearshift logs {self._record.name}",
            )
        )

    def _restart(self) -> bool:
        """Starts it once more if it may be; whether it does."""
        now = time.monotonic()
        self._restarted = [at for at in self._restarted if now - at < _WITHIN]
        count = len(self._restarted)
        if not self._record.restart or self._record.ready is None or count >= _RESTARTS:
            return False
        if self._record.failure and self._record.failure.kind == "unkillable":
            return False
        if self._pause(4.0**count):
            return True
        self._restarted.append(now)
        self._drain.write(f"gearshift: restart {count + 1} of at most {_RESTARTS}")
        self._note(restarts=self._record.restarts + 1, started=time.time())
        self._start()
        return True

    # ---- ending

    def _fail(self, failure: Failure) -> None:
        """Says so at once, then ends what is left."""
        self._drain.write(f"gearshift: failed: {failure.message}")
        self._note(state=State.FAILED, failure=failure, stage="", progress=None)
        self._report(self._end_all())

    def _stop(self) -> None:
        record = self._record
        was_ready = record.state in (State.READY, State.DEGRADED)
        self._note(state=State.STOPPING, stage="finishing what runs", progress=None)
        if was_ready:
            self._let_finish()
        self._drain.write(STOPS)
        if record.process is not None and send(record.process, signal.SIGTERM):
            deadline = time.monotonic() + (_GRACE if was_ready else _GRACE_IN_START)
            while alive(record.process) and time.monotonic() < deadline:
                self._reap()
                time.sleep(0.02)
            self._let_clear_away()
        left = self._end_all()
        self._report(left)
        if self._record.state is State.STOPPING:
            self._note(state=State.STOPPED, stage="")

    def _let_finish(self) -> None:
        seconds = DRAIN
        with suppress(OSError, ValueError):
            seconds = float(self._place.stop.read_text("ascii"))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._probe.busy():
            self._reap()
            time.sleep(0.1)

    def _let_clear_away(self) -> None:
        """What the API server has left ends by itself, mostly, and clears its things away."""
        deadline = time.monotonic() + _CLEARING
        while self._all() and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.05)

    def _end_all(self) -> set[Process]:
        """Kills every process of the server; those that are still there ten seconds later."""
        if self._record.docker:
            with suppress(OSError, subprocess.SubprocessError):
                name = self._record.docker
                subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=30)
        deadline = time.monotonic() + 10.0
        shared: set[str] = set(self._record.shared_memory)
        while left := self._all():
            shared |= shared_memory_of(process.pid for process in left)
            for process in left:
                send(process, signal.SIGKILL)
            self._reap()
            wait_gone(left, 0.1)
            if time.monotonic() > deadline:
                break
        if not left:
            remove_shared_memory(shared)
            shared = set()
            if self._record.scratch is not None:
                scratch.remove(self._record.scratch)
        self._note(tree=sorted(left), shared_memory=sorted(shared))
        return left

    def _all(self) -> set[Process]:
        """Every living process of the server, by descent, by memory and by our log pipe."""
        return self._below() | writers_of(self._place.pipe)

    def _below(self) -> set[Process]:
        known = {process for process in self._record.tree if alive(process)}
        below = (descendants(process.pid) for process in known)
        found = known.union(descendants(os.getpid()), *below)
        self._seen |= found
        return found

    def _report(self, left: set[Process]) -> None:
        names = ", ".join(f"{name_of(process.pid)} (pid {process.pid})" for process in left)
        problem = f"these processes cannot be ended: {names}" if left else self._gpu_still_held()
        if problem:
            failure = Failure(
                kind="unkillable",
                message=problem,
                hint="a driver that hangs does this; its GPU memory comes back with a reboot",
            )
            self._note(state=State.FAILED, failure=failure)

    def _gpu_still_held(self) -> str | None:
        """What a driver keeps for processes that have ended; it may take its time to let go."""
        if self._record.launch.cpu:
            return None
        ended = {process.pid for process in self._seen if identify(process.pid) is None}
        deadline = time.monotonic() + _GPU_PATIENCE
        while True:
            held = [
                f"GPU {card.index} still holds memory for process {holder.pid}, which has ended"
                for card in gpu.look().gpus
                for holder in card.holders or ()
                if holder.pid in ended
            ]
            if not held or time.monotonic() > deadline:
                return "; ".join(held) or None
            time.sleep(_TICK)

    def _note(self, **changes: object) -> None:
        self._record = self._record.model_copy(update=changes)
        self._place.write(self._record)


def _make_pipe(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISFIFO(path.stat().st_mode):
            path.unlink()
    with suppress(FileExistsError):
        os.mkfifo(path, 0o600)


@contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Whether no other supervisor keeps that port; nobody else can while this one does."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def main() -> None:
    """Keeps the server of the port that is the only argument."""
    settings = load_settings()
    logs.configure(settings, console=False)
    place = Place(settings, int(sys.argv[1]))
    with _alone(place.lock) as alone:
        record = place.read()
        if not alone or record is None:
            return
        try:
            adopt_orphans()
            Supervisor(settings, place, record).run()
        except Exception:  # nobody sees our stderr
            log.exception("the server on port %s cannot be kept", sys.argv[1])
            raise


if __name__ == "__main__":
    main()
