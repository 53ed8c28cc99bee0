"""What the first question would wait for is done once, while the first person still reads."""

from __future__ import annotations

import gc
import logging
import threading

import streamlit as st

from gearshift.errors import GearshiftError
from gearshift.rag import library
from parts import monitor

_DELAY = 1.5  # seconds

log = logging.getLogger(__name__)


@st.cache_resource(show_spinner=False)
def up() -> threading.Timer:
    """Starts it, once a process; a moment later, so that the browser can draw the page first."""
    timer = threading.Timer(_DELAY, _work)
    timer.daemon = True
    timer.start()
    return timer


def _work() -> None:
    try:
        library.sample().search("warm up", 1)
    except GearshiftError as problem:
        # Whoever asks a question meets the same problem, and is told then.
        log.warning("warming up: %s", problem)
    monitor.monitor()
    # Streamlit collects garbage after every run of a page. What was loaded until now stays for
    # good, and looking through it each time costs 0.1 s: more than showing an answer.
    gc.collect()
    gc.freeze()
