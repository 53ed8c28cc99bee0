"""Tune: which settings serve the most people within the goals, with a load of one's own?"""

from __future__ import annotations

import streamlit as st

from gearshift.bench import Wish, parse_goals
from gearshift.bench.tuning import Aim, job, open_tuning
from gearshift.bench.tuning.alone import is_tuning
from gearshift.bench.tuning.result import aim_of, figures, kept_names, load
from gearshift.bench.tuning.space import NAMES
from gearshift.bench.tuning.tune import Tuning
from gearshift.engine.profiles import OPTIONS
from gearshift.errors import GearshiftError
from gearshift.settings import load_settings
from parts.markdown import plain
from parts.measuring import show_end, show_progress
from parts.refreshed import refreshed
from parts.state import form, show_problem
from parts.tuning import is_complete, show_result, show_search

_PROMPTS = {
    "Questions about the handbook": "questions",
    "Conversations of this installation": "conversations",
    "Made-up text": None,
}
_OPTIONS = {OPTIONS.get(name, name).replace("_", "-"): name for name in NAMES}


def main() -> None:
    st.title("Tune")
    st.write(
        "Servers are started one after the other with different settings, loaded, and ended: "
        "vLLM's defaults first, the guide's profiles next. Losers are stopped early, the winner "
        "is measured beside the defaults again. It takes a while; this page may be left."
    )
    aim = _form()
    _start(aim)
    _live()
    _kept()


def _form() -> Aim | None:
    settings = load_settings()
    wide, narrow = st.columns([3, 2])
    model = wide.text_input(
        "Model", placeholder="a Hub id, a folder, or an Ollama name", key=form("tune-model")
    )
    goals = narrow.text_input(
        "Goals",
        help="Several by commas; ttft, tpot, itl and e2el in seconds.",
        key=form("tune-goals", "p95 ttft < 1"),
    )
    chosen = st.multiselect(
        "Search over",
        list(_OPTIONS),
        placeholder="the guide's: sequences, tokens in a step, and memory on GPUs",
        key=form("tune-parameters"),
    )
    one, two, three = st.columns(3)
    prompts = one.selectbox("People ask", _PROMPTS, key=form("tune-prompts"))
    made_up = _PROMPTS[prompts] is None
    length = two.number_input(
        "Tokens of a prompt", 1, disabled=not made_up, key=form("tune-input", 200)
    )
    answer = three.number_input("Tokens of an answer", 1, key=form("tune-output", 128))
    four, five, six = st.columns(3)
    starts = four.number_input("Starts at most", 1, 200, key=form("tune-starts", 12))
    most = five.number_input("People at most", 1, 10_000, key=form("tune-most", 256))
    rounds = six.number_input(
        "Rounds of the proof",
        0,
        50,
        help="From three on there is an interval.",
        key=form("tune-rounds", 5),
    )
    if not model.strip():
        st.caption("Name a model above: then you see what can be searched over.")
        return None
    asked = Wish(
        input_tokens=int(length) if made_up else None,
        output_tokens=int(answer),
        prompts=_PROMPTS[prompts] or "questions",
    )
    try:
        aim = Aim(
            model.strip(),
            parse_goals(goals),
            ", ".join(chosen) or None,
            asked,
            int(starts),
            int(rounds),
            min(4, int(most)),
            int(most),
        )
        tuning = open_tuning(aim, settings)
    except GearshiftError as problem:
        show_problem(problem)
        return None
    _what(tuning)
    return aim


def _what(tuning: Tuning) -> None:
    """What would be searched, and whether something is known of it already."""
    for one in tuning.space.parameters:
        values = ", ".join(map(str, one.choices))
        own = f" (vLLM's own: {one.default})" if one.default is not None else ""
        name = OPTIONS.get(one.name, one.name).replace("_", "-")
        st.caption(plain(f"{name}: {values}{own}"))
    if tuning.journal(load_settings().home_dir).exists():
        st.toggle(
            "Forget what was measured before",
            key="tune-fresh",
            help="Without, it goes on where it stopped.",
        )


def _start(aim: Aim | None) -> None:
    # As on the Servers page: a callback takes a note, since a button's own value can get lost.
    st.button(
        "Tune",
        type="primary",
        icon=":material/tune:",
        disabled=aim is None,
        on_click=_press,
        key="tune-start",
    )
    if st.session_state.pop("tune_pressed", False) and aim is not None:
        # Once: who cancels that search and begins again wants to go on.
        _begin(aim, fresh=bool(st.session_state.pop("fresh_wanted", False)))


def _press() -> None:
    fresh = st.session_state.pop("tune-fresh", False)
    st.session_state.update(tune_pressed=True, fresh_wanted=fresh)


def _begin(aim: Aim, fresh: bool = False) -> None:
    try:
        job.start(aim, load_settings(), fresh=fresh)
    except GearshiftError as problem:
        show_problem(problem)


@refreshed(every=2)
def _live() -> None:
    """The search that runs, as far as it is."""
    last = job.last_job()
    if (last is None or not last.running) and is_tuning(load_settings().home_dir):
        st.info(
            "A search that was begun elsewhere, by `gearshift tune` for instance, is under way on "
            "this machine. What it finds is in the list below when it has ended."
        )
    if last is None:
        return
    tuning = last.tuning
    if not last.running:
        show_end(last, "tune-dismiss")
        if st.session_state.get("tune-seen") != id(last):
            # Once: so that what was kept is in the list below.
            st.session_state["tune-seen"] = id(last)
            if tuning.name in kept_names(load_settings().home_dir):
                st.session_state["tune-kept"] = tuning.name
            st.rerun()
        return
    with st.container(border=True):
        now = tuning.progress
        counts = f": {now.done} answers, {now.failed} failed" if now.sent else ""
        what = "cancelling" if last.cancelling else tuning.now or "beginning"
        number = min(tuning.starts + (tuning.trial is not None), tuning.aim.starts)
        step = "" if tuning.proving else f"start {number} of {tuning.aim.starts}, "
        show_progress(last, tuning.share, f"{step}{what}{counts}", "tune-cancel")
        show_search(figures(tuning))


def _kept() -> None:
    home = load_settings().home_dir
    names = kept_names(home)
    st.subheader("Searches")
    if not names:
        st.caption("Nothing was tuned yet.")
        return
    name = st.selectbox("Look at", names, key="tune-kept")
    try:
        found = load(name, home)
    except GearshiftError as problem:
        show_problem(problem)
        return
    goals = ", ".join(goal["words"] for goal in found["goals"])
    st.caption(plain(f"{found['model']}, {goals}, {found['made']}"))
    show_result(found)
    if not is_complete(found):
        st.button(
            "Go on",
            icon=":material/play_arrow:",
            on_click=_begin,
            args=(aim_of(found),),
            key="tune-go-on",
        )
    show_search(found)


main()
