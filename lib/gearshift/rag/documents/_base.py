"""What formats return, why documents fail, and the cleaning that all text goes through."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from gearshift.errors import DocumentError

MAX_TEXT = 20_000_000
"""Characters; a file of 25 MB seldom has more, a bomb does."""

MAX_TITLE = 300

# Zero-width, bidirectional controls, soft hyphen, tags: text that people cannot see.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Reason(StrEnum):
    """Why a document is not taken in."""

    EMPTY = "empty"
    NO_TEXT = "no_text"
    NEEDS_PASSWORD = "needs_password"  # noqa: S105 (a reason, not a password)
    CORRUPT = "corrupt"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    LIMITS = "limits"
    TIMEOUT = "timeout"
    UNREADABLE = "unreadable"
    MISSING = "missing"


def fail(reason: Reason, message: str, hint: str = "") -> DocumentError:
    return DocumentError(reason, message, hint)


@dataclass
class Parsed:
    """A document as it was read. Pages of `text` are parted by form feeds where `pages` is set."""

    kind: str
    text: str
    title: str | None = None
    pages: int | None = None
    notes: list[str] = field(default_factory=list)


def clean(text: str, notes: list[str]) -> str:
    """Text without what people cannot see, and with `\\n` as its only line end."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x85", "\n")
    text, hidden = _INVISIBLE.subn("", text)
    if hidden:
        notes.append(f"{hidden} invisible character{'s' if hidden > 1 else ''} removed")
    return _CONTROL.sub("", text)
