"""What figures of GPUs, engines and models in memory mean, in words for pages and commands.

What is not known is a question mark, never zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gearshift.engine.launch import Launch
    from gearshift.engine.metrics import Metrics, Percentiles
    from gearshift.engine.monitor import Machine
    from gearshift.gpu import GPU
    from gearshift.schemas import LoadedModel

_FULL = 0.95  # of the KV cache; the last blocks are seldom all taken
_PATIENCE = 60.0  # seconds; on a processor a long prompt may take longer, so it may be that, too


def in_words(now: Metrics, launch: Launch | None = None, silent_s: float = 0.0) -> str:
    """What the figures mean, in one line.

    Args:
        now: Should span some seconds.
        launch: How it was started, where that is known.
        silent_s: For how long it has had work, and counted no token.
    """
    if now.running is None or now.waiting is None:
        return "It does not tell how many requests it has."
    usage = now.kv_cache_usage or 0.0
    speed = _speed(now)
    if silent_s >= _PATIENCE:
        there = f"{_requests(now.running)} under way, {now.waiting} waiting"
        return (
            f"{there}, and no token was counted for {silent_s:.0f} s: it reads a long prompt, or "
            "hangs; look at its log."
        )
    if now.preemptions:
        return (
            f"{_requests(now.preemptions)} put back, because the KV cache is full: allow fewer at "
            f"once (--max-num-seqs) or shorter ones (--max-model-len), or {_more_cache(launch)}; "
            "see Tune."
        )
    if now.waiting and usage >= _FULL:
        return (
            f"{_requests(now.waiting)} waiting: the KV cache is full ({100 * usage:.0f} %). Serve "
            f"shorter contexts (--max-model-len), or {_more_cache(launch)}; see Tune."
        )
    at_once = launch.max_num_seqs if launch else None
    if now.waiting and at_once and now.running >= at_once:
        return (
            f"{_requests(now.waiting)} waiting: it takes {at_once} at once. If memory allows, "
            "raise --max-num-seqs; see Tune."
        )
    if now.waiting:
        return f"{_requests(now.waiting)} waiting for a turn, {now.running} under way{speed}."
    if usage >= _FULL:
        return f"The KV cache is nearly full ({100 * usage:.0f} %): the next requests will wait."
    if now.running:
        return f"{_requests(now.running)} under way{speed}; nobody waits."
    if now.finished or now.generation_tokens_per_s or now.prompt_tokens_per_s:
        return f"Requests come and go{speed}; nobody waits."
    return "Idle: nobody asks."


def _requests(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"


def _speed(now: Metrics) -> str:
    """Of a server for embeddings, prompts are all that there is."""
    if now.generation_tokens_per_s:
        return f" at {number(now.generation_tokens_per_s)} tokens a second"
    if now.prompt_tokens_per_s:
        return f" at {number(now.prompt_tokens_per_s)} prompt tokens a second"
    if now.generation_tokens_per_s is None or not now.running:
        return ""
    return f", no token in the last {now.seconds:.0f} s"


def _more_cache(launch: Launch | None) -> str:
    if launch is not None and launch.cpu:
        # Narrower numbers are no way out there: vLLM takes fp8 on some processors only.
        return "start it with more cache (VLLM_CPU_KVCACHE_SPACE, in GiB)"
    return "give it an fp8 cache (--kv-cache-dtype) or more memory"


# ---- figures


def number(value: float | None) -> str:
    """`1,034`, `78` or `0.4`: what is small is not rounded to nothing."""
    if value is None:
        return "?"
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.2g}"


def percent(value: float | None) -> str:
    """`37 %`, of a number from 0 to 100."""
    return "?" if value is None else f"{value:.0f} %"


def share(value: float | None) -> str:
    """`37 %`, of a number from 0 to 1."""
    return percent(None if value is None else 100 * value)


def gib(value: int | None) -> str:
    """`12.3 GiB`, of bytes."""
    return "?" if value is None else f"{value / (1 << 30):.1f} GiB"


def part_of(used: int | None, whole: int | None) -> str:
    """`12.3 of 24.0 GiB`, of bytes."""
    return "?" if used is None else f"{used / (1 << 30):.1f} of {gib(whole)}"


def seconds(value: float | None) -> str:
    """`1.23 s` or `45 ms`."""
    if value is None:
        return "?"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def times(found: Percentiles) -> str:
    """A time's distribution in one line."""
    return (
        f"{seconds(found.p50)} in the middle, 95 % within {seconds(found.p95)}, 99 % within "
        f"{seconds(found.p99)}"
    )


def figures(now: Metrics) -> dict[str, str]:
    """The figures of a moment by what they are called."""
    return {
        "Running": "?" if now.running is None else str(now.running),
        "Waiting": "?" if now.waiting is None else str(now.waiting),
        "KV cache": share(now.kv_cache_usage),
        "Prefix cache hits": share(now.prefix_cache_hit_rate),
        "Tokens written": f"{number(now.generation_tokens_per_s)} /s",
        "Tokens read": f"{number(now.prompt_tokens_per_s)} /s",
    }


def latencies(found: Metrics) -> Iterator[str]:
    """What requests had to wait for, each in a few words; nothing for what was not observed."""
    for name, observed in (("first token", found.ttft_s), ("between tokens", found.itl_s)):
        if observed.p50 is not None:
            yield f"{name} {times(observed)}"
    if found.finished is not None:
        yield f"{_requests(found.finished)} finished"
    if found.preemptions is not None:
        yield f"{found.preemptions} put back for want of KV cache"


# ---- hardware


def hardware_lines(machine: Machine) -> list[str]:
    """A line for each GPU, and one for the processor where no GPU tells of memory of its own."""
    lines = [
        f"GPU {card.index} {percent(card.utilization_percent)} · "
        f"{gib(card.memory_used_bytes)} of {gib(card.memory_total_bytes)}"
        for card in machine.gpus.gpus
    ]
    if machine.processor_matters:
        memory = part_of(machine.memory_used_bytes, machine.memory_total_bytes)
        lines.append(f"Processor {percent(machine.processor_percent)} · memory {memory}")
    return lines


def card_details(card: GPU) -> list[str]:
    """What else a card tells of itself; a line for each MIG instance."""
    parts = []
    if card.power_limit_watts is not None:
        parts.append(f"power limit {card.power_limit_watts:.0f} W")
    if card.clock_mhz is not None:
        parts.append(f"clock {card.clock_mhz} MHz")
    if card.memory_clock_mhz is not None:
        parts.append(f"memory clock {card.memory_clock_mhz} MHz")
    if card.compute_capability is not None:
        parts.append("compute capability " + ".".join(map(str, card.compute_capability)))
    if card.uuid is not None:
        parts.append(card.uuid)
    instances = [
        f"MIG {part.name or 'unnamed'}: "
        f"{part_of(part.memory_free_bytes, part.memory_total_bytes)} free · {part.uuid}"
        for part in card.mig
    ]
    return [line for line in (" · ".join(parts), *instances) if line]


# ---- Ollama


def loaded_line(model: LoadedModel) -> str:
    """A model that Ollama holds in memory."""
    where = f"{share(model.gpu_share)} of it on GPUs"
    return f"{model.name}: {gib(model.size_bytes)}, {where}, until {until(model.until)}"


def until(text: str | None) -> str:
    """When a model goes from memory, in this machine's time; with its date if that is not today."""
    try:
        moment = datetime.fromisoformat(text or "").astimezone()
        now = datetime.now().astimezone()
        if moment > now + timedelta(days=365 * 50):  # how Ollama writes "for ever"
            return "told to go"
    except (ValueError, OverflowError):
        return "?"
    if moment.year < 1970:  # how Go writes that it knows no time
        return "?"
    return moment.strftime("%H:%M:%S" if moment.date() == now.date() else "%Y-%m-%d %H:%M:%S")
