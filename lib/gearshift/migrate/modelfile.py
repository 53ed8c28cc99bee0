"""Modelfiles, read as Ollama's own parser reads them, oddities included.

The grammar is that of Ollama's `parser.ParseFile`; what it accepts and how it treats quotes, blanks
and characters that cannot be printed was checked against `ollama create` of version 0.9.3.
"""

from __future__ import annotations

import codecs
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from gearshift.errors import EngineError
from gearshift.migrate.parameters import why_not

_INSTRUCTIONS = (
    "FROM", "LICENSE", "TEMPLATE", "SYSTEM", "ADAPTER", "DRAFT", "RENDERER", "PARSER", "PARAMETER",
    "MESSAGE", "REQUIRES",
)  # fmt: skip
_TAKEN_FOR = {
    name.lower(): name.lower() for name in _INSTRUCTIONS if name not in ("FROM", "PARAMETER")
} | {"model": "from"}
"""Names of parameters that Ollama, which keeps both in one list, takes for instructions."""
_ROLES = ("system", "user", "assistant")
_BLANKS, _BREAKS = " \t", "\r\n"
_LARGEST = 16 << 20  # bytes; real ones have kilobytes, most of it licences


class ModelfileError(ValueError):
    """What Ollama would not take, with the line that it would name."""


@dataclass(frozen=True)
class Command:
    """An instruction: its name in lower case, or a parameter's as it is written, and its value."""

    name: str
    value: str
    parameter: bool = False


@dataclass(frozen=True)
class Modelfile:
    """What a file says.

    Attributes:
        commands: All of them, in order; of a file that Ollama rejects, those before the fault.
        error: Why Ollama rejects it; `None` if it does not.
    """

    commands: tuple[Command, ...]
    error: str | None = None

    def all(self, name: str) -> list[str]:
        """The values of an instruction, in order."""
        return [c.value for c in self.commands if c.name == name and not c.parameter]

    def last(self, name: str) -> str | None:
        """The value that counts where an instruction stands several times."""
        return next(reversed(self.all(name)), None)

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """Names and values in file order, repeats kept."""
        return [(c.name, c.value) for c in self.commands if c.parameter]

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Roles and texts of the conversation that each chat begins with."""
        return [(role, text) for role, _, text in (m.partition(": ") for m in self.all("message"))]


def read_modelfile(path: Path) -> Modelfile:
    """Reads a file.

    Raises:
        EngineError: it cannot be read at all (kind `modelfile`).
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise EngineError(
                "modelfile", f"{path} is larger than a Modelfile can be", "name another file"
            )
        return parse(path.read_bytes())
    except OSError as problem:
        raise EngineError(
            "modelfile", f"{path} cannot be read: {problem.strerror}", "name a Modelfile"
        ) from None


def parse(data: bytes) -> Modelfile:
    """What the bytes of a Modelfile mean to Ollama."""
    commands: list[Command] = []
    try:
        reader = _Reader(_decode(data))
        while (command := reader.command()) is not None:
            commands.append(command)
        if not any(command.name == "from" and not command.parameter for command in commands):
            raise ModelfileError("no FROM line")
        _check(commands)
    except ModelfileError as wrong:
        return Modelfile(tuple(commands), str(wrong))
    return Modelfile(tuple(commands))


def _check(commands: list[Command]) -> None:
    """What Ollama looks at when it has read the whole file."""
    for command in commands:
        if command.parameter and (problem := why_not(command.name, command.value)):
            raise ModelfileError(problem)


def _decode(data: bytes) -> str:
    """By its byte-order mark, else as UTF-8; what cannot be decoded becomes a sign that says so."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return data.decode("utf-8", "replace")


def _printable(char: str) -> bool:
    """Go's `strconv.IsPrint`: Ollama drops every other character, joiners in emojis among them."""
    return char == " " or unicodedata.category(char)[0] in "LMNPS"


def _is_letter(char: str) -> bool:
    return char.isascii() and char.isalpha()


class _Reader:
    """Goes through the text once; a carriage return counts as a line, as it does in Ollama."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._line = text, 0, 1

    def _next(self) -> str:
        """The next character; empty at the end."""
        char = self._text[self._at : self._at + 1]
        self._at += 1
        if char and char in _BREAKS:
            self._line += 1
        return char

    def command(self) -> Command | None:
        """The next instruction; `None` at the end."""
        first = self._skip()
        if not first:
            return None
        name = self._name(first)
        if name == "parameter":
            parameter, value = self._word("_"), self._value()
            if parameter in _TAKEN_FOR:
                return Command(_TAKEN_FOR[parameter], value)
            return Command(parameter, value, parameter=True)
        if name == "message":
            role = self._word("", digits=False)
            if role not in _ROLES:
                self._fail(f"the role of a message is {' or '.join(_ROLES)}, not {role!r}")
            return Command(name, f"{role}: {self._value()}")
        return Command(name, self._value())

    def _skip(self) -> str:
        """Goes over blanks and comments to the first character of an instruction."""
        while char := self._next():
            if char == "#":
                while char and char not in _BREAKS:
                    char = self._next()
            elif char not in _BLANKS + _BREAKS:
                return char
        return ""

    def _name(self, first: str) -> str:
        name = first if _printable(first) else ""
        while (char := self._next()) and _is_letter(char):
            name += char
        if not char:
            raise ModelfileError(f"it ends in the middle of an instruction: {name!r}")
        if char not in _BLANKS or name.upper() not in _INSTRUCTIONS:
            shown = name if char in _BLANKS + _BREAKS else name + char
            self._fail(f"{shown!r} is no instruction; there are {', '.join(_INSTRUCTIONS)}")
        return name.lower()

    def _word(self, more: str, digits: bool = True) -> str:
        """A parameter's name or a role, which a blank has to end."""
        word = ""
        while char := self._next():
            if char in _BLANKS:
                return word
            if not (_is_letter(char) or char in more or (digits and char in "0123456789")):
                break
            word += char
        raise ModelfileError(f"line {self._line}: {word!r} is not followed by a value")

    def _value(self) -> str:
        """Up to the end of the line, or of the line where its quotes are closed."""
        kept: list[str] = []
        first = last = ""  # of what is no blank
        while char := self._next():
            if char in _BREAKS:
                closed = first != '"' or last == '"'
                value = _unquote("".join(kept).strip(_BLANKS + _BREAKS)) if closed else None
                if value is not None:
                    return value
                kept.append(char)
            elif char == "\t" or _printable(char):
                kept.append(char)
                if char not in _BLANKS:
                    first, last = first or char, char
        value = _unquote("".join(kept).strip(_BLANKS + _BREAKS))
        if value is None:
            raise ModelfileError("it ends inside a quoted value: a closing quote is missing")
        return value

    def _fail(self, why: str) -> None:
        raise ModelfileError(f"line {self._line}: {why}")


def _unquote(text: str) -> str | None:
    """Without its quotes; `None` if they are not closed yet."""
    for quote in ('"""', '"'):
        if text.startswith(quote):
            closed = len(text) >= 2 * len(quote) and text.endswith(quote)
            return text[len(quote) : -len(quote)] if closed else None
    return text
