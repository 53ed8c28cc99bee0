"""Keeps the last ten minutes of GPUs, processor and engines, whether or not anybody looks."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import psutil

from gearshift import gpu
from gearshift.engine import servers
from gearshift.engine.metrics import Metrics, Sample, between, read_sample
from gearshift.engine.records import Record, State
from gearshift.errors import GearshiftError
from gearshift.providers import submit
from gearshift.providers.ollama import OllamaService
from gearshift.providers.vllm import VLLMService
from gearshift.schemas import LoadedModel
from gearshift.settings import Settings, is_loopback, port_of

log = logging.getLogger(__name__)

EVERY = 2.0
"""Seconds between two looks."""
KEPT = 600.0
"""Seconds that are kept."""
_WINDOW = 10.0  # seconds over which the present is measured


@dataclass(frozen=True)
class Machine:
    """The hardware at one moment; `at` in seconds since the epoch."""

    at: float
    gpus: gpu.GPUs
    processor_percent: float
    memory_used_bytes: int
    memory_total_bytes: int


def look_at_machine() -> Machine:
    """The hardware now; the processor's load since the last look."""
    memory = psutil.virtual_memory()
    return Machine(
        time.time(),
        gpu.look(),
        psutil.cpu_percent(),
        memory.total - memory.available,
        memory.total,
    )


@dataclass(frozen=True)
class Reading:
    """What a vLLM server said at one moment, or why it said nothing."""

    at: float
    sample: Sample | None = None
    problem: str | None = None


@dataclass
class Engine:
    """A vLLM server that is watched.

    Attributes:
        name: Of our record, or its address where it was started elsewhere.
        record: Of a server that was started here.
        readings: The oldest first.
    """

    name: str
    url: str
    record: Record | None
    readings: deque[Reading] = field(default_factory=lambda: deque(maxlen=int(KEPT / EVERY)))

    def now(self) -> Metrics | None:
        """What it did in the last seconds; `None` while that is not known."""
        return self.measure(_WINDOW)

    def measure(self, seconds: float) -> Metrics | None:
        """What it did in the last `seconds`, as far as they were watched without a gap."""
        samples: list[Sample] = []
        for reading in reversed(self.readings):
            if reading.sample is None:
                break
            samples.append(reading.sample)
            if samples[0].at - reading.sample.at >= seconds:
                break
        return between(samples[-1], samples[0]) if len(samples) > 1 else None

    def steps(self) -> Iterator[tuple[float, Metrics | None]]:
        """What it did from each reading to the next, `None` for gaps; the later one's time."""
        for earlier, later in pairwise(self.readings):
            if earlier.sample is None or later.sample is None:
                yield later.at, None
            else:
                yield later.at, between(earlier.sample, later.sample)

    def since_start(self) -> Metrics | None:
        """What it did in all its life; `None` where it does not tell when that began."""
        last = self.readings[-1].sample if self.readings else None
        if last is None or last.started is None:
            return None
        return between(Sample(last.at - (time.time() - last.started), last.started), last)


@dataclass(frozen=True)
class Ollama:
    """What Ollama holds in memory, or why it does not say."""

    url: str
    loaded: tuple[LoadedModel, ...] = ()
    problem: str | None = None


def engines_of(settings: Settings) -> list[Engine]:
    """The vLLM servers that can be asked: those started here, and the one that is configured."""
    records = [r for r in servers.status(settings) if r.state in (State.READY, State.DEGRADED)]
    found = [Engine(record.name, record.url, record) for record in records]
    address = settings.vllm_base_url
    ours = is_loopback(address) and port_of(address) in {r.launch.port for r in records}
    return found if ours else [*found, Engine(address, address, None)]


async def read_engine(engine: Engine, settings: Settings) -> Reading:
    """Asks a vLLM server for its metrics; never raises."""
    service = VLLMService(settings.model_copy(update={"vllm_base_url": engine.url}))
    try:
        text = await service.metrics()
        return Reading(time.time(), read_sample(text, time.monotonic()))
    except GearshiftError as error:
        return Reading(time.time(), problem=error.message)


async def read_ollama(settings: Settings) -> Ollama:
    """Asks Ollama what it holds in memory; never raises."""
    try:
        loaded = tuple(await OllamaService(settings).loaded())
        return Ollama(settings.ollama_base_url, loaded)
    except GearshiftError as error:
        return Ollama(settings.ollama_base_url, problem=error.message)


async def watch_once(settings: Settings) -> tuple[list[Engine], Ollama]:
    """Every engine, looked at twice, so that it can be told what it does; takes some seconds."""
    engines = await asyncio.to_thread(engines_of, settings)
    for look in range(2):
        await asyncio.sleep(EVERY * look)
        readings = await asyncio.gather(*(read_engine(engine, settings) for engine in engines))
        for engine, reading in zip(engines, readings, strict=True):
            engine.readings.append(reading)
    return engines, await read_ollama(settings)


class Monitor:
    """Looks every two seconds; one for a process.

    What hangs delays only itself: hardware and each server are asked side by side.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        """`settings` is asked at each look: they may change."""
        self._settings = settings
        self._lock = threading.Lock()
        self._machine: deque[Machine] = deque(maxlen=int(KEPT / EVERY))
        self._engines: dict[str, Engine] = {}
        self._ollama: Ollama | None = None
        self._asked: set[str] = set()
        self._work: Future[None] | None = None

    def start(self) -> None:
        """Begins to look; a second call changes nothing."""
        with self._lock:
            if self._work is None:
                self._work = submit(self._run())

    def stop(self) -> None:
        """Looks no more."""
        with self._lock:
            if self._work is not None:
                self._work.cancel()
                self._work = None

    @property
    def machine(self) -> list[Machine]:
        """The hardware's moments, the oldest first."""
        with self._lock:
            return list(self._machine)

    @property
    def engines(self) -> list[Engine]:
        """The servers that are watched now, with what they said; copies."""
        with self._lock:
            return [
                Engine(e.name, e.url, e.record, deque(e.readings)) for e in self._engines.values()
            ]

    @property
    def ollama(self) -> Ollama | None:
        """What Ollama last said; `None` before it was asked."""
        with self._lock:
            return self._ollama

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                self._once(group, "machine", self._look_at_machine)
                self._once(group, "engines", partial(self._look_for_engines, group))
                self._once(group, "ollama", self._look_at_ollama)
                await asyncio.sleep(EVERY)

    def _once(
        self, group: asyncio.TaskGroup, key: str, look: Callable[[], Awaitable[None]]
    ) -> None:
        """Starts a look, unless the last one of its kind is still under way."""
        if key in self._asked:
            return
        self._asked.add(key)

        async def work() -> None:
            try:
                await look()
            except Exception:
                log.exception("looking at %s", key)
            finally:
                self._asked.discard(key)

        group.create_task(work())

    async def _look_at_machine(self) -> None:
        moment = await asyncio.to_thread(look_at_machine)
        with self._lock:
            self._machine.append(moment)

    async def _look_at_ollama(self) -> None:
        found = await read_ollama(self._settings())
        with self._lock:
            self._ollama = found

    async def _look_for_engines(self, group: asyncio.TaskGroup) -> None:
        settings = self._settings()
        found = await asyncio.to_thread(engines_of, settings)
        with self._lock:
            for engine in found:
                known = self._engines.get(engine.url)
                if known is not None:
                    engine.readings = known.readings
            self._engines = {engine.url: engine for engine in found}
        for engine in found:
            self._once(group, engine.url, partial(self._read, engine, settings))

    async def _read(self, engine: Engine, settings: Settings) -> None:
        reading = await read_engine(engine, settings)
        with self._lock:
            engine.readings.append(reading)
