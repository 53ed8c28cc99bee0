"""The two profiles of the guide's table: for one person who waits, and for many."""

from __future__ import annotations

from dataclasses import dataclass

from gearshift.errors import EngineError


@dataclass(frozen=True)
class Profile:
    """Values of `Launch` by their names, each with the reason for it."""

    name: str
    values: dict[str, float]
    reasons: dict[str, str]


LATENCY = Profile(
    "latency",
    {"max_num_seqs": 32, "max_num_batched_tokens": 2048, "memory_utilization": 0.8},
    {
        "max_num_seqs": "few people share the GPU, so that each step is short",
        "max_num_batched_tokens": "a long prompt is read in small pieces between others' tokens",
        "memory_utilization": "few sequences need little KV cache; the rest stays free for others",
    },
)
THROUGHPUT = Profile(
    "throughput",
    {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "memory_utilization": 0.92},
    {
        "max_num_seqs": "many sequences share the cost of reading the weights in each step",
        "max_num_batched_tokens": "prompts are read in large pieces, which GPUs do fastest",
        "memory_utilization": "what the weights leave goes to KV cache, which holds the people",
    },
)
PROFILES = {profile.name: profile for profile in (LATENCY, THROUGHPUT)}


def profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        EngineError: there is none (kind `launch`).
    """
    if name not in PROFILES:
        raise EngineError(
            "launch", f"there is no profile {name!r}", f"choose one of {', '.join(PROFILES)}"
        )
    return PROFILES[name]
