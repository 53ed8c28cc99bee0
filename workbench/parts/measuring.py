"""How far a measurement in the background is, and the button that ends it."""

from __future__ import annotations

import streamlit as st

from gearshift.bench.background import Background
from parts.markdown import plain
from parts.state import show_problem


def show_progress(job: Background, done: float, words: str, key: str) -> None:
    """A bar and a button.

    Args:
        done: The share that is done, 0 to 1.
        words: What goes on.
        key: Of the button.
    """
    left, right = st.columns([5, 1], vertical_alignment="center")
    left.progress(min(1.0, done), plain(words))
    right.button(
        "Cancel",
        icon=":material/stop:",
        width="stretch",
        disabled=job.cancelling,
        on_click=job.cancel,
        key=key,
    )


def show_end(job: Background, key: str) -> None:
    """What went wrong, until somebody has read it.

    Args:
        key: Of the button.
    """
    if job.problem is not None:
        show_problem(job.problem)
        st.button("Dismiss", icon=":material/close:", on_click=job.dismiss, key=key)
