"""From what a person asks for to a start that can be shown, checked and done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gearshift import gpu
from gearshift.engine import environment as engine
from gearshift.engine import servers
from gearshift.engine.checks import Plan, Status, run_checks
from gearshift.engine.export import docker_command
from gearshift.engine.families import parsers
from gearshift.engine.launch import make_launch
from gearshift.engine.models import Model, find_model
from gearshift.engine.profiles import Profile, profile
from gearshift.engine.records import Record, State
from gearshift.engine.redact import secrets
from gearshift.errors import EngineError
from gearshift.settings import Settings, port_of, visible_gpus


@dataclass(frozen=True)
class Wish:
    """What a person asks for; `None` is left to settings, profile and vLLM.

    `names` are what clients may call the model besides its own names. `choices` are values of
    `Launch` by their names, and win over the profile's.
    """

    model: str
    gpu_count: int | None = None
    tensor_parallel: int | None = None
    gpus: tuple[str, ...] = ()
    port: int | None = None
    profile: str | None = None
    tools: bool = False
    docker: bool = False
    restart: bool = False
    names: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """What would be started: its record, what the checks look at, and what the profile changed."""

    record: Record
    plan: Plan
    profile: Profile | None


def prepare(wish: Wish, settings: Settings) -> Start:
    """Works out the whole start; nothing is started, and nothing is checked yet.

    Raises:
        EngineError: the wish contradicts itself, or names no model.
    """
    chosen = profile(wish.profile, settings.home_dir) if wish.profile else None
    tuned = dict(chosen.values) if chosen else {}
    count, size = _ranks(wish, settings, tuned.pop("tensor_parallel", None))
    model = find_model(wish.model, settings)
    gpus = gpu.look()
    cpu = not wish.gpus and not wish.docker and not gpus.gpus
    choices = {key: value for key, value in wish.choices.items() if value is not None}
    values: dict[str, Any] = tuned | choices
    known = parsers(model.names[0])
    values.setdefault("reasoning_parser", known.reasoning)
    if wish.tools:
        values.setdefault("tool_parser", known.tool)
        if values["tool_parser"] is None:
            raise EngineError(
                "launch",
                f"no tool parser is known for {model.names[0]}",
                "name it with --tool-parser; vLLM's documentation lists them",
            )
    if cpu:
        # Compiling takes minutes on a processor, and was no faster afterwards.
        values.setdefault("enforce_eager", True)
        values["cpu_kv_gib"] = _cpu_kv_gib(model, size, values.get("max_model_len"))
    launch = make_launch(
        model=model.source,
        served_names=tuple(dict.fromkeys([*model.names, *wish.names])),
        port=wish.port or port_of(settings.vllm_base_url),
        gpus=wish.gpus or (visible_gpus()[:count] if gpus.gpus else ()),
        tensor_parallel=size,
        quiet=wish.docker or engine.can_be_quiet(settings),
        cpu=cpu,
        **values,
    )
    if count < launch.tensor_parallel * launch.pipeline_parallel and launch.executor != "ray":
        raise EngineError(
            "launch",
            f"{launch.tensor_parallel} × {launch.pipeline_parallel} ranks on {count} GPUs",
            "give more GPUs, or smaller numbers",
        )
    plan = Plan(launch, model, gpus, settings, wish.docker)
    python = engine.python(settings)
    record = servers.new_record(launch, settings, python, restart=wish.restart)
    if wish.docker:
        name = f"gearshift-{record.name}"
        argv = docker_command(launch, name, f"v{engine.VLLM_VERSION}", secrets(settings))
        record = record.model_copy(
            update={"docker": name, "command": argv, "python": Path("docker")}
        )
    return Start(record, plan, chosen)


def carry_out(
    wish: Wish, settings: Settings, on_change: Callable[[Record], None] = lambda record: None
) -> Record:
    """Checks a start, does it, and waits until the server is ready; it stays running.

    Raises:
        EngineError: a check refuses it (kind `refused`), or it fails (kind `serve`).
    """
    start = prepare(wish, settings)
    refused = [check for check in run_checks(start.plan) if check.status is Status.REFUSED]
    if refused:
        message = "; ".join(check.message for check in refused)
        raise EngineError("refused", message, "; ".join(check.hint for check in refused))
    servers.serve(start.record, settings)
    record = servers.wait(start.record.launch.port, settings, on_change)
    if record.state is State.FAILED or record.failure is not None:
        failure = record.failure
        message = failure.message if failure else f"{record.name} is {record.state}"
        raise EngineError("serve", message, f"gearshift doctor --server {record.name}")
    return record


def _cpu_kv_gib(model: Model, ranks: int, max_model_len: int | None) -> int:
    """KV cache for each rank on a processor: room for one whole context, from 1 to 8 GiB."""
    layers, heads = model.number("num_hidden_layers"), model.number("num_attention_heads")
    width = model.number("head_dim")
    if width is None and heads and (hidden := model.number("hidden_size")):
        width = hidden // heads
    tokens = max_model_len or model.number("max_position_embeddings")
    if not (layers and heads and width and tokens):
        return 1
    kv_heads = max(1, (model.number("num_key_value_heads") or heads) // ranks)
    size = 2 * layers * kv_heads * width * 2 * (tokens + 256)  # key and value, 16 bits each
    return min(8, max(1, -(-size // (1 << 30))))


def _ranks(wish: Wish, settings: Settings, tuned: Any) -> tuple[int, int]:
    """How many GPUs, and how many of them share each layer.

    `tuned` is what a profile says of the latter, where nobody asked for another number.
    """
    stages = wish.choices.get("pipeline_parallel") or 1
    asked = wish.tensor_parallel
    if asked is None and tuned is not None and wish.gpu_count is None and not wish.gpus:
        asked = int(tuned)
    if wish.gpus:
        count = len(wish.gpus)
        if wish.gpu_count not in (None, count):
            raise EngineError(
                "launch", f"{wish.gpu_count} GPUs are asked for and {count} named", "say one"
            )
    else:
        count = wish.gpu_count or max(settings.vllm_gpu_count, stages * (asked or 1))
    asked_here = wish.gpus or wish.gpu_count is not None
    default = count // stages if asked_here else settings.vllm_tensor_parallel_size
    size = asked or max(1, default)
    if count % size:
        raise EngineError(
            "launch",
            f"tensor parallel {size} does not divide {count} GPU{'' if count == 1 else 's'} evenly",
            "with so many GPUs, tensor parallel can be "
            + ", ".join(str(n) for n in range(1, count + 1) if count % n == 0),
        )
    return count, size
