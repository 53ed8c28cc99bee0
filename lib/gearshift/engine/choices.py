"""The values of vLLM's options that the plan takes: those that any version knows or knew."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from packaging.version import InvalidVersion, Version

from gearshift.engine.quantization import BITS

QUANTIZATIONS = sorted(BITS)
KV_CACHE_TYPES = [
    "auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla",
    "nvfp4", "nvfp4_4over6", "nvfp4_ds_mla", "int8", "fp8_per_token_head", "int8_per_token_head",
    "int4_per_token_head", "turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc",
    "turboquant_3bit_nc", "ultraquant_4bit",
]  # fmt: skip
TYPES = ["auto", "half", "float16", "bfloat16", "float", "float32"]
_SPELLINGS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def quantization(text: str | None) -> str | None:
    """A method as vLLM writes it; `None` for none.

    Raises:
        ValueError: no version knows it, with those that some version does.
    """
    plain = (text or "none").lower()
    return None if plain == "none" else _one_of(plain, QUANTIZATIONS)


def dtype(text: str | None) -> str | None:
    """A type of weights as vLLM writes it, also from `fp16` or `torch.float16`.

    Raises:
        ValueError: vLLM knows no such type.
    """
    return None if text is None else _one_of(_spelled(text), TYPES)


def kv_cache_dtype(text: str | None) -> str | None:
    """A type of the KV cache as vLLM writes it.

    Raises:
        ValueError: vLLM knows no such type.
    """
    return None if text is None else _one_of(_spelled(text), KV_CACHE_TYPES)


def version(text: str | None) -> str | None:
    """A version as it is written.

    Raises:
        ValueError: it is none.
    """
    try:
        return str(Version(text)) if text else None
    except InvalidVersion:
        raise ValueError(f"{text!r} is no version; write one such as 0.11.0") from None


def _spelled(text: str) -> str:
    plain = text.lower().removeprefix("torch.")
    return _SPELLINGS.get(plain, plain)


def _one_of(value: str, known: Iterable[str]) -> str:
    names = list(known)
    if value in names:
        return value
    near = difflib.get_close_matches(value, names, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"no vLLM knows {value!r}{hint}; it is one of {', '.join(names)}")
