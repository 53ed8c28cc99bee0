"""Plain text, and everything else that decodes: code, logs, CSV."""

from __future__ import annotations

from gearshift.rag.documents._base import Parsed, Reason, clean, fail
from gearshift.rag.documents._decode import decode

KIND = "text"
SUFFIXES = (".txt", ".text", ".log", ".rst", ".csv", ".json", ".jsonl", ".yaml", ".yml", ".toml")


def recognises(data: bytes, suffix: str) -> bool:
    """Whether these bytes are of this format; the name\'s ending decides where bytes cannot."""
    return decode(data) is not None


def read(data: bytes, kind: str = KIND) -> Parsed:
    """The text of the document.

    Raises:
        DocumentError: it cannot be read.
    """
    found = decode(data)
    if found is None:
        raise fail(Reason.CORRUPT, "it is not text in any encoding that we know")
    text, encoding = found
    notes = [] if encoding in ("utf-8", "utf-8-sig") else [f"read as {encoding}"]
    return Parsed(kind, clean(text.replace("\f", "\n"), notes), notes=notes)
