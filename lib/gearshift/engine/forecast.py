"""From what a person asks (this model, on those GPUs?) to a fit plan and the command for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gearshift.engine import environment
from gearshift.engine.cards import Card, card_of, find_card, from_nameplate, similar_cards
from gearshift.engine.fit import Fit, Setup, plan, smallest
from gearshift.engine.geometry import Geometry, legal_tensor_parallel, read_geometry
from gearshift.engine.launch import Launch, command, make_launch
from gearshift.engine.layouts import Layout, for_latency, for_throughput
from gearshift.engine.learned import correction, nearest, recall
from gearshift.engine.quantization import BITS, ONLINE, told_of
from gearshift.engine.setup import own_length
from gearshift.engine.sources import find_source
from gearshift.engine.startup_log import Startup
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
        earlier: A start-up on such a GPU, to learn from; else the nearest that was seen here.
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
    earlier: Startup | None = None


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
        instead: A start that would fit, if this does not, and its command.
        learned: The start-up that the figures were corrected with, if there was one.
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
    instead: Launch | None
    instead_command: list[str] | None
    learned: Startup | None


def forecast(question: Question, settings: Settings, here: tuple[GPU, ...] = ()) -> Forecast:
    """Works it out; `here` are the GPUs that are taken where the question names none.

    Raises:
        EngineError: the model's shape is not known, or contradicts itself.
    """
    source = find_source(question.model, settings)
    config, serves = source.config, source.serves
    shape = read_geometry(config, question.parameters, question.quantization, question.dtype)
    card = _card(question, here)
    there = question.gpus or (len(here) if here and question.gpu is None else None)
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
        gpus=there,
    )
    setup, learned = _corrected(setup, serves, settings, question.earlier)
    found = plan(shape, setup)
    notes = [source.note, _of_card(question, card), _of_checkpoint(config, shape, question)]
    found = replace(found, reasons=(*found.reasons, *filter(None, notes)))
    fewest = smallest(shape, setup) if found.fits is False else None
    launch = _launch(serves, source.names, setup, question)
    start = command(launch, environment.python(settings))
    gpus = there or size * stages
    quick = for_latency(shape, setup, gpus)
    instead = _instead(shape, setup, found, launch, [quick, fewest])
    return Forecast(
        found,
        setup,
        shape,
        legal,
        fewest,
        _quantizations(config, question, setup) if found.fits is False else (),
        quick,
        for_throughput(shape, setup, gpus),
        launch,
        start,
        instead,
        command(instead, environment.python(settings)) if instead else None,
        learned,
    )


def _instead(
    shape: Geometry, setup: Setup, found: Fit, launch: Launch, others: list[Layout | Setup | None]
) -> Launch | None:
    """A start that would fit: with a shorter context, else spread in another way."""
    if found.fits is not False:
        return None
    lengths = [setup.max_model_len, found.longest, own_length(shape, setup)]
    tried = [replace(setup, max_model_len=n) for n in lengths if n is None or n >= _USEFUL]
    for other in others:
        if other is None:
            continue
        size, stages = other.tensor_parallel, other.pipeline_parallel
        tried.append(replace(setup, tensor_parallel=size, pipeline_parallel=stages, gpus=None))
    best = next((each for each in tried if plan(shape, each).fits), None)
    if best is None:
        return None
    sizes = (best.tensor_parallel, best.pipeline_parallel, best.max_model_len)
    names = ("tensor_parallel", "pipeline_parallel", "max_model_len")
    return launch.model_copy(update=dict(zip(names, sizes, strict=True)))


_USEFUL = 1024  # tokens; a shorter context serves nobody


def _of_card(question: Question, card: Card | None) -> str | None:
    """What is to be said of the name that the GPU was given."""
    if card is None or question.gpu is None:
        return None
    if card.known:
        return card.note
    like = f"; known are, for example, {', '.join(similar_cards(question.gpu))}"
    if card.usable_gib is not None:
        return f"{question.gpu!r} is not known here; its memory is taken as its name says{like}"
    return f"{question.gpu!r} is not known here: give its memory with --gpu-memory GIB{like}"


def _of_checkpoint(config: dict[str, Any], shape: Geometry, question: Question) -> str | None:
    """What is to be said of a quantization that the checkpoint does not have."""
    told = told_of(config, shape.keys)
    has, named = str(told.get("quant_method") or "").lower(), question.quantization
    if has and has.replace("_", "-") not in {name.replace("_", "-") for name in BITS}:
        return f"no vLLM knows the quantization {has!r} of this checkpoint: 8 bits are assumed"
    if named is None or named.replace("_marlin", "") in has.replace("compressed_tensors", ""):
        return None
    if not told:
        return None if named in ONLINE else (
            f"this checkpoint is not in {named}: the figures are for one that is, and vLLM starts "
            "with nothing else"
        )  # fmt: skip
    if shape.quantization and has.lower() != named and named not in _CONVERTED.get(has, ()):
        return f"this checkpoint is in {has or 'another form'}: vLLM does not serve it as {named}"
    return None


# What vLLM serves a checkpoint as, beside its own method.
_CONVERTED = {
    "awq": ("auto_awq", "awq_marlin", "moe_wna16", "inc", "humming", "ipex", "cpu_awq"),
    "gptq": ("auto_gptq", "gptq_marlin", "gptq_bitblas", "bitblas", "marlin", "moe_wna16", "inc",
             "humming", "gptq_marlin_24", "ipex"),
    "mxfp4": ("gpt_oss_mxfp4",), "auto-round": ("inc", "auto_round", "gptq", "awq"),
    "modelopt": ("modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed", "petit_nvfp4", "nvfp4"),
    "fp8": ("deepseek_v4_fp8", "humming"), "compressed-tensors": ("humming",),
}  # fmt: skip


def _quantizations(config: dict[str, Any], question: Question, setup: Setup) -> tuple[str, ...]:
    """With 8 or 4 bits a weight, of a model that is not quantized already."""
    if question.quantization or "quantization_config" in config:
        return ()
    shapes = {
        method: read_geometry(config, question.parameters, method, question.dtype)
        for method in ("fp8", "awq")
    }
    return tuple(method for method, shape in shapes.items() if plan(shape, setup).fits)


def _corrected(
    setup: Setup, model: str, settings: Settings, earlier: Startup | None = None
) -> tuple[Setup, Startup | None]:
    """The setup with what a start-up showed; without, where none says anything about it."""
    startup = earlier or nearest(recall(settings), setup, model)
    if startup is None or startup.model is None or setup.usable_gib is None:
        return setup, None
    same = startup.model.lower() == model.lower()
    try:
        config = find_source(startup.model, settings).config
        version = setup.version or startup.version  # the same machine has the same vLLM
        found = correction(startup, config, setup, same)
    except EngineError:  # its model is gone, or has changed
        if earlier is not None:
            raise
        return setup, None
    return replace(setup, version=version, correction=found), startup


def own_version(settings: Settings) -> str | None:
    """Of the vLLM that `serve` starts; `None` where it is one that a person brings."""
    return None if settings.vllm_python else environment.VLLM_VERSION


def of_launch(
    launch: Launch, config: dict[str, Any], gpus: tuple[GPU, ...], settings: Settings
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
        version=own_version(settings),
        card=card,
    )
    setup, _ = _corrected(setup, launch.model, settings)
    found = plan(shape, setup)
    return found, smallest(shape, setup, most=_LARGEST_GROUP) if found.fits is False else None


def _card(question: Question, here: tuple[GPU, ...]) -> Card | None:
    if question.gpu is not None:
        return find_card(question.gpu)
    if question.gpu_gib is not None:
        return Card("", from_nameplate(question.gpu_gib))
    return card_of(here[0]) if here else None


def _ranks(question: Question, legal: list[int]) -> tuple[int, int]:
    """Tensor and pipeline parallel: the largest legal size, and stages for the rest of the GPUs."""
    stages, gpus = question.pipeline_parallel or 1, question.gpus
    size = question.tensor_parallel or max(n for n in legal if n <= max(1, (gpus or 1) // stages))
    if question.pipeline_parallel is None and gpus and gpus % size == 0:
        stages = gpus // size
    return size, stages


def _launch(source: str, names: tuple[str, ...], setup: Setup, question: Question) -> Launch:
    return make_launch(
        model=source,
        served_names=names or (Path(source).name or "model",),
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
_LEAST = 0.01  # a share in whole percent; below there is none that could be given


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
    free = int(100 * _CERTAIN * min(shares[index] for index in chosen)) / 100
    share = max(_LEAST, min(_USUAL, free))
    (least,) = (gpu for gpu in here if gpu.index == chosen[-1])
    planned = forecast(replace(question, utilization=share), settings, (least,))
    if free < _LEAST:
        gib = (least.memory_free_bytes or 0) / (1 << 30)
        said = f"only {gib:.1f} GiB of GPU {least.index} are free"
        fit = replace(planned.fit, fits=False, longest=None, reasons=(said,))
        planned = replace(planned, fit=fit)
    return Room(planned, tuple(sorted(chosen)), share)
