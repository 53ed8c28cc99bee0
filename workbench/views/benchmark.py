"""Benchmark: how fast are the servers here, for how many people at once?"""

from __future__ import annotations

import shlex

import streamlit as st

from gearshift.bench import Wish, job, runs
from gearshift.bench.scenarios import SCENARIOS
from gearshift.bench.tuning.alone import is_tuning
from gearshift.errors import GearshiftError
from gearshift.settings import load_settings
from parts.bench import offer_report, show_comparison, show_record
from parts.markdown import plain
from parts.measuring import show_end, show_progress
from parts.refreshed import refreshed
from parts.state import form, show_problem

_NOTHING = "(nothing)"


def main() -> None:
    st.title("Benchmark")
    st.write(
        "People who ask questions about the handbook, with the passages found, at several servers "
        "one after the other. It takes minutes, and the servers are busy meanwhile."
    )
    _form()
    _live()
    _kept()


def _form() -> None:
    left, right = st.columns([2, 3])
    name = left.selectbox(
        "Scenario",
        list(SCENARIOS),
        format_func=lambda slug: SCENARIOS[slug].title,
        key=form("bench-scenario"),
    )
    scenario = SCENARIOS[name]
    providers = right.multiselect(
        "Servers", scenario.providers, key=form(f"bench-servers-{name}", list(scenario.providers))
    )
    st.caption(plain(scenario.what))
    one, two, three = st.columns(3)
    requests = one.number_input(
        "Requests in each run",
        1,
        value=None,
        placeholder="four for each person",
        key=form("bench-requests"),
    )
    repeat = two.number_input(
        "Repetitions", 1, 50, help="From three on there are intervals.", key=form("bench-repeat")
    )
    seed = three.number_input("Seed", 0, key=form("bench-seed"))
    wish = Wish(requests=int(requests) if requests else None, repeat=int(repeat), seed=int(seed))
    # As on the Servers page: a button's own value can get lost while a part of the page is
    # refreshed, and what is measured is what the form says now, so the callback only takes a note.
    st.button(
        "Measure",
        type="primary",
        icon=":material/speed:",
        disabled=not providers,
        on_click=lambda: st.session_state.update(bench_pressed=True),
        key="bench-start",
    )
    if st.session_state.pop("bench_pressed", False) and providers:
        _start(name, wish, tuple(providers))


def _start(name: str, wish: Wish, providers: tuple[str, ...]) -> None:
    command = ["gearshift", "bench", "--scenario", name, "--repeat", str(wish.repeat)]
    command += ["--seed", str(wish.seed)]
    command += ["--requests", str(wish.requests)] if wish.requests else []
    for provider in providers:
        command += ["--provider", provider]
    if is_tuning(load_settings().home_dir):
        st.warning("A search for settings is under way on this machine: the two measure each other")
    try:
        job.start(name, wish, providers, shlex.join(command))
    except GearshiftError as problem:
        show_problem(problem)


@refreshed(every=2)  # drawing takes from the servers that are measured
def _live() -> None:
    """What is being measured, as far as it is."""
    last = job.last_job()
    if last is None:
        return
    if not last.running:
        show_end(last, "bench-dismiss")
        record = last.record()
        if record is not None and last.name is None:  # it could not be kept: here alone it is
            show_record(record)
        if (
            last.problem is None
            and last.name is not None
            and st.session_state.get("bench-seen") != last.name
        ):
            # Once: so that what was kept is in the list below.
            st.session_state["bench-seen"] = last.name
            st.session_state["bench-kept"] = last.name
            st.rerun()
        return
    with st.container(border=True):
        series = last.series
        done, words = 0.0, "looking for servers"
        if series is not None:
            for server, why in series.skipped.items():
                st.warning(plain(f"{server} is not measured: {why}"))
            now = series.progress
            number = min(len(series.measured) + 1, series.planned)
            what = "cancelling" if last.cancelling else series.now
            done = len(series.measured) / series.planned
            of = f" of {series.requests}" if series.requests else ""
            words = (
                f"run {number} of {series.planned}, {what}: "
                f"{now.done}{of} answers, {now.failed} failed, {now.tokens} tokens"
            )
        show_progress(last, done, words, "bench-cancel")
        record = last.record()
        if record is not None:
            show_record(record)


def _kept() -> None:
    home = load_settings().home_dir
    names = runs.kept(home)
    st.subheader("Measured before")
    if not names:
        st.caption("Nothing was kept yet.")
        return
    left, right = st.columns(2)
    chosen = left.selectbox("Look at", names, key="bench-kept")
    other = right.selectbox(
        "Compare with an earlier one",
        [_NOTHING, *(n for n in names if n != chosen)],
        key="bench-compared",
    )
    try:
        record = runs.load(chosen, home)
        if record["cancelled"]:
            st.caption("It was cancelled: these are the figures until then.")
        show_record(record)
        if other != _NOTHING:
            st.markdown(f"**From {plain(other)} to {plain(chosen)}**")
            show_comparison(runs.load(other, home), record)
        offer_report(record, chosen)
        st.code(record["command"], language="bash", wrap_lines=True)
    except GearshiftError as problem:
        show_problem(problem)


main()
