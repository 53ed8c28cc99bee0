"""What fits: weights, overhead, and the KV cache that is left, from arithmetic and real start-ups.

vLLM takes a share of each GPU's memory; what weights, working memory and CUDA graphs leave of it is
KV cache. All but the working memory follows from the model's shape. That one is a formula whose
constants were chosen on real start-ups (`data/startups.jsonl`; `benchmarks/fit.py` measures it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gearshift.engine.geometry import Geometry, legal_tensor_parallel
from gearshift.engine.kv_cache import logged_tokens, make_pool, token_bytes
from gearshift.engine.refusals import refusals
from gearshift.engine.setup import (
    LATEST,
    Correction,
    Setup,
    batching,
    length_of,
    utilization,
)

__all__ = [
    "GIB", "LATEST", "Correction", "Fit", "Setup", "batching", "overhead_gib", "plan", "smallest",
    "utilization", "weights_gib",
]  # fmt: skip

GIB = 1 << 30


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


def _filled_up(shape: Geometry, size: int) -> float:
    """How much larger vLLM's MXFP4 experts are than the checkpoint's: whole tiles of 128."""
    how = shape.quantization
    if how is None or "mxfp4" not in how.method or not shape.expert_intermediate:
        return 1.0
    inner = max(1, shape.expert_intermediate // size)
    return math.prod(128 * math.ceil(width / 128) / width for width in (inner, shape.hidden))


def weights_gib(shape: Geometry, setup: Setup) -> float:
    """The weights on the GPU that has most of them."""
    stages = setup.pipeline_parallel
    how = shape.quantization
    layers = shape.parameters - shape.apart
    plain = max(0.0, shape.plain - shape.apart)
    packed = how.bytes_per_weight if how else shape.weight_bytes
    packed *= _filled_up(shape, setup.tensor_parallel)
    total = (layers - plain) * packed + plain * shape.weight_bytes if how else layers * packed
    total *= math.ceil(shape.layers / stages) / shape.layers
    ends = shape.apart * shape.weight_bytes
    # Words go in at the first stage and out at the last one; tied ones are kept at both.
    ends *= 1 if stages == 1 or shape.tied else 0.5
    return (total + ends) / setup.tensor_parallel / GIB


def overhead_gib(shape: Geometry, setup: Setup) -> float:
    """Working memory, libraries and CUDA graphs on one GPU."""
    sequences, batched = batching(shape, setup)
    inner = shape.intermediate
    if shape.experts:
        inner = min(max(inner, 6144), 8192)
    forward = batched * 6 * (inner / setup.tensor_parallel + shape.hidden) / GIB
    # Of an unknown version the worse is assumed: most public logs, too, are of older ones.
    old_sampler = setup.version is None or not setup.since("0.17")
    logits = 38.5 * sequences * shape.vocab / GIB if old_sampler else 0.0
    graphs = 0.3 if setup.since("0.21") and not setup.enforce_eager else 0.0
    libraries = 0.1 + 0.2 * math.log2(setup.tensor_parallel)
    newer = 0.3 if not old_sampler else 0.0
    return libraries + newer + graphs + max(forward, logits)


def plan(shape: Geometry, setup: Setup) -> Fit:
    """Works out what fits."""
    pool, per_token = make_pool(shape, setup), token_bytes(shape, setup)
    length = length_of(shape, setup)
    weights = weights_gib(shape, setup) * setup.correction.weights
    overhead = max(0.0, overhead_gib(shape, setup) + setup.correction.overhead_gib)
    refused = refusals(shape, setup)
    reasons = list(refused)
    request = pool.request_bytes(length)
    available = tokens = concurrency = longest = None
    if setup.usable_gib is None:
        reasons.append("the GPU's memory is not known, so nothing is said about what is left")
    else:
        share = utilization(setup) * setup.usable_gib
        available = share - weights - overhead
        left = max(0.0, available) * GIB
        concurrency = left / request if request else float(batching(shape, setup)[0])
        tokens = logged_tokens(pool, setup, left, length)
        longest = pool.longest(left) if available > 0 else 0
        reasons += _shortage(weights, overhead, share, request / GIB, length, longest)
    enough = None if available is None else available > 0 and (concurrency or 0.0) >= 1
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
        fits=False if refused else enough,
        range_gib=0.5 + 0.03 * weights,
        reasons=tuple(reasons),
    )


def _shortage(
    weights: float, overhead: float, share: float, request: float, length: int, longest: int
) -> list[str]:
    """What is missing, if anything is; all memory in GiB."""
    left = share - weights - overhead
    if left <= 0:
        return [f"weights ({weights:.1f} GiB) and working memory ({overhead:.1f} GiB) leave "
                f"nothing of {share:.1f} GiB"]  # fmt: skip
    if left >= request:
        return []
    shorter = f"; {longest:,} tokens would fit" if longest else ""
    return [f"one request of {length:,} tokens needs {request:.2f} GiB of KV cache and "
            f"{left:.2f} GiB are left{shorter}"]  # fmt: skip


def smallest(shape: Geometry, setup: Setup, most: int = 64) -> Setup | None:
    """The same with the fewest GPUs that do; `None` if so many do not."""
    for ranks in range(1, most + 1):
        for size in reversed(legal_tensor_parallel(shape, min(ranks, 8))):
            stages, rest = divmod(ranks, size)
            if rest or stages > shape.layers:
                continue
            tried = replace(setup, tensor_parallel=size, pipeline_parallel=stages, gpus=None)
            if plan(shape, tried).fits:
                return tried
    return None
