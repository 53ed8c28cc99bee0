"""The figures that vLLM logs while it starts: how it was set up, what memory it measured."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict


class Startup(BaseModel):
    """A start-up that reached its KV cache; `None` is what the log does not tell.

    Attributes:
        gpu: As its driver calls it; logs do not tell it, who started the server knows.
        usable_gib: The memory of each GPU, as the log or the driver has it.
        weights_gib: On the GPU with most of them.
        available_kv_gib: On the GPU with least of it.
        seconds: From the start to the first answer.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = None
    seconds: float | None = None
    gpu: str | None = None
    usable_gib: float | None = None
    version: str | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    max_model_len: int | None = None
    dtype: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    utilization: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool = False
    weights_gib: float | None = None
    available_kv_gib: float | None = None
    kv_cache_tokens: int | None = None


_ENGINE = re.compile(r"Initializing an? (?:V\d )?LLM engine \(v(?P<version>[^)\s]+)\)")
_VERSION = re.compile(r"vLLM API server version v?(?P<version>\d[^\s]*)")


def _argument(name: str, value: str) -> re.Pattern[str]:
    """As in `name=1`, `'name': 1`, and `name='x'`."""
    return re.compile(rf"\b{name}'?(?:=|: )'?(?P<value>{value})")


_NUMBER, _WORD = r"\d+(?:\.\d+)?", r"[^\s',)}]+"
_ARGUMENTS = {
    "model": _argument("model", _WORD),
    "dtype": _argument("dtype", r"(?:torch\.)?\w+"),
    "max_model_len": _argument("(?:max_seq_len|max_model_len)", r"\d+"),
    "tensor_parallel": _argument("tensor_parallel_size", r"\d+"),
    "pipeline_parallel": _argument("pipeline_parallel_size", r"\d+"),
    "quantization": _argument("quantization", _WORD),
    "kv_cache_dtype": _argument("kv_cache_dtype", _WORD),
    "enforce_eager": _argument("enforce_eager", "True|False"),
    "utilization": _argument("gpu_memory_utilization", _NUMBER),
    "max_num_seqs": _argument("max_num_seqs", r"\d+"),
    "max_num_batched_tokens": _argument("max_num_batched_tokens", r"\d+"),
}
_SETS_UP = re.compile(r"non-default args|args: Namespace|LLM engine \(v|Chunked prefill is enabled")
_BY_DEFAULT = {"None", "auto"}

_TOTAL = re.compile(
    r"total_gpu_memory \((?P<total>[\d.]+) ?GiB\) x gpu_memory_utilization \((?P<share>[\d.]+)\)"
)
_WEIGHTS = re.compile(r"(?:Model loading took|model weights take) (?P<gib>[\d.]+) ?Gi?B")
_AVAILABLE = re.compile(
    r"(?:Available KV cache memory:|reserved for KV Cache is) (?P<gib>-?[\d.]+) ?GiB"
)
_TOKENS = re.compile(r"GPU KV cache size: (?P<tokens>[\d,]+) tokens")
_BLOCKS = re.compile(r"# (?:GPU|cuda) blocks: (?P<blocks>\d+)")
_BLOCK = 16  # tokens; what versions that logged blocks took on GPUs


def read_startup(lines: Iterable[str]) -> Startup | None:
    """The last start-up on GPUs in a log; `None` if none came as far as its KV cache."""
    told: dict[str, str] = {}
    measured: dict[str, float] = {}
    for line in lines:
        if found := _ENGINE.search(line):
            measured = {}
        if found := found or _VERSION.search(line):
            told["version"] = found["version"].rstrip(".,")
        if _SETS_UP.search(line):
            for name, pattern in _ARGUMENTS.items():
                if value := pattern.search(line):
                    told[name] = value["value"]
        if found := _TOTAL.search(line):
            told |= {"usable_gib": found["total"], "utilization": found["share"]}
        if found := _WEIGHTS.search(line):
            measured["weights_gib"] = max(float(found["gib"]), measured.get("weights_gib", 0.0))
        if found := _AVAILABLE.search(line):
            least = measured.get("available_kv_gib", float("inf"))
            measured["available_kv_gib"] = min(float(found["gib"]), least)
        if found := _TOKENS.search(line):
            measured["kv_cache_tokens"] = int(found["tokens"].replace(",", ""))
        elif found := _BLOCKS.search(line):
            measured["kv_cache_tokens"] = int(found["blocks"]) * _BLOCK
    if not {"weights_gib", "available_kv_gib"} <= measured.keys():
        return None
    plain = {key: value for key, value in told.items() if value not in _BY_DEFAULT}
    if "dtype" in plain:
        plain["dtype"] = plain["dtype"].removeprefix("torch.")
    return Startup.model_validate(plain | measured)
