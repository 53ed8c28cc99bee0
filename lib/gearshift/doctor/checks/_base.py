"""What a check of this machine looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from gearshift import gpu
from gearshift.doctor.checks._packages import Packages, read_packages
from gearshift.engine import environment
from gearshift.engine.records import Record, all_records
from gearshift.settings import Settings, is_loopback, port_of

GIB = 1 << 30


class Status(StrEnum):
    """What a check found."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Check:
    """One check's result; unless it passed, the hint says what to do, with a command to copy."""

    name: str
    status: Status
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Finding:
    """A result that has no name yet: that of the check's function."""

    status: Status
    message: str
    hint: str = ""


def passed(message: str) -> Finding:
    """Nothing is wrong."""
    return Finding(Status.PASSED, message)


def warning(message: str, hint: str) -> Finding:
    """It works, but not as well as it could, or not for everything."""
    return Finding(Status.WARNING, message, hint)


def failed(message: str, hint: str) -> Finding:
    """It is proven not to work."""
    return Finding(Status.FAILED, message, hint)


def unknown(message: str, hint: str) -> Finding:
    """There is nothing to ask, or it does not answer."""
    return Finding(Status.UNKNOWN, message, hint)


@dataclass(frozen=True)
class Machine:
    """What the checks look at. What takes time is looked at by the first check that needs it."""

    settings: Settings
    look: Callable[[], gpu.GPUs] = gpu.look

    @cached_property
    def gpus(self) -> gpu.GPUs:
        """The GPUs, or why nothing is known of them."""
        return self.look()

    @cached_property
    def _packages(self) -> Packages | str:
        python = environment.python(self.settings)
        try:
            return read_packages(python)
        except (OSError, ValueError) as wrong:
            return str(wrong)

    @property
    def packages(self) -> Packages | None:
        """What vLLM's environment holds, `None` if there is none that can be asked."""
        return self._packages if isinstance(self._packages, Packages) else None

    @property
    def no_packages(self) -> str:
        """Why `packages` is `None`."""
        return self._packages if isinstance(self._packages, str) else ""

    @property
    def wants_vllm(self) -> bool:
        """Whether vLLM is what answers people: then what it needs must be there."""
        return self.settings.llm_provider == "vllm"

    def our_server(self, url: str) -> Record | None:
        """Our server at that address, if its supervisor lives."""
        records = all_records(self.settings) if is_loopback(url) else []
        return next(
            (r for r in records if r.launch.port == port_of(url) and r.is_supervised()), None
        )
