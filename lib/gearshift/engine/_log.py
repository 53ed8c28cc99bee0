"""Drains a server's output: into its log file, without secrets, and into what is known of it."""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

from gearshift.engine.stages import Stage, essence, stage

_MAX_BYTES = 10_000_000
_BACKUPS = 2
_LINE = re.compile(rb"([^\r\n]*)(\r\n|\n|\r)")
_LONGEST = 1 << 16  # bytes; a longer line is kept in pieces
_TELLING = 1 << 12  # characters of a line that are looked at


class _Rotating(logging.handlers.RotatingFileHandler):
    """Readable by its owner alone; a full disk costs lines, never the server that writes them."""

    def _open(self) -> TextIOWrapper:
        os.close(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class Drain:
    """Reads the pipe in a thread for as long as the supervisor lives."""

    def __init__(self, pipe: Path, log: Path, redact: Callable[[str], str]) -> None:
        self._descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = _Rotating(
            log, maxBytes=_MAX_BYTES, backupCount=_BACKUPS, encoding="utf-8", errors="replace"
        )
        self._redact = redact
        self._read = time.monotonic()
        self._ended = False
        self.begin()
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Forgets the lines of the start before."""
        self.lines: deque[str] = deque(maxlen=5000)
        self.stage = Stage("starting Python")
        self.progressed = time.monotonic()
        self.starting = True
        self._seen: set[str] = set()

    def write(self, line: str) -> None:
        """A line of our own among the server's."""
        self._take(line)
        self._keep(line)

    def settle(self, quiet: float = 0.1, at_most: float = 0.6) -> None:
        """Waits until what a dead process had written has been read."""
        deadline = time.monotonic() + at_most
        began = time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - max(began, self._read) < quiet:
            time.sleep(0.02)

    def close(self) -> None:
        """Ends the thread and closes the files."""
        self._ended = True
        self._thread.join(2)
        os.close(self._descriptor)
        self._file.close()

    def _run(self) -> None:
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._descriptor, selectors.EVENT_READ)
            while not self._ended:
                if not selector.select(0.2):
                    continue
                try:
                    block = os.read(self._descriptor, 1 << 16)
                except BlockingIOError:
                    continue
                if not block:  # nobody writes (yet, or any more)
                    time.sleep(0.05)
                    continue
                self._read = time.monotonic()
                rest = self._split(rest + block)

    def _split(self, data: bytes) -> bytes:
        """Handles whole lines; returns the part of a line at the end."""
        end = 0
        # Not beyond the last end of a line: the pattern would try each byte of the rest in turn.
        for found in _LINE.finditer(data, 0, max(data.rfind(b"\n"), data.rfind(b"\r")) + 1):
            end = found.end()
            line = self._redact(found[1].decode("utf-8", "replace"))
            self._take(line)
            if found[2] != b"\r":  # a progress bar writes itself over: its last state stays
                self._keep(line)
        if len(data) - end > _LONGEST:
            self._keep(self._redact(data[end:].decode("utf-8", "replace")))
            end = len(data)
        return data[end:]

    def _take(self, line: str) -> None:
        line = line[:_TELLING]
        self.lines.append(line)
        if not self.starting:  # a busy server's log has to cost little
            return
        core = essence(line)
        if core and core not in self._seen and len(self._seen) < 100_000:
            self._seen.add(core)
            self.progressed = time.monotonic()
        if found := stage(line):
            self.stage = found

    def _keep(self, line: str) -> None:
        self._file.emit(logging.LogRecord("vllm", logging.INFO, "", 0, line, None, None))
