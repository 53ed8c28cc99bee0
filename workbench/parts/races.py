"""Two races of Streamlit 1.67 that lose what happens on a busy machine, and what prevents them.

Both need a part of a page that is refreshed by a timer, as in `parts.refreshed`, and both were seen
with three people on two busy cores: an answer that never appeared, a question that was not asked.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from streamlit.runtime.app_session import AppSession
from streamlit.runtime.scriptrunner import ScriptRunner
from streamlit.runtime.scriptrunner_utils.script_requests import ScriptRequestType

_MOMENT = 0.01  # seconds


def prevent() -> None:
    """Once a process, before the first page is drawn."""
    if not hasattr(AppSession.request_rerun, "__wrapped__"):
        AppSession.request_rerun = _after_what_was_drawn(AppSession.request_rerun)
        ScriptRunner._on_script_finished = _leaving_what_others_press(
            ScriptRunner._on_script_finished
        )


def _after_what_was_drawn(request_rerun: Any) -> Any:
    """Lets the timer of a part wait for a run of the page that has ended but is not sent yet.

    Else a new script runner takes over for it, and all that the last one drew is ignored.
    """

    @wraps(request_rerun)
    def wait(session: Any, client_state: Any) -> None:
        runner = session._scriptrunner
        of_a_part = client_state is not None and client_state.fragment_id
        if of_a_part and runner is not None and _over(runner):
            session._event_loop.call_later(_MOMENT, session.request_rerun, client_state)
        else:
            request_rerun(session, client_state)

    return wait


def _leaving_what_others_press(on_script_finished: Any) -> Any:
    """Keeps a runner that was told to stop from clearing a button that its successor has to see."""

    @wraps(on_script_finished)
    def leave(runner: Any, ctx: Any, event: Any, premature_stop: bool, descriptor: Any) -> None:
        on_script_finished(runner, ctx, event, premature_stop or _over(runner), descriptor)

    return leave


def _over(runner: Any) -> bool:
    return bool(runner._requests._state is ScriptRequestType.STOP)
