"""Runs uv: line by line, and not for longer than we live.

What it does not know: what is installed. `environment.py` does.
"""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import uv

from gearshift.errors import EngineError

# uv has a keeper between it and us, which ends it with all that it started as soon as our end of
# the pipe is closed: also when we were killed. Else it would go on to write into an environment
# that the next `install` is making anew.
_KEEPER = """
import os, signal, subprocess, sys, threading
def end_with_parent():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
threading.Thread(target=end_with_parent, daemon=True).start()
os._exit(child.wait() & 0xFF)
"""
_KEPT_LINES = 12


def run(
    arguments: list[str],
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    what: str = "vLLM",
) -> None:
    """Runs uv to its end, and hands its lines on; `what` is being installed.

    Raises:
        EngineError: it failed (kinds `install`, `disk`), in uv's own words.
    """
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    # A project in the working directory has nothing to say here; the person's uv.toml has.
    uv_command = [uv.find_uv_bin(), "--project", Path.cwd().anchor, *arguments]
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _KEEPER, *uv_command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:  # an exception leaves the block, which closes the keeper's stdin
            last.append(line.strip())
            on_line(line.rstrip())
    if child.returncode != 0:
        raise _failure(what, " ".join(line for line in last if line))


def _failure(what: str, words: str) -> EngineError:
    message = f"{what} cannot be installed: {words}"
    if "No space left" in words or "Disk quota" in words:
        return EngineError(
            "disk",
            message,
            "make room, also for uv's cache, or set GEARSHIFT_HOME to a larger disk",
        )
    return EngineError(
        "install",
        message,
        "check the network, or the package mirror that uv is set to, and try again",
    )
