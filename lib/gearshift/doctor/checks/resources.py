"""Memory, disk and shared memory: what models are kept in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import psutil

from gearshift.doctor.checks._base import GIB, Finding, Machine, failed, passed, unknown, warning
from gearshift.settings import hub_cache

# The guide's figures; a machine sold with 32 GB shows a little less.
_MEMORY = 30e9
_DISK = 50e9
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""A container's limit, by the two versions of control groups."""


def check_memory(machine: Machine, limits: Sequence[Path] = _LIMITS) -> Finding:
    """Is there as much main memory as the guide advises?"""
    memory = psutil.virtual_memory()
    total, where = memory.total, "this machine"
    for path in limits:
        limit = _number(path)
        if limit is not None and limit < total:
            total, where = limit, "this container"
    said = f"{where} has {total / GIB:.0f} GiB of memory, {memory.available / GIB:.0f} are free"
    if total < _MEMORY:
        return warning(
            f"{said}; the guide advises 32 GB for vLLM",
            "take small models (gearshift plan MODEL says what one needs); see who uses memory: "
            "ps aux --sort=-rss | head",
        )
    return passed(said)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):  # there is none, or it says "max"
        return None


def check_disk(machine: Machine) -> Finding:
    """Is there room for models, and may we write there?"""
    home, hub = machine.settings.home_dir, hub_cache()
    for place, found in ((home, failed), (hub, warning)):
        there = _existing(place)
        if not (there.is_dir() and os.access(there, os.W_OK)):
            return found(
                f"nothing can be written to {place}",
                f'make it yours: sudo install -d -o "$USER" {quote(str(place))}',
            )
    free = {place: shutil.disk_usage(_existing(place)).free for place in (home, hub)}
    said = ", ".join(f"{size / GIB:.0f} GiB free for {place}" for place, size in free.items())
    if min(free.values()) < _DISK:
        return warning(
            f"{said}; the guide advises 50 GB for models",
            f"see what is large: du -sh {quote(str(hub))}/* | sort -h; or use a larger disk: "
            "export GEARSHIFT_HOME=/LARGER/gearshift HF_HOME=/LARGER/huggingface",
        )
    return passed(said)


def _existing(path: Path) -> Path:
    """The folder that is there already, on whose disk `path` will be."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_shared_memory(machine: Machine, place: Path = _SHARED_MEMORY) -> Finding:
    """Is there room in /dev/shm, which the processes of a server pass data through?"""
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return unknown(f"there is no {place}", "in a container, start it with: --ipc=host")
    if free < GIB:
        return warning(
            f"{place} has {free / GIB:.2f} GiB free, too little for several GPUs",
            "in a container, start it with --ipc=host or --shm-size=8g; elsewhere: "
            f"sudo mount -o remount,size=8G {place}",
        )
    return passed(f"{place} has {free / GIB:.1f} GiB free")
