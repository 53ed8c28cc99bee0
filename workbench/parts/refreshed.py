"""Parts of a page that are drawn anew by themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import streamlit as st

P = ParamSpec("P")


def refreshed(*, every: float) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """A fragment that runs again every so many seconds, in a container of the page's own.

    The container is what this is for. When a timer fires before a busy Streamlit (1.67) has sent
    the run of the whole page, it drops what fragments drew in that run. With no container that
    counts to the page, all that comes after then moves up by one place: what people typed is lost,
    or the whole page turns white ("Bad delta path index").
    """

    def decorate(part: Callable[P, None]) -> Callable[P, None]:
        fragment = st.fragment(part, run_every=every)

        @wraps(part)
        def draw(*args: P.args, **kwargs: P.kwargs) -> None:
            with st.container():
                fragment(*args, **kwargs)

        return draw

    return decorate
