"""What vLLM needs beside weights and KV cache: activations, the sampler, libraries, CUDA graphs.

The largest step of its profiling run sets it: a forward pass over all tokens of a batch, or, in
older versions, the sampler's copies of the scores of all words. The constants are round numbers,
chosen on real start-ups; how far they may be off is told beside every plan.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gearshift.engine.setup import Setup, batching

if TYPE_CHECKING:
    from gearshift.engine.geometry import Geometry

_GIB = 1 << 30
_FORWARD = 6  # bytes of activations for each value of a token that a layer works on
_SCORES = 38.5  # bytes for each score in the sampler, until 0.17
UNCHUNKED = 32_768  # tokens; V0 cut longer prompts into pieces


def overhead_gib(shape: Geometry, setup: Setup) -> float:
    """Working memory, libraries and CUDA graphs on one GPU."""
    unknown = setup.version is None
    # Of an unknown version the worse is assumed: most public logs, too, are of older ones.
    old_sampler = unknown or not setup.since("0.17")
    sequences, batched = batching(shape, setup)
    asked = setup.max_model_len or 0
    if unknown and sequences <= 256 and not setup.max_num_batched_tokens and asked <= UNCHUNKED:
        batched = max(batched, asked)  # V0 took a whole prompt in one step
    inner = shape.intermediate
    if shape.experts:
        inner = min(max(inner, 6144), 8192)
    forward = batched * _FORWARD * (inner / setup.tensor_parallel + shape.hidden) / _GIB
    scores = _SCORES * sequences * shape.vocab / _GIB if old_sampler else 0.0
    graphs = 0.3 if setup.since("0.21") and not setup.enforce_eager else 0.0
    libraries = 0.1 + 0.2 * math.log2(setup.tensor_parallel)
    newer = 0.0 if old_sampler else 0.3
    return libraries + newer + graphs + max(forward, scores)


def range_gib(setup: Setup) -> float:
    """How far the KV cache's memory may be off, either way, in 9 of 10 start-ups.

    It grows with the GPU: vLLM takes larger steps on larger ones. An earlier start on such a GPU
    leaves less open.
    """
    usable = setup.usable_gib or 0.0
    return 0.3 + 0.01 * usable if setup.correction.seen else 0.4 + 0.03 * usable
