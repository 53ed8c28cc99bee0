"""What is checked before a start: what vLLM would only tell after half a minute, told at once.

Each check is one function. It refuses only what is proven to fail; what cannot be known is unknown,
which is a warning.
"""

from __future__ import annotations

from collections.abc import Callable

from gearshift.engine.checks._base import Check, Plan, Status
from gearshift.engine.checks._fit import check_fit
from gearshift.engine.checks._gpus import check_gpu_memory, check_gpus
from gearshift.engine.checks._machine import (
    check_engine,
    check_memory,
    check_port,
    check_shared_memory,
)
from gearshift.engine.checks._model import (
    check_context,
    check_disk,
    check_hub,
    check_model,
    check_pipeline_parallel,
    check_tensor_parallel,
)
from gearshift.engine.checks._weights import check_weights

__all__ = ["Check", "Plan", "Status", "run_checks"]

LOCAL: tuple[Callable[[Plan], Check], ...] = (
    check_engine,
    check_model,
    check_weights,
    check_tensor_parallel,
    check_pipeline_parallel,
    check_context,
    check_port,
    check_gpus,
    check_gpu_memory,
    check_fit,
    check_shared_memory,
    check_memory,
    check_disk,
)
"""The checks that need nothing but this machine, in the order of a report."""


def run_checks(plan: Plan, ask_hub: bool = True) -> list[Check]:
    """All checks; the Hub, which may take seconds, last, and only if nothing is refused already."""
    checks = [check(plan) for check in LOCAL]
    if ask_hub and all(check.status is not Status.REFUSED for check in checks):
        checks.append(check_hub(plan))
    return checks
