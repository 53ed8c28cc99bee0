"""Reading and splitting in a child process: hostile bytes only take the child down, not us.

The child is kept from one document to the next, so that many small files go fast.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from contextlib import suppress

from gearshift.errors import DocumentError
from gearshift.rag.documents._base import Reason, fail
from gearshift.schemas import Passage, StoredDocument

MAX_BYTES = 25 * 1024 * 1024
"""The largest file."""
SECONDS = 60.0
"""Wall-clock time that one document may take, and a third of it for each megabyte."""


class Parser:
    """Hands documents to the child, one at a time; safe in threads."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def read(self, name: str, data: bytes) -> tuple[StoredDocument, list[Passage]]:
        """Reads a document and splits it; bytes decide what it is, its name only helps.

        Raises:
            DocumentError: why it cannot be taken in.
        """
        if len(data) > MAX_BYTES:
            raise fail(
                Reason.TOO_LARGE,
                f"it has {len(data) / 1e6:.1f} MB, the limit is {MAX_BYTES / 1e6:.0f} MB",
                "split it into smaller files",
            )
        with self._lock:
            line = self._ask(name, data)
        answer = json.loads(line)
        if "failed" in answer:
            kind, message, hint = answer["failed"]
            raise DocumentError(kind, message, hint)
        facts = answer["document"]
        document = StoredDocument(**facts | {"notes": tuple(facts["notes"])})
        passages = [
            Passage(**row | {"heading": tuple(row["heading"])}) for row in answer["passages"]
        ]
        return document, passages

    def close(self) -> None:
        """Ends the child; the next document starts another.

        Safe while another thread reads: the end of the process ends a child at its work.
        """
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not sent yet has no reader any more
                    pipe.close()

    def _ask(self, name: str, data: bytes) -> bytes:
        child = self._child
        if child is None or child.poll() is not None:
            self.close()
            child = self._child = subprocess.Popen(
                [sys.executable, "-m", "gearshift.rag._parser_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        assert child.stdin is not None
        try:
            head = {"name": name.encode("utf-8", "replace").decode(), "size": len(data)}
            child.stdin.write(json.dumps(head).encode() + b"\n" + data)
            child.stdin.flush()
            line = self._answer(child, self._seconds * (1 + len(data) / 3e6))
        except (OSError, ValueError):  # ValueError: its pipes were closed from another thread
            line = b""
        if not line.endswith(b"\n"):
            self.close()
            raise fail(
                Reason.LIMITS,
                "reading it took the parser down (more memory than is allowed?)",
                "save its text as plain text",
            )
        return line

    def _answer(self, child: subprocess.Popen[bytes], seconds: float) -> bytes:
        """The child's line; kills the child when its time is up."""
        assert child.stdout is not None
        deadline = time.monotonic() + seconds
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                if not selector.select(deadline - time.monotonic()):
                    self.close()
                    raise fail(
                        Reason.TIMEOUT,
                        f"reading it took longer than {seconds:.0f} s",
                        "save its text as plain text",
                    )
                block = os.read(child.stdout.fileno(), 1 << 20)
                if not block:
                    break
                received += block
        return bytes(received)
