"""The machine that figures belong to."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil

from gearshift import __version__, gpu


def describe() -> dict[str, Any]:
    """Processor, memory, GPUs and versions; `load_average` is of the minute before."""
    cards = gpu.look()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [
            {"name": card.name, "memory_bytes": card.memory_total_bytes} for card in cards.gpus
        ],
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "gearshift": __version__,
    }


def in_words(machine: dict[str, Any]) -> str:
    """One line for people."""
    gib = machine["memory_bytes"] / 2**30
    gpus = ", ".join(card["name"] or "a GPU" for card in machine["gpus"]) or "no GPU"
    return f"{machine['processor']}, {machine['cores']} cores, {gib:.0f} GiB, {gpus}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
