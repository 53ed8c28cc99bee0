"""Checks of this machine: what the guide asks for, and what its troubleshooting chapter covers.

Each check is one function that takes the `Machine` and returns a `Finding`; its name without
`check_` is the result's. Only what is proven not to work is `failed`; what is not there to be asked
is `unknown`. All run side by side, and what does not end in time is unknown as well.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from gearshift.doctor.checks._base import Check, Finding, Machine, Status, unknown
from gearshift.doctor.checks.capability import check_compute_capability
from gearshift.doctor.checks.docker import check_docker
from gearshift.doctor.checks.engine import check_cuda, check_engine, check_engine_packages
from gearshift.doctor.checks.environment import (
    check_env_file,
    check_environment,
    check_gpu_count,
    check_proxy,
)
from gearshift.doctor.checks.gpus import check_driver, check_gpu_memory, check_gpus
from gearshift.doctor.checks.index import check_index
from gearshift.doctor.checks.offload import check_vllm_offload
from gearshift.doctor.checks.ollama import (
    check_ollama,
    check_ollama_context,
    check_ollama_gpu,
)
from gearshift.doctor.checks.ports import check_ollama_port, check_vllm_port
from gearshift.doctor.checks.resources import check_disk, check_memory, check_shared_memory
from gearshift.doctor.checks.speed import check_vllm_speed
from gearshift.doctor.checks.system import check_operating_system, check_python, check_wsl
from gearshift.doctor.checks.vllm import check_vllm, check_vllm_token
from gearshift.errors import GearshiftError, SettingsError
from gearshift.settings import Settings, load_settings

__all__ = ["CHECKS", "Check", "Finding", "Machine", "Status", "run_machine_checks"]

log = logging.getLogger(__name__)

CHECKS: tuple[Callable[[Machine], Finding], ...] = (
    check_python,
    check_operating_system,
    check_wsl,
    check_memory,
    check_disk,
    check_shared_memory,
    check_driver,
    check_gpus,
    check_gpu_memory,
    check_compute_capability,
    check_engine,
    check_engine_packages,
    check_cuda,
    check_docker,
    check_env_file,
    check_environment,
    check_gpu_count,
    check_proxy,
    check_ollama_port,
    check_ollama,
    check_ollama_context,
    check_ollama_gpu,
    check_vllm_port,
    check_vllm,
    check_vllm_token,
    check_vllm_offload,
    check_vllm_speed,
    check_index,
)
"""All checks, in the order of a report."""

_SECONDS = 15.0  # for all together


def run_machine_checks(settings: Settings | None = None) -> list[Check]:
    """Runs every check; never raises. Not to be called on the background loop.

    Args:
        settings: What is configured; `None` reads it. Settings that are wrong are a result too,
            and the other checks then go by the defaults.
    """
    results = []
    if settings is None:
        try:
            settings = load_settings()
        except SettingsError as wrong:
            results.append(Check("settings", Status.FAILED, wrong.message, wrong.hint))
            settings = Settings.model_construct()
    machine = Machine(settings)
    deadline = time.monotonic() + _SECONDS
    started = [(_name(check), _start(check, machine)) for check in CHECKS]
    return results + [_result(name, future, deadline) for name, future in started]


def _name(check: Callable[[Machine], Finding]) -> str:
    return check.__name__.removeprefix("check_")


def _start(check: Callable[[Machine], Finding], machine: Machine) -> Future[Finding]:
    """Runs the check in a thread of its own, which a process need not wait for when it ends."""
    future: Future[Finding] = Future()

    def work() -> None:
        try:
            future.set_result(check(machine))
        except Exception as wrong:  # noqa: BLE001 (a check that breaks must not hide the others)
            future.set_exception(wrong)

    threading.Thread(target=work, name=f"doctor-{_name(check)}", daemon=True).start()
    return future


def _result(name: str, future: Future[Finding], deadline: float) -> Check:
    try:
        found = future.result(max(0.0, deadline - time.monotonic()))
    except GearshiftError as wrong:
        found = unknown(wrong.message, wrong.hint)
    except TimeoutError as late:
        if future.done():
            found = _broken(name, late)
        else:
            found = unknown(f"it did not end within {_SECONDS:.0f} s", _AGAIN)
    except Exception as wrong:  # noqa: BLE001
        found = _broken(name, wrong)
    return Check(name, found.status, found.message, found.hint)


_AGAIN = "try again when the machine is idle: gearshift doctor"


def _broken(name: str, wrong: Exception) -> Finding:
    log.error("the check %s broke", name, exc_info=wrong)
    return unknown(f"the check itself failed: {type(wrong).__name__}: {wrong}", _REPORT)


_REPORT = "please report it with the output of: gearshift doctor --json"
