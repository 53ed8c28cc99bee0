"""The verbs of a server: serve, look, stop, read its log. Each may be said twice.

Servers outlive the process that started them. A supervisor that was killed is replaced whenever
anybody looks.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gearshift.engine.launch import Launch, command, environment, shown
from gearshift.engine.learned import usual_seconds
from gearshift.engine.processes import alive, boot_id, processors, send, writers_of
from gearshift.engine.records import LIVING, Failure, Place, Record, State, all_records
from gearshift.engine.redact import secrets
from gearshift.errors import EngineError
from gearshift.settings import Settings, environment_for_vllm

_PATIENCE = 20.0  # seconds for a supervisor to begin


def new_record(
    launch: Launch,
    settings: Settings,
    python: Path,
    docker: str | None = None,
    argv: list[str] | None = None,
    restart: bool = False,
) -> Record:
    """What would be started; nothing is yet. `argv` replaces the command (Docker's)."""
    name = _name(launch)
    inherited = environment_for_vllm()
    whole = environment(launch, inherited, secrets(settings), processors())
    return Record(
        name=name,
        launch=launch,
        command=argv or command(launch, python),
        environment=shown(whole, inherited),
        log=settings.home_dir / "logs" / f"vllm_{name}.log",
        python=python,
        docker=docker,
        restart=restart,
        boot=boot_id(),
        started=time.time(),
        estimate_s=usual_seconds(settings, launch.model),
    )


def serve(record: Record, settings: Settings) -> Record:
    """Starts the server, or returns the one that already serves that model on that port.

    Raises:
        EngineError: another model is served there (kind `port_taken`), or there is no supervisor.
    """
    place = Place(settings, record.launch.port)
    with _one_at_a_time(place):
        there = find_on(record.launch.port, settings)
        if there is not None and there.state is State.STOPPING:
            _let_end(place)
            there = find_on(record.launch.port, settings)
        if there is not None and there.state in LIVING:
            if there.launch.model == record.launch.model:
                return there
            raise EngineError(
                "port_taken",
                f"{there.name} is {there.state} on port {there.launch.port}",
                f"stop it first (gearshift stop {there.name}), or take another --port",
            )
        _let_end(place)
        place.stop.unlink(missing_ok=True)
        place.write(record)
        _supervise(place)
    return _with_a_pid(place) or record


def _with_a_pid(place: Place) -> Record | None:
    """The record once there is a process, unless something else has to be done before."""
    deadline = time.monotonic() + 5.0
    while True:
        record = place.read()
        begins = record is not None and record.state is State.STARTING and record.process is None
        if not begins or time.monotonic() > deadline:
            return record
        time.sleep(0.02)


def find_on(port: int, settings: Settings) -> Record | None:
    """The server of that port as it is now; its supervisor is replaced if it was killed."""
    place = Place(settings, port)
    record = place.read()
    return None if record is None else _as_it_is(record, place)


def status(settings: Settings) -> list[Record]:
    """All servers that we know of, as they are now."""
    return [
        _as_it_is(record, Place(settings, record.launch.port)) for record in all_records(settings)
    ]


def owners(records: Iterable[Record]) -> dict[int, str]:
    """Which server a process belongs to, by its number."""
    there = [record for record in records if record.of_this_boot()]
    return {process.pid: record.name for record in there for process in record.tree}


def _as_it_is(record: Record, place: Place) -> Record:
    begins = record.supervisor is None and record.state is State.STARTING
    if record.is_supervised() or (begins and time.time() - record.started < _PATIENCE):
        return record
    now = place.read()
    if now is not None and now != record:  # its supervisor wrote its last word in between
        return _as_it_is(now, place)
    left_over = record.of_this_boot() and (
        any(map(alive, record.tree)) or bool(writers_of(place.pipe))
    )
    if left_over:
        _supervise(place)
        return place.read() or record
    if record.state in LIVING:
        # Nothing of it is left: it went with the machine, or with its supervisor. Only said, not
        # written: somebody may be starting the next one.
        when = "its supervisor was ended" if record.of_this_boot() else "the machine was restarted"
        failure = Failure(
            kind="lost", message=f"it is gone since {when}", hint="start it again: gearshift serve"
        )
        changes = {"state": State.FAILED, "failure": failure, "process": None, "tree": []}
        return record.model_copy(update=changes)
    return record


def _let_end(place: Place) -> None:
    """Waits for a supervisor that still clears away what its failed server left."""
    deadline = time.monotonic() + 2 * _PATIENCE
    while (record := place.read()) is not None and record.is_supervised():
        if time.monotonic() > deadline:
            raise EngineError("busy", f"{record.name} is still being ended", "try again")
        time.sleep(0.05)


def _supervise(place: Place) -> None:
    """Starts a supervisor, and waits until one keeps the server (or has already finished)."""
    child = subprocess.Popen(
        [sys.executable, "-m", "gearshift.engine._supervisor", place.record.stem],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    threading.Thread(target=child.wait, daemon=True).start()
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        record = place.read()
        if record is not None and record.is_supervised():
            return
        if child.poll() is not None:
            record = place.read()
            if record is not None and (record.is_supervised() or record.state not in LIVING):
                return
            break
        time.sleep(0.02)
    raise EngineError(
        "supervisor",
        "the process that keeps the server did not begin",
        f"see {place.folder.parent / 'logs' / 'gearshift.log'}",
    )


def wait(
    port: int, settings: Settings, on_change: Callable[[Record], None] = lambda record: None
) -> Record:
    """Waits until the server of that port is ready, or has failed or stopped."""
    last: Record | None = None
    while True:
        record = find_on(port, settings)
        if record is None:
            raise EngineError("lost", f"there is no server on port {port}")
        if record != last:
            last = record
            on_change(record)
        if record.state in (State.READY, State.DEGRADED):
            return record
        if record.state not in LIVING:
            _let_end(Place(settings, port))
            return Place(settings, port).read() or record
        time.sleep(0.1)


def find(name: str | None, settings: Settings) -> list[Record]:
    """The servers of that name, port or model; all without a name.

    Raises:
        EngineError: there is none of that name (kind `unknown_server`).
    """
    records = status(settings)
    if name is None:
        return records
    found = [r for r in records if name in (r.name, str(r.launch.port))]
    found = found or [r for r in records if name in r.launch.served_names]
    if not found:
        names = ", ".join(record.name for record in records)
        hint = f"there is {names}" if names else "none was started here: gearshift serve MODEL"
        raise EngineError("unknown_server", f"there is no server {name!r}", hint)
    return found


def stop(record: Record, settings: Settings, drain: float | None = None) -> Record:
    """Ends a server and everything of it; returns when that is done, or could not be.

    Args:
        record: From `find`.
        settings: Where its files are.
        drain: Seconds that running requests may take; `None` for the default.
    """
    place = Place(settings, record.launch.port)
    with _one_at_a_time(place):
        record = find_on(record.launch.port, settings) or record
        if not record.is_supervised():
            return record
        if drain is not None:
            place.stop.write_text(str(drain), "ascii")
        assert record.supervisor is not None
        send(record.supervisor, signal.SIGTERM)
    while True:
        record = find_on(record.launch.port, settings) or record
        if not record.is_supervised():
            return record
        time.sleep(0.05)


def forget(record: Record, settings: Settings) -> None:
    """Drops a server that has ended from the list; its log stays.

    Raises:
        EngineError: something of it is still there (kind `busy`).
    """
    place = Place(settings, record.launch.port)
    with _one_at_a_time(place):
        now = find_on(record.launch.port, settings)
        if now is None:
            return
        if now.state in LIVING or now.is_supervised():
            hint = f"stop it first: gearshift stop {now.name}"
            raise EngineError("busy", f"{now.name} is {now.state}", hint)
        place.record.unlink(missing_ok=True)


def follow(record: Record, settings: Settings, ever: bool) -> Iterator[str]:
    """Lines of a server's log; with `ever`, new ones as they come, until it has ended."""
    if not record.log.exists() and not ever:
        return
    position, number = 0, None
    while True:
        there = find_on(record.launch.port, settings)
        living = there is not None and there.name == record.name and there.state in LIVING
        with suppress(FileNotFoundError), record.log.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != number:  # it was rotated
                position, number = 0, inode
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n") and living and ever:
                    break
                position += len(line)
                yield line.decode("utf-8", "replace").rstrip("\n")
        if not ever or not living:
            return
        time.sleep(0.2)


@contextmanager
def _one_at_a_time(place: Place) -> Iterator[None]:
    """Two people click at once: the second one sees what the first one did."""
    try:
        with FileLock(place.record.with_suffix(".verb"), timeout=4 * _PATIENCE):
            yield
    except Timeout:
        raise EngineError(
            "busy", f"somebody else is changing the server on port {place.record.stem}", "wait"
        ) from None


def _name(launch: Launch) -> str:
    plain = launch.served_names[0].rpartition("/")[2].lower()
    return f"{re.sub(r'[^a-z0-9]+', '-', plain).strip('-') or 'model'}-{launch.port}"
