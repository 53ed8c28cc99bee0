"""What a signature is: messages that show a cause, what they mean, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

from gearshift.doctor.causes import Cause
from gearshift.doctor.told import Told

_NUMBER = re.compile(r"-?\d{1,12}(?:\.\d{1,6})?")


class Tier(IntEnum):
    """How much a message tells; the first tier that is in a log leads the report."""

    SPECIFIC = 0
    """It says what is wrong."""
    GENERAL = 1
    """It follows from several causes."""
    NOTICE = 2
    """Healthy servers say it, too."""
    WRAPPER = 3
    """It points to another error."""


@dataclass(frozen=True)
class Fix:
    """What to do, and the options of `vllm serve` that a corrected start would have."""

    text: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """A message that was found: its parts, and what the log tells of the server."""

    parts: Mapping[str, str | None]
    told: Told

    def number(self, name: str) -> float:
        """A part that is a number, 0 if it is none; thousands may be separated by commas."""
        digits = _NUMBER.match((self.parts[name] or "").replace(",", ""))
        return float(digits[0]) if digits else 0.0


@dataclass(frozen=True)
class Signature:
    """How a cause shows.

    Attributes:
        messages: Regular expressions over lower-case text. A space stands for any white space, the
            end of a line included: people wrap what they paste. ` ?` may also be nothing, and `…`
            is anything on the same line; `… ` ends where a word may begin.
        meaning: What happened, in one sentence.
        fix: What to do; `{name}` is a named part of the message. A function where it is computed.
        unless: Text that shows that the message means something else.
        informs: Whether servers write it in lines that call themselves information, too.
    """

    cause: Cause
    messages: tuple[str, ...]
    meaning: str
    fix: str | Callable[[Found], Fix]
    tier: Tier = Tier.SPECIFIC
    unless: str | None = None
    informs: bool = False

    @cached_property
    def patterns(self) -> tuple[tuple[str, re.Pattern[str]], ...]:
        """The messages, compiled, each behind a word that is quickly looked for."""
        return tuple((sure_part(message), compiled(message)) for message in self.messages)

    @cached_property
    def exception(self) -> re.Pattern[str] | None:
        """What must not be in the text."""
        return compiled(self.unless) if self.unless else None

    def advice(self, found: Found) -> Fix:
        """What to do about this very message."""
        if not isinstance(self.fix, str):
            return self.fix(found)
        return Fix(self.fix.format_map({k: v or "" for k, v in found.parts.items()}))


_PART = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]])*\]|\(\?P<\w+>|\(\?<?[:=!]|\{[\d,]+\}| \?|.", re.DOTALL
)


def sure_part(message: str) -> str:
    """The longest plain text that whatever matches the message contains; empty if there is none."""
    depth = 0
    runs = [""]
    for part in _PART.findall(message):
        if part == "|" and not depth:
            return ""
        if depth or part[0] in "([)":
            depth += part[0] == "("
            depth -= part == ")"
            runs.append("")
        elif part[0] in "?*+{":
            if part != "+":
                runs[-1] = runs[-1][:-1]
            runs.append("")
        elif part[0] == "\\" and not part[1].isalnum():
            runs[-1] += part[1]
        elif part[0] in "\\ …^$.":
            runs.append("")
        else:
            runs[-1] += part
    return max(runs, key=len)


def compiled(message: str) -> re.Pattern[str]:
    """The regular expression of a message."""
    text = message.replace("… ", r"[^\n]{0,300}?(?:\s+|(?<!\w))")
    text = text.replace("…", r"[^\n]{0,300}?").replace(" ?", r"\s*").replace(" ", r"\s+")
    return re.compile(text)
