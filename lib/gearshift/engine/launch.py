"""What a server is started with: a checked `Launch`, and the command and environment it means.

`command` and `environment` are pure: the same launch gives the same text, and nothing that a person
typed can become another argument. Keys and tokens are in the environment only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gearshift.engine.models import HUB_ID
from gearshift.engine.redact import HIDDEN
from gearshift.errors import EngineError

_SECRETS = ("HF_TOKEN", "VLLM_API_KEY")
_NAME = re.compile(r"[\w./:@+-]+( [\w./:@+-]+)*")
_GPU = re.compile(r"\d{1,2}|GPU-[0-9a-fA-F-]{4,40}|MIG-[0-9a-zA-Z/-]{4,80}")


def _model(value: str) -> str:
    if not (HUB_ID.fullmatch(value) or (value.startswith("/") and value.isprintable())):
        raise ValueError("must be a Hub id, such as owner/name, or an absolute folder")
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value) or value.startswith("-"):
        raise ValueError("may hold letters, digits, and . / : @ + - _ only")
    return value


def _gpu(value: str) -> str:
    if not _GPU.fullmatch(value):
        raise ValueError("is no GPU: give an index (0), a GPU-… or a MIG-… id")
    return value


def _slug(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", value):
        raise ValueError("is not a name that vLLM could know")
    return value


def _file(value: str) -> str:
    if not (value.startswith("/") and value.isprintable()) or re.search(r"[,=]", value):
        raise ValueError("must be an absolute path, without a comma or an equals sign")
    return value


ModelSource = Annotated[str, AfterValidator(_model)]
ServedName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_name)]
GPUName = Annotated[str, AfterValidator(_gpu)]
Slug = Annotated[str, AfterValidator(_slug)]
File = Annotated[str, AfterValidator(_file)]
Positive = Annotated[int, Field(ge=1, le=100_000_000)]


class Launch(BaseModel):
    """A server to be started. `None` leaves a choice to vLLM.

    Attributes:
        model: An absolute folder or a Hub id.
        served_names: What clients may call the model; the first one is listed.
        gpus: Indexes, UUIDs or MIG ids; empty for the first ones.
        memory_utilization: The share of each GPU's memory that vLLM may take.
        max_model_len: Tokens of prompt and answer together.
        chunked_prefill: Long prompts are read in pieces, between the tokens of others.
        prefix_caching: What prompts begin with alike is computed once.
        loras: Adapters, each a name and a folder.
        generation_config: What it samples with where a request says nothing, by the names of a
            `generation_config.json`; the rest is the model's own.
        quiet: Its log leaves out those who ask for its health and metrics, every few seconds.
        cpu: It runs on the processor: there is no GPU.
        cpu_kv_gib: GiB of KV cache for each rank on a processor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelSource
    served_names: tuple[ServedName, ...] = Field(min_length=1, max_length=20)
    host: Literal["127.0.0.1"] = "127.0.0.1"
    port: int = Field(8001, ge=1, le=65_535)
    gpus: tuple[GPUName, ...] = ()
    tensor_parallel: int = Field(1, ge=1, le=64)
    pipeline_parallel: int = Field(1, ge=1, le=64)
    executor: Literal["mp", "ray"] | None = None
    memory_utilization: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    max_model_len: Positive | None = None
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Positive | None = None
    dtype: Slug | None = None
    kv_cache_dtype: Slug | None = None
    quantization: Slug | None = None
    chat_template: File | None = None
    loras: tuple[tuple[Slug, File], ...] = ()
    generation_config: dict[Slug, int | float] = {}
    tool_parser: Slug | None = None
    reasoning_parser: Slug | None = None
    runner: Literal["generate", "pooling"] | None = None
    enforce_eager: bool = False
    quiet: bool = False
    chunked_prefill: bool | None = None
    prefix_caching: bool | None = None
    cpu: bool = False
    cpu_kv_gib: int = Field(1, ge=1, le=1024)

    @model_validator(mode="after")
    def _fits_together(self) -> Launch:
        if len(set(self.gpus)) != len(self.gpus):
            raise ValueError("a GPU is named twice")
        if self.cpu and self.executor == "ray":
            raise ValueError("vLLM on a processor does not support ray; leave the executor out")
        needed = self.tensor_parallel * self.pipeline_parallel
        if self.gpus and self.executor != "ray" and len(self.gpus) < needed:
            raise ValueError(
                f"{needed} GPUs are needed (tensor parallel {self.tensor_parallel} × pipeline "
                f"parallel {self.pipeline_parallel}) and {len(self.gpus)} are named"
            )
        return self


def make_launch(**values: Any) -> Launch:
    """A `Launch` from values that a person gave.

    Raises:
        EngineError: a value cannot be used (kind `launch`), with each thing that is wrong.
    """
    try:
        return Launch(**values)
    except ValidationError as wrong:
        problems = []
        for error in wrong.errors():
            where = str(error["loc"][0]).replace("_", " ") if error["loc"] else ""
            text = error["msg"].removeprefix("Value error, ")
            problems.append(f"{where} {error['input']!r} {text}" if where else text)
        raise EngineError("launch", "; ".join(problems), "correct it and start again") from None


def _options(launch: Launch) -> dict[str, Any]:
    """Options of `vllm serve` by their names without dashes; those that are set."""
    options: dict[str, Any] = {
        "tensor-parallel-size": launch.tensor_parallel if launch.tensor_parallel > 1 else None,
        "pipeline-parallel-size": (
            launch.pipeline_parallel if launch.pipeline_parallel > 1 else None
        ),
        "distributed-executor-backend": launch.executor,
        "gpu-memory-utilization": launch.memory_utilization,
        "max-model-len": launch.max_model_len,
        "max-num-seqs": launch.max_num_seqs,
        "max-num-batched-tokens": launch.max_num_batched_tokens,
        "dtype": launch.dtype,
        "kv-cache-dtype": launch.kv_cache_dtype,
        "quantization": launch.quantization,
        "chat-template": launch.chat_template,
        "override-generation-config": json.dumps(launch.generation_config)
        if launch.generation_config
        else None,
        "tool-call-parser": launch.tool_parser,
        "enable-auto-tool-choice": True if launch.tool_parser else None,
        "reasoning-parser": launch.reasoning_parser,
        "runner": launch.runner,
        "enforce-eager": launch.enforce_eager or None,
        "disable-access-log-for-endpoints": "/health,/metrics" if launch.quiet else None,
        **_switch("enable-chunked-prefill", launch.chunked_prefill),
        **_switch("enable-prefix-caching", launch.prefix_caching),
        "enable-lora": True if launch.loras else None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _switch(name: str, value: bool | None) -> dict[str, bool]:
    return {} if value is None else {name if value else f"no-{name}": True}


def arguments(launch: Launch) -> list[str]:
    """The arguments that follow the address: one `--name=value` each, lists at the end."""
    found = []
    for name, value in _options(launch).items():
        found.append(f"--{name}" if value is True else f"--{name}={value}")
    found += ["--served-model-name", *launch.served_names]
    if launch.loras:
        found += ["--lora-modules", *(f"{name}={path}" for name, path in launch.loras)]
    return found


def command(launch: Launch, python: Path) -> list[str]:
    """The program and its arguments, to be started without a shell."""
    return [
        str(python),
        "-m",
        "vllm.entrypoints.cli.main",
        "serve",
        launch.model,
        f"--host={launch.host}",
        f"--port={launch.port}",
        *arguments(launch),
    ]


def config_yaml(launch: Launch) -> str:
    """The same as a file for `vllm serve --config FILE.yaml`."""
    values = {"model": launch.model, "host": launch.host, "port": launch.port, **_options(launch)}
    lines = [f"{name}: {_yaml(value)}" for name, value in values.items()]
    lines += ["served-model-name:", *(f"  - {_yaml(name)}" for name in launch.served_names)]
    if launch.loras:
        lines += ["lora-modules:", *(f"  - {_yaml(f'{n}={path}')}" for n, path in launch.loras)]
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value)


def environment(
    launch: Launch, inherited: Mapping[str, str], secrets: Mapping[str, str], cpus: list[int]
) -> dict[str, str]:
    """The whole environment of the process.

    Args:
        launch: What is started.
        inherited: What it gets of ours; it wins over what we would choose for a CPU.
        secrets: Values of `VLLM_API_KEY` and `HF_TOKEN`, where there are some.
        cpus: The processors that we may run on, for ranks on a CPU.
    """
    found = dict(inherited)
    if launch.gpus:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(launch.gpus)
        found["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # an index means what nvidia-smi shows
    if launch.cpu:
        found.setdefault("VLLM_CPU_KVCACHE_SPACE", str(launch.cpu_kv_gib))
        if launch.tensor_parallel > 1:
            found.setdefault("VLLM_CPU_OMP_THREADS_BIND", _share(cpus, launch.tensor_parallel))
    found.update(secrets)
    return found


def _share(cpus: list[int], ranks: int) -> str:
    """Processors for each rank, as vLLM wants them: without it, two ranks want two NUMA nodes."""
    each = max(1, len(cpus) // ranks)
    groups = [cpus[rank * each : (rank + 1) * each] or cpus[-1:] for rank in range(ranks)]
    return "|".join(",".join(map(str, group)) for group in groups)


def shown(environment: Mapping[str, str], inherited: Mapping[str, str]) -> dict[str, str]:
    """What we set for the process, for people and records: secrets by name only."""
    return {
        name: HIDDEN if name in _SECRETS else value
        for name, value in sorted(environment.items())
        if inherited.get(name) != value or name in _SECRETS
    }
