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

from gearshift import gpu
from gearshift.engine import host, servers
from gearshift.engine.metrics import Metrics, Sample, between, read_sample
from gearshift.engine.processes import somebody_listens
from gearshift.engine.records import LIVING, Record, State
from gearshift.engine.words import in_words
from gearshift.errors import EngineError, GearshiftError
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
_PATIENCE = 3.0  # seconds for the driver; one that sleeps takes one or two
_ANSWERING = (State.READY, State.DEGRADED)


@dataclass(frozen=True)
class Machine:
    """The hardware at one moment.

    Attributes:
        at: Seconds since the epoch.
        processor_percent: Since the moment before; `None` for the first one.
    """

    at: float
    gpus: gpu.GPUs
    processor_percent: float | None
    memory_used_bytes: int
    memory_total_bytes: int

    @property
    def processor_matters(self) -> bool:
        """Whether there is no GPU, or one that shares the machine's memory."""
        cards = self.gpus.gpus
        return not cards or any(c.memory_total_bytes is None and not c.problem for c in cards)


def machine_of(gpus: gpu.GPUs, earlier: host.Host, now: host.Host) -> Machine:
    """The hardware now, its load since `earlier`."""
    load = now.load_since(earlier)
    return Machine(time.time(), gpus, load, now.memory_used_bytes, now.memory_total_bytes)


@dataclass(frozen=True)
class Reading:
    """What a vLLM server said at one moment, or why it said nothing and what to do about it."""

    at: float
    sample: Sample | None = None
    problem: str | None = None
    hint: str | None = None


@dataclass
class Engine:
    """A vLLM server that is watched.

    Attributes:
        name: Of our record, or its address where it was started elsewhere.
        record: Of a server that was started here, whatever became of it.
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

    def silent_s(self) -> float:
        """For how long it has had work and counted no token, up to now."""
        samples = [reading.sample for reading in self.readings]
        silent = 0.0
        for earlier, later in reversed(list(pairwise(samples))):
            if earlier is None or later is None or not later.silent_since(earlier):
                break
            silent += later.at - earlier.at
        return silent

    def in_words(self) -> str | None:
        """What it does, in one line; `None` while that is not known."""
        now = self.now()
        launch = self.record.launch if self.record else None
        return None if now is None else in_words(now, launch, self.silent_s())

    @property
    def problem(self) -> str | None:
        """Why it says nothing now."""
        return self.readings[-1].problem if self.readings else None

    @property
    def was_seen(self) -> bool:
        """Whether it said anything in the time that is kept."""
        return any(reading.sample is not None for reading in self.readings)

    @property
    def is_news(self) -> bool:
        """Whether it lives, or did in the time that is kept."""
        return self.was_seen or (self.record is not None and self.record.state in LIVING)

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
    hint: str | None = None


def engines_of(settings: Settings) -> list[Engine]:
    """The vLLM servers that were started here, in any state, and the one that is configured."""
    records = servers.status(settings)
    found = [Engine(record.name, record.url, record) for record in records]
    address = settings.vllm_base_url
    return found if _is_ours(address, records) else [*found, Engine(address, address, None)]


def _is_ours(address: str, records: list[Record]) -> bool:
    """Whether nobody but the server of a record can be meant: it lives, or nobody listens there."""
    port = port_of(address)
    there = [record for record in records if record.launch.port == port and is_loopback(address)]
    return any(r.state in LIVING for r in there) or bool(there and not somebody_listens(port))


async def read_engine(engine: Engine, settings: Settings) -> Reading:
    """Asks a vLLM server for its metrics; never raises.

    One of ours that is not up is not asked: somebody else may answer on its port.
    """
    if engine.record is not None and engine.record.state not in _ANSWERING:
        return _told(engine.record)
    service = VLLMService(settings.model_copy(update={"vllm_base_url": engine.url}))
    try:
        text = await service.metrics()
        return Reading(time.time(), read_sample(text, time.monotonic()))
    except EngineError as error:
        return Reading(
            time.time(), problem=f"vLLM at {engine.url}: {error.message}", hint=error.hint
        )
    except GearshiftError as error:
        return Reading(time.time(), problem=error.message, hint=error.hint)


def _told(record: Record) -> Reading:
    """What the record of a server tells that does not answer."""
    if record.state is State.FAILED and record.failure is not None:
        problem = f"{record.name} failed: {record.failure.message}"
        return Reading(
            time.time(), None, problem, f"see why: gearshift doctor --server {record.name}"
        )
    stage = f": {record.stage}" if record.stage and record.state in LIVING else ""
    return Reading(time.time(), problem=f"{record.name} is {record.state}{stage}")


async def read_ollama(settings: Settings) -> Ollama:
    """Asks Ollama what it holds in memory; never raises."""
    try:
        loaded = tuple(await OllamaService(settings).loaded())
        return Ollama(settings.ollama_base_url, loaded)
    except GearshiftError as error:
        return Ollama(settings.ollama_base_url, problem=error.message, hint=error.hint)


async def watch_once(settings: Settings) -> tuple[Machine, list[Engine], Ollama]:
    """Everything, looked at twice, so that it can be told what it does; takes some seconds."""
    before = host.look()
    engines = await asyncio.to_thread(engines_of, settings)
    for look in range(2):
        await asyncio.sleep(EVERY * look)
        readings = await asyncio.gather(*(read_engine(engine, settings) for engine in engines))
        for engine, reading in zip(engines, readings, strict=True):
            engine.readings.append(reading)
    ollama = await read_ollama(settings)
    machine = machine_of(await asyncio.to_thread(gpu.look), before, host.look())
    return machine, engines, ollama


class Monitor:
    """Looks every two seconds; one for a process.

    What hangs delays only itself: hardware and each server are asked side by side.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        """`settings` is asked at each look: they may change."""
        self._settings = settings
        self._lock = threading.Lock()
        self._machine: deque[Machine] = deque(maxlen=int(KEPT / EVERY))
        self._first = threading.Event()
        self._host = host.look()
        self._driver: asyncio.Task[gpu.GPUs] | None = None
        self._driver_asked = 0.0
        self._links: tuple[gpu.Link, ...] | None = None
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

    def wait(self, seconds: float) -> None:
        """Waits for the first moment of the hardware, but no longer than that."""
        self._first.wait(seconds)

    @property
    def machine(self) -> list[Machine]:
        """The hardware's moments, the oldest first."""
        with self._lock:
            return list(self._machine)

    @property
    def links(self) -> tuple[gpu.Link, ...]:
        """What lies between the GPUs, as far as it is known by now."""
        return self._links or ()

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
                self._once(group, "links", self._look_at_links)
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
        gpus = await self._ask_driver()
        before, self._host = self._host, await asyncio.to_thread(host.look)
        with self._lock:
            self._machine.append(machine_of(gpus, before, self._host))
        self._first.set()

    async def _ask_driver(self) -> gpu.GPUs:
        """What the driver says; where it hangs, that it does, and it is not asked again."""
        if self._driver is None or self._driver.done():
            self._driver_asked = time.monotonic()
            self._driver = asyncio.create_task(asyncio.to_thread(gpu.look))
        await asyncio.wait({self._driver}, timeout=_PATIENCE)
        if self._driver.done():
            return self._driver.result()
        return gpu.silent(time.monotonic() - self._driver_asked)

    async def _look_at_links(self) -> None:
        """Once: they stay as they are."""
        if self._links is None and self._machine and len(self._machine[-1].gpus.gpus) > 1:
            self._links = await asyncio.to_thread(gpu.links)

    async def _look_at_ollama(self) -> None:
        found = await read_ollama(self._settings())
        with self._lock:
            self._ollama = found

    async def _look_for_engines(self, group: asyncio.TaskGroup) -> None:
        settings = self._settings()
        found = await asyncio.to_thread(engines_of, settings)
        with self._lock:
            for engine in found:
                if known := self._engines.get(engine.name):
                    engine.readings = known.readings
            self._engines = {engine.name: engine for engine in found}
        for engine in found:
            self._once(group, engine.name, partial(self._read, engine, settings))

    async def _read(self, engine: Engine, settings: Settings) -> None:
        reading = await read_engine(engine, settings)
        with self._lock:
            engine.readings.append(reading)
