"""A server for a trial: started on a port of its own, and ended whatever happens."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gearshift.bench.target import Target, find_target
from gearshift.bench.tuning.aim import Aim
from gearshift.bench.tuning.measure import Cancelled
from gearshift.bench.tuning.trial import Setting
from gearshift.doctor.recogniser import Report
from gearshift.doctor.starts import explain
from gearshift.engine import servers
from gearshift.engine.records import LIVING, Failure, Record, State
from gearshift.engine.start import Start, Wish, prepare
from gearshift.errors import EngineError
from gearshift.providers.vllm import VLLMService
from gearshift.settings import Settings

_LOOK = 0.1  # seconds


class StartFailed(Exception):
    """A server did not get ready, or ended under load; with what the doctor says of it."""

    def __init__(self, failure: Failure, report: Report) -> None:
        super().__init__(failure.message)
        self.failure, self.report = failure, report


def prepared(aim: Aim, setting: Setting, port: int, settings: Settings) -> Start:
    """The start of a setting.

    Raises:
        EngineError: it contradicts itself.
    """
    values = dict(setting)
    ranks = values.pop("tensor_parallel", None)
    count = len(aim.gpus) or (int(ranks) if ranks else None)
    if aim.gpus and ranks:  # as many as it needs of those that may be used
        count = int(ranks)
    gpus = aim.gpus[:count] if aim.gpus else ()
    wish = Wish(aim.model, count, ranks, gpus, port, choices=dict(aim.choices) | values)
    return prepare(wish, settings)


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    start: Start, settings: Settings, cancel: threading.Event, tell: Callable[[Record], None]
) -> Iterator[tuple[Record, Target]]:
    """Starts it, waits until it is ready, and ends it at the end.

    Raises:
        StartFailed: it did not get ready.
        Cancelled: it was told to end before it was ready.
    """
    port = start.record.launch.port
    try:
        record = _ready(servers.serve(start.record, settings), settings, cancel, tell)
        url = f"http://127.0.0.1:{port}"
        service = VLLMService(settings.model_copy(update={"vllm_base_url": url}))
        yield record, find_target(service, record.model)
    finally:
        end(port, settings)


def _ready(
    record: Record,
    settings: Settings,
    cancel: threading.Event,
    tell: Callable[[Record], None],
) -> Record:
    port = record.launch.port
    while True:
        now = servers.find_on(port, settings)
        if now is None:
            raise EngineError("lost", f"there is no server on port {port} any more")
        tell(now)
        if now.state is State.READY:
            return now
        if now.state not in LIVING:
            raise _failed(now)
        if cancel.wait(_LOOK):
            raise Cancelled


def _failed(record: Record) -> StartFailed:
    failure = record.failure or Failure(kind="ended", message=f"it is {record.state}")
    return StartFailed(failure, explain(record))


def check_alive(port: int, settings: Settings) -> None:
    """Looks whether it broke under load.

    Raises:
        StartFailed: it did.
    """
    record = servers.find_on(port, settings)
    if record is None or record.state in LIVING:
        return
    raise _failed(record)


def end(port: int, settings: Settings) -> None:
    """Ends what is on that port, if it is ours, and forgets it; its log stays."""
    record = servers.find_on(port, settings)
    if record is None:
        return
    deadline = time.monotonic() + 60
    while (record := servers.stop(record, settings, 0.0)).state in LIVING:
        if time.monotonic() > deadline:
            raise EngineError(
                "busy", f"{record.name} does not end", f"gearshift stop {record.name}"
            )
    servers.forget(record, settings)
