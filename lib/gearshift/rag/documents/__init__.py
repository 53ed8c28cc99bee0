"""Document formats: each file without an underscore is one, found by being there.

A format says what it is called (`KIND`), which names it goes by (`SUFFIXES`), whether bytes look
like it (`recognises`), and reads them (`read`). Bytes decide, not names. This package parses
whatever it is given, so it only runs in the child process of `parsing.py`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache
from pathlib import PurePath
from types import ModuleType

from gearshift.rag.documents._base import MAX_TEXT, MAX_TITLE, Parsed, Reason, clean, fail

__all__ = ["MAX_TEXT", "Parsed", "Reason", "fail", "parse", "suffixes"]

_BINARY = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"RIFF": "a RIFF file (WebP, WAV or AVI)",
    b"PK\x03\x04": "a ZIP archive",
    b"PK\x05\x06": "an empty ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x7fELF": "a program",
    b"MZ": "a Windows program",
    b"SQLite format 3": "an SQLite database",
    b"GGUF": "model weights (GGUF)",
    b"%!PS": "PostScript",
    b"{\\rtf": "RTF",
    b"\xd0\xcf\x11\xe0": "an old or encrypted Office file",
}
_ZIPPED = {
    b"xl/workbook.xml": "an Excel workbook",
    b"ppt/presentation.xml": "a PowerPoint presentation",
    b"mimetypeapplication/epub": "an e-book",
    b"mimetypeapplication/vnd.oasis.opendocument": "an OpenDocument file",
}
_MARKUP = (b"{\\rtf", b"%!PS")  # these decode as text, but nobody wants to read it


@lru_cache(maxsize=1)
def _formats() -> list[ModuleType]:
    """All formats, `text` last: everything that decodes is text."""
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return sorted(modules, key=lambda module: module.KIND == "text")


def suffixes() -> set[str]:
    """The endings of names that the formats go by, such as `.pdf`."""
    return {suffix for module in _formats() for suffix in module.SUFFIXES}


def parse(name: str, data: bytes) -> Parsed:
    """Reads a document.

    Raises:
        DocumentError: it cannot be read, and why; `kind` is a `Reason`.
    """
    if not data.strip(b"\0 \t\r\n\f"):
        raise fail(Reason.EMPTY, "there is nothing in it", "fill it or leave it out")
    suffix = PurePath(name.replace("\\", "/")).suffix.lower()
    for module in _formats():
        if not data.startswith(_MARKUP) and module.recognises(data, suffix):
            parsed: Parsed = module.read(data)
            break
    else:
        raise fail(
            Reason.UNSUPPORTED,
            f"this is {_what(data)}",
            "take Markdown, text, PDF, DOCX or HTML",
        )
    if parsed.title:
        parsed.title = clean(parsed.title, [])[:MAX_TITLE]
    claimed = next((m.KIND for m in _formats() if suffix in m.SUFFIXES), None)
    if claimed is not None and claimed != parsed.kind and {claimed, parsed.kind} != {"text", "md"}:
        parsed.notes.append(f"the name says {claimed}, the content is {parsed.kind}")
    if not any(character.isalnum() for character in parsed.text):
        hint = "it needs OCR first" if parsed.kind == "pdf" else "fill it or leave it out"
        raise fail(Reason.NO_TEXT, "there is no text in it", hint)
    if len(parsed.text) > MAX_TEXT:
        raise fail(
            Reason.LIMITS,
            f"its text is longer than {MAX_TEXT:,} characters",
            "split it into smaller files",
        )
    return parsed


def _what(data: bytes) -> str:
    if data.startswith(b"PK"):
        for name, words in _ZIPPED.items():
            if name in data:
                return words
    for magic, words in _BINARY.items():
        if data.startswith(magic):
            return words
    return "a binary file of a kind that cannot be read"
