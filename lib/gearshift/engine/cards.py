"""GPUs by the names that drivers, vendors and clouds give them: memory that vLLM can use."""

from __future__ import annotations

import difflib
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
        known: Whether it is a kind that is known here; else `name` is what was asked for.
        note: What has been assumed of it, if anything.
    """

    name: str
    usable_gib: float | None
    capability: str | None = None
    known: bool = True
    note: str | None = None


@lru_cache(maxsize=1)
def _rows() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((DATA / "gpus.json").read_text("utf-8"))
    return found


@lru_cache(maxsize=1)
def _names() -> list[tuple[str, str]]:
    """All names of kinds, the longest first, each with the kind that it means."""
    found = [
        (each, kind) for kind, row in _rows().items() for each in (kind, *row.get("names", ()))
    ]
    return sorted(found, key=lambda both: -len(both[0]))


@lru_cache(maxsize=1)
def _instances() -> list[tuple[re.Pattern[str], str]]:
    """Machines of clouds, and the GPU that each kind has."""
    rows: dict[str, str] = json.loads((DATA / "instances.json").read_text("utf-8"))
    return [(re.compile(rf"(?:^|[^a-z0-9]){each}", re.IGNORECASE), card)
            for each, card in rows.items()]  # fmt: skip


def known_cards() -> list[str]:
    """The kinds whose memory is known."""
    return list(_rows())


def similar_cards(name: str) -> list[str]:
    """Known kinds whose names are most like this one; common ones where none is."""
    near = difflib.get_close_matches(name.upper(), known_cards(), 3, 0.6)
    return near or ["A100", "H100", "L4", "RTX PRO 6000", "4090"]


def find_card(name: str) -> Card:
    """The kind that a name means, such as `NVIDIA A100-SXM4-80GB`; a size in it wins."""
    for pattern, card in _instances():
        if pattern.search(name):
            return find_card(card)
    part = _MIG.search(name)  # of a GPU, with a size of its own
    share = part or _VGPU.search(name)
    size = float(share["gib"]) if share else _size(name)
    plain = _plain(name)
    laptop = " LAPTOP" if re.search(r" (LAPTOP|MOBILE) ", plain) else ""
    for written, kind in _names():
        # `A100` also in `A100X`, `4090` also in `RTX4090D`; but not `L4` in `L40`.
        if not re.search(rf" {re.escape(written.replace('-', ' '))}(?![0-9])(?!S |G )", plain):
            continue
        if laptop and not kind.endswith(laptop):
            row = _rows().get(kind + laptop)
            if row is None:
                return Card(kind + laptop, size and from_nameplate(size), None, row is not None)
            return _of(kind + laptop, row, size)
        return _of(kind, _rows()[kind], size, bool(part))
    return Card(name, from_nameplate(size) if size else None, known=False)


_MIG = re.compile(r"\b\dg\.(?P<gib>\d+)gb", re.IGNORECASE)
_VGPU = re.compile(r"[A-Z0-9]-(?P<gib>\d{1,3})[ABCQ]\b")


def _plain(name: str) -> str:
    """Words in capitals, between blanks: `RTX4060Ti-16G` becomes ` RTX 4060 TI 16G `."""
    words = " " + re.sub(r"[^A-Z0-9]+", " ", name.upper()).strip() + " "
    words = re.sub(r" (RTX|GTX|QUADRO|TESLA|RX|GRID) ?(?=[A-Z0-9])", r" \1 ", words)
    words = re.sub(r"^ \d{1,2} ?X ?(?=[A-Z])", " ", words)  # `8xH100`
    words = re.sub(r"(?<=\d)(TI|SUPER|XTX|XT)(?= |SUPER)", r" \1 ", words)
    return re.sub(r" +", " ", words)


def _of(kind: str, row: dict[str, Any], size: float | None, part: bool = False) -> Card:
    usual: float = row["usable_gib"]
    sizes: dict[str, float] = row.get("sizes", {})
    usable, note = usual, None
    if size is None:
        if len(sizes) > 1 and kind != "GH200":
            made, taken = " or ".join(sizes), _nearest(sizes, usual)
            note = f"the {kind} is made with {made} GB: {taken} GB is assumed"
    elif part or str(size).removesuffix(".0") not in sizes:
        near = size == int(size) and abs(size - usual) <= 0.15 * size and not part
        usable = usual if near else from_nameplate(size)
    else:
        usable = sizes[str(size).removesuffix(".0")]
    return Card(kind, usable, row["capability"], note=note)


def _nearest(sizes: dict[str, float], usable: float) -> str:
    return min(sizes, key=lambda size: abs(sizes[size] - usable))


def card_of(gpu: GPU) -> Card:
    """The kind of a GPU that is there; of an unknown one what its driver tells, less its own."""
    card, total = find_card(gpu.name or ""), gpu.memory_total_bytes
    told = total and 0.98 * total / (1 << 30)
    if told and card.usable_gib and abs(told - card.usable_gib) > 0.15 * told:
        card = replace(card, usable_gib=None)  # the driver knows better which of them it is
    return replace(card, usable_gib=card.usable_gib or told, known=True, note=None)


def from_nameplate(gib: float) -> float:
    """What is usable of a memory; a figure with decimals is taken as what a driver has told."""
    return gib if gib != int(gib) else 0.984 * gib


def _size(name: str) -> float | None:
    """`80` in `A100-80G`; what a driver has told, with decimals or in MiB, goes before a class."""
    found = [
        (float(each[1]) / (1024 if each[2].startswith("M") else 1), each[2])
        for each in re.finditer(
            r"(?<![A-Z0-9.])(\d+(?:\.\d+)?)\s*(MIB|GIB|GB|G)(?![A-Z0-9.])", name.upper()
        )
    ]
    told = [value for value, _ in found if value != int(value)]
    values = told or [value for value, _ in found]
    return values[0] if values else None
