"""From a log, or an error that somebody pasted, to its causes: the most likely first.

It knows what `signatures` hold and nothing else: of a failure that none of them fits it shows the
first error, and guesses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice

from gearshift.doctor._secrets import redacted, redacted_option
from gearshift.doctor._signature import Fix, Found, Signature, Tier
from gearshift.doctor.causes import Cause
from gearshift.doctor.log import COLOUR, Level, Log
from gearshift.doctor.signatures import SIGNATURES
from gearshift.doctor.told import Told, read_told

_HEALTHY = re.compile(
    r"application startup complete|uvicorn running on|listening on |avg generation throughput"
    r"|startup complete|server is ready|llama runner started"
)
_DENIED = re.compile(
    r"\b(?:no|without|never|fix(?:ed|es)|solve[sd]|resolve[sd]|avoid(?:s|ed|ing)?|prevent(?:s|ed|ing)?)"
    r"\W{1,3}(?:(?:the|an?|any|all|my|our|your|more|further)\W{1,3})*$"
)
_HARMLESS = re.compile(r"(?:safe to|can be|safely|may be) ?ignored?")
_LOOKED_AT = 20  # places of a message; the first that counts is enough
_LONGEST = 400  # characters of a line that is shown


@dataclass(frozen=True)
class Diagnosis:
    """A cause that was recognised.

    Attributes:
        evidence: The line that shows it.
        line: Its number, from 1.
        meaning: What happened, in a sentence.
        fix: What to do.
        options: What it changes, by the options of `vllm serve`, with underscores.
        command: A corrected start, where one can be made of what the log tells.
    """

    cause: Cause
    evidence: str
    line: int
    meaning: str
    fix: str
    options: Mapping[str, str]
    command: tuple[str, ...] | None


@dataclass(frozen=True)
class Report:
    """What a log shows.

    Attributes:
        causes: The most likely first; empty if nothing was recognised.
        first_error: The number and text of the first line that looks like an error.
    """

    causes: tuple[Diagnosis, ...]
    first_error: tuple[int, str] | None

    def moved(self, lines: int) -> Report:
        """The same of a text that so many lines stand before."""
        causes = tuple(replace(cause, line=cause.line + lines) for cause in self.causes)
        first = self.first_error
        return Report(causes, (first[0] + lines, first[1]) if first else None)


@dataclass(frozen=True)
class _Match:
    signature: Signature
    found: re.Match[str]
    line: int
    level: Level

    @property
    def rank(self) -> tuple[int, int, int]:
        """Specific messages before general ones, errors before warnings, early before late."""
        return (self.signature.tier, self.level, self.found.start())

    @property
    def told(self) -> bool:
        """Whether it counts in the log of a healthy server, too."""
        return self.signature.informs and self.signature.tier < Tier.NOTICE


def diagnose(log: Log) -> Report:
    """The causes that a log shows."""
    lower = log.cleaned.replace("\u0130", "I").lower()  # the only letter whose small form is longer
    matches = _matches(log, lower)
    order = dict.fromkeys(m.signature.cause for m in sorted(matches, key=lambda m: m.rank))
    # Of one cause the signature that stands first tells most: it computes what the others cannot.
    first = {match.signature.cause: match for match in reversed(matches)}
    kept = _believed([first[cause] for cause in order], lower)
    told = read_told(log.cleaned)
    trouble = log.first_trouble()
    return Report(
        tuple(_diagnosis(match, log, told) for match in kept),
        (trouble, redacted(_plain(log.lines[trouble - 1]))[:_LONGEST]) if trouble else None,
    )


def _matches(log: Log, text: str) -> list[_Match]:
    found = []
    for signature in SIGNATURES:
        likely = [pattern for part, pattern in signature.patterns if part in text]
        if likely and signature.exception and signature.exception.search(text):
            continue
        for pattern in likely:
            for match in islice(pattern.finditer(text), _LOOKED_AT):
                line = log.number(match.start())
                level = log.level(line)
                if _DENIED.search(text, max(0, match.start() - 40), match.start()):
                    continue
                if level is not Level.INFO or signature.informs:
                    found.append(_Match(signature, match, line, level))
                    break
    return found


def _believed(matches: list[_Match], text: str) -> list[_Match]:
    """Wrappers only if there is nothing else, and what healthy servers say, too, only elsewhere.

    A healthy server's warnings are such notices, but for those that tell what answers suffer from.
    """
    real = [match for match in matches if match.signature.tier < Tier.WRAPPER]
    if not real:
        return matches
    if not (_HEALTHY.search(text) or _HARMLESS.search(text)):
        return real
    errors = [m for m in real if m.signature.tier < Tier.NOTICE and m.level is Level.ERROR]
    return real if errors else [m for m in real if m.told]


def _diagnosis(match: _Match, log: Log, told: Told) -> Diagnosis:
    start, end = match.found.span()
    parts = {
        name: log.cleaned[slice(*match.found.span(name))] if value is not None else None
        for name, value in match.found.groupdict().items()
    }
    fix = match.signature.advice(Found(parts, told))
    shown = _plain(log.lines[match.line - 1])
    if len(shown) > _LONGEST:  # the part of a long line that shows it
        begins = max(log.cleaned.rfind("\n", 0, start) + 1, start - 100)
        shown = log.cleaned[begins:end] + log.cleaned[end : end + 200].partition("\n")[0]
        shown = shown.replace("\n", " ")
    return Diagnosis(
        match.signature.cause,
        redacted(shown),
        match.line,
        match.signature.meaning,
        redacted(fix.text),
        {name: redacted_option(name, value) for name, value in fix.options.items()},
        _command(told, fix),
    )


def _plain(line: str) -> str:
    """A line without colours."""
    return COLOUR.sub("", line).strip()


def _command(told: Told, fix: Fix) -> tuple[str, ...] | None:
    """`vllm serve` as it was started, with what the fix changes."""
    if told.model is None or not fix.options:
        return None
    command = ["vllm", "serve", redacted(told.model)]
    for name, value in {**told.options, **fix.options}.items():
        option = f"--{name.replace('_', '-')}"
        value = redacted_option(name, value)
        if value == "True":
            command.append(option)
        elif value not in ("False", "None"):
            command.append(f"{option}={value}")
    return tuple(command)
