"""What is watched in the background, and the strip of it in the sidebar."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import streamlit as st

from parts.refreshed import refreshed

if TYPE_CHECKING:
    from gearshift.engine.monitor import Machine, Monitor

GIB = 1 << 30

_lock = threading.Lock()


def monitor() -> Monitor:
    """The one of this process; it begins to look when it is first asked for."""
    # Imported when the first page has been drawn: it takes its time.
    from gearshift.engine.monitor import Monitor
    from gearshift.settings import load_settings

    with _lock:
        found: Monitor = _monitors().setdefault("one", Monitor(load_settings))
        found.start()
        return found


@st.cache_resource
def _monitors() -> dict[str, Monitor]:
    return {}


@refreshed(every=2)
def strip() -> None:
    """Memory, load and requests at a glance; nothing before there is something to tell."""
    watched = _monitors().get("one")
    if watched is None or not watched.machine:
        return
    lines = hardware_lines(watched.machine[-1])
    for engine in watched.engines:
        now = engine.now()
        if now is not None and now.running is not None:
            lines.append(f"vLLM: {now.running} running, {now.waiting or 0} waiting")
    st.caption("  \n".join(lines))


def hardware_lines(machine: Machine) -> list[str]:
    """A line for each GPU, or one for the processor where there is none."""
    if not machine.gpus.gpus:
        used, total = machine.memory_used_bytes / GIB, machine.memory_total_bytes / GIB
        return [
            f"Processor {machine.processor_percent:.0f} % · memory {used:.1f} of {total:.1f} GiB"
        ]
    return [
        f"GPU {card.index} {percent(card.utilization_percent)} · "
        f"{gib(card.memory_used_bytes)} of {gib(card.memory_total_bytes)}"
        for card in machine.gpus.gpus
    ]


def percent(value: float | None) -> str:
    """`37 %`, or a question mark for what is not known."""
    return "?" if value is None else f"{value:.0f} %"


def gib(value: int | None) -> str:
    """`12.3 GiB`, or a question mark for what is not known."""
    return "?" if value is None else f"{value / GIB:.1f} GiB"
