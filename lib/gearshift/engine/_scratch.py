"""A folder for a server's temporary files, which a vLLM that is killed leaves behind."""

from __future__ import annotations

import getpass
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

_LONGEST = 107  # bytes of the path of a socket, on Linux


def make() -> Path | None:
    """A new folder; `None` if the path of a socket in it would be too long."""
    folder = Path(tempfile.mkdtemp(prefix="vllm-"))
    if len(bytes(folder / str(uuid.uuid4()))) <= _LONGEST:
        return folder
    folder.rmdir()
    return None


def environment(folder: Path | None, inherited: Mapping[str, str]) -> dict[str, str]:
    """The variables that make a server use it."""
    if folder is None:
        return {}
    name = "TORCHINDUCTOR_CACHE_DIR"  # what was compiled is to stay for the next start
    kept = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
    return {"TMPDIR": str(folder), name: inherited.get(name, str(kept))}


def remove(folder: Path) -> None:
    """When nobody uses it any more."""
    shutil.rmtree(folder, ignore_errors=True)
