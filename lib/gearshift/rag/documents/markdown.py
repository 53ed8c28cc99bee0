"""Markdown: kept as it is; its first heading is the title."""

from __future__ import annotations

import re

from gearshift.rag.documents import text
from gearshift.rag.documents._base import Parsed

KIND = "md"
SUFFIXES = (".md", ".markdown", ".mdx")


def recognises(data: bytes, suffix: str) -> bool:
    """Whether these bytes are of this format; the name\'s ending decides where bytes cannot."""
    return suffix in SUFFIXES and text.recognises(data, suffix)


def read(data: bytes) -> Parsed:
    """The text of the document.

    Raises:
        DocumentError: it cannot be read.
    """
    parsed = text.read(data, KIND)
    heading = re.search(r"^#{1,2}\s+(.+?)\s*#*\s*$", parsed.text, re.MULTILINE)
    parsed.title = heading[1] if heading else None
    return parsed
