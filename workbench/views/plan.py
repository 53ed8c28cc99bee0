"""Plan: does a model fit on some GPUs, with how much context, for how many people?"""

from __future__ import annotations

import shlex
from dataclasses import replace

import altair as alt
import pandas as pd
import streamlit as st

from gearshift import gpu
from gearshift.engine import fit
from gearshift.engine.cards import known_cards
from gearshift.engine.export import serve_command
from gearshift.engine.forecast import Forecast, Question, forecast, own_version
from gearshift.engine.models import known_models
from gearshift.errors import GearshiftError
from gearshift.settings import load_settings
from parts.markdown import plain
from parts.state import show_problem

_FIRST_MODEL, _FIRST_CARD = "Qwen/Qwen2.5-7B-Instruct", "L4"
_LENGTHS = [2**power for power in range(10, 21)]
_THE_MODELS = "the model's"
_QUANTIZATIONS = {"as it is": None, "fp8 (8 bits)": "fp8", "awq (4 bits)": "awq"}
_KV = {"as the model": None, "fp8": "fp8"}
_COLORS = {
    "weights": "#0d9488",
    "working memory": "#64748b",
    "KV cache": "#3b82f6",
    "left to others": "#8884",
}


def main() -> None:
    st.title("Plan")
    st.write(
        "What a model needs, worked out from its shape and from real start-ups. Nothing is started."
    )
    question = _ask()
    try:
        found = forecast(question, load_settings())
    except GearshiftError as problem:
        show_problem(problem)
        return
    _verdict(found)
    _figures(found)
    left, right = st.columns(2)
    with left:
        _memory(found)
    with right:
        _people(found)
    legal = ", ".join(map(str, found.legal))
    st.caption(f"Tensor parallel can be {legal}: heads and KV heads have to be shared evenly.")
    for goal, best in (("quick answers", found.latency), ("many answers", found.throughput)):
        if best is not None and found.setup.tensor_parallel * found.setup.pipeline_parallel > 1:
            copies = f", {best.copies} times" if best.copies > 1 else ""
            st.caption(
                f"For {goal}: tensor parallel {best.tensor_parallel}, pipeline parallel "
                f"{best.pipeline_parallel}{copies}: {plain(best.reason)}."
            )
    if found.fit.fits is not False:
        st.code(shlex.join(serve_command(found.launch)), language="bash", wrap_lines=True)
    elif found.instead is not None:
        st.caption("This would fit:")
        st.code(shlex.join(serve_command(found.instead)), language="bash", wrap_lines=True)


def _ask() -> Question:
    models = sorted(known_models(), key=str.lower)
    there = gpu.look().gpus
    mine = there[0].name if there else None
    cards = ([mine] if mine else []) + known_cards()
    wide, narrow, number = st.columns([4, 2, 2])
    model = wide.selectbox(
        "Model",
        models,
        models.index(_FIRST_MODEL),
        accept_new_options=True,
        help="One that is known here, or a folder, a config.json or an Ollama name.",
    )
    card = narrow.selectbox(
        "GPU",
        cards,
        0 if mine else cards.index(_FIRST_CARD),
        accept_new_options=True,
        help="Any name that a driver, a vendor or a cloud gives it; a size in it counts.",
    )
    count = number.select_slider("GPUs", range(1, 9), max(1, min(8, len(there))))
    one, two, three, four = st.columns(4)
    length = one.select_slider(
        "Longest context", [*_LENGTHS, _THE_MODELS], _THE_MODELS, help="In tokens."
    )
    share = two.slider("Share of the memory", 0.3, 0.98, 0.92, 0.01, help="vLLM takes 0.92.")
    quantization = three.selectbox("Weights", _QUANTIZATIONS)
    kv = four.selectbox("KV cache", _KV)
    return Question(
        (model or "").strip(),
        gpu=card or None,
        gpus=count,
        max_model_len=length if isinstance(length, int) else None,
        utilization=share,
        quantization=_QUANTIZATIONS[quantization],
        kv_cache_dtype=_KV[kv],
        version=own_version(load_settings()),
    )


def _verdict(found: Forecast) -> None:
    reasons = plain("; ".join(found.fit.reasons))
    if found.fit.fits:
        st.success("It fits.", icon=":material/check:")
    elif found.fit.fits is None:
        st.warning(f"Whether it fits is not known: {reasons}.", icon=":material/help:")
    else:
        few = found.fewest
        ranks = few and few.tensor_parallel * few.pipeline_parallel
        more = f" It would fit on {ranks} of these GPUs." if few else ""
        if found.quantizations:
            more += f" A checkpoint in {' or '.join(found.quantizations)} would."
        verdict = "vLLM would refuse this" if found.fit.refused else "It does not fit"
        st.error(f"{verdict}: {reasons}.{more}", icon=":material/close:")


def _figures(found: Forecast) -> None:
    what, ranks = found.fit, found.setup.tensor_parallel * found.setup.pipeline_parallel
    one, two, three, four = st.columns(4)
    one.metric("Weights on each GPU", f"{what.weights_gib:.1f} GiB")
    two.metric("KV cache of a token", f"{what.kv_bytes_per_token / 1024:.0f} KiB")
    if what.available_kv_gib is not None and what.available_kv_gib <= 0:
        three.metric("Missing on each GPU", f"{-what.available_kv_gib:.1f} GiB")
    else:
        known = what.kv_cache_tokens is not None and what.max_concurrency is not None
        three.metric("Tokens in the KV cache", f"{what.kv_cache_tokens:,}" if known else "?")
        four.metric(
            f"Requests of {what.max_model_len:,} at once",
            f"{what.max_concurrency:.1f}" if known else "?",
        )
    if ranks > 1:
        st.caption(
            f"{found.setup.tensor_parallel} GPUs share each layer (tensor parallel), in "
            f"{found.setup.pipeline_parallel} stages (pipeline parallel)."
        )


def _memory(found: Forecast) -> None:
    """One bar: what each GPU's memory is used for."""
    what, usable = found.fit, found.setup.usable_gib
    if usable is None or what.available_kv_gib is None:
        return
    sizes = {
        "weights": what.weights_gib,
        "working memory": what.overhead_gib,
        "KV cache": max(0.0, what.available_kv_gib),
        "left to others": usable * (1 - fit.utilization(found.setup)),
    }
    if what.available_kv_gib < 0:
        del sizes["left to others"]  # what is missing goes over the card's edge
    rows = pd.DataFrame(
        [(name, size, order) for order, (name, size) in enumerate(sizes.items())],
        columns=["what", "GiB", "order"],
    )
    st.markdown("**Memory of each GPU**")
    colors = alt.Scale(domain=list(_COLORS), range=list(_COLORS.values()))
    bar = alt.Chart(rows, height=200).mark_bar(size=44)
    edge = alt.Chart(pd.DataFrame({"GiB": [usable]})).mark_rule(strokeDash=[4, 3], strokeWidth=2)
    st.altair_chart(
        bar.encode(
            x=alt.X("GiB:Q", title=f"GiB of {usable:.1f}", scale=alt.Scale(nice=False)),
            color=alt.Color("what:N", scale=colors, legend=alt.Legend(orient="bottom", title=None)),
            order="order:Q",
            tooltip=["what", alt.Tooltip("GiB:Q", format=".1f")],
        )
        + edge.encode(x="GiB:Q")
    )
    if what.available_kv_gib > 0:
        what_is = f"KV cache {what.available_kv_gib:.1f} GiB"
    else:
        what_is = f"{-what.available_kv_gib:.1f} GiB are missing"
    st.caption(
        f"{what_is}, give or take {what.range_gib:.1f} in 9 of 10 start-ups. The dashed line is "
        "what programs can use of the card."
    )


def _people(found: Forecast) -> None:
    """A curve: the longer the context, the fewer requests at once."""
    rows = []
    most = found.shape.max_len or _LENGTHS[-1]
    for length in [length for length in _LENGTHS if length <= most]:
        each = fit.plan(found.shape, replace(found.setup, max_model_len=length))
        if each.max_concurrency is not None and each.max_concurrency > 0:
            rows.append((length, each.max_concurrency))
    if not rows:
        return
    st.markdown("**Requests at once, by the length of each**")
    frame = pd.DataFrame(rows, columns=["tokens", "requests"])
    line = alt.Chart(frame, height=200).mark_line(point=True, color=_COLORS["KV cache"])
    st.altair_chart(
        line.encode(
            x=alt.X("tokens:Q", scale=alt.Scale(type="log", base=2), title="tokens of a request"),
            y=alt.Y("requests:Q", scale=alt.Scale(type="log"), title="requests"),
            tooltip=["tokens", alt.Tooltip("requests:Q", format=".1f")],
        )
    )


main()
