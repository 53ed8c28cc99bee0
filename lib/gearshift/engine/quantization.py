"""How a checkpoint's weights are stored: bits, groups, and what stays as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gearshift.engine.config_keys import mapping

BITS = {
    # What vLLM knows now
    "awq": 4, "auto_awq": 4, "fp8": 8, "fbgemm_fp8": 8, "fp_quant": 4, "modelopt": 8,
    "modelopt_fp4": 4, "modelopt_mxfp8": 8, "modelopt_mixed": 8, "auto_gptq": 4, "gptq": 4,
    "gptq_marlin": 4, "awq_marlin": 4, "humming": 8, "compressed-tensors": 8, "experts_int8": 8,
    "quark": 8, "moe_wna16": 4, "torchao": 8, "inc": 4, "mxfp4": 4, "gpt_oss_mxfp4": 4,
    "deepseek_v4_fp8": 8, "online": 8, "fp8_per_tensor": 8, "fp8_per_block": 8,
    "fp8_per_channel": 8, "int8_per_channel_weight_only": 8, "nvfp4_per_token": 4, "mxfp8": 8,
    # What older versions knew, and what checkpoints call the same things
    "aqlm": 2, "auto-round": 4, "auto_round": 4, "awq_triton": 4, "bitblas": 4, "bitnet": 2,
    "bitsandbytes": 4, "cpu_awq": 4, "cpu_gptq": 4, "deepspeedfp": 8, "fp4": 4, "gguf": 4,
    "gptq_bitblas": 4, "gptq_marlin_24": 4, "hqq": 4, "int4": 4, "int8": 8, "ipex": 4, "marlin": 4,
    "neuron_quant": 8, "nvfp4": 4, "petit_nvfp4": 4, "ptpc_fp8": 8, "qqq": 4, "quip": 4, "rtn": 8,
    "smoothquant": 8, "sparseml": 16, "squeezellm": 4, "tpu_int8": 8, "w8a8": 8, "w8a8_fp8": 8,
}  # fmt: skip
"""Bits of a weight by method, where the checkpoint does not say more."""

ONLINE = {
    "bitsandbytes", "deepspeedfp", "experts_int8", "fp8", "fp8_per_block", "fp8_per_channel",
    "fp8_per_tensor", "int8_per_channel_weight_only", "mxfp8", "mxfp4", "nvfp4_per_token", "online",
    "ptpc_fp8", "rtn", "torchao", "tpu_int8", "neuron_quant", "inc", "humming", "gguf",
}  # fmt: skip
"""Methods that vLLM applies to weights in 16 bits while it loads them."""

NEEDS = {
    "fp8": 75, "fp8_per_tensor": 75, "fp8_per_block": 75, "fp8_per_channel": 75, "awq": 75,
    "auto_awq": 75, "awq_marlin": 75, "gptq": 60, "auto_gptq": 60, "gptq_marlin": 75,
    "compressed-tensors": 70, "fbgemm_fp8": 80, "modelopt": 80, "modelopt_fp4": 75, "mxfp4": 80,
    "gpt_oss_mxfp4": 80, "experts_int8": 80, "torchao": 75, "bitsandbytes": 70, "quark": 70,
    "fp_quant": 100, "modelopt_mxfp8": 80, "mxfp8": 75, "moe_wna16": 70, "humming": 75,
}  # fmt: skip
"""The compute capability, times ten, that a method needs on NVIDIA's GPUs."""

_GROUPED = {"awq", "auto_awq", "gptq", "auto_gptq", "awq_marlin", "gptq_marlin", "auto_round",
            "auto-round", "marlin", "inc", "moe_wna16"}  # fmt: skip
_ALGORITHMS = {  # bits and group by what a checkpoint calls the way of its weights
    "nvfp4": (4, 16), "modelopt_fp4": (4, 16), "mxfp4": (4, 32), "mxfp8": (8, 32), "fp4": (4, 32),
    "w4a16": (4, None), "w4a8": (4, None), "int4": (4, None), "uint4": (4, None),
    "pack-quantized": (4, None), "w8a8": (8, None), "int8": (8, None), "fp8": (8, None),
    "float-quantized": (8, None),
}  # fmt: skip


@dataclass(frozen=True)
class Quantization:
    """How weights are stored.

    Attributes:
        method: As vLLM calls it.
        bits: Of each quantized weight, its share of the scales not included.
        group: How many weights share a scale along the input; `None` for none or unknown.
        kv_cache: What `auto` means for the KV cache, where the checkpoint tells: `fp8`, `nvfp4`.
        block: Rows and columns that share a scale, as in DeepSeek's FP8.
        floating: Whether the weights are small floats, whose scales have 8 bits.
    """

    method: str
    bits: int
    group: int | None = None
    kv_cache: str | None = None
    block: tuple[int, int] | None = None
    floating: bool = False

    @property
    def bytes_per_weight(self) -> float:
        """With its share of scales and, of whole numbers in 4 bits, zero points."""
        if not self.group:
            return self.bits / 8
        scale = 8 if self.floating else 16 + self.bits * (self.bits == 4)
        return (self.bits + scale / self.group) / 8


def told_of(config: Mapping[str, Any], flat: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that tells; empty if none does."""
    for each in (config, flat):
        for key in ("quantization_config", "compression_config"):
            if isinstance(each.get(key), Mapping):
                return mapping(each[key])
    return {}


def read_quantization(
    config: Mapping[str, Any], flat: Mapping[str, Any], named: str | None
) -> Quantization | None:
    """What a checkpoint tells, else what the named method means; `None` for 16 bits."""
    told = told_of(config, flat)
    inner = mapping(told.get("quantization"))
    algorithm = str(told.get("quant_algo") or inner.get("quant_algo") or "").lower()
    method = str(told.get("quant_method") or ("modelopt" if algorithm else named or "")).lower()
    method = method.replace("compressed_tensors", "compressed-tensors")
    if method in ("", "none"):
        return None
    weights = _weights(told)
    bits = _whole(weights.get("num_bits")) or _first(told, "bits", "w_bit", "weight_bits", "wbits")
    bits = 8 if told.get("load_in_8bit") is True else bits
    group = _whole(weights.get("group_size")) or _first(told, "group_size", "q_group_size")
    group = group or _first(inner, "group_size")
    kind = f"{weights.get('type', '')} {weights.get('dtype', '')}".lower()
    text = f"{algorithm} {told.get('format', '')} {kind} {_torchao(told)} {method}".lower()
    small = next((found for word, found in _ALGORITHMS.items() if word in text), None)
    if bits is None:
        bits = small[0] if small else BITS.get(method, 8)
    group = group or (small[1] if small and small[0] == bits else None)
    if group is None and bits == 4 and (method in _GROUPED or "int4" in text):
        group = 128
    shape = told.get("weight_block_size")
    block = None
    if isinstance(shape, list) and len(shape) == 2:
        rows, columns = _whole(shape[0]), _whole(shape[1])
        block = (rows, columns) if rows and columns else None
    floating = "float" in kind or any(word in text for word in ("fp4", "mxfp"))
    return Quantization(method, bits, group, _kv_cache(told), block, floating)


def _whole(value: Any) -> int | None:
    """A positive number, also where it is written as text."""
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    good = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20
    return value if good else None


def _first(told: Mapping[str, Any], *names: str) -> int | None:
    return next((found for name in names if (found := _whole(told.get(name)))), None)


def _weights(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the weights of most layers are stored, in the words of any tool."""
    groups = [mapping(group) for group in mapping(told.get("config_groups")).values()]
    groups.sort(key=lambda group: "expert" not in str(group.get("targets")))
    for group in groups:
        if found := mapping(group.get("weights")):
            return found
    quark = mapping(told.get("global_quant_config")).get("weight")
    if quark := mapping(quark[0] if isinstance(quark, list) and quark else quark):
        return quark
    hqq = mapping(mapping(told.get("quant_config")).get("weight_quant_params"))
    return {"num_bits": hqq.get("nbits"), "group_size": hqq.get("group_size")} if hqq else {}


def _torchao(told: Mapping[str, Any]) -> str:
    """Such as `Int4WeightOnlyConfig`, or `int4_weight_only`."""
    kind = told.get("quant_type")
    kind = mapping(kind).get("default", kind)
    return str(mapping(kind).get("_type", kind) if kind else "")


def _kv_cache(told: Mapping[str, Any]) -> str | None:
    """As vLLM's `resolve_kv_cache_dtype_string` and its attention layer take it."""
    inner = mapping(told.get("quantization"))
    scheme = told.get("kv_cache_scheme") or inner.get("kv_cache_scheme")
    if isinstance(scheme, Mapping):
        return {8: "fp8", 4: "nvfp4"}.get(scheme.get("num_bits", 0))
    named = str(told.get("kv_cache_quant_algo") or inner.get("kv_cache_quant_algo") or "").lower()
    return named if named in ("fp8", "nvfp4") else None


_LEFT_ALONE = {
    "attention": re.compile(r"attn|attention|mixer"),
    "states": re.compile(r"mixer|mamba|linear_attn|conv"),
    "shared": re.compile(r"shared_?expert"),
    "dense": re.compile(r"\bmlp\b(?!.*expert)(?!\.(?:gate|router)\b)"),
    "experts": re.compile(r"\.experts\b"),
    "vision": re.compile(r"visual|vision"),
}
"""How lists of what is not quantized call a model's parts."""
_LAYER = re.compile(r"layers\\?\.(\d+)(?:\\?\.|$)")
_WHOLE_LAYER = re.compile(r"layers\\?\.(\d+)\.?\*?$")


def plain_shares(
    config: Mapping[str, Any], flat: Mapping[str, Any], layers: int, method: str
) -> dict[str, float]:
    """Which share of each part a quantized checkpoint leaves as it is."""
    told = told_of(config, flat)
    shares = {"embedding": 1.0, "router": 1.0}
    names: list[str] = []
    for key in ("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules", "exclude"):
        for each in (told, mapping(told.get("quantization"))):
            value = each.get(key)
            names += [str(name) for name in value] if isinstance(value, list) else []
    if "mxfp4" in method or method == "experts_int8":
        # The experts alone, as in gpt-oss.
        shares |= dict.fromkeys(("attention", "states", "dense", "shared", "vision"), 1.0)
    if method in ONLINE or method in _GROUPED:
        shares |= {"vision": 1.0}
    whole = {found[1] for name in names if (found := _WHOLE_LAYER.search(name))}
    for part, pattern in _LEFT_ALONE.items():
        matching = [name for name in names if pattern.search(name)]
        numbered = [_LAYER.search(name) for name in matching]
        if any(found is None for found in numbered):
            shares[part] = 1.0
        elif matching or whole:
            left = {found[1] for found in numbered if found} | whole
            shares[part] = max(shares.get(part, 0.0), min(1.0, len(left) / layers))
    return shares
