"""How many ranks can share a layer: what vLLM checks when it cuts weights into shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gearshift.engine.config_keys import number
from gearshift.engine.layers import Feed, Mixer
from gearshift.engine.parameters import state_parts

if TYPE_CHECKING:
    from gearshift.engine.geometry import Geometry

_SEES_ALONE = {
    "gemma3n", "gemma4", "h2ovl_chat", "internvl", "internvl_chat", "interns1", "kimi_k25",
    "muse_glimmer", "nvlm_d", "phi4mm", "phi4_multimodal", "skywork_chat",
}  # fmt: skip
"""Types whose vision towers are padded, or kept whole, where their heads cannot be shared."""

_HALVED = {"awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin", "moe_wna16"}
"""Methods of which vLLM halves the groups of experts, down to 32, until they can be cut."""


class _Cut(NamedTuple):
    """A width that is cut into equal parts, one for each rank.

    Attributes:
        part: What it belongs to, as `quantization.plain_shares` calls it.
        unit: What must stay whole: a head, where the ranks beyond have copies; else 1.
        way_in: Whether matrices are cut there along their output only.
    """

    what: str
    width: int
    part: str
    unit: int = 1
    way_in: bool = False


def legal_tensor_parallel(shape: Geometry, most: int) -> list[int]:
    """The sizes from 1 to `most` that vLLM takes for a model of that shape."""
    return [size for size in range(1, most + 1) if why_not_tensor_parallel(shape, size) is None]


def shares(heads: int, kv_heads: int, size: int) -> bool:
    """Whether so many ranks can share the heads; KV heads may be copied."""
    kv_heads = kv_heads or size
    return heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)


def why_not_tensor_parallel(shape: Geometry, size: int) -> str | None:
    """Why so many ranks cannot share each layer; `None` if they can."""
    if shape.heads % size:
        return f"{shape.heads} attention heads cannot be shared by {size}"
    for kv_heads in {shape.kv_heads, shape.global_heads} if not shape.mla else ():
        if not shares(shape.heads, kv_heads, size):
            return f"{kv_heads} KV heads can neither be shared by {size} nor copied evenly"
    if size == 1:
        return None
    for cut in (*_cuts(shape), *_seeing(shape)):
        if cut.unit == 1 and cut.width % size:
            return f"{cut.width:,} {cut.what} cannot be shared by {size}"
        together = _together(shape, cut, size)
        if together and _part(cut, size) % together:
            return (
                f"{size} parts of {cut.width:,} {cut.what} cannot be cut between the "
                f"quantization's groups of {together}"
            )
    return None


def _part(cut: _Cut, size: int) -> int:
    return max(cut.unit, cut.width // size)


def _together(shape: Geometry, cut: _Cut, size: int) -> int | None:
    """How many weights share a scale there, so that no cut may go between them."""
    how = shape.quantization
    if how is None or shape.left.get(cut.part, 0.0) >= 1 or "mxfp4" in how.method:
        return None  # it is in 16 bits; vLLM fills MXFP4's last groups up
    if how.block:
        return how.block[0] if cut.way_in else max(how.block)
    group = None if cut.way_in or how.group == -1 else how.group
    if group and cut.part == "experts" and how.method in _HALVED:
        while group > 32 and _part(cut, size) % group:
            group //= 2
    return group


def _cuts(shape: Geometry) -> Iterator[_Cut]:
    """Where the language model's matrices are cut."""
    if shape.count(Mixer.FULL, Mixer.SLIDING, Mixer.CHUNKED, Mixer.BOTH, Mixer.BORROWED):
        width = shape.mla["v_head_dim"] if shape.mla else shape.head_dim
        yield _Cut("values of attention", shape.heads * width, "attention", width)
        if not shape.mla:
            keys = shape.kv_heads * shape.head_dim
            yield _Cut("values of the keys", keys, "attention", shape.head_dim, way_in=True)
    feeds = {layer.feed for layer in shape.layers_each}
    if feeds & {Feed.DENSE, Feed.BOTH}:
        yield _Cut("values inside the feed-forward layers", shape.dense_intermediate, "dense")
    if shape.experts and feeds & {Feed.EXPERTS, Feed.BOTH}:
        yield _Cut("values inside each expert", shape.expert_intermediate, "experts")
        if shape.shared_intermediate:
            yield _Cut("values inside the shared experts", shape.shared_intermediate, "shared")
    if shape.count(Mixer.LINEAR, Mixer.BOTH):
        yield from _states(shape)


def _states(shape: Geometry) -> Iterator[_Cut]:
    """Where layers with a state of fixed size are cut: between their heads and groups."""
    parts = state_parts(shape)
    if parts is None:
        return
    kind, inner, groups, _, heads, _ = parts
    yield _Cut("values of the layers with a state", inner, "states", inner // max(1, heads))
    if heads > 1:
        yield _Cut("heads of the layers with a state", heads, "router")
    if groups > 1 and kind in ("mamba2", "delta"):
        yield _Cut("groups of the layers with a state", groups, "router")


def _seeing(shape: Geometry) -> Iterator[_Cut]:
    """Where the vision tower is cut."""
    if shape.vision_heads and shape.model_type not in _SEES_ALONE | {"gemma4_text"}:
        yield _Cut("heads of the vision tower", shape.vision_heads, "router")
        if inner := number(shape.vision, "intermediate_size"):
            yield _Cut("values inside the vision tower's layers", inner, "router")
