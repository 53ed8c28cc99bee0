"""The parameters of a Modelfile: which there are, and what values Ollama takes for them."""

from __future__ import annotations

import re
from collections.abc import Callable

_INT = re.compile(r"[+-]?[0-9]+")
_DIGITS = "[0-9](_?[0-9])*"  # Go lets an underscore stand between digits
_FLOAT = re.compile(rf"[+-]?({_DIGITS}\.?({_DIGITS})?|\.{_DIGITS})([eE][+-]?{_DIGITS})?")
_HEX = "[0-9a-fA-F](_?[0-9a-fA-F])*"
_HEX_FLOAT = re.compile(
    rf"[+-]?0[xX]_?({_HEX}\.?({_HEX})?|\.{_HEX})[pP][+-]?{_DIGITS}",
)
_BOOLS = {"1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"}
_MOST_DIGITS = 19
_LARGEST_FLOAT = 3.4028235677973366e38  # below it is what rounds to a 32-bit number that is finite


def _is_int(text: str) -> bool:
    digits = text.lstrip("+-").lstrip("0")
    if not _INT.fullmatch(text) or len(digits) > _MOST_DIGITS:
        return False
    number = int(digits or "0")
    return number <= 1 << 63 if text.startswith("-") else number < 1 << 63


def _is_float(text: str) -> bool:
    plain = text.replace("_", "")
    try:
        if _FLOAT.fullmatch(text):
            return abs(float(plain)) < _LARGEST_FLOAT
        return bool(_HEX_FLOAT.fullmatch(text)) and abs(float.fromhex(plain)) < _LARGEST_FLOAT
    except OverflowError:
        return False


def _is_bool(text: str) -> bool:
    return text in _BOOLS


def _is_text(text: str) -> bool:
    return True


_KINDS: dict[str, tuple[Callable[[str], bool], tuple[str, ...]]] = {
    "whole number": (
        _is_int,
        ("num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch",
         "num_gpu", "main_gpu", "num_thread"),
    ),
    "number": (
        _is_float,
        ("top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty",
         "frequency_penalty"),
    ),
    "true or false": (_is_bool, ("use_mmap",)),
    "text": (_is_text, ("stop",)),
}  # fmt: skip

DEPRECATED = (
    "penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "mirostat",
    "mirostat_tau", "mirostat_eta",
)  # fmt: skip
"""Ollama warns of them and leaves them out, whatever their value."""


def why_not(name: str, value: str) -> str | None:
    """Why Ollama rejects a parameter; `None` if it takes it."""
    if name in DEPRECATED:
        return None
    for kind, (takes, names) in _KINDS.items():
        if name in names:
            return None if takes(value) else f"{value!r} is no {kind}, which {name} has to be"
    return f"unknown parameter {name!r}"
