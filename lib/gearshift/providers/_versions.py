"""Comparing the versions that servers say they are."""

from __future__ import annotations

import re


def older(version: str, floor: str) -> bool:
    """Whether `version` comes before `floor`; by the leading numbers, so a suffix is ignored."""
    return _numbers(version) < _numbers(floor)


def _numbers(version: str) -> list[int]:
    leading = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return [int(part) for part in leading[1].split(".")] if leading else [0]
