"""What NVML, the driver's own library, says about the GPUs; what it does not say stays unknown."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
import pynvml

T = TypeVar("T")


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
        power_watts: What it draws now.
        compute_capability: Major and minor number.
        holders: Who holds its memory; `None` where that cannot be known: the driver refuses, or
            gives no process ids.
        problem: Why it does not answer, in a sentence.
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
    compute_capability: tuple[int, int] | None = None
    holders: tuple[Holder, ...] | None = None
    mig: tuple[MigInstance, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class GPUs:
    """All GPUs of this machine, or why nothing is known of them and what to do about it."""

    gpus: tuple[GPU, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    problem: str | None = None
    hint: str | None = None

    @property
    def known(self) -> bool:
        """Whether the driver answered."""
        return self.problem is None


_PROBLEMS = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "there is no NVIDIA driver on this machine",
        "without an NVIDIA GPU that is as it should be; else install its driver, or start the "
        "container with --gpus all",
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "the NVIDIA driver is not loaded",
        "load it with: sudo modprobe nvidia; after an update of it, reboot",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver and its library have different versions",
        "reboot: the driver was updated while its old version was loaded",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "this user may not ask the NVIDIA driver",
        "check the rights of /dev/nvidia*; in a container, start it with --gpus all",
    ),
    pynvml.NVML_ERROR_OPERATING_SYSTEM: (
        "the operating system blocks access to the GPUs",
        "in WSL, update the driver in Windows, then: wsl --update, wsl --shutdown",
    ),
}

_BROKEN = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "it is lost: it fell off the bus; reboot the machine",
    pynvml.NVML_ERROR_RESET_REQUIRED: "it must be reset: sudo nvidia-smi --gpu-reset -i {index}",
}
"""Answers that speak of the whole card, whatever it was asked for."""

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


def _unknown(error: pynvml.NVMLError) -> GPUs:
    problem, hint = _PROBLEMS.get(
        error.value,
        (
            f"the NVIDIA driver answers: {error}",
            "see what nvidia-smi says; a container that has lost its GPUs must be started again",
        ),
    )
    return GPUs(problem=problem, hint=hint)


def _ask(function: Callable[..., T], *arguments: Any) -> T | None:
    """What NVML answers, `None` where this card or driver has no answer."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _BROKEN:
            raise
        return None


def _cuda_version() -> str | None:
    number = _ask(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def _gpu(index: int) -> GPU:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        return _facts(index, handle)
    except pynvml.NVMLError as error:
        problem = _BROKEN.get(error.value, f"it does not answer: {error}")
        return GPU(index, problem=problem.replace("{index}", str(index)))


def _facts(index: int, handle: Any) -> GPU:
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power = _ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    capability = _ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    return GPU(
        index=index,
        uuid=_ask(pynvml.nvmlDeviceGetUUID, handle),
        name=_ask(pynvml.nvmlDeviceGetName, handle),
        memory_total_bytes=memory and memory.total,
        memory_used_bytes=memory and memory.used,
        memory_free_bytes=memory and memory.free,
        utilization_percent=rates and rates.gpu,
        temperature_c=_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        power_watts=None if power is None else power / 1000,
        compute_capability=capability and (capability[0], capability[1]),
        holders=_holders(handle),
        mig=tuple(_instances(handle)),
    )


def _holders(handle: Any) -> tuple[Holder, ...] | None:
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
        processes = _ask(newest, handle)
        if processes is None:
            processes = _ask(older, handle)  # drivers before 510 have only this one
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
    if not found and _in_wsl():
        return None  # processes of Windows hold memory too, and are not shown here
    return tuple(found.values())


def _process_name(pid: int) -> str | None:
    with suppress(psutil.Error):
        return str(psutil.Process(pid).name())
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
