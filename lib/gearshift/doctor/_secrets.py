"""What is shown of a log holds no secrets: by their looks, and by the names that they stand beside.

It does not know a secret that looks like a word and stands beside no such name.
"""

from __future__ import annotations

import re

from gearshift.engine.redact import HIDDEN, Redactor

_NAME = (
    r"\b[\w-]*(?:api[_-]?key|secret|passw(?:or)?d|passphrase|"
    r"(?:hf|hub|access|auth|bearer)[_-]?token)"
)
_BESIDE = re.compile(
    rf"({_NAME}[\w-]*[\"']?\s*(?:[:=]\s*|\s))(?!\(hidden)"
    r"(?:\"([^\"]+)\"|'([^']+)'|(\[[^\]\n]*\]|[^\s\"',;&)\]}]+))"
    r"|((?:^|[\s\"'{])(?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer|token)?\s*)"
    r"[^\s\"',}]+"
    r"|(://)[^\s/@'\"]+(?=@)"  # a user, or a user and a password, in an address
    r"|()\bey[\w-]{10,}\.ey[\w-]{10,}\.[\w-]*",  # a JSON web token
    re.IGNORECASE,
)
_SECRET = re.compile(_NAME + "$", re.IGNORECASE)
_BY_LOOKS = Redactor(())
_WORD = re.compile(r"(?:is|it|was|not|no|none|null|true|false|and|or|for|in|to|error|of)\b", re.I)


def redacted(text: str) -> str:
    """The text with each secret that can be told as such hidden."""
    return _BESIDE.sub(_hidden, _BY_LOOKS(text))


def redacted_option(name: str, value: str) -> str:
    """The value of a server's option."""
    return HIDDEN if _SECRET.search(name) else redacted(value)


def _hidden(found: re.Match[str]) -> str:
    value = next(filter(None, found.groups()[1:4]), "")
    if value and _WORD.match(value):  # a sentence about a key
        return found[0]
    return next((part for part in (found[1], found[5], found[6]) if part), "") + HIDDEN
