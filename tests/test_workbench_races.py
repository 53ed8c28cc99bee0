"""What a busy Streamlit would lose; the busy browsers themselves are in `make soak`.

These play a runner that has ended a moment ago: the real one is in that state for microseconds.
"""

import asyncio
import sys
import threading
from functools import partial
from types import SimpleNamespace

import pytest
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.scriptrunner import ScriptRunner
from streamlit.runtime.scriptrunner_utils.script_requests import ScriptRequests

from places import ROOT

sys.path.insert(0, str(ROOT / "workbench"))

from parts import races

races.prevent()


def test_they_are_prevented_once_a_process():
    first = AppSession.request_rerun
    races.prevent()
    assert AppSession.request_rerun is first


def runner(stopped):
    requests = ScriptRequests()
    if stopped:
        requests.request_stop()
    return SimpleNamespace(_requests=requests, request_rerun=lambda data: not stopped)


def a_part(its_runner, begun):
    """A session whose timer asks for a part of the page."""
    session = SimpleNamespace(
        _state=None,
        _scriptrunner=its_runner,
        _event_loop=asyncio.get_running_loop(),
        has_fragment=lambda fragment: True,
        _create_scriptrunner=begun.append,
    )
    session.request_rerun = partial(AppSession.request_rerun, session)
    session.request_rerun(ClientState(fragment_id="a part", is_auto_rerun=True))
    return session


async def test_a_part_waits_until_the_page_before_it_is_sent():
    begun = []
    session = a_part(runner(stopped=True), begun)
    await asyncio.sleep(0.05)
    assert begun == [], "a new runner would have what the last one drew ignored"
    session._scriptrunner = None  # what the session does when it has sent the page
    await asyncio.sleep(0.05)
    assert [data.fragment_id for data in begun] == ["a part"]


async def test_a_part_does_not_wait_for_a_page_that_is_running():
    begun = []
    a_part(runner(stopped=False), begun)
    assert begun == []


@pytest.mark.parametrize("stopped", [True, False])
def test_a_runner_that_was_told_to_stop_clears_no_button(stopped):
    cleared = []
    old = SimpleNamespace(
        **vars(runner(stopped)),
        _join_wake_lock=threading.Lock(),
        _session_state=SimpleNamespace(on_script_finished=lambda *a, **k: cleared.append(1)),
        on_event=SimpleNamespace(send=lambda *a, **k: None),
    )
    ctx = SimpleNamespace(
        has_script_started=False,
        shared=SimpleNamespace(widget_ids_this_run=SimpleNamespace(snapshot=frozenset)),
    )
    ScriptRunner._on_script_finished(old, ctx, None, False, None)
    assert cleared == ([] if stopped else [1])
