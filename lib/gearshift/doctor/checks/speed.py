"""Slow generation: what holds vLLM up, by its own metrics and the GPUs' load.

What an answer's time goes to is told by the metrics of the whole life of a server where nothing
happens now. It does not know what a request would take on better hardware.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gearshift.doctor.checks._base import Finding, Machine, passed, unknown, warning
from gearshift.engine.metrics import Metrics
from gearshift.engine.monitor import EVERY, Engine, read_engine
from gearshift.engine.words import in_words
from gearshift.providers import run

_FULL = 0.95  # of the KV cache
_IDLE = 50  # percent: a GPU that does less while requests run waits for something else


def check_vllm_speed(machine: Machine) -> Finding:
    """What holds generation up: the queue, the KV cache, the processor, prefill or decode?"""
    url = machine.settings.vllm_base_url
    engine = Engine(url, url, machine.our_server(url))
    run(_watch(engine, machine))
    now, ever = engine.now(), engine.since_start()
    if now is None:
        why = engine.readings[-1].problem or "it began anew meanwhile"
        start = "start a server: gearshift serve MODEL; then: gearshift status --metrics"
        return unknown(f"vLLM's metrics cannot be read: {why}", start)
    if not now.running and _tokens(now) <= 1:
        # Else it is the doctor's own token.
        now = replace(now, generation_tokens_per_s=0.0, prompt_tokens_per_s=0.0, finished=0)
    told = in_words(now, engine.record.launch if engine.record else None)
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
        return warning(
            f"{said} It runs on the processor, where a GPU is many times as fast.",
            "see what a GPU would do: gearshift plan MODEL --gpu L4",
        )
    loads = [gpu.utilization_percent for gpu in machine.gpus.gpus]
    busiest = max((load for load in loads if load is not None), default=None)
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


def _tokens(now: Metrics) -> float:
    """How many were written while we looked."""
    return (now.generation_tokens_per_s or 0.0) * now.seconds


_ADVICE = {
    "Queue": "waiting for a turn: more at once (--max-num-seqs) or another server helps",
    "Prefill": "reading the prompt: shorter prompts, fewer sources or a larger "
    "--max-num-batched-tokens help",
    "Decode": "writing tokens: a quantized model, a higher memory bandwidth or tensor parallelism "
    "help",
}


def _bound(metrics: Metrics | None) -> str:
    """What most of an answer's time goes to; empty where the server does not tell."""
    if metrics is None:
        return ""
    parts = {
        "Queue": metrics.queue_time_s,
        "Prefill": metrics.prefill_time_s,
        "Decode": metrics.decode_time_s,
    }
    known = {name: seconds for name, seconds in parts.items() if seconds is not None}
    whole = sum(known.values())
    if len(known) < len(parts) or not whole:
        return ""
    name = max(known, key=lambda part: known[part])
    return f"{name}-bound: {known[name] / whole:.0%} of an answer's time goes into {_ADVICE[name]}."
