"""What a check is, and what it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gearshift.engine.launch import Launch
from gearshift.engine.models import Model
from gearshift.gpu import GPUs
from gearshift.settings import Settings

GIB = 1 << 30


class Status(StrEnum):
    """What a check found."""

    PASSED = "passed"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Check:
    """One check's result, with what to do about it."""

    name: str
    status: Status
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Plan:
    """What a start would use: all that the checks look at."""

    launch: Launch
    model: Model
    gpus: GPUs
    settings: Settings
    docker: bool = False

    @property
    def ranks(self) -> int:
        """How many GPUs it takes."""
        return self.launch.tensor_parallel * self.launch.pipeline_parallel


def passed(name: str, message: str) -> Check:
    """Nothing speaks against it."""
    return Check(name, Status.PASSED, message)


def refused(name: str, message: str, hint: str) -> Check:
    """It is proven to fail."""
    return Check(name, Status.REFUSED, message, hint)


def unknown(name: str, message: str, hint: str = "") -> Check:
    """It cannot be known here: a warning."""
    return Check(name, Status.UNKNOWN, message, hint)
