"""Slow generation: what holds vLLM up, by its own metrics and the GPUs' load.

What an answer's time goes to is told by the metrics of the whole life of a server where nothing
happens now. It does not know what a request would take on better hardware.
"""

from __future__ import annotations

import asyncio

from gearshift.doctor.checks._base import Finding, Machine, passed, unknown, warning
from gearshift.engine.metrics import Metrics, in_words
from gearshift.engine.monitor import EVERY, Engine, read_engine
from gearshift.providers import run

_FULL = 0.95  # of the KV cache
_IDLE = 50  # percent: a GPU that does less while requests run waits for something else
_PREFILL = 0.6  # of an answer's time


def check_vllm_speed(machine: Machine) -> Finding:
    """What holds generation up: the queue, the KV cache, the processor, prefill or decode?"""
    url = machine.settings.vllm_base_url
    engine = Engine(url, url, machine.our_server(url))
    run(_watch(engine, machine))
    now, ever = engine.now(), engine.since_start()
    if now is None:
        why = engine.readings[-1].problem or "it began anew meanwhile"
        return unknown(f"vLLM's metrics cannot be read: {why}", "gearshift status --metrics")
    told = in_words(now, engine.record.launch.max_num_seqs if engine.record else None)
    said = f"{told} {_bound(now if now.finished else ever)}".strip()
    if now.preemptions or (now.kv_cache_usage or 0) >= _FULL:
        return warning(
            said,
            "serve with a smaller or narrower cache for each request: gearshift serve MODEL "
            "--max-model-len 4096 --kv-cache-dtype fp8; or split it over more GPUs: "
            "gearshift serve MODEL 2 2",
        )
    if now.waiting:
        return warning(said, "allow more at once: gearshift serve MODEL --max-num-seqs 256")
    if now.running and engine.record is not None and engine.record.launch.cpu:
        return warning(f"{said} It runs on the processor.", "nproc; gearshift gpus")
    busiest = max((gpu.utilization_percent or 0 for gpu in machine.gpus.gpus), default=None)
    if now.running and busiest is not None and busiest < _IDLE:
        return warning(
            f"{said} The GPUs are only {busiest} % busy: more requests at once would cost "
            "little, or the processor holds them up.",
            "watch them: gearshift gpus --watch; see who uses the processor: top -o %CPU; serve "
            "without --enforce-eager",
        )
    return passed(said)


async def _watch(engine: Engine, machine: Machine) -> None:
    """Looks twice, so that it can be told what happens."""
    engine.readings.append(await read_engine(engine, machine.settings))
    if engine.readings[-1].sample is not None:
        await asyncio.sleep(EVERY)
        engine.readings.append(await read_engine(engine, machine.settings))


def _bound(metrics: Metrics | None) -> str:
    """What an answer's time goes to: reading the prompt or writing the answer."""
    if metrics is None or not metrics.finished or metrics.generation_tokens_per_s is None:
        return ""
    first, each = metrics.ttft_s.mean, metrics.itl_s.mean
    if first is None or each is None:
        return ""
    tokens = metrics.generation_tokens_per_s * metrics.seconds / metrics.finished
    whole = first + each * max(0.0, tokens - 1)
    if whole <= 0:
        return ""
    if first / whole > _PREFILL:
        return (
            f"Prefill-bound: {first / whole:.0%} of an answer's time is waiting for its first "
            "token; shorter prompts, fewer sources or a larger --max-num-batched-tokens help."
        )
    return (
        f"Decode-bound: {each * 1000:.0f} ms for each token; a quantized model, a higher memory "
        "bandwidth or tensor parallelism help."
    )
