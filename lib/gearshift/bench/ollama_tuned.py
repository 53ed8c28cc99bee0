"""A second Ollama of our own, told to answer many at once: the fair opponent of vLLM.

What it does not know: whether the first one has been tuned already.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gearshift.bench.target import Target, find_service, find_target
from gearshift.errors import GearshiftError
from gearshift.providers import run
from gearshift.settings import is_loopback, load_settings

_START = 20.0  # seconds
_SYSTEM_MODELS = Path("/usr/share/ollama/.ollama/models")
"""Where Ollama's own installer keeps the models of the service that it makes."""


@contextmanager
def tuned_ollama(first: Target, parallel: int) -> Iterator[Target]:
    """Starts `ollama serve` with `OLLAMA_NUM_PARALLEL`, on a port of its own, and ends it.

    Raises:
        GearshiftError: that is not in our power, or it does not have the model.
    """
    program = shutil.which("ollama")
    if program is None or not is_loopback(first.service.url):
        raise GearshiftError(
            "its number of parallel requests cannot be set from here: the program ollama is not on "
            "this machine",
            hint=f"start it yourself with OLLAMA_NUM_PARALLEL={parallel} and measure again",
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    more = {"OLLAMA_HOST": url, "OLLAMA_NUM_PARALLEL": str(parallel)}
    if "OLLAMA_MODELS" not in os.environ and os.access(_SYSTEM_MODELS, os.R_OK):
        more["OLLAMA_MODELS"] = str(_SYSTEM_MODELS)
    logs = load_settings().home_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (logs / "ollama-tuned.log").open("wb") as log:
        child = subprocess.Popen(
            [program, "serve"], env=os.environ | more, stdout=log, stderr=log, process_group=0
        )
    atexit.register(child.terminate)  # where the process ends before this does
    try:
        _wait(child, url, logs)
        target = find_target(find_service("ollama", url), first.model)
        if first.model not in _names(target):
            raise GearshiftError(
                f"an Ollama of our own does not have {first.model}: its models are elsewhere",
                hint="set OLLAMA_MODELS to where they are",
            )
        yield replace(target, variant=f"OLLAMA_NUM_PARALLEL={parallel}")
    finally:
        atexit.unregister(child.terminate)
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait(child: subprocess.Popen[bytes], url: str, logs: Path) -> None:
    service = find_service("ollama", url)
    deadline = time.monotonic() + _START
    while not run(service.check_connection()).version:
        if child.poll() is not None or time.monotonic() > deadline:
            raise GearshiftError(
                "an Ollama of our own did not start", hint=f"see {logs / 'ollama-tuned.log'}"
            )
        time.sleep(0.1)


def _names(target: Target) -> set[str]:
    return {model.name for model in run(target.service.list_models())}
