"""GPU and engine: what the hardware, vLLM and Ollama do, now and over the last ten minutes."""

from __future__ import annotations

import html
from datetime import datetime

import altair as alt
import pandas as pd
import streamlit as st

from gearshift import gpu
from gearshift.engine.metrics import Metrics, Percentiles, in_words
from gearshift.engine.monitor import KEPT, Engine, Machine, Ollama
from gearshift.gpu import GPU
from parts.markdown import plain
from parts.monitor import GIB, gib, monitor, percent
from parts.refreshed import refreshed
from parts.room import would_it_fit

_HEIGHT = 220
_COLORS = ("#0d9488", "#3b82f6", "#f59e0b", "#a855f7", "#ef4444", "#64748b")
_FREE = "#8884"  # looks empty on dark and on light


def main() -> None:
    st.title("GPU and engine")
    watched = monitor()  # begins to look, if nobody did before
    _live()
    st.subheader("Would this model still fit?")
    would_it_fit(watched.machine[-1].gpus.gpus if watched.machine else gpu.look().gpus)


@refreshed(every=2)
def _live() -> None:
    watched = monitor()
    moments = watched.machine
    if not moments:
        st.caption("Looking …")
        return
    _hardware(moments)
    for engine in watched.engines:
        _engine(engine)
    if watched.ollama is not None:
        _ollama(watched.ollama)


# ---- hardware


def _hardware(moments: list[Machine]) -> None:
    now = moments[-1]
    if now.gpus.problem:
        hint = f" {_sentence(now.gpus.hint)}" if now.gpus.hint else ""
        st.info(plain(f"{_sentence(now.gpus.problem)}{hint}"), icon=":material/memory:")
    elif not now.gpus.gpus:
        st.info("The NVIDIA driver knows of no GPU here.", icon=":material/memory:")
    for card in now.gpus.gpus:
        _card(card)
    if now.gpus.gpus:
        _gpu_charts(moments)
    else:
        _processor(moments)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _card(card: GPU) -> None:
    with st.container(border=True):
        st.markdown(f"**GPU {card.index}** · {plain(card.name or 'unnamed')}")
        if card.problem:
            st.error(plain(_sentence(card.problem)))
            return
        one, two, three, four = st.columns(4)
        one.metric("Memory used", gib(card.memory_used_bytes))
        two.metric("Load", percent(card.utilization_percent))
        three.metric("Temperature", _unit(card.temperature_c, "°C"))
        four.metric("Power", _unit(card.power_watts, "W"))
        _memory_by_holder(card)
        st.caption(plain(_details(card)))
        for note in card.notes:
            st.caption(plain(_sentence(note)))


def _details(card: GPU) -> str:
    parts = []
    if card.power_limit_watts is not None:
        parts.append(f"power limit {card.power_limit_watts:.0f} W")
    if card.clock_mhz is not None:
        parts.append(f"clock {card.clock_mhz} MHz")
    if card.memory_clock_mhz is not None:
        parts.append(f"memory clock {card.memory_clock_mhz} MHz")
    if card.compute_capability is not None:
        parts.append("compute capability " + ".".join(map(str, card.compute_capability)))
    if card.mig:
        parts.append(f"{len(card.mig)} MIG instances")
    return " · ".join(parts)


def _memory_by_holder(card: GPU) -> None:
    """One bar: who holds how much of the memory, and what is free."""
    if card.memory_total_bytes is None or card.memory_used_bytes is None:
        return
    owners = {
        process.pid: engine.name
        for engine in monitor().engines
        if engine.record is not None
        for process in engine.record.tree
    }
    rows = []
    for holder in card.holders or ():
        name = owners.get(holder.pid) or holder.name or "?"
        rows.append((f"{name} ({holder.pid})", holder.memory_bytes or 0))
    rest = card.memory_used_bytes - sum(size for _, size in rows)
    rows.append(("others and the driver" if rows else "used", max(0, rest)))
    rows.append(("free", card.memory_total_bytes - card.memory_used_bytes))
    parts, names = [], []
    for number, (name, size) in enumerate(rows):
        color = _FREE if name == "free" else _COLORS[number % len(_COLORS)]
        share = 100 * size / card.memory_total_bytes
        parts.append(f'<div style="width:{share:.2f}%;background:{color}"></div>')
        dot = f'<span style="color:{color}">■</span>'
        names.append(f"{dot} {html.escape(name)} {gib(size)}")
    st.html(
        '<div style="display:flex;height:14px;border-radius:7px;overflow:hidden">'
        + "".join(parts)
        + '</div><div style="font-size:0.85rem;margin-top:6px">'
        + " &nbsp; ".join(names)
        + "</div>"
    )


def _unit(value: float | None, unit: str) -> str:
    return "?" if value is None else f"{value:.0f} {unit}"


def _gpu_charts(moments: list[Machine]) -> None:
    left, right = st.columns(2)
    load, memory = [], []
    for moment in moments:
        for card in moment.gpus.gpus:
            name = f"GPU {card.index}"
            load.append((moment.at, name, card.utilization_percent))
            used = card.memory_used_bytes
            memory.append((moment.at, name, None if used is None else used / GIB))
    with left:
        _chart("Load, %", load)
    with right:
        _chart("Memory used, GiB", memory)


def _processor(moments: list[Machine]) -> None:
    now = moments[-1]
    with st.container(border=True):
        st.markdown("**Processor and memory**")
        one, two, _ = st.columns([1, 1, 2])
        one.metric("Load", percent(now.processor_percent))
        two.metric("Memory used", gib(now.memory_used_bytes))
        st.progress(
            now.memory_used_bytes / now.memory_total_bytes, f"of {gib(now.memory_total_bytes)}"
        )
        left, right = st.columns(2)
        with left:
            _chart("Load, %", [(m.at, "processor", m.processor_percent) for m in moments])
        with right:
            rows = [(m.at, "memory", m.memory_used_bytes / GIB) for m in moments]
            _chart("Memory used, GiB", rows)


# ---- engines


def _engine(engine: Engine) -> None:
    seqs = engine.record.launch.max_num_seqs if engine.record else None
    now, problem = engine.now(), engine.readings[-1].problem if engine.readings else None
    with st.container(border=True):
        st.markdown(f"**vLLM** · {plain(engine.name)}")
        if problem:
            st.caption(plain(f"{problem}."))
        elif now is None:
            st.caption("Looking …")
        else:
            st.write(plain(in_words(now, seqs)))
        if now is None:
            return
        _gauges(now)
        _times(engine)
        _engine_charts(engine)


def _gauges(now: Metrics) -> None:
    figures = {
        "Running": "?" if now.running is None else str(now.running),
        "Waiting": "?" if now.waiting is None else str(now.waiting),
        "KV cache": _share(now.kv_cache_usage),
        "Prefix cache hits": _share(now.prefix_cache_hit_rate),
        "Tokens written": _rate(now.generation_tokens_per_s),
        "Tokens read": _rate(now.prompt_tokens_per_s),
    }
    for column, (name, value) in zip(st.columns(len(figures)), figures.items(), strict=True):
        column.metric(name, value)


def _times(engine: Engine) -> None:
    """Of the last ten minutes: in ten seconds there may be too few requests."""
    whole = engine.measure(KEPT)
    if whole is None:
        return
    parts = []
    for name, times in (("first token", whole.ttft_s), ("between tokens", whole.itl_s)):
        if times.p50 is not None:
            parts.append(f"{name} {_times_in_words(times)}")
    if whole.finished is not None:
        parts.append(f"{whole.finished} requests finished")
    if whole.preemptions:
        parts.append(f"{whole.preemptions} put back for want of KV cache")
    if whole.kv_cache_tokens:
        parts.append(f"the KV cache holds {whole.kv_cache_tokens:,} tokens")
    minutes = f"{whole.seconds / 60:.0f} min" if whole.seconds >= 90 else f"{whole.seconds:.0f} s"
    st.caption(plain(f"Last {minutes}: {' · '.join(parts)}"))


def _times_in_words(times: Percentiles) -> str:
    return f"{_seconds(times.p50)} in the middle, 95 % within {_seconds(times.p95)}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _rate(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f} /s"


def _engine_charts(engine: Engine) -> None:
    requests, tokens = [], []
    for at, step in engine.steps():
        requests += [
            (at, "running", step and step.running),
            (at, "waiting", step and step.waiting),
        ]
        tokens += [
            (at, "written", step and step.generation_tokens_per_s),
            (at, "read", step and step.prompt_tokens_per_s),
        ]
    left, right = st.columns(2)
    with left:
        _chart("Requests", requests)
    with right:
        _chart("Tokens a second", tokens)


# ---- Ollama


def _ollama(found: Ollama) -> None:
    with st.container(border=True):
        st.markdown(f"**Ollama** · {plain(found.url)}")
        if found.problem:
            st.caption(plain(f"{found.problem}."))
            return
        if not found.loaded:
            st.caption("No model is loaded; the next question loads one.")
            return
        rows = [
            {
                "model": model.name,
                "memory": gib(model.size_bytes),
                "on the GPU": _share(model.gpu_share),
                "until": _until(model.until),
            }
            for model in found.loaded
        ]
        st.dataframe(pd.DataFrame(rows), hide_index=True)


def _until(text: str | None) -> str:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return "?"
    if moment.year > datetime.now().year + 50:  # how Ollama writes "for ever"
        return "it is told to go"
    return moment.astimezone().strftime("%H:%M:%S")


def _chart(title: str, rows: list[tuple[float, str, float | None]]) -> None:
    """Lines over the last ten minutes; a gap where nothing is known."""
    frame = pd.DataFrame(rows, columns=["at", "what", "value"])
    frame["at"] = pd.to_datetime(frame["at"], unit="s", utc=True)
    end = frame["at"].max() if rows else pd.Timestamp.now(tz="UTC")
    minutes = alt.Scale(domain=[end - pd.Timedelta(KEPT, "s"), end])
    axis = alt.Axis(format="%H:%M", tickCount=5)
    legend = alt.Legend(orient="top", offset=0, padding=0) if frame["what"].nunique() > 1 else None
    lines = (
        alt.Chart(frame, title=title)
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("at:T", title=None, scale=minutes, axis=axis),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(domainMin=0)),
            color=alt.Color("what:N", title=None, legend=legend),
        )
        .properties(height=_HEIGHT)
    )
    st.altair_chart(lines, width="stretch")


main()
