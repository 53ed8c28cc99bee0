"""How many parameters a model of some shape has, by what they are for.

Norms and biases are left out: they are less than a hundredth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gearshift.engine.config_keys import mapping, number
from gearshift.engine.layers import Feed, Mixer

if TYPE_CHECKING:
    from gearshift.engine.geometry import Geometry

_TWO_MATRICES = {
    "apertus", "arcee", "bert", "bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox",
    "gptj", "jais2", "mpt", "nemotron", "nemotron_h", "opt", "phi", "roberta", "starcoder2",
    "whisper", "xlm-roberta",
}  # fmt: skip
"""Whose feed-forward layers have no gate."""


def count_parts(shape: Geometry) -> dict[str, float]:
    """The parameters by part: embedding, attention, states, dense, experts, shared, router, …"""
    flat, layers = shape.keys, shape.layers_each
    hidden = shape.hidden
    matrices = 2 if shape.keys.get("model_type") in _TWO_MATRICES else 3
    attending = sum(layer.mixer not in (Mixer.LINEAR, Mixer.NONE) for layer in layers)
    states = sum(layer.mixer in (Mixer.LINEAR, Mixer.BOTH) for layer in layers)
    dense = sum(layer.feed in (Feed.DENSE, Feed.BOTH) for layer in layers)
    sparse = sum(layer.feed in (Feed.EXPERTS, Feed.BOTH) for layer in layers)
    return {
        "embedding": shape.vocab * hidden * (1 if shape.tied else 2) + _by_layer(flat, layers),
        "attention": float(attending * _attention(shape)),
        "states": float(states * _state(shape)),
        "dense": float(_dense(shape, dense, matrices)),
        "experts": sparse * matrices * hidden * shape.experts * shape.expert_intermediate,
        "shared": sparse * matrices * hidden * shape.shared_intermediate,
        "router": sparse * hidden * shape.experts,
        "vision": _vision(shape.vision),
        "encoder": _encoder(flat, hidden, matrices),
    }  # fmt: skip


def _attention(shape: Geometry) -> float:
    """Of one layer that attends."""
    hidden, heads = shape.hidden, shape.heads
    if mla := shape.mla:
        asked = heads * (mla["qk_nope_head_dim"] + mla["qk_rope_head_dim"])
        low, latent = mla["q_lora_rank"], mla["kv_lora_rank"]
        found = hidden * low + low * asked if low else hidden * asked
        found += hidden * (latent + mla["qk_rope_head_dim"])
        found += latent * heads * (mla["qk_nope_head_dim"] + mla["v_head_dim"])
        index = number(shape.keys, "index_n_heads") or 0  # DeepSeek-V3.2 looks for what to read
        width = number(shape.keys, "index_head_dim") or 0
        found += low * index * width + hidden * (width + index)
        return found + heads * mla["v_head_dim"] * hidden
    asked = hidden * heads * shape.head_dim
    gate = asked if _gated(shape) else 0
    return 2 * asked + gate + 2 * hidden * shape.kv_heads * shape.head_dim


def _gated(shape: Geometry) -> bool:
    kind = str(shape.keys.get("model_type", ""))
    told = shape.keys.get("attn_output_gate")
    return bool(told) or (told is None and kind.startswith(("qwen3_next", "qwen3_5")))


def _state(shape: Geometry) -> float:
    """Of one layer with a state of fixed size."""
    flat, hidden = shape.keys, shape.hidden
    parts = state_parts(shape)
    if parts is None:
        return 4.0 * hidden * shape.heads * shape.head_dim + hidden**2  # lightning attention
    kind, inner, groups, size, heads, kernel = parts
    if kind == "convolution":
        return 4.0 * hidden * hidden + kernel * hidden
    if kind == "kda":
        width = inner // heads
        return 4 * hidden * inner + 2 * (hidden * width + width * inner) + hidden * heads
    if kind == "delta":  # `groups` x `size` are the keys
        return hidden * (3 * inner + 2 * groups * size + 2 * heads) + kernel * (
            inner + 2 * groups * size
        )
    if kind == "mamba":
        rank = number(flat, "mamba_dt_rank", "time_step_rank") or -(-hidden // 16)
        return 3 * hidden * inner + inner * (2 * rank + 3 * size + kernel)
    return hidden * (3 * inner + 2 * groups * size + heads) + kernel * (inner + 2 * groups * size)


def state_parts(shape: Geometry) -> tuple[str, int, int, int, int, int] | None:
    """Kind, inner width, groups, size of the state, heads and kernel of a layer with a state.

    `None` for lightning attention, whose state follows from the model's own heads.
    """
    flat, hidden = shape.keys, shape.hidden
    kernel = number(flat, "linear_conv_kernel_dim", "mamba_d_conv", "conv_kernel", "conv_L_cache",
                    "d_conv", "short_conv_kernel_size") or 4  # fmt: skip
    if "conv_L_cache" in flat or str(flat.get("model_type")).startswith("lfm2"):
        return "convolution", hidden, 1, 1, 1, kernel
    linear = mapping(flat.get("linear_attn_config"))
    if linear:
        count = number(linear, "num_heads") or shape.heads
        each = number(linear, "head_dim") or shape.head_dim
        return "kda", count * each, count, each, count, kernel
    if values := number(flat, "linear_num_value_heads"):
        width = values * (number(flat, "linear_value_head_dim") or 128)
        keys = number(flat, "linear_num_key_heads") or values
        return "delta", width, keys, number(flat, "linear_key_head_dim") or 128, values, kernel
    size = number(flat, "mamba_d_state", "ssm_state_size", "state_size") or 0
    if not size:
        return None
    heads = number(flat, "mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads") or 0
    expand = flat.get("mamba_expand") or flat.get("expand") or 2
    expand = expand if isinstance(expand, (int, float)) else 2
    width = number(flat, "mamba_head_dim", "mamba_d_head", "mamba_headdim") or 64
    follows = heads * width if flat.get("mamba_num_heads") else int(expand * hidden)
    inner = number(flat, "mamba_d_ssm", "d_inner", "mamba_intermediate_size") or follows
    if not heads:
        return "mamba", inner, 1, size, 1, kernel
    groups = number(flat, "n_groups", "mamba_n_groups", "mamba_ngroups") or 1
    return "mamba2", inner, groups, size, heads, kernel


def _dense(shape: Geometry, layers: int, matrices: int) -> float:
    """Of all feed-forward parts without experts."""
    flat, hidden = shape.keys, shape.hidden
    blocks = flat.get("block_configs")
    if isinstance(blocks, list):  # Nemotron-NAS: each of its own width
        widths = (mapping(mapping(block).get("ffn")).get("ffn_mult") or 0 for block in blocks)
        total = sum(2 * width * hidden / 3 for width in widths if isinstance(width, (int, float)))
        return matrices * hidden * total
    return layers * matrices * hidden * shape.dense_intermediate


def _by_layer(flat: Mapping[str, Any], layers: list[Any]) -> float:
    """Gemma 3n's embeddings for each layer."""
    width = number(flat, "hidden_size_per_layer_input") or 0
    return float((number(flat, "vocab_size_per_layer_input") or 0) * width * len(layers))


def _vision(vision: Mapping[str, Any]) -> float:
    """Of the part that sees; a few hundredths of most models."""
    hidden = number(vision, "embed_dim", "hidden_size", "width")
    layers = number(vision, "num_hidden_layers", "depth", "layers")
    if not hidden or not layers:
        return 0.0
    ratio = vision.get("mlp_ratio")
    inner = number(vision, "intermediate_size") or int(
        hidden * (ratio if isinstance(ratio, (int, float)) else 4)
    )
    gated = 3 if "silu" in str(vision.get("hidden_act")) and "embed_dim" not in vision else 2
    return float(layers * (4 * hidden**2 + gated * hidden * inner))


def _encoder(flat: Mapping[str, Any], hidden: int, matrices: int) -> float:
    """Whisper's: its encoder, and what its decoder reads it with."""
    layers = number(flat, "encoder_layers") or 0
    if not layers or "whisper" not in str(flat.get("model_type")):
        return 0.0
    inner = number(flat, "encoder_ffn_dim") or 4 * hidden
    across = 4 * hidden**2 * (number(flat, "num_hidden_layers") or 0)
    return float(layers * (4 * hidden**2 + matrices * hidden * inner) + across)
