"""How a measurement is shown: charts, figures, remarks, and the report to take away."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from gearshift.bench import runs
from gearshift.bench.charts import COLORS, Chart, one_load
from gearshift.bench.machine import in_words
from gearshift.bench.report import goals_met, html, intervals, label, remarks, shown
from parts.markdown import plain

_HEIGHT = 320
_LEGEND_LINE, _BAR = 31, 34  # pixels


def show_record(record: dict[str, Any]) -> None:
    """Charts and figures; of one that grows, too."""
    if record["crossover"]:
        st.info(plain(record["crossover"]["sentence"]), icon=":material/balance:")
    drawn = shown(record)
    for pair in (drawn[:2], drawn[2:]):
        for column, chart in zip(st.columns(2), pair, strict=False):
            with column:
                _draw(chart)
    st.dataframe(_table(record), hide_index=True)
    heads, rows = intervals(record)
    if rows:
        st.caption("Over the repetitions: median and 95 % interval")
        st.dataframe(pd.DataFrame(rows, columns=heads), hide_index=True)
    for text in (*remarks(record), in_words(record["machine"])):
        st.caption(plain(text))


def _draw(chart: Chart) -> None:
    rows = [
        {"x": x, "y": y, "line": line.name, "number": number, "what": text}
        for line in chart.lines
        for number, ((x, y), text) in enumerate(zip(line.points, line.labels, strict=True))
    ]
    frame = pd.DataFrame(rows, columns=["x", "y", "line", "number", "what"])
    names = list(dict.fromkeys(line.name for line in chart.lines))
    groups = list(dict.fromkeys(line.group for line in chart.lines))
    colors = [COLORS[groups.index(line.group) % len(COLORS)] for line in chart.lines]
    dashes = [[line.dash, 4] if line.dash else [1, 0] for line in chart.lines]
    if one_load(chart):
        _draw_bars(chart, frame, names, colors)
        return
    # Below each other, so that long names have room on a phone, too.
    legend = alt.Legend(
        orient="bottom", columns=1, labelLimit=300, title=None, symbolType="stroke", symbolSize=400
    )
    base = alt.Chart(frame, title=f"{chart.title}, {chart.y}").encode(
        x=alt.X(
            "x:Q",
            title=chart.x,
            scale=alt.Scale(domainMin=0),
            axis=alt.Axis(tickCount=6, tickMinStep=1),
        ),
        y=alt.Y("y:Q", title=None, scale=alt.Scale(domainMin=0)),
        color=alt.Color("line:N", scale=alt.Scale(domain=names, range=colors), legend=legend),
        strokeDash=alt.StrokeDash(
            "line:N", scale=alt.Scale(domain=names, range=dashes), legend=legend
        ),
        order="number:Q",
        tooltip=alt.Tooltip("what:N", title="measured"),
    )
    lines = (base.mark_line() + base.mark_circle(size=50)).properties(
        height=_HEIGHT + _LEGEND_LINE * len(names)
    )
    st.altair_chart(lines, width="stretch")


def _draw_bars(chart: Chart, frame: pd.DataFrame, names: list[str], colors: list[str]) -> None:
    base = alt.Chart(frame, title=f"{chart.title}, {chart.y}").encode(
        x=alt.X("y:Q", title=None, scale=alt.Scale(domainMin=0)),
        y=alt.Y("line:N", title=None, sort=names, axis=alt.Axis(labelLimit=260)),
        tooltip=alt.Tooltip("what:N", title="measured"),
    )
    bars = base.mark_bar().encode(
        color=alt.Color("line:N", scale=alt.Scale(domain=names, range=colors), legend=None)
    )
    values = base.mark_text(align="left", dx=4).encode(text=alt.Text("y:Q", format=",.4~g"))
    st.altair_chart((bars + values).properties(height=alt.Step(_BAR)), width="stretch")


def _table(record: dict[str, Any]) -> pd.DataFrame:
    rows = [
        {
            "server": label(run) + (" (invalid)" if run["invalid"] else ""),
            "people": run["concurrency"],
            "requests": run["requests"],
            "failed": run["failed"],
            "tokens/s": _rounded(run["output_tokens_per_s"]),
            **{
                f"{name} {which}, ms": _rounded(run[f"{name.lower()}_s"][which], 1000)
                for name, which in (
                    ("TTFT", "p50"),
                    ("TTFT", "p95"),
                    ("TPOT", "p50"),
                    ("ITL", "p50"),
                    ("ITL", "p99"),
                    ("E2EL", "p50"),
                )
            },
            "client CPU, %": _rounded(run["client_cpu_percent"]),
            **_goals(run),
        }
        for run in record["runs"]
    ]
    return pd.DataFrame(rows)


def _goals(run: dict[str, Any]) -> dict[str, Any]:
    if not run["goals_met"]:
        return {}
    return {"goodput/s": _rounded(run["goodput_per_s"]), "goals met": goals_met(run)}


def _rounded(value: float | None, scale: float = 1) -> float | None:
    return None if value is None else round(value * scale, 1)


def show_comparison(before: dict[str, Any], after: dict[str, Any]) -> None:
    """What changed from one measurement to another."""
    for text in runs.differences(before, after):
        st.caption(plain(f"Not the same: {text}"))
    rows = [
        {
            "server": row["target"],
            "people": row["concurrency"],
            **{
                name.removesuffix("_s").replace("_", " "): _change(row[name])
                for name in runs.COMPARED
            },
        }
        for row in runs.compare(before, after)
    ]
    if not rows:
        st.caption(
            "They have no server and number of people in common that was measured to the end."
        )
        return
    st.dataframe(pd.DataFrame(rows), hide_index=True)
    st.caption(
        "A star: the 95 % intervals over the repetitions lie apart. Without repetitions nobody "
        "knows whether a change is more than chance."
    )


def _change(change: dict[str, Any]) -> str:
    if change["change"] is None:
        return "?"
    return f"{change['change']:+.1%}{' ★' if change['certain'] else ''}"


def offer_report(record: dict[str, Any], name: str) -> None:
    """Two buttons: the page with charts, and the figures as JSON."""
    left, right = st.columns(2)
    left.download_button(
        "Report (HTML)",
        html(record),
        f"{name}.html",
        "text/html",
        icon=":material/description:",
        width="stretch",
    )
    right.download_button(
        "Figures (JSON)",
        json.dumps(record, indent=1),
        f"{name}.json",
        "application/json",
        icon=":material/data_object:",
        width="stretch",
    )
