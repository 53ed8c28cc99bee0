"""Things to move: the fit plan with sliders, and a live strip of the hardware."""

from __future__ import annotations

import asyncio
import shlex
from html import escape
from typing import Any

import ipywidgets as widgets

from gearshift import gpu
from gearshift.engine import host
from gearshift.engine.cards import known_cards
from gearshift.engine.export import serve_command
from gearshift.engine.forecast import Question, forecast
from gearshift.engine.geometry import why_not_tensor_parallel
from gearshift.engine.models import known_models
from gearshift.engine.monitor import Machine, machine_of
from gearshift.errors import EngineError
from gearshift.notebook._show import memory_html, memory_words, show_widget
from gearshift.settings import load_settings

_LENGTHS = [2**power for power in range(10, 18)]
_USUAL_LENGTH = 8192
_SIZES = [("as planned", None), *((str(size), size) for size in range(1, 9))]
_WIDE = widgets.Layout(width="28em")


def fit_plan(model: str = "Qwen/Qwen2.5-7B-Instruct", card: str = "L4", gpus: int = 1) -> None:
    """The fit plan of `gearshift plan`, to move."""
    models = sorted(known_models(), key=str.lower)
    context = widgets.SelectionSlider(options=_LENGTHS, description="context", layout=_WIDE)
    fields = {
        "model": widgets.Dropdown(options=models, value=model, description="model", layout=_WIDE),
        "gpu": widgets.Dropdown(options=known_cards(), value=card, description="GPU", layout=_WIDE),
        "gpus": widgets.IntSlider(gpus, 1, 8, description="GPUs", layout=_WIDE),
        "tensor_parallel": widgets.Dropdown(
            options=_SIZES, description="tensor parallel", layout=_WIDE
        ),
        "max_model_len": context,
        "utilization": widgets.FloatSlider(
            0.92, min=0.3, max=0.98, step=0.01, description="utilization", layout=_WIDE
        ),
    }
    result = widgets.HTML()

    def fit_context(_change: Any = None, wanted: int | None = None) -> None:
        """No longer contexts are offered than the model's own."""
        wanted = wanted or context.value
        own = forecast(Question(fields["model"].value), load_settings()).fit.max_model_len
        context.options = [length for length in _LENGTHS if length <= own] or [own]
        context.value = max(
            [n for n in context.options if n <= wanted], default=min(context.options)
        )

    def update(_change: Any = None) -> str:
        chosen = {name: field.value for name, field in fields.items()}
        chosen["utilization"] = round(chosen["utilization"], 2)  # browsers send 0.91999…
        try:
            planned = forecast(Question(**chosen), load_settings())
        except EngineError as problem:
            result.value = f"{escape(problem.message)}<br>{escape(problem.hint)}"
            return problem.message
        size = chosen["tensor_parallel"]
        if size and (why := why_not_tensor_parallel(planned.shape, size)):
            legal = ", ".join(map(str, planned.legal))
            result.value = why = f"{why}. Tensor parallel can be {legal}."
            return why
        command = shlex.join(serve_command(planned.launch))
        result.value = f"{memory_html(planned)}<code>{escape(command)}</code>"
        return "\n".join([*memory_words(planned), command])

    fit_context(wanted=_USUAL_LENGTH)
    fields["model"].observe(fit_context, "value")
    for field in fields.values():
        field.style.description_width = "7em"
        field.observe(update, "value")
    words = update()
    show_widget(widgets.VBox([*fields.values(), result]), result.value, words)


async def watch(seconds: float = 10.0, every: float = 0.5) -> None:
    """A live strip of the GPUs, or of processor and memory where there is none, for a while."""
    strip = widgets.HTML()
    before = host.look()  # the processor's load is that since the last look
    for number in range(max(1, int(seconds / every))):
        await asyncio.sleep(min(every, seconds))
        now = host.look()
        machine, before = machine_of(gpu.look(), before, now), now
        strip.value = _strip(machine)
        if number == 0:
            show_widget(strip, strip.value, _strip_text(machine))


_GIB = 1 << 30


def _gauges(now: Machine) -> list[tuple[str, float | None, str]]:
    """Name, share from 0 to 1 and words of each gauge."""
    if not now.gpus.gpus:
        used, total = now.memory_used_bytes, now.memory_total_bytes
        return [
            _share("processor", now.processor_percent),
            ("memory", used / total, f"{used / _GIB:.1f} of {total / _GIB:.1f} GiB"),
        ]
    return [gauge for card in now.gpus.gpus for gauge in _of_card(card)]


def _share(name: str, percent: float | None) -> tuple[str, float | None, str]:
    if percent is None:
        return name, None, "?"
    return name, percent / 100, f"{percent:.0f} %"


def _of_card(card: gpu.GPU) -> list[tuple[str, float | None, str]]:
    used, total, load = card.memory_used_bytes, card.memory_total_bytes, card.utilization_percent
    name = f"GPU {card.index} {card.name or ''}".strip()
    known = used is not None and total
    held = f"{(used or 0) / _GIB:.1f} of {(total or 0) / _GIB:.1f} GiB" if known else "unknown"
    return [
        _share(f"{name} load", load),
        (f"{name} memory", (used or 0) / total if known and total else None, held),
    ]


def _strip(now: Machine) -> str:
    problem = f"<div>{escape(now.gpus.problem)}</div>" if now.gpus.problem else ""
    rows = "".join(
        f'<div style="display:flex;gap:1em;align-items:center"><div style="width:14em">'
        f'{escape(name)}</div><div style="width:20em;background:#8883"><div style="height:1em;'
        f'background:#0d9488;width:{100 * (share or 0):.0f}%"></div></div><div>{escape(words)}'
        "</div></div>"
        for name, share, words in _gauges(now)
    )
    return problem + rows


def _strip_text(now: Machine) -> str:
    lines = [f"{name}: {words}" for name, _, words in _gauges(now)]
    return "\n".join([now.gpus.problem, *lines] if now.gpus.problem else lines)
