"""The weights: are they there, and whole?"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from gearshift.engine.checks._base import Check, Plan, passed, refused, unknown

_POINTER = b"version https://git-lfs"
_KINDS = ("*.safetensors", "*.bin", "*.pt")


def check_weights(plan: Plan) -> Check:
    """Is every file of the weights here, and to its end?"""
    folder = plan.model.folder
    if folder is None:
        return passed("weights", "they are not here yet")
    files = sorted(file for kind in _KINDS for file in folder.glob(kind))
    hint = "download the model again"
    if not files:
        return unknown("weights", f"no weights ({', '.join(_KINDS)}) are in {folder}", hint)
    missing = sorted(_indexed(folder) - {file.name for file in files})
    if missing:
        return refused("weights", f"{len(missing)} files are missing, such as {missing[0]}", hint)
    for file in files:
        if problem := _problem(file):
            return refused("weights", f"{file.name} {problem}", hint)
    return passed("weights", f"{len(files)} file{'' if len(files) == 1 else 's'} of weights")


def _indexed(folder: Path) -> set[str]:
    """The files that the index of a model in parts names."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
        return set(map(str, index["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def _problem(file: Path) -> str | None:
    """Why a file cannot be read to its end, `None` if nothing is known against it."""
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_POINTER))
            if start == _POINTER:
                return "is only a pointer of Git LFS: run git lfs pull"
            if file.suffix != ".safetensors" or len(start) < 8:
                return None
            # https://huggingface.co/docs/safetensors: length of the header, header, data.
            (length,) = struct.unpack("<Q", start[:8])
            size = file.stat().st_size
            if length > min(size, 100_000_000):
                return None
            opened.seek(8)
            header = json.loads(opened.read(length))
        ends = [row["data_offsets"][1] for name, row in header.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None  # vLLM will say what it is
    return f"is cut off: {size:,} of {whole:,} bytes" if size < whole else None
