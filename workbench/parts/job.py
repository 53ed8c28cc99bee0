"""Long work that goes on while its page is left, and can be stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import streamlit as st

from gearshift.errors import GearshiftError, unexpected
from parts.markdown import plain
from parts.state import show_problem

log = logging.getLogger(__name__)


class _Stopped(BaseException):
    """Somebody has stopped the job; nothing in the library takes it for a failure."""


class Job:
    """Work in a thread of its own.

    Args:
        work: Is given the job, and calls `tell` as often as it can be stopped.
    """

    def __init__(self, work: Callable[[Job], Any]) -> None:
        self.words = "beginning"
        self.share: float | None = None
        self.items: list[Any] = []
        self.result: Any = None
        self.error: GearshiftError | None = None
        self.stopped = False
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[Job], Any]) -> None:
        try:
            self.result = work(self)
        except _Stopped:
            pass
        except GearshiftError as error:
            self.error = error
        except Exception as bug:
            log.exception("unexpected")
            self.error = unexpected(bug)

    def tell(self, words: str, share: float | None = None) -> None:
        """How far it is, in words and from 0 to 1; does not return once the job is stopped."""
        if self.stopped:
            raise _Stopped
        self.words, self.share = words, share

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self.stopped = True


@st.cache_resource
def jobs() -> dict[str, Job]:
    """The last job of each kind, the same for everybody: a machine migrates once."""
    return {}


def show_job(
    key: str, stop: str = "Stop", stopped: str = "It was stopped; nothing half done is left."
) -> bool:
    """How far a job is, and how it ended; whether it runs.

    Args:
        stop: What the button says that stops it.
        stopped: What is said when it was.
    """
    job = jobs().get(key)
    if job is None:
        return False
    if job.running:
        st.progress(min(1.0, job.share or 0.0), plain(job.words))
        st.button(stop, key=f"stop-{key}", icon=":material/stop:", on_click=job.stop)
        return True
    if job.error is not None:
        show_problem(job.error)
    elif job.stopped:
        st.info(stopped)
    return False
