"""Doctor: is this machine ready, and what does an error mean?"""

from __future__ import annotations

import streamlit as st

from gearshift.doctor import diagnose, make_log
from gearshift.doctor.checks import Check, Status, run_machine_checks
from gearshift.doctor.log import log_of
from gearshift.engine import servers
from gearshift.engine.records import State
from gearshift.settings import load_settings
from parts.causes import explained, show_report
from parts.markdown import plain

_MARKS = {
    Status.FAILED: ":red[:material/close:]",
    Status.WARNING: ":orange[:material/warning:]",
    Status.PASSED: ":green[:material/check:]",
    Status.UNKNOWN: ":gray[:material/help:]",
}


def main() -> None:
    st.title("Doctor")
    machine, error = st.tabs(["This machine", "What does an error mean?"])
    with machine:
        _machine()
    with error:
        _error()


def _machine() -> None:
    st.write("What the guide asks for, and what goes wrong most often. Nothing is changed.")
    again = st.button("Check again", icon=":material/refresh:")
    if again or "checks" not in st.session_state:
        with st.spinner("Looking"):
            st.session_state.checks = run_machine_checks()
    checks: list[Check] = st.session_state.checks
    by = {status: [c for c in checks if c.status is status] for status in _MARKS}
    for check in by[Status.FAILED] + by[Status.WARNING]:
        with st.container(border=True):
            _show(check)
    if not by[Status.FAILED] + by[Status.WARNING]:
        st.success("Nothing is wrong.", icon=":material/check:")
    for status, title in (
        (Status.PASSED, "in order"),
        (Status.UNKNOWN, "that cannot be asked here, such as what is not installed"),
    ):
        with st.expander(f"{len(by[status])} {title}"):
            for check in by[status]:
                _show(check)


def _show(check: Check) -> None:
    name = check.name.replace("_", " ")
    st.markdown(f"{_MARKS[check.status]} **{plain(name)}** · {plain(check.message)}")
    if check.hint:
        st.code(check.hint, language=None, wrap_lines=True)


def _error() -> None:
    st.write(
        "Paste an error or a log of vLLM, Ollama, Docker or Python, hand a file in, or choose one "
        "of the servers here. It stays on this machine."
    )
    records = {record.name: record for record in servers.status(load_settings())}
    if records:
        name = st.selectbox(
            "A server of this machine", list(records), index=None, placeholder="none"
        )
        if name is not None:
            if records[name].state is not State.FAILED:
                st.caption(f"It has not failed: it is {records[name].state}.")
            show_report(explained(records[name]))
            return
    file = st.file_uploader("A log file")
    text = st.text_area("An error or a log", height=140, placeholder="Traceback …")
    if file is not None or text.strip():
        log = log_of(file.getvalue()) if file is not None else make_log(text)
        if log.left_out:
            st.caption(f"The log is long: {log.left_out:,} bytes of its middle were not read.")
        show_report(diagnose(log))


main()
