"""PDF: the text of each page, pages parted by form feeds."""

from __future__ import annotations

import pypdfium2
from pypdfium2 import raw

from gearshift.rag.documents._base import MAX_TEXT, Parsed, Reason, clean, fail
from gearshift.rag.documents._decode import decode

KIND = "pdf"
SUFFIXES = (".pdf",)


def recognises(data: bytes, suffix: str) -> bool:
    """Whether these bytes are of this format; the name\'s ending decides where bytes cannot."""
    before, mark, _ = data[:1024].partition(b"%PDF-")
    if not mark:
        return False
    # Readers accept rubbish in front of it; but a text may also speak of it.
    return not before.strip(b"\xef\xbb\xbf \r\n\t") or suffix in SUFFIXES or decode(data) is None


def read(data: bytes) -> Parsed:
    """The text of the document.

    Raises:
        DocumentError: it cannot be read.
    """
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == raw.FPDF_ERR_PASSWORD:
            raise fail(
                Reason.NEEDS_PASSWORD,
                "it is encrypted with a password",
                "save it without the password first",
            ) from None
        raise fail(
            Reason.CORRUPT, "the PDF is damaged or not whole", "download or export it again"
        ) from None
    notes: list[str] = []
    pages, size, unread = [], 0, 0
    is_form = pdf.get_formtype() != raw.FORMTYPE_NONE
    if is_form:
        pdf.init_forms()
    for number in range(len(pdf)):
        try:
            page = pdf[number]
            if is_form:  # what was filled in becomes part of the page when it is opened again
                raw.FPDFPage_Flatten(page.raw, raw.FLAT_NORMALDISPLAY)
                page = pdf[number]
            text = page.get_textpage().get_text_bounded()
        except pypdfium2.PdfiumError:
            text, unread = "", unread + 1
        pages.append(clean(text.replace("\f", "\n"), notes).strip())
        size += len(text)
        if size > MAX_TEXT:
            raise fail(Reason.LIMITS, f"its text is longer than {MAX_TEXT:,} characters")
    if unread:
        if unread == len(pages):
            raise fail(Reason.CORRUPT, "no page of it can be read", "export it again")
        notes.append(f"{unread} of {len(pages)} pages could not be read")
    blank = sum(not page for page in pages) - unread
    if blank and any(pages):
        notes.append(f"{blank} of {len(pages)} pages have no text (scanned?)")
    title = (pdf.get_metadata_dict().get("Title") or "").strip() or None
    return Parsed(KIND, "\f".join(pages), title, len(pages), notes)
