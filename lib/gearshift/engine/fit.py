"""What fits: weights, overhead, and the KV cache that is left, from arithmetic and real start-ups.

vLLM takes a share of each GPU's memory; what weights, working memory and CUDA graphs leave of it is
KV cache. All but the working memory follows from the model's shape. That one is a formula whose
constants were chosen on real start-ups (`data/startups.jsonl`; `benchmarks/fit.py` measures it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from packaging.version import InvalidVersion, Version

from gearshift.engine.cards import Card
from gearshift.engine.geometry import Geometry, legal_tensor_parallel, why_not_tensor_parallel

GIB = 1 << 30
_BLOCK = 16  # tokens, on most GPUs
_NVFP4 = 4.5 / 8  # bytes, with a scale for 16 values
_READS_KV_SCHEME = Version("0.12")  # takes the KV cache's type from the checkpoint


@dataclass(frozen=True)
class Correction:
    """What an earlier start-up on the same GPU showed of the formula's error.

    Attributes:
        overhead_gib: To be added, on each GPU.
        weights: Real by predicted; 1 unless it was the same model.
        cache: The same of the bytes that a token takes.
    """

    overhead_gib: float
    weights: float = 1.0
    cache: float = 1.0


@dataclass(frozen=True)
class Setup:
    """How a model is to be served; `None` leaves it to vLLM.

    Attributes:
        usable_gib: Of each GPU; `None` if it is not known.
        version: Of vLLM; `None` if it is not known.
    """

    usable_gib: float | None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    max_model_len: int | None = None
    kv_cache_dtype: str | None = None
    utilization: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool = False
    version: str | None = None
    card: Card | None = None
    correction: Correction = Correction(0.0)


@dataclass(frozen=True)
class Fit:
    """What a setup leaves for the KV cache; all memory in GiB for each GPU.

    Attributes:
        available_kv_gib: May be negative: so much is missing. `None` if the GPU is not known.
        kv_bytes_per_token: Of all layers, on one GPU.
        request_gib: The KV cache of one request of `max_model_len`.
        kv_cache_tokens: What vLLM would log as the size of its KV cache.
        max_concurrency: Requests of `max_model_len` at once.
        longest: The longest context of a single request.
        range_gib: How far the available KV cache may be off, either way, in 9 of 10 cases.
    """

    weights_gib: float
    overhead_gib: float
    available_kv_gib: float | None
    kv_bytes_per_token: int
    max_model_len: int
    request_gib: float
    kv_cache_tokens: int | None
    max_concurrency: float | None
    longest: int | None
    fits: bool | None
    range_gib: float
    reasons: tuple[str, ...]


def kv_bytes(shape: Geometry, setup: Setup) -> tuple[int, int]:
    """Bytes that a token takes in one layer's cache on one GPU, and in all layers of a stage."""
    kind = setup.kv_cache_dtype or "auto"
    if kind == "auto" and shape.quantization and _version(setup.version) >= _READS_KV_SCHEME:
        kind = shape.quantization.kv_cache or kind
    size = _NVFP4 if "fp4" in kind else 1 if "8" in kind else shape.weight_bytes
    if shape.latent is not None:
        each: float = shape.latent * size
    else:
        heads = max(1, shape.kv_heads // setup.tensor_parallel)
        each = 2 * heads * shape.head_dim * size
    whole = round(each * setup.correction.cache)
    caching = shape.full_layers + shape.sliding_layers
    return whole, whole * math.ceil(caching / setup.pipeline_parallel)


def weights_gib(shape: Geometry, setup: Setup) -> float:
    """The weights on one GPU."""
    ranks = setup.tensor_parallel * setup.pipeline_parallel
    total = shape.parameters
    quantization = shape.quantization
    if quantization is None:
        return total * shape.weight_bytes / ranks / GIB
    packed = (total - shape.plain) * quantization.bytes_per_weight
    return (packed + shape.plain * shape.weight_bytes) / ranks / GIB


def overhead_gib(shape: Geometry, setup: Setup) -> float:
    """Working memory, libraries and CUDA graphs on one GPU."""
    version = _version(setup.version)
    sequences, batched = batching(shape, setup)
    inner = shape.intermediate
    if shape.experts:
        inner = min(max(inner, 6144), 8192)
    forward = batched * 6 * (inner / setup.tensor_parallel + shape.hidden) / GIB
    # Of an unknown version the worse is assumed: most public logs, too, are of older ones.
    old_sampler = setup.version is None or version < Version("0.17")
    logits = 38.5 * sequences * shape.vocab / GIB if old_sampler else 0.0
    graphs = 0.3 if version >= Version("0.21") and not setup.enforce_eager else 0.0
    libraries = 0.1 + 0.2 * math.log2(setup.tensor_parallel)
    newer = 0.3 if not old_sampler else 0.0
    return libraries + newer + graphs + max(forward, logits)


def batching(shape: Geometry, setup: Setup) -> tuple[int, int]:
    """Sequences and tokens in a step, by vLLM's defaults where they are not set."""
    version = _version(setup.version)
    usable = setup.usable_gib or 0.0
    large = usable >= 70 and not (setup.card and setup.card.name in ("A100", "A800", "GB10"))
    sequences, batched = (1024, 8192) if large else (256, 2048)
    if large and usable >= 160:
        batched = 16_384
    if version < Version("0.8"):  # V0 engines
        length = setup.max_model_len or shape.max_len or 2048
        sequences, batched = 256, 2048 if length > 32_768 else max(length, 2048)
    return setup.max_num_seqs or sequences, setup.max_num_batched_tokens or batched


def utilization(setup: Setup) -> float:
    """The share of the memory that vLLM takes."""
    newer = _version(setup.version) >= Version("0.22")
    return setup.utilization or (0.92 if newer else 0.9)


_LATEST = Version("0.32.0")


def _version(text: str | None) -> Version:
    """A version to compare; the newest that we know where it is not told."""
    try:
        found = Version(text) if text else _LATEST
    except InvalidVersion:
        return _LATEST
    return Version(found.base_version)


def plan(shape: Geometry, setup: Setup) -> Fit:
    """Works out what fits."""
    each, per_token = kv_bytes(shape, setup)
    length = setup.max_model_len or shape.max_len or 2048
    weights = weights_gib(shape, setup) * setup.correction.weights
    overhead = max(0.0, overhead_gib(shape, setup) + setup.correction.overhead_gib)
    reasons = []
    available = None
    if setup.usable_gib is not None:
        available = utilization(setup) * setup.usable_gib - weights - overhead
    else:
        reasons.append("the GPU's memory is not known, so nothing is said about what is left")
    if why := why_not_tensor_parallel(shape, setup.tensor_parallel):
        reasons.append(why)
    request = _request_bytes(shape, setup, each, length)
    tokens = concurrency = longest = None
    fits = False if why else None
    if available is not None:
        left = max(0.0, available) * GIB
        concurrency = left / request
        tokens = _logged_tokens(shape, setup, left, per_token, concurrency, length)
        longest = _longest(shape, setup, each, left)
        fits = why is None and concurrency >= 1
        if available <= 0:
            reasons.append(
                f"weights ({weights:.1f} GiB) and working memory ({overhead:.1f} GiB) leave "
                f"nothing of {utilization(setup) * (setup.usable_gib or 0):.1f} GiB"
            )
        elif concurrency < 1:
            reasons.append(
                f"one request of {length:,} tokens needs {request / GIB:.2f} GiB of KV cache and "
                f"{available:.2f} GiB are left; {longest:,} tokens would fit"
            )
    return Fit(
        weights_gib=weights,
        overhead_gib=overhead,
        available_kv_gib=available,
        kv_bytes_per_token=per_token,
        max_model_len=length,
        request_gib=request / GIB,
        kv_cache_tokens=tokens,
        max_concurrency=concurrency,
        longest=longest,
        fits=fits,
        range_gib=0.5 + 0.03 * weights,
        reasons=tuple(reasons),
    )


def _request_bytes(shape: Geometry, setup: Setup, each: int, length: int) -> float:
    """The KV cache of one request of that length, on one GPU."""
    stages = setup.pipeline_parallel
    whole = math.ceil(length / _BLOCK) * _BLOCK
    if not _knows_windows(setup) or not shape.sliding_layers:
        return each * math.ceil((shape.full_layers + shape.sliding_layers) / stages) * whole
    _, batched = batching(shape, setup)
    seen = min(whole, (shape.window or whole) + batched)
    return each * (
        math.ceil(shape.full_layers / stages) * whole + shape.sliding_layers / stages * seen
    )


def _knows_windows(setup: Setup) -> bool:
    """Since then the logged size is concurrency times length, and windows save memory in it."""
    return _version(setup.version) >= Version("0.21")


def _logged_tokens(
    shape: Geometry, setup: Setup, left: float, per_token: int, concurrency: float, length: int
) -> int:
    hybrid = shape.full_layers < shape.layers
    if hybrid and _knows_windows(setup):
        return int(concurrency * length)
    return math.floor(left / (per_token * _BLOCK)) * _BLOCK


def _longest(shape: Geometry, setup: Setup, each: int, left: float) -> int:
    """By halving: what a request needs grows with its length."""
    low, high = 0, 1 << 24
    while high - low > _BLOCK:
        middle = (low + high) // 2
        if _request_bytes(shape, setup, each, middle) <= left:
            low = middle
        else:
            high = middle
    return low // _BLOCK * _BLOCK


def smallest(shape: Geometry, setup: Setup, most: int = 64) -> Setup | None:
    """The same with the fewest GPUs that do; `None` if so many do not."""
    for ranks in range(1, most + 1):
        for size in reversed(legal_tensor_parallel(shape, min(ranks, 8))):
            stages, rest = divmod(ranks, size)
            if rest or stages > shape.layers:
                continue
            tried = replace(setup, tensor_parallel=size, pipeline_parallel=stages)
            if plan(shape, tried).fits:
                return tried
    return None
