"""How long a model's own context is, as vLLM derives it from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gearshift.engine.config_keys import mapping, number

_KEYS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_target_positions",
    "max_position_embedding", "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
# Whose `max_position_embeddings` is the extended length already.
_EXTENDED = {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling",
             "telechat3-yarn", "default", "mrope", "proportional"}  # fmt: skip


class Lengths(NamedTuple):
    """In tokens; `None` is unknown, and vLLM then takes 2048.

    Attributes:
        most: The longest that vLLM takes without being forced.
        usual: What it takes where nobody asks for a length, if that is less.
        before: `most` of versions before 0.32, which multiplied YaRN's lengths themselves.
    """

    most: int | None
    usual: int | None
    before: int | None


def read_lengths(flat: Mapping[str, Any]) -> Lengths:
    """vLLM takes the smallest that is told, and extends it where the rotation is scaled."""
    told = [found for key in _KEYS if (found := number(flat, key))]
    most = number(flat, "model_max_length") or min(told, default=None)
    if most is None:
        return Lengths(None, None, None)
    usual, before = most, most
    for rope in _ropes(flat):
        kind = str(rope.get("rope_type") or rope.get("type") or "default")
        factor = rope.get("factor")
        factor = factor if isinstance(factor, (int, float)) and factor > 0 else 1.0
        original = number(rope, "original_max_position_embeddings")
        if kind in ("yarn", "deepseek_yarn") and original:
            before = int(original * factor)
        if kind in ("su", "longrope"):
            usual = number(flat, "original_max_position_embeddings") or most
        if kind not in _EXTENDED and "gemma3" not in str(flat.get("model_type")):
            most = before = usual = int(most * factor)
            break
    return Lengths(most, usual, before)


def _ropes(flat: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The ways in which layers rotate; one, or one for each kind of layer."""
    told = mapping(flat.get("rope_scaling")) or mapping(flat.get("rope_parameters"))
    inner = [value for value in told.values() if isinstance(value, Mapping)]
    return inner or ([told] if told else [])
