"""Profiles: the two of the guide's table, for one person who waits and for many, and tuned ones.

What `gearshift tune` has found on this machine is kept in `profiles/` of GEARSHIFT_HOME.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from gearshift.errors import EngineError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Profile(BaseModel):
    """Values of `Launch` by their names, each with the reason for it.

    `model` is the one that it was measured with; `None` for the guide's, which are for any.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    values: dict[str, bool | int | float | str]
    reasons: dict[str, str]
    model: str | None = None


LATENCY = Profile(
    name="latency",
    values={"max_num_seqs": 32, "max_num_batched_tokens": 2048, "memory_utilization": 0.8},
    reasons={
        "max_num_seqs": "few people share the GPU, so that each step is short",
        "max_num_batched_tokens": "a long prompt is read in small pieces between others' tokens",
        "memory_utilization": "few sequences need little KV cache; the rest stays free for others",
    },
)
THROUGHPUT = Profile(
    name="throughput",
    values={"max_num_seqs": 256, "max_num_batched_tokens": 8192, "memory_utilization": 0.92},
    reasons={
        "max_num_seqs": "many sequences share the cost of reading the weights in each step",
        "max_num_batched_tokens": "prompts are read in large pieces, which GPUs do fastest",
        "memory_utilization": "what the weights leave goes to KV cache, which holds the people",
    },
)
PROFILES = {profile.name: profile for profile in (LATENCY, THROUGHPUT)}
"""The guide's."""


def _folder(home: Path) -> Path:
    return home / "profiles"


def profiles(home: Path) -> dict[str, Profile]:
    """The guide's, and those that were tuned here; what cannot be read is left out."""
    found = dict(PROFILES)
    for path in sorted(_folder(home).glob("*.json")):
        try:
            one = Profile.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        if one.name == path.stem:
            found.setdefault(one.name, one)
    return found


def profile(name: str, home: Path) -> Profile:
    """The profile of that name.

    Raises:
        EngineError: there is none (kind `launch`).
    """
    known = profiles(home)
    if name not in known:
        raise EngineError(
            "launch",
            f"there is no profile {name!r}",
            f"choose one of {', '.join(known)}, or make one: gearshift tune MODEL --name {name}",
        )
    return known[name]


def keep(one: Profile, home: Path) -> Path:
    """Writes a tuned profile; one of the same name is replaced.

    Raises:
        EngineError: it cannot have that name, or the disk refuses (kind `profile`).
    """
    check_name(one.name)
    path = _folder(home) / f"{one.name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = path.with_suffix(".new")
        scratch.write_text(one.model_dump_json(indent=1), "utf-8")
        scratch.replace(path)
    except OSError as wrong:
        raise EngineError(
            "profile", f"the profile cannot be kept: {wrong}", "make room, and tune again"
        ) from None
    return path


def check_name(name: str) -> None:
    """Whether a tuned profile can be called that.

    Raises:
        EngineError: it cannot (kind `profile`).
    """
    if name in PROFILES or not NAME.fullmatch(name):
        taken = f"{name!r} is the guide's" if name in PROFILES else f"{name!r} is no name"
        raise EngineError(
            "profile", f"a tuned profile: {taken}", "take letters, digits and . _ -, such as tuned"
        )


def in_words(values: dict[str, Any]) -> str:
    """A setting as people read it, by the names of vLLM's options."""
    if not values:
        return "vLLM's defaults"
    said = []
    for key, value in values.items():
        option = OPTIONS.get(key, key).replace("_", "-")
        shown = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
        said.append(f"{option} {shown}")
    return ", ".join(said)


OPTIONS = {
    "memory_utilization": "gpu-memory-utilization",
    "tensor_parallel": "tensor-parallel-size",
    "chunked_prefill": "enable-chunked-prefill",
    "prefix_caching": "enable-prefix-caching",
}
"""Options of vLLM by the fields of `Launch` that are called otherwise."""
