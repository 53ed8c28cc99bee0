"""The GPU's memory: weights that do not fit, a cache that is too small, others that hold it."""

from __future__ import annotations

import math

from gearshift.doctor._signature import Fix, Found, Signature
from gearshift.doctor.causes import Cause

_GI = r"\s*gi?b"


def _longest(found: Found) -> Fix:
    """The length that the message gives, or the share of it that the memory suffices for."""
    if found.parts["estimated"]:
        most = found.number("estimated")
        source = f"the log's own estimate is {most:.0f}"
    else:
        share = found.number("available") / (found.number("needed") or 1.0)
        most = found.number("length") * share
        source = f"by the memory that it found, {100 * share:.0f} % of what was asked"
    return _shorter(most, source)


def _stored(found: Found) -> Fix:
    return _shorter(found.number("stored"), f"its cache holds {found.number('stored'):.0f} tokens")


def _shorter(most: float, source: str) -> Fix:
    length = int(most // 256 * 256) or int(most)
    if length < 1:
        return Fix("take a smaller or quantized model, or more GPUs: nothing is left for a cache")
    return Fix(
        f"start with --max-model-len {length} ({source}); for longer contexts add "
        "--kv-cache-dtype fp8, which halves the cache, raise --gpu-memory-utilization if the GPU "
        "is free, or use more GPUs",
        {"max_model_len": str(length)},
    )


def _utilization(found: Found) -> Fix:
    free, total = found.number("free"), found.number("total")
    share = math.floor((free / (total or 1.0) - 0.02) * 100) / 100
    other = (
        "end what holds it (nvidia-smi or gearshift gpus names it; Ollama keeps a model for five "
        "minutes: ollama stop MODEL; an earlier vLLM may still be ending)"
    )
    if share < 0.1:
        return Fix(f"{other}; {free:g} of {total:g} GiB free are too few for any start")
    return Fix(
        f"{other}, or start with --gpu-memory-utilization {share:.2f}, which fits into the "
        f"{free:g} GiB that are free",
        {"gpu_memory_utilization": f"{share:.2f}"},
    )


def _fewer_sequences(found: Found) -> Fix:
    used = found.number("sequences")
    fewer = 256 if used > 256 else 64 if used > 64 else max(1, int(used) // 2)
    return Fix(
        f"start with --max-num-seqs {fewer} (it was {used:.0f}), or lower --gpu-memory-utilization "
        "by 0.05 so that more is left for sampling",
        {"max_num_seqs": str(fewer)},
    )


def _held(found: Found) -> Fix:
    return Fix(
        f"process {found.parts['pid']} holds {found.number('held'):g} of "
        f"{found.number('total'):g} GiB: if it is not this server (in a container numbers "
        f"differ), end it or wait for it (ps -p {found.parts['pid']}; Ollama: ollama stop MODEL); "
        "else take a smaller or quantized model or more GPUs"
    )


SIGNATURES = (
    Signature(
        Cause.KV_CACHE_TOO_SMALL,
        (
            r"to serve at least one request with the model.{0,3}s?.{0,3}s max seq len "
            r"\(?(?P<length>[\d,]+)\)?,? \(?(?P<needed>[\d.]+)" + _GI + r"(?: of)? kv cache is "
            r"needed,? which is larger than the available kv cache memory "
            r"\(?(?P<available>-?[\d.]+)" + _GI + r"\)?"
            r"(?:[^\n]{0,200}\n?[^\n]{0,100}?estimated maximum model length is "
            r"(?P<estimated>\d[\d,]*))?",
            r"(?P<needed>[\d.]+)" + _GI + r" kv cache is needed,? which is larger than the "
            r"available kv cache memory \(?(?P<available>-?[\d.]+)"
            + _GI
            + r"\)?(?P<length>)(?P<estimated>)",
        ),
        "The weights fit, but one request of the longest context does not fit into what is left.",
        _longest,
    ),
    Signature(
        Cause.KV_CACHE_TOO_SMALL,
        (
            r"max seq len \(?(?P<length>[\d,]+)\)? is larger than the maximum number of tokens "
            r"that can be stored in (?:the )?kv cache \(?(?P<stored>[\d,]+)",
        ),
        "The weights fit, but one request of the longest context does not fit into what is left.",
        _stored,
    ),
    Signature(
        Cause.KV_CACHE_TOO_SMALL,
        (
            r"larger than the maximum number of tokens that can be stored in (?:the )?kv cache",
            r"larger than the available kv cache memory",
            r"to serve at least one request with the model",
            r"estimated maximum model length is",
            r"model.{0,4}s max(?:imum)? seq(?:uence)? len… (?:kv cache|cache blocks)",
        ),
        "The weights fit, but one request of the longest context does not fit into what is left.",
        "lower --max-model-len to what the message gives, or add --kv-cache-dtype fp8",
    ),
    Signature(
        Cause.KV_CACHE_NONE,
        (
            r"no available memory for the cache blocks",
            r"available kv cache memory: -[\d.]+",
            r"negative .{0,3}available kv cache",
            r"available kv cache memory \(-[\d.]+",
            r"available kv cache memory is negative",
            r"cannot auto-fit max_model_len",
            r"\b(?:gpu|cuda) blocks: 0\b",
            r"no (?:gpu )?memory (?:is )?(?:left|available) for (?:the )?kv[ -]?cache",
        ),
        "Weights and working memory take all that vLLM may use; nothing is left for the KV cache.",
        "take a smaller or quantized model or more GPUs; else lower --max-num-batched-tokens, "
        "--max-num-seqs and --max-model-len, add --enforce-eager, and raise "
        "--gpu-memory-utilization only if the GPU is free of others",
        informs=True,
    ),
    Signature(
        Cause.MEMORY_HELD,
        (
            r"free memory on device… \((?P<free>[\d.]+) ?(?:gib)?/(?P<total>[\d.]+)"
            + _GI
            + r"\) on startup is less than desired gpu memory utilization",
        ),
        "Other programs hold so much of the GPU that vLLM's share is not free.",
        _utilization,
    ),
    Signature(
        Cause.MEMORY_HELD,
        (
            r"less than desired gpu memory utilization",
            r"free memory on device",
            r"reduce gpu memory used by other processes",
            r"gpu memory (?:is )?(?:already )?(?:held|used|occupied) by (?:an)?other process",
        ),
        "Other programs hold so much of the GPU that vLLM's share is not free.",
        "end what holds it (nvidia-smi names it), or lower --gpu-memory-utilization",
    ),
    Signature(
        Cause.MEMORY_CHANGED,
        (
            r"error in memory profiling",
            r"initial free memory [\d.]+ ?(?:gib|bytes|mib)?,? current free memory",
            r"memory was not properly cleaned up before initializing",
            r"release gpu memory while vllm is profiling",
            r"gpu memory (?:usage )?(?:has )?changed during profiling",
        ),
        "Another program freed memory of the GPU while vLLM measured how much there is.",
        "start one server at a time, after the others have ended or are ready; "
        "--kv-cache-memory-bytes leaves the measuring out",
    ),
    Signature(
        Cause.CUDA_OOM,
        (
            r"out of memory[^\n]{0,300}total capacity of (?P<total>[\d.]+) gib[^\n]{0,200}?"
            r"process (?P<pid>\d+) has (?P<held>[\d.]+) gib memory in use",
        ),
        "The GPU's memory is full, and another process holds a part of it.",
        _held,
    ),
    Signature(
        Cause.CUDA_OOM,
        (
            r"(?:cuda|hip|xpu) out of memory occurred when warming up sampler with "
            r"(?P<sequences>\d+) dummy requests",
        ),
        "The sampler's working memory, which grows with the answers at once, does not fit.",
        _fewer_sequences,
    ),
    Signature(
        Cause.CUDA_OOM,
        (
            r"(?:cuda|hip|xpu|npu) (?:error: )?out of memory",
            r"outofmemoryerror",
            r"cuda(?: runtime)? error: out of memory",
            r"cuda_error_out_of_memory",
            r"cudaerrormemoryallocation",
            r"cumem_allocator\.cpp…out of memory",
            r"tried to allocate [\d.]+ [mg]i?b",
            r"cublas_status_alloc_failed",
        ),
        "The GPU's memory is full.",
        "take a smaller or quantized model or more GPUs if it happens while weights load; else "
        "lower --max-model-len, --max-num-seqs and --max-num-batched-tokens, and "
        "--gpu-memory-utilization if other programs use the GPU, too",
        unless=r"ggml|llama[ -]runner|llama-server|llama_model_load|node running low on memory",
    ),
)
