"""Would another model still fit beside what runs?"""

from __future__ import annotations

import shlex

import psutil
import streamlit as st

from gearshift.engine.export import serve_command
from gearshift.engine.forecast import Forecast, Question, forecast, room_beside
from gearshift.errors import GearshiftError
from gearshift.gpu import GPU
from gearshift.settings import load_settings
from parts.markdown import plain
from parts.state import show_problem

_GIB = 1 << 30
_OWN_GIB = 2.0  # what vLLM's processes were seen to take on a processor, beside model and cache


def would_it_fit(here: tuple[GPU, ...]) -> None:
    """Asks for a model, and says what is left for it."""
    with st.form("room", border=False):
        wide, length, number, press = st.columns([4, 3, 2, 2], vertical_alignment="bottom")
        model = wide.text_input("Model", placeholder="owner/name, a folder, or an Ollama name")
        context = length.number_input(
            "Longest context", 16, value=None, placeholder="the model's", help="In tokens."
        )
        count = number.number_input("GPUs", 1, max(1, len(here)), 1, disabled=len(here) < 2)
        asked = press.form_submit_button("Would it fit?", width="stretch")
    if asked:
        st.session_state.room_for = (model.strip(), context, count)
    model, context, count = st.session_state.get("room_for", ("", None, 1))
    if not model:
        return
    question = Question(model, gpus=count if here else None, max_model_len=context)
    try:
        if here:
            _on_gpus(question, here)
        else:
            _on_the_processor(forecast(question, load_settings()))
    except GearshiftError as problem:
        show_problem(problem)


def _on_gpus(question: Question, here: tuple[GPU, ...]) -> None:
    room = room_beside(question, load_settings(), here)
    found = room.forecast.fit
    names = ", ".join(map(str, room.gpus))
    where = f"GPU{'' if len(room.gpus) == 1 else 's'} {names}"
    if found.fits is None:
        st.warning(plain(". ".join(found.reasons)), icon=":material/help:")
        return
    if not found.fits:
        more = f" Up to {found.longest:,} tokens would." if found.longest else ""
        reasons = plain("; ".join(found.reasons))
        st.error(f"It does not fit on {where}: {reasons}.{more}", icon=":material/close:")
        return
    st.success(
        f"It fits on {where}: {found.weights_gib:.1f} GiB of weights on each, and KV cache "
        f"({found.available_kv_gib:.1f} ± {found.range_gib:.1f} GiB) for "
        f"{found.max_concurrency:.1f} requests of {found.max_model_len:,} tokens at once.",
        icon=":material/check:",
    )
    launch = room.forecast.launch.model_copy(update={"gpus": tuple(map(str, room.gpus))})
    st.code(shlex.join(serve_command(launch)), language="bash", wrap_lines=True)


def _on_the_processor(planned: Forecast) -> None:
    found = planned.fit
    free = psutil.virtual_memory().available / _GIB
    text = (
        f"Without a GPU: {found.weights_gib:.1f} GiB of weights, {found.request_gib:.1f} GiB for "
        f"one request of {found.max_model_len:,} tokens; {free:.1f} GiB of memory are free."
    )
    needed = found.weights_gib + found.request_gib
    if needed > free:
        st.error(f"It does not fit. {text}", icon=":material/close:")
        return
    if needed + _OWN_GIB > free:
        more = f"vLLM's own {_OWN_GIB:.0f} GiB or so come on top."
        st.warning(f"It hardly fits. {text} {more}", icon=":material/warning:")
    else:
        st.success(f"It fits. {text}", icon=":material/check:")
    st.code(shlex.join(serve_command(planned.launch)), language="bash", wrap_lines=True)
