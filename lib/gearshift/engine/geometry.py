"""A model's shape, from its `config.json`: what memory and divisibility depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gearshift.engine.config_keys import flatten, mapping, number
from gearshift.engine.layers import Layer, Mixer, read_layers
from gearshift.engine.lengths import Lengths, read_lengths
from gearshift.engine.parameters import count_parts
from gearshift.engine.quantization import Quantization, plain_shares, read_quantization
from gearshift.engine.shards import legal_tensor_parallel, shares, why_not_tensor_parallel
from gearshift.errors import EngineError

__all__ = [
    "Geometry", "Quantization", "legal_tensor_parallel", "read_geometry", "shares",
    "why_not_tensor_parallel",
]  # fmt: skip


@dataclass(frozen=True)
class Geometry:
    """The shape of a language model.

    Attributes:
        kv_heads: Of most layers; those that see everything may have others (`global_heads`).
        layers_each: What each layer is.
        lengths: How long its own context is.
        dense_intermediate: The width of feed-forward parts without experts, in a model that has
            some with them; else the same as `intermediate`.
        latent: Values that MLA caches for each token and layer, in place of keys and values.
        index_bytes: What a layer caches of a token to look for what is worth reading.
        window: Tokens that a sliding-window layer sees, or a chunk's.
        dtype: As the start names it; empty if it does not.
        weight_bytes: Of one weight that is not quantized.
        parameters: All of them; from the shape where nobody says.
        plain: Those that stay as they are in a quantized checkpoint.
        apart: Those of the embeddings, which only the first and the last stage have.
        left: The share of each part that a quantized checkpoint leaves as it is.
        vision: The configuration of the part that sees; empty if there is none.
        keys: The configuration's own, by their usual names.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    global_heads: int
    global_dim: int
    intermediate: int
    dense_intermediate: int
    vocab: int
    tied: bool
    lengths: Lengths
    experts: int
    expert_intermediate: int
    shared_intermediate: int
    layers_each: list[Layer]
    latent: int | None
    index_bytes: int
    mla: Mapping[str, int]
    window: int | None
    vision_heads: int | None
    dtype: str
    weight_bytes: int
    quantization: Quantization | None
    parameters: float
    plain: float
    apart: float
    model_type: str
    left: Mapping[str, float] = field(repr=False)
    vision: Mapping[str, Any] = field(repr=False)
    keys: Mapping[str, Any] = field(repr=False)

    @property
    def max_len(self) -> int | None:
        """The longest context that vLLM takes; `None` if the configuration does not tell."""
        return self.lengths.most

    def count(self, *mixers: Mixer) -> int:
        """How many layers mix tokens in one of these ways."""
        return sum(layer.mixer in mixers for layer in self.layers_each)

    @property
    def full_layers(self) -> int:
        """Layers that cache every token."""
        return self.count(Mixer.FULL, Mixer.BOTH)

    @property
    def sliding_layers(self) -> int:
        """Layers that need only the last tokens."""
        return self.count(Mixer.SLIDING, Mixer.CHUNKED)


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
    flat = flatten(config)
    layers, hidden, heads = _needed(flat)
    kv_heads = _kv_heads(flat, heads)
    head_dim = number(flat, "head_dim", "hidden_size_per_head") or hidden // max(1, heads)
    intermediate = number(flat, "intermediate_size") or _feed_forward(flat, hidden)
    if flat.get("model_type") == "qwen":
        intermediate //= 2  # the first Qwen counts both of its gate's halves
    if flat.get("block_auto_adjust_ff_dim"):
        intermediate = _adjusted(flat, intermediate)
    experts = number(flat, "num_experts", "n_routed_experts", "num_local_experts") or 0
    expert = number(flat, "moe_intermediate_size", "expert_ffn_hidden_size") or intermediate
    shared = number(flat, "shared_expert_intermediate_size")
    if shared is None:
        llama4 = "llama4" in str(flat.get("model_type"))
        shared = (1 if llama4 else number(flat, "n_shared_experts") or 0) * expert
    dense = number(flat, "intermediate_size_mlp") or intermediate
    if not experts and shared:  # Granite 4 without experts keeps the shared one alone
        dense = shared
    each = read_layers(flat, layers, experts)
    mla, vision = _mla(flat), _vision(config)
    found = Geometry(
        layers=len(each),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        global_heads=number(flat, "num_global_key_value_heads") or kv_heads,
        global_dim=number(flat, "global_head_dim") or head_dim,
        intermediate=intermediate,
        dense_intermediate=dense,
        vocab=number(flat, "vocab_size") or 32_000,
        tied=flat.get("tie_word_embeddings") is True,
        lengths=read_lengths(flat),
        experts=experts,
        expert_intermediate=expert if experts else 0,
        shared_intermediate=shared if experts else 0,
        layers_each=each,
        latent=mla["kv_lora_rank"] + mla["qk_rope_head_dim"] if mla else None,
        index_bytes=_index(flat) if mla else 0,
        mla=mla,
        window=number(flat, "sliding_window") or number(flat, "attention_chunk_size"),
        vision_heads=number(vision, "num_attention_heads", "num_heads"),
        dtype=(dtype or "").lower(),
        weight_bytes=4 if str(dtype).lower() in FLOAT32 else 2,
        quantization=read_quantization(config, flat, quantization),
        parameters=0.0,
        plain=0.0,
        apart=0.0,
        model_type=str(config.get("model_type") or flat.get("model_type") or ""),
        left={},
        vision=vision,
        keys=flat,
    )
    parts = count_parts(found)
    counted = float(parameters or number(flat, "num_parameters") or sum(parts.values()))
    method = found.quantization.method if found.quantization else ""
    left = plain_shares(config, flat, found.layers, method)
    plain = min(counted, sum(parts[part] * share for part, share in left.items()))
    apart = min(counted, parts["embedding"])
    return replace(found, parameters=counted, plain=plain, apart=apart, left=left)


FLOAT32 = {"float32", "float", "fp32", "torch.float32"}


def _needed(flat: Mapping[str, Any]) -> tuple[int, int, int]:
    """Layers, hidden size and attention heads; no heads of a model that does not attend."""
    attends = not (number(flat, "state_size") and "num_attention_heads" not in flat)
    needed = ["num_hidden_layers", "hidden_size", *(["num_attention_heads"] if attends else [])]
    missing = [name for name in needed if not number(flat, name)]
    if missing:
        pattern = flat.get("hybrid_override_pattern")
        if missing != ["num_hidden_layers"] or not isinstance(pattern, str):
            raise EngineError(
                "geometry",
                f"config.json does not tell {', '.join(missing)}",
                "give the config.json of the model itself",
            )
    layers = number(flat, "num_hidden_layers") or len(str(flat.get("hybrid_override_pattern")))
    if layers > _MOST_LAYERS:
        raise EngineError("geometry", f"config.json's num_hidden_layers is {layers}",
                          "give the config.json of the model itself")  # fmt: skip
    heads = number(flat, "num_attention_heads") or 0
    return layers, number(flat, "hidden_size") or 0, heads


_MOST_LAYERS = 10_000


def _kv_heads(flat: Mapping[str, Any], heads: int) -> int:
    if flat.get("multi_query") is True and not flat.get("new_decoder_architecture"):
        return 1
    blocks = flat.get("block_configs")
    for block in blocks if isinstance(blocks, list) else ():  # Nemotron-NAS
        if share := number(mapping(mapping(block).get("attention")), "n_heads_in_group"):
            return max(1, heads // share)
    return number(flat, "num_key_value_heads") or heads


def _feed_forward(flat: Mapping[str, Any], hidden: int) -> int:
    ratio = flat.get("expansion_ratio")  # MPT
    return number(flat, "ffn_hidden_size") or int(
        hidden * (ratio if isinstance(ratio, (int, float)) and 0 < ratio < 100 else 4)
    )


def _adjusted(flat: Mapping[str, Any], width: int) -> int:
    """LFM2's width: two thirds of what is told, in whole multiples."""
    multiple = number(flat, "block_multiple_of") or 256
    factor = flat.get("block_ffn_dim_multiplier")
    width = int(2 * width / 3 * (factor if isinstance(factor, (int, float)) else 1))
    return -(-width // multiple) * multiple


def _mla(flat: Mapping[str, Any]) -> dict[str, int]:
    keys = ("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    return {key: number(flat, key) or 0 for key in keys} if number(flat, "kv_lora_rank") else {}


def _index(flat: Mapping[str, Any]) -> int:
    """Bytes of DeepSeek-V3.2's indexer: a byte for each value, and a scale for 128 of them."""
    if "index_topk" not in flat and "index_head_dim" not in flat:
        return 0
    width = number(flat, "index_head_dim") or 128
    return width + 4 * -(-width // 128)


def _vision(config: Mapping[str, Any]) -> Mapping[str, Any]:
    thinker = mapping(config.get("thinker_config"))
    return mapping(config.get("vision_config")) or mapping(thinker.get("vision_config"))
