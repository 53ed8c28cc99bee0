"""From what a person asks (this model, on those GPUs?) to a fit plan and the command for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gearshift.engine import environment
from gearshift.engine.cards import Card, find_card, from_nameplate
from gearshift.engine.fit import GIB, Fit, Setup, plan, smallest
from gearshift.engine.geometry import Geometry, legal_tensor_parallel, read_geometry
from gearshift.engine.launch import Launch, command, make_launch
from gearshift.engine.layouts import Layout, for_latency, for_throughput
from gearshift.engine.models import find_model
from gearshift.errors import EngineError
from gearshift.gpu import GPU
from gearshift.settings import Settings

_LARGEST_GROUP = 8  # GPUs that share each layer, as tensor-parallel sizes are offered


@dataclass(frozen=True)
class Question:
    """What is to be planned; `None` is left to the model, to vLLM, or to be found.

    Attributes:
        model: A Hub id that is known here, a folder, a `config.json`, or an Ollama name.
        gpu: The kind, such as `A100-80GB`.
        gpu_gib: The memory of each GPU, instead of its kind.
        gpus: How many there are.
        parameters: Of the model, where its configuration does not tell.
    """

    model: str
    gpu: str | None = None
    gpu_gib: float | None = None
    gpus: int | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    max_model_len: int | None = None
    quantization: str | None = None
    dtype: str | None = None
    kv_cache_dtype: str | None = None
    utilization: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool = False
    version: str | None = None
    parameters: float | None = None


@dataclass(frozen=True)
class Forecast:
    """The answer.

    Attributes:
        setup: How it was planned.
        legal: The tensor-parallel sizes that the model allows.
        fewest: The setup with the fewest such GPUs that would do, if these do not.
        quantizations: Those with which it would fit, if it does not as it is.
        latency: The best way to spread it over the GPUs for one quick answer; `None` if none fits.
        throughput: The same for many answers at once.
        launch: The start of a server with this setup.
        command: vLLM's for it.
    """

    fit: Fit
    setup: Setup
    shape: Geometry
    legal: list[int]
    fewest: Setup | None
    quantizations: tuple[str, ...]
    latency: Layout | None
    throughput: Layout | None
    launch: Launch
    command: list[str]


def forecast(question: Question, settings: Settings, here: tuple[GPU, ...] = ()) -> Forecast:
    """Works it out; `here` are the GPUs that are taken where the question names none.

    Raises:
        EngineError: the model's shape is not known, or contradicts itself.
    """
    config, source = _config(question.model, settings)
    shape = read_geometry(config, question.parameters, question.quantization, question.dtype)
    card = _card(question, here)
    legal = legal_tensor_parallel(shape, max(_LARGEST_GROUP, question.gpus or 1))
    size, stages = _ranks(question, legal)
    setup = Setup(
        usable_gib=card.usable_gib if card else None,
        tensor_parallel=size,
        pipeline_parallel=stages,
        max_model_len=question.max_model_len,
        kv_cache_dtype=question.kv_cache_dtype,
        utilization=question.utilization,
        max_num_seqs=question.max_num_seqs,
        max_num_batched_tokens=question.max_num_batched_tokens,
        enforce_eager=question.enforce_eager,
        version=question.version,
        card=card,
    )
    found = plan(shape, setup)
    fewest = smallest(shape, setup) if found.fits is False else None
    launch = _launch(source, setup, question)
    start = command(launch, environment.python(settings))
    gpus = question.gpus or size * stages
    return Forecast(
        found,
        setup,
        shape,
        legal,
        fewest,
        _quantizations(config, question, setup) if found.fits is False else (),
        for_latency(shape, setup, gpus),
        for_throughput(shape, setup, gpus),
        launch,
        start,
    )


def _quantizations(config: dict[str, Any], question: Question, setup: Setup) -> tuple[str, ...]:
    """With 8 or 4 bits a weight, of a model that is not quantized already."""
    if question.quantization or "quantization_config" in config:
        return ()
    shapes = {
        method: read_geometry(config, question.parameters, method, question.dtype)
        for method in ("fp8", "awq")
    }
    return tuple(method for method, shape in shapes.items() if plan(shape, setup).fits)


def of_launch(
    launch: Launch, config: dict[str, Any], gpus: tuple[GPU, ...]
) -> tuple[Fit, Setup | None]:
    """What a start would leave on these GPUs, and the setup with the fewest that would do.

    Raises:
        EngineError: the configuration contradicts itself.
    """
    shape = read_geometry(config, None, launch.quantization, launch.dtype)
    cards = [card_of(gpu) for gpu in gpus]
    known = [card for card in cards if card.usable_gib is not None]
    card = min(known, key=lambda c: c.usable_gib or 0.0) if len(known) == len(cards) else None
    setup = Setup(
        usable_gib=card.usable_gib if card else None,
        tensor_parallel=launch.tensor_parallel,
        pipeline_parallel=launch.pipeline_parallel,
        max_model_len=launch.max_model_len,
        kv_cache_dtype=launch.kv_cache_dtype,
        utilization=launch.memory_utilization,
        max_num_seqs=launch.max_num_seqs,
        max_num_batched_tokens=launch.max_num_batched_tokens,
        enforce_eager=bool(launch.enforce_eager),
        card=card,
    )
    found = plan(shape, setup)
    return found, smallest(shape, setup, most=_LARGEST_GROUP) if found.fits is False else None


def _config(model: str, settings: Settings) -> tuple[dict[str, Any], str]:
    """The configuration, and what `serve` would be given."""
    path = Path(model).expanduser()
    if path.is_file():
        try:
            config = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as wrong:
            raise EngineError(
                "model", f"{path} cannot be read: {wrong}", "give a config.json"
            ) from None
        if not isinstance(config, dict):
            raise EngineError(
                "model", f"{path} is not a model's configuration", "give a config.json"
            )
        return config, str(path.absolute().parent)
    found = find_model(model, settings)
    if found.config is None:
        problem = found.problem or f"the shape of {found.source} is not known here"
        raise EngineError("model", problem, "give its config.json, or the folder that has it")
    return found.config, found.source


def _card(question: Question, here: tuple[GPU, ...]) -> Card | None:
    if question.gpu is not None:
        return find_card(question.gpu)
    if question.gpu_gib is not None:
        return Card("", from_nameplate(question.gpu_gib))
    return card_of(here[0]) if here else None


def card_of(gpu: GPU) -> Card:
    """The kind of a GPU that is there; of an unknown one what its driver tells, less its own."""
    card, total = find_card(gpu.name or ""), gpu.memory_total_bytes
    return replace(card, usable_gib=card.usable_gib or (total and 0.98 * total / GIB))


def _ranks(question: Question, legal: list[int]) -> tuple[int, int]:
    """Tensor and pipeline parallel: the largest legal size, and stages for the rest of the GPUs."""
    stages, gpus = question.pipeline_parallel or 1, question.gpus
    size = question.tensor_parallel or max(n for n in legal if n <= max(1, (gpus or 1) // stages))
    if question.pipeline_parallel is None and gpus and gpus % size == 0:
        stages = gpus // size
    return size, stages


def _launch(source: str, setup: Setup, question: Question) -> Launch:
    return make_launch(
        model=source,
        served_names=(Path(source).name or "model",),
        max_model_len=setup.max_model_len,
        kv_cache_dtype=setup.kv_cache_dtype,
        memory_utilization=setup.utilization,
        max_num_seqs=setup.max_num_seqs,
        max_num_batched_tokens=setup.max_num_batched_tokens,
        enforce_eager=setup.enforce_eager,
        tensor_parallel=min(setup.tensor_parallel, 64),
        pipeline_parallel=min(setup.pipeline_parallel, 64),
        quantization=question.quantization,
        dtype=question.dtype,
    )


@dataclass(frozen=True)
class Room:
    """A forecast for the memory that is free now.

    Attributes:
        gpus: The numbers of the GPUs that it would take, those with most free memory.
        utilization: The share of each that vLLM could be given.
    """

    forecast: Forecast
    gpus: tuple[int, ...]
    utilization: float


# CUDA lets programs have a little less than NVML tells, and memory moves while a server starts.
_CERTAIN = 0.97
_USUAL = 0.92  # what vLLM takes by itself
_LEAST = 0.05


def room_beside(question: Question, settings: Settings, here: tuple[GPU, ...]) -> Room:
    """Would it fit beside what runs now, on that many of the GPUs?

    Raises:
        EngineError: the model's shape is not known, or no so many GPUs tell what is free.
    """
    wanted = question.gpus or 1
    shares = {
        gpu.index: gpu.memory_free_bytes / gpu.memory_total_bytes
        for gpu in here
        if gpu.memory_free_bytes is not None and gpu.memory_total_bytes
    }
    chosen = sorted(shares, key=lambda index: -shares[index])[:wanted]
    if len(chosen) < wanted:
        raise EngineError(
            "gpus",
            f"{wanted} GPUs are wanted, and {len(chosen)} tell how much is free",
            "take fewer, or see: gearshift gpus",
        )
    free = _CERTAIN * min(shares[index] for index in chosen)
    share = max(_LEAST, min(_USUAL, int(100 * free) / 100))
    kind = tuple(gpu for gpu in here if gpu.index == chosen[-1])
    planned = forecast(replace(question, utilization=share), settings, kind)
    return Room(planned, tuple(sorted(chosen)), share)
