"""The child process that reads documents and splits them, under a limit on memory.

Reads requests from stdin (a line of JSON with `name` and `size`, then the bytes), answers each with
a line of JSON on stdout, and ends with its parent, whose clock limits its time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

MEMORY = 1_500_000_000
"""Bytes of address space."""


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not on this system: the parent's clock is the only limit
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read(name: str, data: bytes) -> dict[str, Any]:
    from gearshift.rag.documents import parse
    from gearshift.rag.passages import split
    from gearshift.schemas import StoredDocument

    parsed = parse(name, data)
    document = StoredDocument(
        name,
        hashlib.sha256(data).hexdigest(),
        parsed.title,
        parsed.kind,
        parsed.text,
        parsed.pages,
        0,
        datetime.now(UTC).isoformat(timespec="seconds"),
        tuple(parsed.notes),
    )
    passages = split(document)
    return {
        "document": asdict(document) | {"passages": len(passages)},
        "passages": [asdict(passage) for passage in passages],
    }


def main() -> None:
    """Serves requests until stdin ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up among the answers
    from gearshift.errors import GearshiftError
    from gearshift.rag.documents import Reason

    _limit()
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["size"])
        try:
            answer = _read(request["name"], data)
        except GearshiftError as error:
            answer = {"failed": [error.kind, error.message, error.hint]}
        except (MemoryError, RecursionError):
            words = "reading it takes more memory than is allowed"
            answer = {"failed": [Reason.LIMITS, words, "save its text as plain text"]}
        except Exception as error:  # noqa: BLE001 (whatever a parser raises on hostile bytes)
            words = f"it cannot be read ({type(error).__name__}: {str(error)[:200]})"
            answer = {"failed": [Reason.CORRUPT, words, "save or export it again"]}
        del data
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
