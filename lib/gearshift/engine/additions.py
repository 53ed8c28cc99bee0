"""Packages that vLLM's Python needs for more than serving, in folders beside its environment.

The environment itself stays as it is: it may be the person's own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from gearshift.engine import _uv
from gearshift.engine.environment import python
from gearshift.settings import Settings, environment_for_vllm


def add(
    settings: Settings, name: str, packages: tuple[str, ...], on_line: Callable[[str], None]
) -> Path:
    """A folder for `PYTHONPATH` that holds these packages, made at the first time.

    Args:
        packages: Pinned, and all that is not in vLLM's environment anyway: none is resolved.

    Raises:
        EngineError: they cannot be installed (kinds `install`, `disk`).
    """
    place = settings.home_dir / "additions" / name
    wanted = "\n".join(packages)
    mark = place / "packages.txt"
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(place.with_suffix(".lock")):
        if mark.is_file() and mark.read_text("utf-8") == wanted:
            return place
        made = place.with_suffix(f".{os.getpid()}.new")
        shutil.rmtree(made, ignore_errors=True)
        try:
            target = ["--python", str(python(settings)), "--target", str(made), "--no-deps"]
            _uv.run(
                ["pip", "install", "--quiet", *target, *packages],
                environment_for_vllm(),
                on_line,
                what=", ".join(packages),
            )
            (made / mark.name).write_text(wanted, "utf-8")
            shutil.rmtree(place, ignore_errors=True)
            made.replace(place)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return place
