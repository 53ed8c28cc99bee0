"""Measurements that are kept, and the comparison of two of them: before a change and after."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

from gearshift.bench.machine import in_words
from gearshift.bench.report import label
from gearshift.errors import GearshiftError

_NAME = re.compile(r"[A-Za-z0-9._-]+")
COMPARED = ("output_tokens_per_s", "ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "itl_p95_s")


def folder(home: Path) -> Path:
    """Where they are, a file each."""
    return home / "bench"


def keep(record: dict[str, Any], home: Path) -> str:
    """Writes a record and returns the name that it is found by, its moment and what it was.

    Raises:
        GearshiftError: the disk refuses.
    """
    moment = re.sub(r"[-:]", "", record["started"])[:15].replace("T", "-")
    name = f"{moment}-{record['scenario'] or 'bench'}"
    try:
        folder(home).mkdir(parents=True, exist_ok=True, mode=0o700)
        while (path := folder(home) / f"{name}.json").exists():
            name = f"{name}-{secrets.token_hex(2)}"
        scratch = path.with_suffix(".new")
        scratch.write_text(json.dumps(record), "utf-8")
        scratch.replace(path)
    except OSError as wrong:
        raise GearshiftError(f"the measurement cannot be kept: {wrong}", hint="make room") from None
    return name


def kept(home: Path) -> list[str]:
    """The names of all that were kept, the newest first."""
    return sorted((path.stem for path in folder(home).glob("*.json")), reverse=True)


def load(name: str, home: Path) -> dict[str, Any]:
    """A kept record.

    Raises:
        GearshiftError: there is none of that name, or it cannot be read.
    """
    if not _NAME.fullmatch(name) or name not in kept(home):
        have = ", ".join(kept(home)[:5]) or "none was kept yet"
        raise GearshiftError(f"there is no measurement {name!r}", hint=f"the last ones: {have}")
    try:
        found: dict[str, Any] = json.loads((folder(home) / f"{name}.json").read_text("utf-8"))
    except (OSError, ValueError) as wrong:
        raise GearshiftError(
            f"the measurement {name} cannot be read: {wrong}", hint="measure again"
        ) from None
    return found


def outline(name: str, home: Path) -> str:
    """What a kept record is of: servers, people, and how fast; why not, where it cannot be read."""
    try:
        found = load(name, home)
    except GearshiftError as wrong:
        return wrong.message
    measured = found["runs"]
    servers = ", ".join(dict.fromkeys(map(label, measured)))
    people = ", ".join(dict.fromkeys(str(run["concurrency"] or "open loop") for run in measured))
    speeds = [run["output_tokens_per_s"] or 0.0 for run in measured if not run["invalid"]]
    fastest = f"up to {max(speeds):.1f} tokens/s" if speeds else "no run counts"
    return f"{servers}: {people} at once; {fastest}"


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """What changed, for each server and number of people (or rate) that both have.

    Each of `COMPARED` has `before`, `after`, `change` (0.1: ten percent more) and `certain`:
    whether the intervals lie apart, `None` where there are none because nothing was repeated.
    """
    first = {_load(row): row for row in before["summary"]}
    rows = []
    for later in after["summary"]:
        sooner = first.get(_load(later))
        if sooner is not None:
            changes = {name: _change(sooner[name], later[name]) for name in COMPARED}
            rows.append({"target": later["target"], "concurrency": later["concurrency"], **changes})
    return rows


def _load(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["target"], row["concurrency"], row.get("rate")


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What else was not the same, in words: a change may come of that."""
    first, second = _circumstances(before), _circumstances(after)
    return [
        f"{what}: {first[what]} before, {second[what]} after"
        for what in first
        if first[what] != second[what]
    ]


def _circumstances(record: dict[str, Any]) -> dict[str, str]:
    wish = record["wish"]
    asked = ("input_tokens", "output_tokens", "requests", "duration_s", "burstiness", "think_s")
    servers = {
        f"{run['provider']} {run['version'] or ''}".strip() + f" with {run['model']}"
        for run in record["runs"]
    }
    return {
        "servers": ", ".join(sorted(servers)),
        "prompts": ", ".join(sorted({str(run["prompts"]) for run in record["runs"]})),
        "machine": in_words(record["machine"]),
        "seed": str(record["seed"]),
        **{name.removesuffix("_s").replace("_", " "): str(wish[name]) for name in asked},
    }


def _change(sooner: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    old, new = sooner["median"], later["median"]
    one, other = sooner["confidence_interval"], later["confidence_interval"]
    certain = None
    if one and other:
        certain = one[1] < other[0] or other[1] < one[0]
    return {
        "before": old,
        "after": new,
        "change": new / old - 1 if old and new is not None else None,
        "certain": certain,
    }
