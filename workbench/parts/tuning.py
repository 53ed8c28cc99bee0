"""How a search is shown: every trial and why it ended, what won, and the proof."""

from __future__ import annotations

import shlex
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from gearshift.bench.tuning import Outcome, Verdict
from gearshift.bench.tuning.result import people_of
from parts.markdown import plain

_COLORS = {
    Outcome.MEASURED: "#0d9488",
    Outcome.STOPPED: "#64748b",
    Outcome.PRUNED: "#cbd5e1",
    Outcome.FAILED: "#ef4444",
}
_HEIGHT = 240
_ROW, _KEY = 26, 30  # pixels of a bar, and of a line of a legend


def show_search(found: dict[str, Any]) -> None:
    """Everything that is known of a search; of one that grows, too."""
    if not found["trials"]:
        return
    _people(found)
    left, right = st.columns(2)
    with left:
        _loads(found)
    with right:
        _proof(found)
    st.dataframe(_table(found), hide_index=True)
    _reasons(found)


def _name(trial: dict[str, Any]) -> str:
    return f"{trial['number']} · {trial['words']}"


def _people(found: dict[str, Any]) -> None:
    """A bar for each setting: the most people with whom the goals are met."""
    best = (found["best"] or {}).get("number")
    rows = [
        {
            "setting": _name(trial) + (" ★" if trial["number"] == best else ""),
            "people": trial["users"],
            "shown": f"{people_of(trial)} {trial['cause'] or ''}",
            "outcome": trial["outcome"],
            "why": trial["cause"] or trial["reason"] or trial["label"],
        }
        for trial in found["trials"]
        if trial["outcome"] != Outcome.PRUNED
    ]
    if not rows:
        return
    st.markdown("**People at once within the goals, by setting**")
    scale = alt.Scale(domain=[o.value for o in _COLORS], range=list(_COLORS.values()))
    axis = alt.Axis(labelLimit=230, labelOverlap=False)
    shared = alt.Chart(pd.DataFrame(rows)).encode(
        y=alt.Y("setting:N", sort=None, title=None, axis=axis),
        x=alt.X("people:Q", title=None, axis=alt.Axis(tickMinStep=1, tickCount=6)),
    )
    legend = alt.Legend(orient="bottom", title=None, columns=2)
    bars = shared.mark_bar().encode(
        color=alt.Color("outcome:N", scale=scale, legend=legend),
        tooltip=["setting", "shown", "outcome", "why"],
    )
    labels = shared.mark_text(align="left", dx=4, color="gray").encode(text="shown:N")
    st.altair_chart((bars + labels).properties(height=alt.Step(_ROW)), width="stretch")


def _loads(found: dict[str, Any]) -> None:
    """Each load that was measured, beside the limit of the first goal: why a setting holds."""
    goal = found["goals"][0]
    rows = [
        {
            "people": point["users"],
            "seconds": value if complete else max(value, goal["limit_s"]),
            "setting": _name(trial),
            "load": "goals met" if point["holds"] else "missed" if complete else "ended early",
        }
        for trial in found["trials"]
        for point in trial["points"]
        if (value := point["figures"].get(goal["words"])) is not None
        for complete in [point["margin"] is not None]
    ]
    if not rows:
        return
    st.markdown(f"**{plain(goal['words'])}: every load that was measured**")
    below = {"orient": "bottom", "labelLimit": 280, "title": None}
    base = alt.Chart(pd.DataFrame(rows)).encode(
        x=alt.X("people:Q", title="people at once", axis=alt.Axis(tickMinStep=1, format="d")),
        y=alt.Y("seconds:Q", title="seconds"),
        color=alt.Color("setting:N", legend=alt.Legend(**below, columns=1)),
        tooltip=["setting", "people", alt.Tooltip("seconds:Q", format=".3f"), "load"],
    )
    shapes = alt.Scale(
        domain=["goals met", "missed", "ended early"], range=["circle", "cross", "triangle-up"]
    )
    points = base.mark_point(filled=True, size=60).encode(
        shape=alt.Shape("load:N", scale=shapes, legend=alt.Legend(**below, columns=3))
    )
    lines = base.transform_filter("datum.load != 'ended early'").mark_line()
    limit = alt.Chart(pd.DataFrame([{"limit": goal["limit_s"]}])).mark_rule(
        color="#ef4444", strokeDash=[4, 4]
    )
    settings = len({row["setting"] for row in rows})
    chart = lines + points + limit.encode(y="limit:Q")
    st.altair_chart(chart.properties(height=_HEIGHT + _KEY * (settings + 1)), width="stretch")


def _proof(found: dict[str, Any]) -> None:
    """Both, round for round."""
    rows = [
        {"round": number, "who": who, "answers": one[key]["goodput_per_s"]}
        for number, one in enumerate(found["rounds"], 1)
        for key, who in (("default", "vLLM's defaults"), ("best", "the winner"))
        if one[key] is not None
    ]
    if not rows:
        return
    people = found["best"]["users"] if found["best"] else "?"
    st.markdown(f"**The proof: answers in time a second, {people} people at once**")
    colors = alt.Scale(domain=["vLLM's defaults", "the winner"], range=["#64748b", "#0d9488"])
    chart = alt.Chart(pd.DataFrame(rows), height=_HEIGHT + 2 * _KEY).mark_bar()
    st.altair_chart(
        chart.encode(
            x=alt.X("round:O", title="round", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("who:N", sort=["vLLM's defaults", "the winner"]),
            y=alt.Y("answers:Q", title=None),
            color=alt.Color("who:N", scale=colors, legend=alt.Legend(orient="bottom", title=None)),
            tooltip=["who", "round", alt.Tooltip("answers:Q", format=".2f")],
        ),
        width="stretch",
    )


def _table(found: dict[str, Any]) -> pd.DataFrame:
    best = (found["best"] or {}).get("number")
    return pd.DataFrame(
        [
            {
                "": "★" if trial["number"] == best else "",
                "setting": trial["words"],
                "from": trial["label"],
                "result": trial["outcome"],
                "people": people_of(trial),
                "in time/s": _rounded(trial["goodput_per_s"]),
                "tokens/s": _rounded(trial["output_tokens_per_s"]),
                "loads": len(trial["points"]),
                "start, s": _rounded(trial["start_s"]),
                "why": trial["cause"] or trial["reason"],
            }
            for trial in found["trials"]
        ]
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _reasons(found: dict[str, Any]) -> None:
    """What the doctor says of the starts that failed."""
    for trial in found["trials"]:
        if trial["outcome"] != Outcome.FAILED:
            continue
        title = f"{_name(trial)}: {trial['cause'] or 'it failed'}"
        with st.expander(plain(title), icon=":material/stethoscope:"):
            st.markdown(plain(trial["reason"]))
            if trial["evidence"]:
                st.code(trial["evidence"], language=None, wrap_lines=True)
            if trial["fix"]:
                st.markdown(f"**Fix** {plain(trial['fix'])}")


def is_complete(found: dict[str, Any]) -> bool:
    """Whether a search has come to its end; records of older versions only know if not."""
    return bool(found.get("complete", not found["cancelled"]))


def show_result(found: dict[str, Any]) -> None:
    """The verdict, the command and the profile."""
    shown = {Verdict.BETTER: st.success, Verdict.NONE: st.error, Verdict.UNPROVEN: st.warning}
    if not is_complete(found):
        how = "It was cancelled" if found["cancelled"] else "It broke off"
        st.info(f"{how}; it can go on where it stopped. {plain(found['sentence'])}")
    elif found["trials"]:
        shown.get(found["verdict"], st.info)(plain(found["sentence"]))
    if not is_complete(found) or not found["command"]:
        return
    st.code(shlex.join(found["command"]), language="bash", wrap_lines=True)
    if found["profile"]:
        line = ["gearshift", "serve", found["model"], "--profile", found["profile"]]
        st.caption("The same as a profile, which the Servers page offers, too")
        st.code(shlex.join(line), language="bash", wrap_lines=True)
