"""What is known of each server, durably: one file a port, so that a server outlives its launcher.

A record is written by the server's supervisor alone, by the launcher only before there is one.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from gearshift.engine.launch import Launch
from gearshift.engine.processes import Process, alive, boot_id
from gearshift.settings import Settings


class State(StrEnum):
    """Where a server is in its life."""

    INSTALLING = "installing"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"  # it lives and does not answer its health check
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


STARTS = "INFO gearshift starts:"
"""How a line of a server's log begins that tells its command; several starts may be in one log."""
STOPS = "INFO gearshift stops it"
"""The line after which a server ends as it was asked to; vLLM then writes of a dead engine."""

LIVING = {State.INSTALLING, State.STARTING, State.READY, State.DEGRADED, State.STOPPING}


class Failure(BaseModel):
    """Why a server failed: a slug, what happened, what to do."""

    kind: str
    message: str
    hint: str = ""


class Record(BaseModel):
    """A server that we started.

    Attributes:
        name: Unique among the servers, for people and commands.
        python: The Python that has vLLM.
        docker: It runs in a container of that name.
        restart: Whether it is started again when it dies after having been ready.
        process: vLLM's API server; `None` before there is one.
        tree: All processes that belonged to it when somebody last looked.
        shared_memory: Files in shared memory that they had mapped.
        scratch: The folder for their temporary files.
        supervisor: Who watches it.
        stage: What it is doing while it starts, in words.
        progress: How far that stage is, 0 to 1, where the log says so.
        estimate_s: How long earlier starts of this model took here; `None` if there were none.
        started, ready: Wall-clock times, seconds since the epoch.
    """

    model_config = ConfigDict(extra="ignore")

    name: str
    launch: Launch
    command: list[str]
    environment: dict[str, str]
    log: Path
    python: Path
    docker: str | None = None
    restart: bool = False
    state: State = State.STARTING
    boot: str = ""
    process: Process | None = None
    tree: list[Process] = []
    shared_memory: list[str] = []
    scratch: Path | None = None
    supervisor: Process | None = None
    stage: str = ""
    progress: float | None = None
    estimate_s: float | None = None
    started: float = 0.0
    ready: float | None = None
    restarts: int = 0
    failure: Failure | None = None

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"http://localhost:{self.launch.port}"

    @property
    def model(self) -> str:
        """What it lists as its model."""
        return self.launch.served_names[0]

    def of_this_boot(self) -> bool:
        """Whether its pids can mean anything."""
        return self.boot == boot_id()

    def is_supervised(self) -> bool:
        """Whether its supervisor lives."""
        return self.of_this_boot() and self.supervisor is not None and alive(self.supervisor)


class Place:
    """The files of the server on one port."""

    def __init__(self, settings: Settings, port: int) -> None:
        self.folder = settings.home_dir / "servers"
        self.record = self.folder / f"{port}.json"
        self.lock = self.folder / f"{port}.lock"
        self.pipe = self.folder / f"{port}.pipe"
        self.stop = self.folder / f"{port}.stop"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def read(self) -> Record | None:
        """The record; `None` if there is none that can be read."""
        try:
            return Record.model_validate_json(self.record.read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, record: Record) -> None:
        """Replaces the record at once; only its owner can read it."""
        scratch = self.record.with_suffix(f".{os.getpid()}.new")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(record.model_dump_json(indent=1))
        scratch.replace(self.record)


def all_records(settings: Settings) -> list[Record]:
    """Every record, by port; one that is damaged is left out."""
    folder = settings.home_dir / "servers"
    ports = sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())
    found = (Place(settings, port).read() for port in ports)
    return [record for record in found if record is not None]
