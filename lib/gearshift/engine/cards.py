"""GPUs by the names that drivers, vendors and clouds give them: memory that vLLM can use."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from gearshift.data import DATA
from gearshift.gpu import GPU


@dataclass(frozen=True)
class Card:
    """A kind of GPU.

    Attributes:
        usable_gib: What CUDA gives programs: less than the name says; `None` if unknown.
    """

    name: str
    usable_gib: float | None
    capability: str | None = None


@lru_cache(maxsize=1)
def _rows() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((DATA / "gpus.json").read_text("utf-8"))
    return found


def known_cards() -> list[str]:
    """The kinds whose memory is known."""
    return list(_rows())


def find_card(name: str) -> Card:
    """The kind that a name means, such as `NVIDIA A100-SXM4-80GB`; a size in it wins."""
    plain = " " + re.sub(r"[^A-Z0-9]+", " ", name.upper()).strip() + " "
    plain = re.sub(r" (RTX|GTX|QUADRO|TESLA) ?(?=[A-Z0-9])", r" \1 ", plain)
    size = _size(name)
    for known in sorted(_rows(), key=len, reverse=True):
        words = known.replace("-", " ")
        # `A100` also in `A100X`, `4090` also in `RTX4090D`; but not `L4` in `L40`.
        if re.search(rf" {re.escape(words)}(?![0-9])(?!S |G )", plain):
            row = _rows()[known]
            usable = row.get("sizes", {}).get(str(size)) if size else None
            if usable is None and size and abs(size - row["usable_gib"]) > 0.15 * size:
                usable = from_nameplate(size)
            return Card(known, usable or row["usable_gib"], row["capability"])
    return Card(name, from_nameplate(size) if size else None)


def card_of(gpu: GPU) -> Card:
    """The kind of a GPU that is there; of an unknown one what its driver tells, less its own."""
    card, total = find_card(gpu.name or ""), gpu.memory_total_bytes
    return replace(card, usable_gib=card.usable_gib or (total and 0.98 * total / (1 << 30)))


def from_nameplate(gib: float) -> float:
    """What is usable of a memory; a figure with decimals is taken as what a driver has told."""
    return gib if gib != int(gib) else 0.984 * gib


def _size(name: str) -> float | None:
    """`80` in `A100-80G`; a driver's figure in MiB or GiB is taken as it is."""
    found = re.search(r"(?<![A-Z0-9.])(\d+(?:\.\d+)?)\s*(GIB|GB|G)(?![A-Z0-9])", name.upper())
    if not found:
        return None
    value = float(found[1])
    return int(value) if value == int(value) else value
