"""A machine to check: settings, and GPUs that are said to be there."""

import pytest

from gearshift.doctor.checks import Machine
from gearshift.gpu import GPU, GPUs, GPUState

GIB = 1 << 30


@pytest.fixture
def machine(make_settings):
    """A machine with these GPUs, or without a driver, and these settings."""

    def make(*cards, gpus=None, **settings):
        found = gpus or GPUs(cards, "570.86", "12.8")
        if not cards and gpus is None:
            found = GPUs(
                state=GPUState.NO_DRIVER, problem="there is no NVIDIA driver", hint="install it"
            )
        return Machine(make_settings(**settings), look=lambda: found)

    return make


@pytest.fixture
def card():
    """A GPU of which a share is free."""

    def make(index=0, total=24, free=1.0, capability=(8, 9), **facts):
        sizes = {
            "memory_total_bytes": total * GIB,
            "memory_used_bytes": int((1 - free) * total * GIB),
            "memory_free_bytes": int(free * total * GIB),
        }
        usual = sizes | {"compute_capability": capability, "holders": ()}
        return GPU(index, f"GPU-{index}", "NVIDIA L4", **usual | facts)

    return make
