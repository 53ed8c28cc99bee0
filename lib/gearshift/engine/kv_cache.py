"""The KV cache as vLLM divides it: blocks, groups of layers that share them, requests.

Layers of several kinds are put in groups of equal size, and all groups take blocks of one pool.
That is exact for what `vllm/v1/core/kv_cache_utils.py` does, save for rare layouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gearshift.engine.layers import Mixer
from gearshift.engine.parameters import state_parts
from gearshift.engine.setup import Setup, batching

if TYPE_CHECKING:
    from gearshift.engine.geometry import Geometry

_BLOCK = 16  # tokens, on most GPUs
_ENDLESS = 1 << 24  # tokens
_HEARD = 1500  # tokens that Whisper's decoder reads of half a minute
_SIZES = {  # bytes of a value, with its share of scales; half of a key and half of a value
    "fp8": 1, "int8": 1, "nvfp4": 4.5 / 8, "turboquant_k8v4": 0.75, "turboquant_4bit": 0.5,
    "turboquant_k3v4": 3.5 / 8, "turboquant_3bit": 3 / 8, "ultraquant_4bit": 0.5, "int4": 0.5,
    "float32": 4, "float16": 2, "bfloat16": 2, "half": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """Layers that cache alike.

    Attributes:
        layers: How many of them one GPU has.
        token: Bytes that a token takes in one of them; of a state, all of it.
        window: Tokens that stay; `None` for all of them.
        chunked: Whether they stay until a chunk ends.
        heard: Tokens of what else is read, instead of the request's own.
        block: Tokens in a block.
    """

    layers: int
    token: float
    window: int | None = None
    chunked: bool = False
    state: bool = False
    heard: int | None = None
    block: int = _BLOCK

    def blocks(self, length: int, waiting: int, states: int) -> int:
        """The blocks of a request of that length, with so many tokens under way."""
        if self.state:
            return states
        if self.heard is not None:
            return math.ceil(self.heard / self.block)
        if self.window is None:
            return math.ceil(length / self.block)
        if self.chunked:
            return math.ceil(min(self.window + waiting, length) / self.block)
        return math.ceil(min(self.window - 1 + waiting, length) / self.block) + 1


@dataclass(frozen=True)
class Pool:
    """The blocks of one GPU.

    Attributes:
        groups: Kinds of layers, as often as they are in groups of their own.
        block_bytes: What a block takes in all layers of a group.
    """

    groups: list[Kind]
    block_bytes: float
    waiting: int
    states: int

    def request_blocks(self, length: int) -> int:
        """The blocks of one request of that length."""
        return sum(kind.blocks(length, self.waiting, self.states) for kind in self.groups)

    def request_bytes(self, length: int) -> float:
        return self.request_blocks(length) * self.block_bytes

    def longest(self, left: Callable[[int], float], most: int = _ENDLESS) -> int:
        """The longest request that fits; by halving, for it grows with its length.

        Args:
            left: The bytes that are left if such a length is served.
            most: No longer than that.
        """
        low, high = 0, most + _BLOCK
        while high - low > _BLOCK:
            middle = (low + high) // 2
            fits = self.request_bytes(middle) <= left(middle)
            low, high = (middle, high) if fits else (low, middle)
        return low // _BLOCK * _BLOCK


def token_bytes(shape: Geometry, setup: Setup) -> int:
    """What a token takes in all layers that cache it, on one GPU."""
    return math.ceil(
        sum(kind.layers * kind.token for kind in _kinds(shape, setup) if not kind.state)
    )


def make_pool(shape: Geometry, setup: Setup) -> Pool:
    """How vLLM of that version would divide the cache."""
    kinds = [kind for kind in _kinds(shape, setup) if kind.layers]
    _, batched = batching(shape, setup)
    steps = setup.pipeline_parallel + (setup.since("0.26") and setup.pipeline_parallel == 1)
    waiting = batched * steps
    states = 2 if setup.since("0.27") else 1  # since then prefixes of hybrids are cached
    if not setup.since("0.9.2"):  # one pool for layers that attend, whatever they see
        kinds = [replace(kind, window=None) for kind in kinds if not kind.state]
    elif not setup.since("0.12") and any(kind.chunked for kind in kinds):
        kinds = [replace(kind, window=None, chunked=False) for kind in kinds]
    if len({(kind.window, kind.chunked, kind.state, kind.heard) for kind in kinds}) <= 1:
        groups = [replace(kinds[0], layers=sum(kind.layers for kind in kinds))] if kinds else []
        size = sum(_BLOCK * kind.token * kind.layers for kind in kinds if not kind.state)
        size += sum(kind.token * kind.layers for kind in kinds if kind.state)
        return Pool(groups, size, waiting, 1)
    kinds, page = _alike(kinds)
    least, most = min(k.layers for k in kinds), max(k.layers for k in kinds)
    size = most if most < (1.5 if setup.since("0.21") else 1.25) * least else least
    groups = [kind for kind in kinds for _ in range(math.ceil(kind.layers / size))]
    return Pool(groups, page * size, waiting, states)


def _alike(kinds: list[Kind]) -> tuple[list[Kind], float]:
    """The kinds with blocks so long that a block of each takes the same memory, and how much."""
    state = max((kind.token for kind in kinds if kind.state), default=0.0)
    token = max(kind.token for kind in kinds if not kind.state)
    block = _BLOCK * max(1, math.ceil(state / (_BLOCK * token)))
    page = block * token
    found = []
    for kind in kinds:
        fits = 1 if kind.state else page // (kind.token * block)
        exactly = kind.state or page % (kind.token * block) == 0
        found.append(replace(kind, block=int(block * fits) if exactly else block))
    return found, page


def logged_tokens(pool: Pool, setup: Setup, left: float, length: int) -> int:
    """What vLLM of that version logs as the size of its KV cache."""
    if not pool.block_bytes:
        return 0
    blocks = int(left // pool.block_bytes)
    if setup.since("0.21"):
        return int(blocks / pool.request_blocks(length) * length)
    return blocks // len(pool.groups) * min(kind.block for kind in pool.groups)


def _kinds(shape: Geometry, setup: Setup) -> Iterator[Kind]:
    stages, size = setup.pipeline_parallel, setup.tensor_parallel

    def of(*mixers: Mixer) -> int:
        return math.ceil(shape.count(*mixers) / stages)

    value = value_bytes(shape, setup)
    full = _token(shape, setup, shape.global_heads, shape.global_dim, value)
    near = _token(shape, setup, shape.kv_heads, shape.head_dim, value)
    has_near = bool(shape.sliding_layers)
    yield Kind(of(Mixer.FULL, Mixer.BOTH), full if has_near else max(full, near))
    yield Kind(of(Mixer.SLIDING), near, shape.window)
    yield Kind(of(Mixer.CHUNKED), near, shape.window, chunked=True)
    if shape.keys.get("encoder_layers") and shape.model_type == "whisper":
        yield Kind(of(Mixer.FULL), near, heard=_HEARD)
    if setup.since("0.9.2"):
        yield Kind(of(Mixer.LINEAR, Mixer.BOTH), state_bytes(shape) / size, state=True)


def _token(shape: Geometry, setup: Setup, heads: int, width: int, value: float) -> float:
    """Bytes of a token in one layer on one GPU."""
    if shape.latent is not None:
        latent: float = shape.latent
        if setup.vllm.release < (0, 8) and value == 2:
            latent = math.ceil(latent / 128) * 128  # V0 kept them in multiples of 256 bytes
        each = latent * value + shape.index_bytes  # every rank has all of it
    else:
        each = 2 * max(1, heads // setup.tensor_parallel) * width * value
    return round(each * setup.correction.cache)


def value_bytes(shape: Geometry, setup: Setup) -> float:
    """Bytes of a cached value."""
    kind = (setup.kv_cache_dtype or "auto").lower()
    if kind == "auto" and shape.quantization and setup.since("0.12"):
        kind = shape.quantization.kv_cache or kind  # since then the checkpoint may tell
    return next(
        (size for name, size in _SIZES.items() if kind.startswith(name)), shape.weight_bytes
    )


def state_bytes(shape: Geometry) -> float:
    """The state of one layer that has one, of all ranks together."""
    told = shape.keys.get
    parts = state_parts(shape)
    if parts is None:
        return 2.0 * shape.heads * shape.head_dim**2  # lightning attention
    kind, inner, groups, size, heads, kernel = parts
    usual = "float32" if told("model_type") == "nemotron_h" or kind == "kda" else "auto"
    told_type = told("mamba_ssm_dtype") or told("mamba_ssm_cache_dtype") or usual
    exact = 4 if told_type == "float32" else 2
    if kind == "convolution":
        return 2.0 * inner * (kernel - 1)
    if kind == "mamba":
        return 2.0 * inner * (kernel - 1) + exact * inner * size
    if kind == "kda":
        return 2.0 * 3 * inner * (kernel - 1) + 4.0 * inner * (inner / max(1, heads))
    return 2.0 * (inner + 2 * groups * size) * (kernel - 1) + exact * inner * size
