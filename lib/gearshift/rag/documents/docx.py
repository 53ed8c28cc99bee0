"""DOCX: paragraphs and tables in order, headings by their style, as Markdown."""

from __future__ import annotations

import io
import re
import zipfile

from gearshift.rag.documents._base import Parsed, Reason, clean, fail

KIND = "docx"
SUFFIXES = (".docx",)

_MAX_ENTRIES = 5_000
_MAX_UNPACKED = 200_000_000  # bytes
_MAX_RATIO = 200  # of unpacked to packed, for entries of more than a megabyte


def recognises(data: bytes, suffix: str) -> bool:
    """Whether these bytes are of this format; the name\'s ending decides where bytes cannot."""
    if data.startswith(b"\xd0\xcf\x11\xe0") and suffix in SUFFIXES:
        return True  # what Office makes of a DOCX with a password
    if not data.startswith(b"PK"):
        return False
    if suffix in SUFFIXES:
        return True
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return "word/document.xml" in archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False


def read(data: bytes) -> Parsed:
    """The text of the document.

    Raises:
        DocumentError: it cannot be read.
    """
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise fail(
            Reason.NEEDS_PASSWORD,
            "it is encrypted, or an old .doc under a new name",
            "save it as DOCX without a password",
        )
    try:
        _check_size(data)
        return _read(data)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, NotImplementedError) as error:
        raise fail(
            Reason.CORRUPT, f"the DOCX is damaged or not whole: {error}", "save it again"
        ) from None


def _check_size(data: bytes) -> None:
    """Refuses bombs by what the archive says of itself, before anything is unpacked."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    steep = any(
        entry.file_size > 1_000_000 and entry.file_size > _MAX_RATIO * max(1, entry.compress_size)
        for entry in entries
    )
    if len(entries) > _MAX_ENTRIES or unpacked > _MAX_UNPACKED or steep:
        raise fail(
            Reason.LIMITS,
            f"it unpacks to {unpacked / 1e6:,.0f} MB in {len(entries)} parts: a ZIP bomb?",
            "save its text as Markdown or plain text",
        )


def _read(data: bytes) -> Parsed:
    import docx
    from docx.opc.exceptions import OpcError
    from docx.table import Table
    from lxml.etree import XMLSyntaxError

    try:
        document = docx.Document(io.BytesIO(data))
    except (XMLSyntaxError, OpcError, AttributeError) as error:
        raise ValueError(error) from None
    notes: list[str] = []
    blocks: list[str] = []
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            rows = [" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows]
            blocks.append("\n".join(rows))
            continue
        text = block.text.strip()
        style = (block.style.name if block.style is not None else "") or ""
        level = re.fullmatch(r"[Hh]eading (\d)", style)
        if text and (level or style == "Title"):
            text = "#" * (min(6, int(level[1])) if level else 1) + " " + text
        elif text and style.startswith("List"):
            text = "- " + text
        blocks.append(text)
    joined = clean("\n\n".join(block for block in blocks if block).replace("\f", "\n"), notes)
    title = (document.core_properties.title or "").strip() or None
    return Parsed(KIND, joined, title, notes=notes)
