"""What fits: weights, overhead, and the KV cache that is left, from arithmetic and real start-ups.

vLLM takes a share of each GPU's memory; what weights, working memory and CUDA graphs leave of it is
KV cache. All but the working memory follows from the model's shape. That one is a formula whose
constants were chosen on real start-ups (`data/startups.jsonl`; `benchmarks/fit.py` measures it).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from gearshift.engine.geometry import Geometry, legal_tensor_parallel
from gearshift.engine.kv_cache import Pool, logged_tokens, make_pool, token_bytes
from gearshift.engine.refusals import refusals
from gearshift.engine.setup import Correction, Setup, batching, length_of, utilization
from gearshift.engine.working_memory import UNCHUNKED, overhead_gib, range_gib

__all__ = ["GIB", "Correction", "Fit", "Setup", "batching", "plan", "smallest", "utilization"]

GIB = 1 << 30
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Fit:
    """What a setup leaves for the KV cache; all memory in GiB for each GPU.

    Attributes:
        available_kv_gib: May be negative: so much is missing. `None` if the GPU is not known.
        kv_bytes_per_token: Of all layers, on one GPU.
        weights_range: How large the weights may really be, in 9 of 10 start-ups.
        request_gib: The KV cache of one request of `max_model_len`.
        kv_cache_tokens: What vLLM would log as the size of its KV cache.
        max_concurrency: Requests of `max_model_len` at once.
        longest: The longest context of a single request.
        tokens_range: `kv_cache_tokens` at both ends of that range.
        concurrency_range: `max_concurrency` at both ends of it.
        longest_range: `longest` at both ends of it.
        refused: Whether vLLM would refuse it, whatever memory there is.
        range_gib: How far the available KV cache may be off, either way, in 9 of 10 cases.
    """

    weights_gib: float
    weights_range: tuple[float, float]
    overhead_gib: float
    available_kv_gib: float | None
    kv_bytes_per_token: int
    max_model_len: int
    request_gib: float
    kv_cache_tokens: int | None
    max_concurrency: float | None
    longest: int | None
    fits: bool | None
    refused: bool
    range_gib: float
    tokens_range: tuple[int, int] | None
    concurrency_range: tuple[float, float] | None
    longest_range: tuple[int, int] | None
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


def plan(shape: Geometry, setup: Setup) -> Fit:
    """Works out what fits."""
    pool, per_token = make_pool(shape, setup), token_bytes(shape, setup)
    length = length_of(shape, setup)
    weights = weights_gib(shape, setup) * setup.correction.weights
    overhead = max(0.0, overhead_gib(shape, setup) + setup.correction.overhead_gib)
    refused = refusals(shape, setup)
    reasons = list(refused)
    request = pool.request_bytes(length)
    available = None
    off = range_gib(setup)
    if setup.usable_gib is None:
        reasons.append("the GPU's memory is not known, so nothing is said about what is left")
        low = found = high = _Room(None, None, None)
    else:
        share = utilization(setup) * setup.usable_gib
        available = share - weights - overhead

        def left_at(asked: int, way: int) -> float:
            """Some versions need more working memory for longer contexts."""
            more = overhead_gib(shape, replace(setup, max_model_len=asked))
            more -= overhead_gib(shape, setup)
            return (share - weights - overhead + way * off - more) * GIB

        low, found, high = (_room(pool, setup, left_at, way, length) for way in (-1, 0, 1))
        reasons += _shortage(weights, overhead, share, request / GIB, length, found.longest or 0)
    enough = None
    if available is not None:
        enough = available > 0 and (found.concurrency is None or found.concurrency >= 1)
    return Fit(
        weights_gib=weights,
        weights_range=_about(weights, shape, setup),
        overhead_gib=overhead,
        available_kv_gib=available,
        kv_bytes_per_token=per_token,
        max_model_len=length,
        request_gib=request / GIB,
        kv_cache_tokens=found.tokens,
        max_concurrency=found.concurrency,
        longest=found.longest,
        fits=False if refused else enough,
        refused=bool(refused),
        range_gib=off,
        tokens_range=_both(low.tokens, high.tokens),
        concurrency_range=_both(low.concurrency, high.concurrency),
        longest_range=_both(low.longest, high.longest),
        reasons=tuple(reasons),
    )


def _about(weights: float, shape: Geometry, setup: Setup) -> tuple[float, float]:
    """What is not quantized is known better; what a start has shown is known."""
    share = 0.005 if setup.correction.weights != 1.0 else 0.08 if shape.quantization else 0.03
    return (1 - share) * weights, (1 + share) * weights


class _Room(NamedTuple):
    """What some memory for the KV cache is enough for."""

    tokens: int | None
    concurrency: float | None
    longest: int | None


def _room(
    pool: Pool, setup: Setup, left_at: Callable[[int, int], float], way: int, length: int
) -> _Room:
    """At one end of the range, or in its middle; `left_at` tells the bytes for a length."""
    left = max(0.0, left_at(setup.max_model_len or 0, way))
    longest = pool.longest(lambda asked: left)
    if longest <= UNCHUNKED:
        longest = pool.longest(lambda asked: left_at(asked, way), longest)
    request = pool.request_bytes(length)
    if not request:  # nothing is cached
        return _Room(0, None, longest)
    return _Room(logged_tokens(pool, setup, left, length), left / request, longest)


def _both(low: _Number | None, high: _Number | None) -> tuple[_Number, _Number] | None:
    return None if low is None or high is None else (low, high)


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
