"""Takes secrets out of what is written down."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gearshift.settings import Settings

HIDDEN = "(hidden)"

_PATTERNS = re.compile(
    r"\bhf_[A-Za-z0-9]{8,}"  # a token of the Hub
    r"|\bsk-[A-Za-z0-9_-]{8,}"  # a key of the OpenAI kind
    r"|(?<=Bearer )[^\s'\",]+"
    r"|(?<=://)[^\s/@:'\"]+:[^\s/@'\"]+(?=@)"  # user and password in an address
    r"|(?i:(?<=api.key=)|(?<=api.key: )|(?<=password=)|(?<=token=))[^\s'\",)&]+"
)


def secrets(settings: Settings) -> dict[str, str]:
    """The keys that a server is given, by the names that vLLM reads."""
    found = {"VLLM_API_KEY": settings.vllm_api_key, "HF_TOKEN": settings.hf_token}
    return {name: value.get_secret_value() for name, value in found.items() if value}


class Redactor:
    """Knows some secrets by value, others by their looks."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # Short values would blot out innocent text. The longest first: one may contain another.
        known = sorted({value for value in secrets if len(value) >= 4}, key=len, reverse=True)
        forms = [re.escape(form) for value in known for form in (value, repr(value)[1:-1])]
        self._known = re.compile("|".join(forms)) if forms else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        return _PATTERNS.sub(HIDDEN, text)
