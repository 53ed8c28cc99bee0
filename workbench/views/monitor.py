"""GPU and engine: what the hardware, vLLM and Ollama do, now and over the last ten minutes."""

from __future__ import annotations

import html

import altair as alt
import pandas as pd
import streamlit as st

from gearshift.engine import servers
from gearshift.engine.monitor import KEPT, Engine, Machine, Ollama
from gearshift.engine.records import State
from gearshift.engine.words import (
    card_details,
    figures,
    gib,
    latencies,
    loaded_line,
    part_of,
    percent,
)
from gearshift.gpu import GPU, Link
from parts.markdown import plain
from parts.monitor import monitor
from parts.refreshed import refreshed
from parts.room import would_it_fit

_GIB = 1 << 30
_HEIGHT = 220
_COLORS = ("#0d9488", "#3b82f6", "#f59e0b", "#a855f7", "#ef4444", "#64748b")
_FREE = "#8884"  # looks empty on dark and on light


def main() -> None:
    st.title("GPU and engine")
    watched = monitor()  # begins to look, if nobody did before
    watched.wait(5.0)
    _live()
    st.subheader("Would this model still fit?")
    would_it_fit(watched.machine[-1].gpus.gpus if watched.machine else ())


@refreshed(every=2)
def _live() -> None:
    watched = monitor()
    moments, engines = watched.machine, watched.engines
    if not moments:
        st.caption("Looking …")
        return
    owners = servers.owners(engine.record for engine in engines if engine.record is not None)
    _hardware(moments, watched.links, owners)
    for engine in engines:
        _engine(engine)
    if watched.ollama is not None:
        _ollama(watched.ollama)


# ---- hardware


def _hardware(moments: list[Machine], links: tuple[Link, ...], owners: dict[int, str]) -> None:
    now = moments[-1]
    if now.gpus.problem:
        st.info(_sentences(now.gpus.problem, now.gpus.hint), icon=":material/memory:")
    elif not now.gpus.gpus:
        st.info("The NVIDIA driver knows of no GPU here.", icon=":material/memory:")
    for card in now.gpus.gpus:
        _card(card, owners)
    if now.gpus.gpus:
        versions = f"NVIDIA driver {now.gpus.driver or '?'}, CUDA {now.gpus.cuda or '?'}"
        between = [f"GPU {link.first} and {link.second}: {link.kind}" for link in links]
        st.caption(plain(" · ".join([versions, *between])))
    if any(moment.gpus.gpus for moment in moments):
        _gpu_charts(moments)
    if now.processor_matters:
        _processor(moments)


def _sentences(*texts: str | None) -> str:
    """Of what is wrong and what to do."""
    said = (text.rstrip(". ") for text in texts if text)
    return plain(" ".join(f"{text[:1].upper()}{text[1:]}." for text in said))


def _figures(values: dict[str, str]) -> None:
    """Side by side, as many as there is room for."""
    with st.container(horizontal=True, gap="medium"):
        for name, value in values.items():
            st.metric(name, value, width="content")


def _card(card: GPU, owners: dict[int, str]) -> None:
    with st.container(border=True):
        st.markdown(f"**GPU {card.index}** · {plain(card.name or 'unnamed')}")
        if card.problem:
            st.error(_sentences(card.problem))
            return
        _figures(
            {
                "Memory used": part_of(card.memory_used_bytes, card.memory_total_bytes),
                "Load": percent(card.utilization_percent),
                "Temperature": _unit(card.temperature_c, "°C"),
                "Power": _unit(card.power_watts, "W"),
            }
        )
        _memory_by_holder(card, owners)
        for line in card_details(card):
            st.caption(plain(line))
        for note in card.notes:
            st.caption(_sentences(note))


def _memory_by_holder(card: GPU, owners: dict[int, str]) -> None:
    """One bar: who holds how much of the memory, and what is free."""
    total, used = card.memory_total_bytes, card.memory_used_bytes
    if not total or used is None:
        return
    rows: list[tuple[str, int | None]] = []
    for holder in card.holders or ():
        name = owners.get(holder.pid) or holder.name or "?"
        rows.append((f"{name} ({holder.pid})", holder.memory_bytes))
    rest = max(0, used - sum(size or 0 for _, size in rows))
    unknown = any(size is None for _, size in rows)
    others = "those of unknown size, others and the driver" if unknown else "others and the driver"
    rows.append((others if rows else "used", rest))
    rows.append(("free", total - used))
    parts, names = [], []
    for number, (name, size) in enumerate(rows):
        color = _FREE if name == "free" else _COLORS[number % len(_COLORS)]
        share_of_it = 100 * (size or 0) / total
        parts.append(f'<div style="width:{share_of_it:.2f}%;background:{color}"></div>')
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
    for index in sorted({card.index for moment in moments for card in moment.gpus.gpus}):
        name = f"GPU {index}"
        for moment in moments:
            card = next((c for c in moment.gpus.gpus if c.index == index), GPU(index))
            used = card.memory_used_bytes
            load.append((moment.at, name, card.utilization_percent))
            memory.append((moment.at, name, None if used is None else used / _GIB))
    with left:
        _chart("Load, %", load)
    with right:
        _chart("Memory used, GiB", memory)


def _processor(moments: list[Machine]) -> None:
    now = moments[-1]
    with st.container(border=True):
        st.markdown("**Processor and memory**")
        memory = part_of(now.memory_used_bytes, now.memory_total_bytes)
        _figures({"Load": percent(now.processor_percent), "Memory used": memory})
        st.progress(min(1.0, now.memory_used_bytes / now.memory_total_bytes))
        left, right = st.columns(2)
        with left:
            _chart("Load, %", [(m.at, "processor", m.processor_percent) for m in moments])
        with right:
            rows = [(m.at, "memory", m.memory_used_bytes / _GIB) for m in moments]
            _chart("Memory used, GiB", rows)


# ---- engines


def _engine(engine: Engine) -> None:
    now, words = engine.now(), engine.in_words()
    with st.container(border=True):
        st.markdown(f"**vLLM** · {plain(engine.name)}")
        if engine.problem:
            _problem(engine)
        else:
            st.write(plain(words or "Looking …"))
        if now is not None:
            _figures(figures(now))
            _latencies(engine)
        if engine.was_seen:
            _engine_charts(engine)


def _named(problem: str | None, hint: str | None) -> str:
    """Sentences of which the first begins with a name, as it is spelled."""
    return f"{plain((problem or '').rstrip('. '))}. {_sentences(hint)}"


def _problem(engine: Engine) -> None:
    """Why it says nothing; of ours that failed, where to read on."""
    last = engine.readings[-1]
    said = _named(last.problem, last.hint)
    if engine.record is None or engine.record.state is not State.FAILED:
        st.caption(said)
        return
    st.error(said, icon=":material/error:")
    st.page_link("views/servers.py", label="Why, and start it again", icon=":material/dns:")


def _latencies(engine: Engine) -> None:
    """Of the last ten minutes: in ten seconds there may be too few requests."""
    whole = engine.measure(KEPT)
    if whole is None:
        return
    parts = list(latencies(whole))
    if whole.kv_cache_tokens:
        parts.append(f"the KV cache holds {whole.kv_cache_tokens:,} tokens")
    minutes = f"{whole.seconds / 60:.0f} min" if whole.seconds >= 90 else f"{whole.seconds:.0f} s"
    st.caption(plain(f"Last {minutes}: {' · '.join(parts)}"))


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
            st.caption(_named(found.problem, found.hint))
            return
        if not found.loaded:
            st.caption("No model is loaded; the next question loads one.")
            return
        for model in found.loaded:
            st.write(plain(loaded_line(model)))


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
