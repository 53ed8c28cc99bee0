"""Why something failed, as the doctor reads it from a log."""

from __future__ import annotations

import shlex

import streamlit as st

from gearshift.doctor import Diagnosis, Report
from gearshift.doctor.starts import explain
from gearshift.engine.records import Record
from parts.markdown import plain

_MORE = 2  # causes that are open; the others are likely to follow from these


def explained(record: Record) -> Report:
    """What the log of a server shows; read again only when it has grown."""
    try:
        grown = record.log.stat().st_mtime_ns
    except OSError:
        grown = 0
    return _explained(str(record.log), grown, record)


@st.cache_data(max_entries=50, show_spinner=False)
def _explained(path: str, grown: int, _record: Record) -> Report:
    return explain(_record)


def show_report(report: Report) -> None:
    """The causes, the most likely first, or the first line that looks like an error."""
    for number, cause in enumerate(report.causes):
        if number < _MORE:
            with st.container(border=True):
                _show(cause)
        else:
            with st.expander(str(cause.cause)):
                _show(cause)
    if report.causes:
        return
    if report.first_error is None:
        st.info("No failure that is known here, and no line that looks like an error.")
        return
    line, text = report.first_error
    st.info(
        f"No failure that is known here. The first line that looks like an error is line {line}:"
    )
    st.code(text, language=None, wrap_lines=True)


def _show(cause: Diagnosis) -> None:
    st.markdown(f":red[:material/error:] **{plain(cause.cause)}** · {plain(cause.meaning)}")
    st.caption(f"Line {cause.line}")
    st.code(cause.evidence, language=None, wrap_lines=True)
    st.markdown(f"**Fix** {plain(cause.fix)}")
    if cause.command:
        st.code(shlex.join(cause.command), language="bash", wrap_lines=True)
