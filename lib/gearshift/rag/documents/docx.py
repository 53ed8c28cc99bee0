"""DOCX: paragraphs and tables in order, headings by their style, as Markdown; then its notes."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from gearshift.rag.documents._base import Parsed, Reason, clean, fail

KIND = "docx"
SUFFIXES = (".docx",)

_MAX_ENTRIES = 5_000
_MAX_UNPACKED = 200_000_000  # bytes
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_WRAPPERS = {"sdt", "sdtContent", "customXml", "ins", "moveTo", "smartTag"}
_NOT_SEEN = {"pPr", "rPr", "Fallback", "instrText", "delText", "moveFrom"}
_SIGNS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
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
        _check_kind(data)
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


def _check_kind(data: bytes) -> None:
    """Refuses relatives of DOCX that python-docx does not open, by their names."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        kinds = archive.read("[Content_Types].xml")
        strict = b"purl.oclc.org/ooxml" in archive.read("_rels/.rels")
    if strict or b"macroEnabled" in kinds or b"wordprocessingml.template" in kinds:
        what = "in the strict form of Open XML" if strict else "a template or has macros"
        raise fail(Reason.UNSUPPORTED, f"it is {what}", "save it as Word Document (.docx)")


def _read(data: bytes) -> Parsed:
    import docx
    from docx.opc.exceptions import OpcError
    from lxml.etree import XMLSyntaxError

    try:
        document = docx.Document(io.BytesIO(data))
        notes: list[str] = []
        reader = _Reader(document)
        headers, footers = reader.margins()
        blocks = [*headers, *reader.blocks(document.element.body), *footers, *reader.footnotes()]
        title = (document.core_properties.title or "").strip() or None
    except (XMLSyntaxError, OpcError, AttributeError) as error:
        raise ValueError(error) from None
    if reader.hidden:
        notes.append(f"{reader.hidden} hidden part{'s' if reader.hidden > 1 else ''} left out")
    joined = "\n\n".join(block for block in blocks if block.strip()).replace("\f", "\n")
    return Parsed(KIND, clean(joined, notes), title, notes=notes)


class _Reader:
    """Walks the XML itself: python-docx leaves out what stands in content controls, tracked
    insertions, text boxes and tables within tables."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self.hidden = 0

    def blocks(self, element: Any) -> list[str]:
        """Paragraphs and tables below an element, in reading order, as Markdown."""
        found: list[str] = []
        for child in element:
            name = _name(child)
            if name == "p":
                found.append(self._paragraph(child))
            elif name == "tbl":
                rows = [self._row(row) for row in _inner(child, "tr")]
                found.append("\n".join(rows))
            elif name in _WRAPPERS:
                found += self.blocks(child)
        return found

    def margins(self) -> tuple[list[str], list[str]]:
        """Headers and footers, each that differs once."""
        sections = self._document.sections
        both = []
        for parts in ([s.header for s in sections], [s.footer for s in sections]):
            texts = ["\n".join(filter(None, self.blocks(part._element))) for part in parts]
            both.append(list(dict.fromkeys(texts)))
        return both[0], both[1]

    def footnotes(self) -> list[str]:
        """Footnotes and endnotes, behind the text."""
        from lxml import etree

        found: list[str] = []
        for relation in self._document.part.rels.values():
            if relation.reltype.endswith(("/footnotes", "/endnotes")):
                parser = etree.XMLParser(resolve_entities=False, no_network=True)
                for note in etree.fromstring(relation.target_part.blob, parser):
                    found += self.blocks(note)
        return found

    def _row(self, row: Any) -> str:
        cells = [" / ".join(filter(None, self.blocks(cell))) for cell in _inner(row, "tc")]
        return " | ".join(cell.replace("\n", " ").strip() for cell in cells)

    def _paragraph(self, paragraph: Any) -> str:
        text = "".join(self._pieces(paragraph)).strip()
        if not text:
            return ""
        style = self._style(paragraph)
        level = re.fullmatch(r"heading (\d)", style)
        if level or style == "title":
            return "#" * (min(6, int(level[1])) if level else 1) + " " + " ".join(text.split())
        return "- " + text if style.startswith("list") else text

    def _pieces(self, element: Any) -> Iterator[str]:
        for child in element:
            name = _name(child)
            if name == "t":
                yield child.text or ""
            elif name in _SIGNS:
                yield _SIGNS[name]
            elif name == "r" and _is_hidden(child):
                self.hidden += 1
            elif name == "txbxContent":
                yield "\n" + "\n".join(self.blocks(child)) + "\n"
            elif name not in _NOT_SEEN:
                yield from self._pieces(child)

    def _style(self, paragraph: Any) -> str:
        """The name of its style in lower case, English in every language."""
        found = paragraph.find(f"{_W}pPr/{_W}pStyle")
        if found is None:
            return ""
        wanted = found.get(f"{_W}val")
        for style in self._document.styles.element:
            if style.get(f"{_W}styleId") == wanted:
                name = style.find(f"{_W}name")
                return "" if name is None else str(name.get(f"{_W}val", "")).lower()
        return ""


def _name(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _inner(element: Any, name: str) -> Iterator[Any]:
    """Rows of a table or cells of a row, also those inside content controls."""
    for child in element:
        if _name(child) == name:
            yield child
        elif _name(child) in _WRAPPERS:
            yield from _inner(child, name)


def _is_hidden(run: Any) -> bool:
    mark = run.find(f"{_W}rPr/{_W}vanish")
    return mark is not None and mark.get(f"{_W}val", "true") not in ("false", "0", "off")
