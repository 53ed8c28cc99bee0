"""Bytes to text: UTF-8, UTF-16, UTF-32 or Windows-1252; everything else is not text."""

from __future__ import annotations

import codecs

_MARKS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
_SAMPLE = 1 << 16


def decode(data: bytes) -> tuple[str, str] | None:
    """The text and the encoding it was in; `None` when this is no text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _try(data, encoding)
    if data[:_SAMPLE].count(0):
        return _without_mark(data)
    found = _try(data, "utf-8")
    if found is not None:
        return found if _printable(found[0]) else None
    text = data.decode("cp1252", errors="replace")
    # Text in an old 8-bit encoding is mostly ASCII letters with a few accents among them.
    sample = data[:_SAMPLE]
    high = sum(byte >= 0x80 for byte in sample)
    if high > 0.3 * len(sample) or not _printable(text):
        return None
    return text, "cp1252"


def _without_mark(data: bytes) -> tuple[str, str] | None:
    """UTF-16 without a mark: every other byte of its Latin letters is zero."""
    sample = data[:_SAMPLE]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = max(1, len(sample) // 2)
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if zeros > 0.3 * half and others < 0.05 * half:
            found = _try(data, encoding)
            if found is not None and _printable(found[0]):
                return found
    # A few stray NULs in what is text otherwise are dropped by the cleaning.
    if sample.count(0) < 0.02 * len(sample):
        found = _try(data.replace(b"\0", b""), "utf-8")
        if found is not None and _printable(found[0]):
            return found
    return None


def _try(data: bytes, encoding: str) -> tuple[str, str] | None:
    try:
        return data.decode(encoding), encoding
    except UnicodeDecodeError:
        return None


def _printable(text: str) -> bool:
    """Whether control characters are as rare as they are in text."""
    sample = text[:_SAMPLE]
    odd = sum((ord(c) < 32 and c not in "\t\n\r\f\x1b") or c == "\ufffd" for c in sample)
    return odd <= 0.02 * len(sample)
