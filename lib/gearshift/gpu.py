"""What NVML, the driver's own library, says about the GPUs; what it does not say stays unknown."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Any, TypeVar

import psutil
import pynvml

T = TypeVar("T")


class GPUState(StrEnum):
    """How a GPU, or the driver of all of them, is."""

    OK = "ok"
    NO_DRIVER = "no_driver"
    DRIVER_NOT_LOADED = "driver_not_loaded"
    DRIVER_MISMATCH = "driver_mismatch"
    NO_PERMISSION = "no_permission"
    BLOCKED = "blocked"  # by the operating system
    LOST = "lost"
    RESET_REQUIRED = "reset_required"
    NO_ANSWER = "no_answer"


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of a GPU; what is not known is `None`."""

    pid: int
    name: str | None
    memory_bytes: int | None


@dataclass(frozen=True)
class MigInstance:
    """A part of a GPU that programs see as a GPU of its own."""

    uuid: str
    name: str | None
    memory_total_bytes: int | None
    memory_free_bytes: int | None


@dataclass(frozen=True)
class GPU:
    """One GPU; what the card or its driver does not give is `None`.

    Attributes:
        power_watts: What it draws now; its limit is the one that is in force.
        compute_capability: Major and minor number.
        holders: Who holds its memory; `None` where that cannot be known: the driver refuses, or
            gives no process ids.
        problem: Why it does not answer, in a sentence.
        notes: What it does not tell, why, and what to do, a sentence each.
    """

    index: int
    uuid: str | None = None
    name: str | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    compute_capability: tuple[int, int] | None = None
    holders: tuple[Holder, ...] | None = None
    mig: tuple[MigInstance, ...] = ()
    state: GPUState = GPUState.OK
    problem: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GPUs:
    """All GPUs of this machine, or why nothing is known of them and what to do about it."""

    gpus: tuple[GPU, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    state: GPUState = GPUState.OK
    problem: str | None = None
    hint: str | None = None

    @property
    def known(self) -> bool:
        """Whether the driver answered."""
        return self.problem is None


@dataclass(frozen=True)
class Link:
    """What lies between two GPUs, in the words of `nvidia-smi topo`.

    Attributes:
        first, second: Their indexes.
        kind: `NVLINK`, or the last thing that data passes: `PIX` and `PXB` (PCIe switches), `PHB`
            (a host bridge), `NODE` (bridges of one processor), `SYS` (two processors).
    """

    first: int
    second: int
    kind: str


_RIGHTS = "check the rights of /dev/nvidia*; in a container, start it with --gpus all"

_PROBLEMS = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        GPUState.NO_DRIVER,
        "there is no NVIDIA driver on this machine",
        "without an NVIDIA GPU that is as it should be; else install its driver, or start the "
        "container with --gpus all",
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        GPUState.DRIVER_NOT_LOADED,
        "the NVIDIA driver is not loaded",
        "load it with: sudo modprobe nvidia; after an update of it, reboot",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        GPUState.DRIVER_MISMATCH,
        "the NVIDIA driver and its library have different versions",
        "reboot: the driver was updated while its old version was loaded",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        GPUState.NO_PERMISSION,
        "this user may not ask the NVIDIA driver",
        _RIGHTS,
    ),
    pynvml.NVML_ERROR_OPERATING_SYSTEM: (
        GPUState.BLOCKED,
        "the operating system blocks access to the GPUs",
        "in WSL, update the driver in Windows, then: wsl --update, wsl --shutdown",
    ),
}

_BROKEN = {
    pynvml.NVML_ERROR_GPU_IS_LOST: (
        GPUState.LOST,
        "it is lost: it fell off the bus; reboot the machine",
    ),
    pynvml.NVML_ERROR_RESET_REQUIRED: (
        GPUState.RESET_REQUIRED,
        "it must be reset: sudo nvidia-smi --gpu-reset -i {index}",
    ),
}
"""Answers that speak of the whole card, whatever it was asked for."""
_REFUSED = _BROKEN | {
    pynvml.NVML_ERROR_NO_PERMISSION: (
        GPUState.NO_PERMISSION,
        f"this user may not ask it; {_RIGHTS}",
    ),
}
"""What it means when a card tells nothing but that."""

_lock = threading.Lock()
_initialized = False


def look() -> GPUs:
    """Asks the driver now; never raises."""
    global _initialized
    with _lock:
        try:
            if not _initialized:
                pynvml.nvmlInit()
                _initialized = True
            return GPUs(
                tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())),
                _ask(pynvml.nvmlSystemGetDriverVersion),
                _cuda_version(),
            )
        except pynvml.NVMLError as error:
            _initialized = False  # the next look tries again
            return _unknown(error)


_LEVELS = {
    pynvml.NVML_TOPOLOGY_INTERNAL: "PIX",  # two GPUs on one board
    pynvml.NVML_TOPOLOGY_SINGLE: "PIX",
    pynvml.NVML_TOPOLOGY_MULTIPLE: "PXB",
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: "PHB",
    pynvml.NVML_TOPOLOGY_NODE: "NODE",
    pynvml.NVML_TOPOLOGY_SYSTEM: "SYS",
}


def links() -> tuple[Link, ...]:
    """What lies between each pair of GPUs; pairs of which nothing is known are left out.

    It does not change while a machine runs. Never raises.
    """
    indexes = [card.index for card in look().gpus if card.problem is None]
    found = (_link(first, second) for first, second in combinations(indexes, 2))
    with _lock:
        return tuple(link for link in found if link is not None)


def _link(first: int, second: int) -> Link | None:
    try:
        pair = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in (first, second)]
        nvlink = _ask(pynvml.nvmlDeviceGetP2PStatus, *pair, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
        if nvlink == pynvml.NVML_P2P_STATUS_OK:
            return Link(first, second, "NVLINK")
        level = _ask(pynvml.nvmlDeviceGetTopologyCommonAncestor, *pair)
    except pynvml.NVMLError:
        return None
    return None if level is None else Link(first, second, _LEVELS.get(level, "SYS"))


def _unknown(error: pynvml.NVMLError) -> GPUs:
    state, problem, hint = _PROBLEMS.get(
        error.value,
        (
            GPUState.NO_ANSWER,
            f"the NVIDIA driver answers: {error}",
            "see what nvidia-smi says; a container that has lost its GPUs must be started again",
        ),
    )
    return GPUs(state=state, problem=problem, hint=hint)


def silent(seconds: float) -> GPUs:
    """What is known of the GPUs while the driver hangs."""
    return GPUs(
        state=GPUState.NO_ANSWER,
        problem=f"the NVIDIA driver has not answered for {seconds:.0f} s",
        hint="see whether nvidia-smi answers, and sudo dmesg | grep -i xid; else reboot",
    )


class _Card:
    """Asks one card for what changes, and remembers why it did not answer."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.answered = False
        self.errors: dict[Callable[..., Any], pynvml.NVMLError] = {}

    def ask(self, function: Callable[..., T], *arguments: Any) -> T | None:
        """What it answers; `None` where it has no answer."""
        try:
            answer = function(self.handle, *arguments)
        except pynvml.NVMLError as error:
            if error.value in _BROKEN:
                raise
            self.errors[function] = error
            return None
        self.answered = True
        return answer


def _ask(function: Callable[..., T], *arguments: Any) -> T | None:
    """What NVML answers, `None` where it has no answer, or none that can be read."""
    try:
        return function(*arguments)
    except UnicodeDecodeError:  # pynvml decodes names strictly
        return None
    except pynvml.NVMLError as error:
        if error.value in _BROKEN:
            raise
        return None


def _cuda_version() -> str | None:
    number = _ask(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _gpu(index: int) -> GPU:
    try:
        return _facts(index, pynvml.nvmlDeviceGetHandleByIndex(index))
    except pynvml.NVMLError as error:
        otherwise = GPUState.NO_ANSWER, f"it does not answer: {error}; see what nvidia-smi says"
        state, problem = _REFUSED.get(error.value, otherwise)
        return GPU(index, state=state, problem=problem.replace("{index}", str(index)))


def _facts(index: int, handle: Any) -> GPU:
    card = _Card(handle)
    memory = card.ask(pynvml.nvmlDeviceGetMemoryInfo)
    rates = card.ask(pynvml.nvmlDeviceGetUtilizationRates)
    power = card.ask(pynvml.nvmlDeviceGetPowerUsage)
    holders = _holders(card, memory)
    temperature = card.ask(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU)
    clock = card.ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_GRAPHICS)
    memory_clock = card.ask(pynvml.nvmlDeviceGetClockInfo, pynvml.NVML_CLOCK_MEM)
    if not card.answered:
        raise card.errors[pynvml.nvmlDeviceGetMemoryInfo]
    limit = _ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    capability = _ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    return GPU(
        index=index,
        uuid=_ask(pynvml.nvmlDeviceGetUUID, handle),
        name=_ask(pynvml.nvmlDeviceGetName, handle),
        memory_total_bytes=memory and memory.total,
        memory_used_bytes=memory and memory.used,
        memory_free_bytes=memory and memory.free,
        utilization_percent=rates and rates.gpu,
        temperature_c=temperature,
        power_watts=None if power is None else power / 1000,
        power_limit_watts=None if limit is None else limit / 1000,
        clock_mhz=clock,
        memory_clock_mhz=memory_clock,
        compute_capability=capability and (capability[0], capability[1]),
        holders=holders,
        mig=tuple(_instances(handle)),
        notes=tuple(_notes(card.errors.get(pynvml.nvmlDeviceGetMemoryInfo), holders is None)),
    )


def _notes(no_memory: pynvml.NVMLError | None, no_holders: bool) -> Iterator[str]:
    if no_memory is not None and no_memory.value == pynvml.NVML_ERROR_NOT_SUPPORTED:
        yield (
            "it does not tell its memory: a card that shares the machine's (unified memory) has "
            "none of its own; look at the machine's"
        )
    elif no_memory is not None and no_memory.value == pynvml.NVML_ERROR_NO_PERMISSION:
        yield f"this user may not ask for its memory; {_RIGHTS}"
    elif no_memory is not None:
        yield f"it does not tell its memory: {no_memory}; see what nvidia-smi says"
    if no_holders and _in_wsl():
        yield "WSL does not tell who holds its memory; Windows' Task Manager does"
    elif no_holders:
        yield (
            "the driver does not tell who holds its memory: ask as root, and in a container start "
            "it with --pid=host"
        )


def _holders(card: _Card, memory: Any) -> tuple[Holder, ...] | None:
    found: dict[int, Holder] = {}
    for newest, older in (
        (
            pynvml.nvmlDeviceGetComputeRunningProcesses_v3,
            pynvml.nvmlDeviceGetComputeRunningProcesses_v2,
        ),
        (
            pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3,
            pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2,
        ),
    ):
        processes = card.ask(newest)
        if processes is None:
            processes = card.ask(older)  # drivers before 510 have only this one
        if processes is None:
            return None
        for process in processes:
            if not process.pid:
                return None  # someone holds memory, and the driver does not say who
            known = found.get(process.pid)
            if known is None or known.memory_bytes is None:  # one may compute and draw
                found[process.pid] = Holder(
                    process.pid, _process_name(process.pid), process.usedGpuMemory
                )
    if not found and (_in_wsl() or _held_by_somebody(memory)):
        return None  # of Windows, or outside of this container: they are not shown here
    return tuple(found.values())


def _held_by_somebody(memory: Any) -> bool:
    """Whether more is used than a driver takes for itself."""
    return memory is not None and memory.used > max(_DRIVERS_OWN, memory.total // 50)


_DRIVERS_OWN = 1 << 30  # bytes; the more memory a card has, the more tables the driver keeps


def _process_name(pid: int) -> str | None:
    """Its name, without what would break or command a terminal: any process can choose its own."""
    with suppress(psutil.Error):
        name = psutil.Process(pid).name()
        return "".join(
            letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name
        )
    return None


def _in_wsl() -> bool:
    return "microsoft" in platform.release().lower()


def _instances(handle: Any) -> Iterator[MigInstance]:
    mode = _ask(pynvml.nvmlDeviceGetMigMode, handle)
    if not mode or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return
    for number in range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = _ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        uuid = instance and _ask(pynvml.nvmlDeviceGetUUID, instance)
        if instance and uuid:
            memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, instance)
            yield MigInstance(
                uuid,
                _ask(pynvml.nvmlDeviceGetName, instance),
                memory and memory.total,
                memory and memory.free,
            )
