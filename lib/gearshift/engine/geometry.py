"""A model's shape, from its `config.json`: what memory and divisibility depend on.

Keys that a file leaves out are taken as transformers takes them (`data/config-defaults.json`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from gearshift.data import DATA
from gearshift.errors import EngineError

_BITS = {
    "awq": 4, "awq_marlin": 4, "gptq": 4, "gptq_marlin": 4, "auto_round": 4, "auto-round": 4,
    "inc": 4, "bitsandbytes": 4, "gguf": 4, "mxfp4": 4, "nvfp4": 4, "modelopt_fp4": 4, "marlin": 4,
    "squeezellm": 4, "hqq": 4, "quip": 4, "aqlm": 2, "petit_nvfp4": 4, "modelopt_mxfp8": 8,
    "fp8": 8, "fbgemm_fp8": 8, "modelopt": 8, "ptpc_fp8": 8, "experts_int8": 8, "mxfp8": 8,
    "tpu_int8": 8, "int8": 8, "w8a8": 8, "deepspeedfp": 8, "fp_quant": 4, "moe_wna16": 4,
    "gptq_bitblas": 4, "bitblas": 4, "gptq_marlin_24": 4, "rtn": 8, "torchao": 8, "quark": 8,
    "compressed-tensors": 8, "neuron_quant": 8, "ipex": 4, "awq_triton": 4, "int4": 4, "fp4": 4,
}  # fmt: skip
"""Bits of a weight by vLLM's quantization methods, where the checkpoint does not say more."""

_GROUPED = {"awq", "gptq", "awq_marlin", "gptq_marlin", "auto_round", "auto-round", "marlin"}


@dataclass(frozen=True)
class Quantization:
    """How weights are stored.

    Attributes:
        method: As vLLM calls it.
        bits: Of each quantized weight, its share of the scales not included.
        group: How many weights share a scale along the input; `None` for none or unknown.
        kv_cache: What `auto` means for the KV cache, where the checkpoint tells: `fp8`, `nvfp4`.
    """

    method: str
    bits: int
    group: int | None = None
    kv_cache: str | None = None

    @property
    def bytes_per_weight(self) -> float:
        """With its share of scales (16 bits a group) and, in 4 bits, zero points."""
        scale = (16 + self.bits * (self.bits == 4)) / self.group if self.group else 0.0
        return (self.bits + scale) / 8


@dataclass(frozen=True)
class Geometry:
    """The shape of a language model.

    Attributes:
        latent: Values that MLA caches for each token and layer, in place of keys and values.
        window: Tokens that a sliding-window layer sees.
        full_layers: Layers that cache every token; `sliding_layers` cache `window` of them, and
            the rest (linear attention, state spaces) a state of fixed size.
        dense_layers: Layers without experts, in a model that has some.
        weight_bytes: Of one weight that is not quantized.
        parameters: All of them; from the shape where nobody says.
        plain: Those that stay as they are in a quantized checkpoint.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    max_len: int | None
    experts: int
    expert_intermediate: int
    shared_intermediate: int
    dense_layers: int
    latent: int | None
    mla: Mapping[str, int]
    window: int | None
    full_layers: int
    sliding_layers: int
    vision_heads: int | None
    weight_bytes: int
    quantization: Quantization | None
    parameters: float
    plain: float
    model_type: str


@lru_cache(maxsize=1)
def _defaults() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((DATA / "config-defaults.json").read_text())
    return found


def read_geometry(
    config: Mapping[str, Any],
    parameters: float | None = None,
    quantization: str | None = None,
    dtype: str | None = None,
) -> Geometry:
    """The shape that a `config.json` tells.

    Args:
        config: Flat, or with the language model under `text_config`.
        parameters: How many there are, where somebody knows better.
        quantization: The method, where the start names one.
        dtype: Where the start names one; vLLM makes 16 bits of 32 otherwise.

    Raises:
        EngineError: it does not tell what is needed (kind `geometry`).
    """
    flat = _flat(config)

    def number(*names: str) -> int | None:
        for name in names:
            value = flat.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
                return int(value)
        return None

    layers, hidden = number("num_hidden_layers"), number("hidden_size")
    heads = number("num_attention_heads")
    if not layers or not heads or hidden is None:
        needed = ("num_hidden_layers", "hidden_size", "num_attention_heads")
        raise EngineError(
            "geometry",
            f"config.json does not tell {', '.join(n for n in needed if not flat.get(n))}",
            "give the config.json of the model itself",
        )
    kv_heads = number("num_key_value_heads") or heads
    if flat.get("multi_query") is True and not flat.get("new_decoder_architecture"):
        kv_heads = 1
    head_dim = number("head_dim") or hidden // heads
    intermediate = number("intermediate_size", "ffn_hidden_size", "n_inner") or 4 * hidden
    experts = number("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts") or 0
    expert = number("moe_intermediate_size") or intermediate
    shared = number("shared_expert_intermediate_size") or (number("n_shared_experts") or 0) * expert
    keys = ("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    mla = {key: number(key) or 0 for key in keys} if number("kv_lora_rank") else {}
    full, sliding = _layer_kinds(flat, layers)
    found = Geometry(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocab=number("vocab_size") or 32_000,
        tied=flat.get("tie_word_embeddings") is True,
        max_len=number("max_position_embeddings", "model_max_length", "seq_length", "max_seq_len"),
        experts=experts,
        expert_intermediate=expert if experts else 0,
        shared_intermediate=shared if experts else 0,
        dense_layers=(number("first_k_dense_replace") or 0) if experts else layers,
        latent=mla["kv_lora_rank"] + mla["qk_rope_head_dim"] if mla else None,
        mla=mla,
        window=number("sliding_window") or number("attention_chunk_size"),
        full_layers=full,
        sliding_layers=sliding,
        vision_heads=_vision_heads(config),
        weight_bytes=4 if dtype in ("float32", "float") else 2,
        quantization=_quantization(config, flat, quantization),
        parameters=0.0,
        plain=0.0,
        model_type=str(flat.get("model_type", "")),
    )
    parts = _parts(found, config)
    counted = float(parameters or _counted(config, flat) or sum(parts.values()))
    plain = sum(parts[part] * share for part, share in _plain_shares(config, flat, layers).items())
    return replace(found, parameters=counted, plain=min(plain, counted))


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The text model's keys by their usual names, over transformers' defaults."""
    nested: Mapping[str, Any] = next(
        (config[key] for key in ("text_config", "llm_config", "language_config")
         if isinstance(config.get(key), Mapping)),
        {},
    )  # fmt: skip
    own = {key: value for key, value in {**config, **nested}.items() if value is not None}
    kind = str(nested.get("model_type") or config.get("model_type") or "")
    row = dict(_defaults().get(kind) or _defaults().get(f"{kind}_text") or {})
    names = row.pop("names", {})
    renamed = {names.get(key, key): value for key, value in own.items()}
    # A default of a model of another size says nothing about this one's.
    return row | renamed | {key: own[key] for key in own if key in row}


def _layer_kinds(flat: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """How many layers attend to everything, and how many through a window."""
    kinds = flat.get("layer_types")
    if isinstance(kinds, list) and kinds:
        full = sum("full" in str(kind) or str(kind) == "attention" for kind in kinds)
        sliding = sum("sliding" in str(kind) or "chunked" in str(kind) for kind in kinds)
        return full, sliding
    pattern = flat.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return pattern.count("*"), 0
    window = flat.get("sliding_window") or flat.get("attention_chunk_size")
    every = flat.get("full_attention_interval") or flat.get("sliding_window_pattern")
    if isinstance(every, int) and every > 1:
        full = layers // every
        linear = any(str(key).startswith("linear_") for key in flat) or not window
        return full, 0 if linear else layers - full
    if isinstance(window, int) and window and flat.get("use_sliding_window") is not False:
        return 0, layers
    return layers, 0


def _vision_heads(config: Mapping[str, Any]) -> int | None:
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        return None
    value = vision.get("num_attention_heads") or vision.get("num_heads")
    return value if isinstance(value, int) else None


def _quantization(
    config: Mapping[str, Any], flat: Mapping[str, Any], named: str | None
) -> Quantization | None:
    told = config.get("quantization_config") or flat.get("quantization_config")
    told = told if isinstance(told, Mapping) else {}
    method = str(told.get("quant_method") or named or "").lower()
    if not method:
        return None
    bits = told.get("bits") or told.get("w_bit") or told.get("weight_bits")
    group = told.get("group_size") or told.get("q_group_size")
    if told.get("load_in_8bit"):
        bits = 8
    for part in (told.get("config_groups") or {}).values() if not bits else ():
        weights = part.get("weights") if isinstance(part, Mapping) else None
        if isinstance(weights, Mapping):
            bits, group = weights.get("num_bits"), weights.get("group_size")
            break
    text = f"{method} {told.get('quant_algo', '')} {told.get('format', '')} {named or ''}".lower()
    if not isinstance(bits, int):
        small = any(word in text for word in ("fp4", "int4", "w4", "4bit", "pack-quantized"))
        bits = 4 if small else _BITS.get(method, 8)
    if not isinstance(group, int) or group <= 0:
        group = 128 if bits == 4 and method in _GROUPED else 32 if "mxfp4" in text else None
        group = 16 if "nvfp4" in text else group
    return Quantization(method, bits, group, _kv_cache(told))


def _kv_cache(told: Mapping[str, Any]) -> str | None:
    """As vLLM's `resolve_kv_cache_dtype_string` and its attention layer take it."""
    inner = told.get("quantization")
    inner = inner if isinstance(inner, Mapping) else {}
    scheme = told.get("kv_cache_scheme") or inner.get("kv_cache_scheme")
    if isinstance(scheme, Mapping):
        return {8: "fp8", 4: "nvfp4"}.get(scheme.get("num_bits", 0))
    named = str(told.get("kv_cache_quant_algo") or inner.get("kv_cache_quant_algo") or "").lower()
    return named if named in ("fp8", "nvfp4") else None


def _counted(config: Mapping[str, Any], flat: Mapping[str, Any]) -> float | None:
    value = config.get("num_parameters") or flat.get("num_parameters")
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


def _parts(shape: Geometry, config: Mapping[str, Any]) -> dict[str, float]:
    """The parameters of a model of that shape by what they are for."""
    hidden, heads, width = shape.hidden, shape.heads, shape.head_dim
    if mla := shape.mla:
        asked = heads * (mla["qk_nope_head_dim"] + mla["qk_rope_head_dim"])
        low = mla["q_lora_rank"]
        attention = hidden * low + low * asked if low else hidden * asked
        attention += hidden * (mla["kv_lora_rank"] + mla["qk_rope_head_dim"])
        attention += mla["kv_lora_rank"] * heads * (mla["qk_nope_head_dim"] + mla["v_head_dim"])
        attention += heads * mla["v_head_dim"] * hidden
    else:
        attention = 2 * hidden * heads * width + 2 * hidden * shape.kv_heads * width
    matrices = 2 if shape.model_type in _TWO_MATRICES else 3
    sparse = shape.layers - shape.dense_layers
    return {
        "embedding": shape.vocab * hidden * (1 if shape.tied else 2),
        "attention": shape.layers * attention,
        "dense": shape.dense_layers * matrices * hidden * shape.intermediate,
        "experts": sparse * 3 * hidden * shape.experts * shape.expert_intermediate,
        "shared": sparse * 3 * hidden * shape.shared_intermediate,
        "router": sparse * hidden * shape.experts,
        "vision": _vision_parameters(config),
    }


_LEFT_ALONE = {
    "attention": re.compile(r"attn|attention|mixer"),
    "shared": re.compile(r"shared_?expert"),
    "dense": re.compile(r"\bmlp\b(?!.*expert)"),
    "vision": re.compile(r"visual|vision"),
}
"""How lists of what is not quantized call a model's parts."""
_LAYER = re.compile(r"layers\\?\.(\d+)\\?\.")


def _plain_shares(
    config: Mapping[str, Any], flat: Mapping[str, Any], layers: int
) -> dict[str, float]:
    """Which share of each part a quantized checkpoint leaves as it is."""
    told = config.get("quantization_config") or flat.get("quantization_config")
    told = told if isinstance(told, Mapping) else {}
    shares = {"embedding": 1.0, "router": 1.0}
    names: list[str] = []
    for key in ("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules"):
        value = told.get(key)
        names += [str(name) for name in value] if isinstance(value, list) else []
    if "mxfp4" in str(told.get("quant_method")):
        shares |= {"attention": 1.0, "dense": 1.0}  # the experts alone, as in gpt-oss
    for part, pattern in _LEFT_ALONE.items():
        matching = [name for name in names if pattern.search(name)]
        numbered = [_LAYER.search(name) for name in matching]
        if any(found is None for found in numbered):
            shares[part] = 1.0
        elif matching:
            shares[part] = min(1.0, len({found[1] for found in numbered if found}) / layers)
    return shares


_TWO_MATRICES = {
    "bert", "bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "mpt", "opt", "phi",
    "roberta", "starcoder2", "xlm-roberta",
}  # fmt: skip
"""Whose feed-forward layers have no gate."""


def _vision_parameters(config: Mapping[str, Any]) -> float:
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        return 0.0
    hidden = vision.get("hidden_size") or vision.get("embed_dim")
    layers = vision.get("num_hidden_layers") or vision.get("depth")
    if not isinstance(hidden, int) or not isinstance(layers, int):
        return 0.0
    inner = vision.get("intermediate_size")
    return float(
        layers * (4 * hidden**2 + 2 * hidden * (inner if isinstance(inner, int) else 4 * hidden))
    )


def legal_tensor_parallel(shape: Geometry, most: int) -> list[int]:
    """The sizes from 1 to `most` that vLLM takes for a model of that shape."""
    return [size for size in range(1, most + 1) if why_not_tensor_parallel(shape, size) is None]


def shares(heads: int, kv_heads: int, size: int) -> bool:
    """Whether so many ranks can share the heads; KV heads may be copied."""
    return heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)


def why_not_tensor_parallel(shape: Geometry, size: int) -> str | None:
    """Why so many ranks cannot share each layer; `None` if they can."""
    kv_heads = shape.heads if shape.mla else shape.kv_heads  # MLA's cache is not shared out
    if shape.heads % size:
        return f"{shape.heads} attention heads cannot be shared by {size}"
    if not shares(shape.heads, kv_heads, size):
        return f"{kv_heads} KV heads can neither be shared by {size} nor copied evenly"
    if shape.vision_heads and shape.vision_heads % size:
        return f"the vision tower's {shape.vision_heads} heads cannot be shared by {size}"
    group = shape.quantization.group if shape.quantization else None
    if group and shape.quantization and shape.quantization.method in _GROUPED:
        inner = shape.expert_intermediate or shape.intermediate
        if inner % size or (inner // size) % group:
            return (
                f"{size} parts of {inner} are no multiples of the quantization's group of {group}"
            )
    return None
