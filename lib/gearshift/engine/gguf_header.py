"""A GGUF file's header as the keys of a `config.json`, for the fit plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf

from gearshift.errors import EngineError

MAGIC = b"GGUF"

_KEYS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.sliding_window": "sliding_window",
    "context_length": "max_position_embeddings",
    "expert_count": "num_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "full_attention_interval": "full_attention_interval",
    "leading_dense_block_count": "first_k_dense_replace",
    "vocab_size": "vocab_size",
}
# One layer in so many sees everything, the others a window; llama.cpp has these in its code.
_WINDOW_PATTERNS = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4}


def read_header(path: Path) -> dict[str, Any]:
    """What the header tells of the model's shape.

    `num_parameters` is counted in its tensors; `begin` is the token that every prompt begins with.

    Raises:
        EngineError: the file cannot be read, or is cut short (kind `model`).
    """
    try:
        reader = gguf.GGUFReader(path)
        told = {name: _value(field) for name, field in reader.fields.items()}
    except (OSError, ValueError, IndexError, KeyError, OverflowError, MemoryError) as wrong:
        raise EngineError(
            "model",
            f"{path} is no whole GGUF file: {str(wrong).splitlines()[0] if str(wrong) else wrong}",
            "download it again",
        ) from None
    architecture = str(told.get("general.architecture", ""))
    own = {name.removeprefix(f"{architecture}."): value for name, value in told.items()}
    config = {ours: own[theirs] for theirs, ours in _KEYS.items() if own.get(theirs) is not None}
    names = {tensor.name for tensor in reader.tensors}
    config |= {
        "model_type": architecture.replace("moe", "_moe").replace("-", "_"),
        # Factors of the position's rotation are computed, and stored all the same.
        "num_parameters": sum(
            int(tensor.n_elements) for tensor in reader.tensors if "rope_" not in tensor.name
        ),
        "tie_word_embeddings": "output.weight" not in names,
    }
    config.setdefault("vocab_size", _vocabulary(reader))
    config["begin"] = _begin(reader, told)
    if pattern := _WINDOW_PATTERNS.get(architecture):
        config["sliding_window_pattern"] = pattern
    return config | _latent(config, own)


def _value(field: gguf.ReaderField) -> Any:
    """A number or a text; of a number for each layer the largest; `None` of other lists."""
    if not field.types or field.types[0] is not gguf.GGUFValueType.ARRAY:
        return field.contents()
    if len(field.data) > 4096 or field.types[-1] is gguf.GGUFValueType.STRING:
        return None
    values = field.contents()
    return max(values) if values else None


def _vocabulary(reader: gguf.GGUFReader) -> int | None:
    tokens = reader.fields.get("tokenizer.ggml.tokens")
    return len(tokens.data) if tokens else None


def _begin(reader: gguf.GGUFReader, told: Mapping[str, Any]) -> str:
    """The token that llama.cpp puts in front of every prompt; empty if there is none."""
    unigram = told.get("tokenizer.ggml.model") == "llama"
    tokens, number = reader.fields.get("tokenizer.ggml.tokens"), told.get(_BEGIN)
    if not told.get("tokenizer.ggml.add_bos_token", unigram) or tokens is None or number is None:
        return ""
    return str(tokens.contents(number)) if 0 <= number < len(tokens.data) else ""


_BEGIN = "tokenizer.ggml.bos_token_id"


def _latent(config: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """MLA's widths, which a GGUF file tells in other words."""
    if not config.get("kv_lora_rank"):
        return {}
    rope = own.get("rope.dimension_count") or 0
    key = own.get("attention.key_length_mla") or own.get("attention.key_length") or 0
    value = own.get("attention.value_length_mla") or own.get("attention.value_length") or 0
    return {
        "num_key_value_heads": config["num_attention_heads"],
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": max(0, key - rope),
        "v_head_dim": value,
    }
