"""Bytes to text: Unicode first, then the encodings of one script; everything else is not text."""

from __future__ import annotations

import codecs
import re

from charset_normalizer import from_bytes

_MARKS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
_SAMPLE = 1 << 16
_OF_OTHER_SCRIPTS = [
    "cp1251", "koi8_r", "cp932", "euc_jp", "gb18030", "big5", "cp949", "cp1253", "cp1255",
    "cp1256", "tis_620",
]  # fmt: skip


def decode(data: bytes, declared: str | None = None) -> tuple[str, str] | None:
    """The text and how it was read, for a note; `None` when this is no text.

    A mark at the beginning wins over everything, and what can be read as UTF-8 is UTF-8, whatever
    it declares to be.

    Args:
        declared: The encoding that the document says it has.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _damaged(data, encoding)
    if b"\x1b$" in data and (found := _try(data, "iso2022_jp")):
        return found
    if data[:_SAMPLE].count(0):
        return _without_mark(data)
    found = _try(data, "utf-8")
    if found is None and declared is not None:
        found = _try(data, declared)
    found = found or _mostly_utf8(data) or _of_one_script(data)
    return found if found is not None and _printable(found[0]) else None


def _damaged(data: bytes, encoding: str) -> tuple[str, str]:
    """What a mark promises, with a sign for each character that cannot be read."""
    text = data.decode(encoding, "replace")
    return text, _with_damage(encoding, text.count("\ufffd"))


def _with_damage(encoding: str, count: int) -> str:
    if not count:
        return encoding
    return f"{encoding}, {count} damaged character{'s' if count > 1 else ''} replaced"


def _mostly_utf8(data: bytes) -> tuple[str, str] | None:
    """UTF-8 with a few bytes broken, or cut in the middle of a character."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    whole = sum(character > "\x7f" for character in text) - broken
    cut = broken == 1 and text.endswith("\ufffd") and data[-2:-1] >= b"\x80"
    return (text, _with_damage("utf-8", broken)) if whole >= broken or cut else None


def _of_one_script(data: bytes) -> tuple[str, str] | None:
    """An old 8-bit encoding of Latin letters, or one of another script, which has longer runs."""
    sample = data[:_SAMPLE]
    high = sum(byte >= 0x80 for byte in sample)
    in_runs = sum(map(len, re.findall(rb"[\x80-\xff]{3,}", sample)))
    if in_runs <= 0.5 * high:
        return data.decode("cp1252", "replace"), "cp1252"
    guesses = [
        (str(guess), f"{guess.encoding} (a guess)")
        for guess in from_bytes(data, cp_isolation=_OF_OTHER_SCRIPTS)
    ]
    # Hebrew read as Russian is all in capitals: that comes last.
    guesses.sort(key=lambda guess: sum(map(str.isupper, guess[0])) > 0.5 * len(guess[0]))
    return guesses[0] if guesses else None


def _without_mark(data: bytes) -> tuple[str, str] | None:
    """UTF-16 without a mark: every other byte of its Latin letters is zero."""
    sample = data[:_SAMPLE]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = max(1, len(sample) // 2)
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if zeros > 0.3 * half and others < 0.05 * half:
            wide = _damaged(data, encoding)
            if _printable(wide[0]):
                return wide
    # A few stray NULs in what is text otherwise are dropped by the cleaning.
    if sample.count(0) < 0.02 * len(sample):
        found = _try(data.replace(b"\0", b""), "utf-8")
        if found is not None and _printable(found[0]):
            return found
    return None


def _try(data: bytes, encoding: str) -> tuple[str, str] | None:
    try:
        return data.decode(encoding), encoding
    except (LookupError, UnicodeDecodeError):
        return None


def _printable(text: str) -> bool:
    """Whether control characters are as rare as they are in text."""
    sample = text[:_SAMPLE]
    odd = sum((ord(c) < 32 and c not in "\t\n\r\f\x1b") or c == "\ufffd" for c in sample)
    return odd <= 0.02 * len(sample) + 1
