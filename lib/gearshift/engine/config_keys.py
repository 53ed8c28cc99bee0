"""The keys of a language model's `config.json`, by their usual names and with their defaults.

Keys that a file leaves out are taken as transformers takes them (`data/config-defaults.json`); one
that it sets to null is not there. What is no number where a number is needed is refused by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gearshift.data import DATA
from gearshift.errors import EngineError

_NESTED = ("thinker_config", "text_config", "llm_config", "language_config")
_MOST = 10**13  # no model has so much of anything

# What some families call the usual keys, beside the names that transformers itself maps.
_NAMES = {
    "n_embd": "hidden_size", "n_embed": "hidden_size", "d_model": "hidden_size",
    "n_layer": "num_hidden_layers", "n_layers": "num_hidden_layers",
    "n_head": "num_attention_heads", "n_heads": "num_attention_heads",
    "n_head_kv": "num_key_value_heads", "num_kv_heads": "num_key_value_heads",
    "num_attention_groups": "num_key_value_heads", "attention_head_dim": "head_dim",
    "ffn_dim": "intermediate_size", "n_inner": "intermediate_size", "d_ff": "intermediate_size",
    "padded_vocab_size": "vocab_size", "attn_layer_indices": "full_attn_idxs",
    "moe_num_experts": "num_experts", "share_expert_dim": "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size": "shared_expert_intermediate_size",
    "shared_intermediate_size": "shared_expert_intermediate_size",
    "moe_num_shared_experts": "n_shared_experts", "num_shared_experts": "n_shared_experts",
    "n_shared_expert": "n_shared_experts", "layers_block_type": "layer_types",
}  # fmt: skip
_IN_TYPES = {
    # ChatGLM's layers and KV heads have names that mean other things elsewhere.
    "chatglm": {"num_layers": "num_hidden_layers", "multi_query_group_num": "num_key_value_heads",
                "kv_channels": "head_dim", "ffn_hidden_size": "intermediate_size"},
    "longcat_flash": {"num_layers": "decoder_layers"},
    "qwen": {"kv_channels": "head_dim"},
    "whisper": {"decoder_layers": "num_hidden_layers", "encoder_layers": "encoder_layers",
                "decoder_attention_heads": "num_attention_heads",
                "encoder_attention_heads": "encoder_attention_heads",
                "decoder_ffn_dim": "intermediate_size"},
}  # fmt: skip


@lru_cache(maxsize=1)
def _defaults() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((DATA / "config-defaults.json").read_text())
    return found


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """The text model's keys by their usual names, over transformers' defaults.

    Raises:
        EngineError: a part of it is not what it has to be (kind `geometry`).
    """
    own: dict[str, Any] = dict(config)
    for key in _NESTED:
        if isinstance(own.get(key), Mapping):
            own |= own[key]
    kind = own.get("model_type")
    kind = kind if isinstance(kind, str) else ""
    row = dict(_defaults().get(kind) or _defaults().get(f"{kind}_text") or {})
    names = _NAMES | row.pop("names", {}) | _IN_TYPES.get(kind, {})
    for part in ("attn_config", "ffn_config"):  # DBRX keeps some in parts of their own
        if isinstance(own.get(part), Mapping):
            inner = {"kv_n_heads": "num_key_value_heads", "ffn_hidden_size": "intermediate_size"}
            own |= {inner.get(key, key): value for key, value in own[part].items()}
    # Null means "not there": it also takes the default away. The usual name goes before others.
    renamed = {names[key]: value for key, value in own.items() if key in names}
    usual = {key: value for key, value in own.items() if key not in names or key in row}
    found = row | renamed | {k: v for k, v in usual.items() if v is not None or k not in renamed}
    return {key: value for key, value in found.items() if value is not None}


def number(flat: Mapping[str, Any], *names: str) -> int | None:
    """The first of these keys that is there; the largest of a list with one for each layer.

    Some write -1 for "none".

    Raises:
        EngineError: it is no number that a shape could have (kind `geometry`).
    """
    for name in names:
        if name in flat and flat[name] != -1:
            return _whole(name, flat[name])
    return None


def _whole(name: str, value: Any) -> int:
    if isinstance(value, list) and value:
        return max(_whole(name, each) for each in value)
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or not 0 <= value < _MOST:
        text = json.dumps(value, default=str)
        raise EngineError(
            "geometry",
            f"config.json's {name} is {text[:60]}, which is no number that a model could have",
            "give the config.json of the model as it was published",
        )
    return int(value)


def numbers(flat: Mapping[str, Any], name: str) -> list[int] | None:
    """A list of numbers; `None` if there is none."""
    value = flat.get(name)
    if isinstance(value, str):  # Step3 writes "4,5,6"
        value = [int(part) for part in value.split(",") if part.strip().isdigit()]
    if not isinstance(value, list):
        return None
    return [_whole(name, each) for each in value]


def mapping(value: Any) -> Mapping[str, Any]:
    """A part of a configuration; an empty one where something else stands."""
    return value if isinstance(value, Mapping) else {}
