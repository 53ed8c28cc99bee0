"""What is watched in the background, and the strip of it in the sidebar."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import streamlit as st

from gearshift.engine.words import hardware_lines
from parts.markdown import plain
from parts.refreshed import refreshed

if TYPE_CHECKING:
    from gearshift.engine.monitor import Engine, Monitor

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
    lines = hardware_lines(watched.machine[-1]) + [_engine_line(e) for e in watched.engines]
    st.caption("  \n".join(plain(line) for line in lines if line))


def _engine_line(engine: Engine) -> str | None:
    """What a server does, or that ours was lost; nothing of one that was never there."""
    now = engine.now()
    if now is not None and now.running is not None:
        waiting = "?" if now.waiting is None else now.waiting
        return f"vLLM: {now.running} running, {waiting} waiting"
    if engine.record is not None and engine.is_news:
        return f"vLLM: {engine.record.name} {engine.record.state}"
    return None
