"""What each layer of a model is: how it mixes tokens, and which feed-forward part it has.

Families write this down in a dozen ways: a list of names, a pattern of letters, a period.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

from gearshift.engine.config_keys import mapping, number, numbers
from gearshift.errors import EngineError


class Mixer(Enum):
    """How a layer mixes tokens."""

    FULL = "attention that caches every token"
    SLIDING = "attention through a window"
    CHUNKED = "attention within a chunk"
    LINEAR = "a state of fixed size: linear attention, a state space, a convolution"
    BOTH = "attention and a state space side by side"
    BORROWED = "attention with the cache of an earlier layer"
    CROSS = "attention to what another model has read"
    NONE = "no mixing"


class Feed(Enum):
    """The feed-forward part of a layer."""

    DENSE = "one for all"
    EXPERTS = "experts"
    BOTH = "experts beside one for all"
    NONE = "none"


class Layer(NamedTuple):
    """A layer's two parts."""

    mixer: Mixer
    feed: Feed


_STATES = ("linear", "mamba", "conv", "recurrent", "ssm", "lightning", "delta", "kda", "moe", "mlp")
_STATES_ALONE = ("mamba", "mamba2", "falcon_mamba")
_PATTERN = {  # Nemotron-H: each layer has one part only
    "*": Layer(Mixer.FULL, Feed.NONE), "M": Layer(Mixer.LINEAR, Feed.NONE),
    "-": Layer(Mixer.NONE, Feed.DENSE), "E": Layer(Mixer.NONE, Feed.EXPERTS),
    "attention": Layer(Mixer.FULL, Feed.NONE), "mamba": Layer(Mixer.LINEAR, Feed.NONE),
    "mlp": Layer(Mixer.NONE, Feed.DENSE), "moe": Layer(Mixer.NONE, Feed.EXPERTS),
}  # fmt: skip


def read_layers(flat: Mapping[str, Any], count: int, experts: int) -> list[Layer]:
    """All layers of the text model, in order.

    Raises:
        EngineError: a layer is of a kind that nobody knows (kind `geometry`).
    """
    pattern = flat.get("hybrid_override_pattern")
    if flat.get("model_type") == "nemotron_h" and not isinstance(pattern, str):
        pattern = flat.get("layer_types")
    if isinstance(pattern, (str, list)) and pattern:
        return [_PATTERN.get(each) or Layer(_named(str(each), flat), Feed.NONE) for each in pattern]
    mixers = _mixers(flat, count)
    usual = Feed.NONE if flat.get("model_type") in _STATES_ALONE else Feed.DENSE
    feeds = _feeds(flat, count) if experts else [usual] * count
    for index, block in enumerate(flat.get("block_configs") or ()):  # Nemotron-NAS
        if index < count and mapping(mapping(block).get("attention")).get("no_op"):
            mixers[index] = Mixer.NONE
        if index < count and mapping(mapping(block).get("ffn")).get("no_op"):
            feeds[index] = Feed.NONE
    for index in range(count - (number(flat, "num_kv_shared_layers") or 0), count):
        mixers[index] = Mixer.BORROWED
    for index in numbers(flat, "cross_attention_layers") or ():
        if index < count:
            mixers[index] = Mixer.CROSS
    return [Layer(*both) for both in zip(mixers, feeds, strict=True)]


def _mixers(flat: Mapping[str, Any], count: int) -> list[Mixer]:
    kind = flat.get("model_type")
    if kind == "falcon_h1":
        return [Mixer.BOTH] * count
    named = flat.get("layer_types")
    if isinstance(named, list) and named:
        return [_named(str(named[index % len(named)]), flat) for index in range(count)]
    full = _full_layers(flat, count)
    if full is not None:
        return [Mixer.FULL if index in full else Mixer.LINEAR for index in range(count)]
    if kind in _STATES_ALONE:
        return [Mixer.LINEAR] * count
    return _local(flat, count)


def _full_layers(flat: Mapping[str, Any], count: int) -> set[int] | None:
    """The layers that attend where the others have a state; `None` if that is not told."""
    if (indexes := numbers(flat, "full_attn_idxs")) is not None:  # Bamba, LFM2
        return set(indexes)
    if kinds := numbers(flat, "attn_type_list"):  # MiniMax-Text-01
        return {index for index, each in enumerate(kinds) if each}
    linear = mapping(flat.get("linear_attn_config"))
    if (attending := numbers(linear, "full_attn_layers")) is not None:  # Kimi-Linear, from 1
        return {index - 1 for index in attending}
    period = number(flat, "attn_layer_period")  # Jamba
    if period:
        offset = number(flat, "attn_layer_offset") or 0
        return {index for index in range(count) if index % period == offset}
    every = number(flat, "full_attention_interval", "layer_group_size")
    linear_keys = any(str(key).startswith(("linear_", "mamba_")) for key in flat)
    if every and every > 1 and (linear_keys or not flat.get("sliding_window")) and not _chunk(flat):
        return {index for index in range(count) if (index + 1) % every == 0}
    return None


def _local(flat: Mapping[str, Any], count: int) -> list[Mixer]:
    """Of a model whose layers all attend: some of them only to what is near."""
    if _chunk(flat):  # Llama 4: layers without rotation see everything
        rotated = numbers(flat, "no_rope_layers")
        every = number(flat, "no_rope_layer_interval") or 4
        near = [bool(rotated[i]) if rotated and i < len(rotated) else (i + 1) % every != 0
                for i in range(count)]  # fmt: skip
        return [Mixer.CHUNKED if each else Mixer.FULL for each in near]
    if not number(flat, "sliding_window") or flat.get("use_sliding_window") is False:
        return [Mixer.FULL] * count
    letters = flat.get("sliding_window_pattern")
    if isinstance(letters, str) and letters:  # EXAONE 4: "LLLG"
        return [Mixer.SLIDING if letters[i % len(letters)] == "L" else Mixer.FULL
                for i in range(count)]  # fmt: skip
    if listed := numbers(flat, "hybrid_layer_pattern"):  # MiMo
        return [Mixer.SLIDING if each else Mixer.FULL for each in listed[:count]]
    every = number(flat, "sliding_window_pattern", "full_attention_interval") or 0
    if every > 1:
        return [Mixer.FULL if (i + 1) % every == 0 else Mixer.SLIDING for i in range(count)]
    first = number(flat, "max_window_layers") if flat.get("use_sliding_window") else 0
    return [Mixer.SLIDING if i >= (first or 0) else Mixer.FULL for i in range(count)]


def _chunk(flat: Mapping[str, Any]) -> int | None:
    # MiMo-V2 carries the key and does not use it; vLLM takes it away, too.
    return None if "mimo" in str(flat.get("model_type")) else number(flat, "attention_chunk_size")


def _named(name: str, flat: Mapping[str, Any]) -> Mixer:
    if "hybrid" in name:
        return Mixer.BOTH
    if "sliding" in name or "local" in name:
        return Mixer.SLIDING if flat.get("use_sliding_window") is not False else Mixer.FULL
    if "chunked" in name:
        return Mixer.CHUNKED
    if any(word in name for word in _STATES):
        return Mixer.LINEAR
    if "attention" in name or "full" in name or "global" in name:
        return Mixer.FULL
    raise _unknown(name)


def _unknown(name: object) -> EngineError:
    return EngineError(
        "geometry",
        f"config.json's layer_types name {str(name)[:40]!r}, which is no kind of layer known here",
        "give the config.json of the model as it was published",
    )


def _feeds(flat: Mapping[str, Any], count: int) -> list[Feed]:
    """Of a model with experts: which of its layers have them."""
    if "longcat_flash" in str(flat.get("model_type")):  # two parts of a layer count as two
        return [Feed.DENSE if index % 2 else Feed.BOTH for index in range(count)]
    sparse = next((rule for rule in _sparse_rules(flat) if rule is not None), lambda _: True)
    both = flat.get("enable_moe_block") is True  # Gemma 4
    with_experts = Feed.BOTH if both else Feed.EXPERTS
    return [with_experts if sparse(index) else Feed.DENSE for index in range(count)]


def _sparse_rules(flat: Mapping[str, Any]) -> Iterator[Callable[[int], bool] | None]:
    """Whether a layer has experts, in the ways that families tell it; `None` is untold."""
    named = flat.get("mlp_layer_types")
    if isinstance(named, list) and named:
        yield lambda index: str(named[index % len(named)]) in ("sparse", "moe")
    for key in ("moe_layers", "moe_layers_enum"):
        if listed := numbers(flat, key):
            yield set(listed).__contains__
    if stride := number(flat, "interleave_moe_layer_step"):  # Llama 4
        yield lambda index: (index + 1) % stride == 0
    if period := number(flat, "expert_layer_period"):  # Jamba
        offset = number(flat, "expert_layer_offset") or 0
        yield lambda index: index % period == offset
    frequent = flat.get("moe_layer_freq")
    if isinstance(frequent, list) and frequent:
        flags = numbers(flat, "moe_layer_freq") or []
        yield lambda index: index < len(flags) and bool(flags[index])
    first = number(flat, "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
    if first is not None:
        often = None if isinstance(frequent, list) else number(flat, "moe_layer_freq")
        step = often or number(flat, "moe_layer_interval") or 1
        yield lambda index: index >= first and index % step == 0
    dense = numbers(flat, "mlp_only_layers") or []
    every = number(flat, "decoder_sparse_step") or 1
    yield lambda index: index not in dense and (index + 1) % every == 0
