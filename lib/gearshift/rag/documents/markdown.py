"""Markdown: kept as it is; its first heading is the title."""

from __future__ import annotations

import re

from gearshift.rag.documents import text
from gearshift.rag.documents._base import Parsed

KIND = "md"
SUFFIXES = (".md", ".markdown", ".mdx")


_IMAGE = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]{100,}")
_HEADING = re.compile(r"^#{1,2}\s+(.+?)\s*#*\s*$", re.MULTILINE)
# Front matter and code, whose comments look like headings.
_NO_HEADINGS = re.compile(r"\A---\n.*?\n---\n|^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def recognises(data: bytes, suffix: str) -> bool:
    """Whether these bytes are of this format; the name\'s ending decides where bytes cannot."""
    return suffix in SUFFIXES and text.recognises(data, suffix)


def read(data: bytes) -> Parsed:
    """The text of the document.

    Raises:
        DocumentError: it cannot be read.
    """
    parsed = text.read(data, KIND)
    parsed.text, images = _IMAGE.subn("(inline image)", parsed.text)
    if images:
        parsed.notes.append(f"{images} inline image{'s' if images > 1 else ''} left out")
    heading = _HEADING.search(_NO_HEADINGS.sub("", parsed.text))
    parsed.title = heading[1] if heading else None
    return parsed
