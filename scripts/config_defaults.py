"""Writes data/config-defaults.json: what transformers takes for keys that a config.json leaves out.

Run it with a Python that has transformers, such as that of vLLM's environment.
"""

import json
import warnings
from pathlib import Path

from transformers import CONFIG_MAPPING

KEYS = [
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "intermediate_size", "vocab_size", "tie_word_embeddings"),
    *("max_position_embeddings", "num_local_experts", "num_experts", "n_routed_experts"),
    *("num_experts_per_tok", "moe_intermediate_size", "n_shared_experts", "first_k_dense_replace"),
    *("shared_expert_intermediate_size", "sliding_window", "use_sliding_window"),
    *("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"),
    *("full_attention_interval", "layer_types"),
    *("attn_layer_period", "attn_layer_offset", "expert_layer_period", "expert_layer_offset"),
    *("num_dense_layers", "moe_layer_start_index", "moe_layer_interval", "moe_layer_freq"),
    *(
        "decoder_sparse_step",
        "interleave_moe_layer_step",
        "attention_chunk_size",
        "mlp_layer_types",
    ),
    *("intermediate_size_mlp", "shared_intermediate_size", "moe_shared_expert_intermediate_size"),
    *("attn_layer_indices", "attn_output_gate", "num_kv_shared_layers", "index_head_dim"),
    *("index_n_heads", "index_topk", "hidden_size_per_layer_input", "vocab_size_per_layer_input"),
    *("linear_num_value_heads", "linear_num_key_heads", "linear_key_head_dim", "conv_L_cache"),
    *("linear_value_head_dim", "linear_conv_kernel_dim", "mamba_d_state", "ssm_state_size"),
    *("state_size", "mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "mamba_d_head"),
    *("mamba_head_dim", "mamba_headdim", "mamba_n_groups", "n_groups", "mamba_ngroups"),
    *("mamba_expand", "expand", "mamba_d_conv", "conv_kernel", "mamba_d_ssm", "mamba_ssm_dtype"),
    *("global_head_dim", "num_global_key_value_heads", "enable_moe_block", "max_window_layers"),
    *("encoder_layers", "encoder_ffn_dim", "decoder_layers", "decoder_ffn_dim", "expansion_ratio"),
    *("decoder_attention_heads", "max_target_positions", "block_auto_adjust_ff_dim"),
    *("multi_query", "new_decoder_architecture", "cross_attention_layers", "parallel_attn"),
]
TEXT = ("hidden_size", "num_hidden_layers", "vocab_size")
# What may follow from other values.
DERIVED = (
    *("head_dim", "num_key_value_heads", "intermediate_size", "shared_intermediate_size"),
    *("mamba_d_head", "mamba_n_heads", "mamba_d_ssm", "mamba_headdim", "n_mamba_heads"),
    *("intermediate_size_mlp", "global_head_dim"),
)
TARGET = Path(__file__).parents[1] / "data" / "config-defaults.json"


def defaults(model_type: str) -> dict[str, object] | None:
    """What a config of that type has when nothing is set; `None` for what is no text model."""
    try:
        made = CONFIG_MAPPING[model_type]()
        # What follows from other values is no default: a config without it follows from its own.
        wider = CONFIG_MAPPING[model_type](hidden_size=2 * made.hidden_size)
        more = CONFIG_MAPPING[model_type](
            hidden_size=2 * made.hidden_size, num_attention_heads=2 * made.num_attention_heads
        )
    except Exception:  # noqa: BLE001 (each of 700 classes has its own)
        return None  # it cannot be made without arguments, or has no such thing
    # By attributes: they have the usual names also where the file has others (n_head, n_embd).
    found = {key: value for key in KEYS if (value := _get(made, key)) is not None}
    if not all(isinstance(found.get(key), int) for key in TEXT):
        return None
    if not {"num_attention_heads", "state_size"} & found.keys():
        return None
    for key in DERIVED:
        if key in found and not found[key] == _get(wider, key) == _get(more, key):
            del found[key]
    layers = found.pop("layer_types", None)
    if layers and "full_attention" in layers and set(layers) != {"full_attention"}:
        found["full_attention_interval"] = layers.index("full_attention") + 1
    feeds = found.pop("mlp_layer_types", None)
    if feeds and set(feeds[feeds.count("dense") :]) == {"sparse"}:
        found.setdefault("first_k_dense_replace", feeds.count("dense"))
    other = getattr(made, "attribute_map", None) or {}
    names = {theirs: usual for usual, theirs in other.items() if usual in KEYS}
    return found | ({"names": names} if names else {})


def _get(config: object, key: str) -> object:
    try:
        return getattr(config, key, None)
    except Exception:  # noqa: BLE001
        return None  # it differs from layer to layer


def main() -> None:
    warnings.simplefilter("ignore")
    rows = {name: row for name in sorted(CONFIG_MAPPING) if (row := defaults(name)) is not None}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    TARGET.write_text("{\n" + lines + "\n}\n", "utf-8")
    print(len(rows), "types")


if __name__ == "__main__":
    main()
