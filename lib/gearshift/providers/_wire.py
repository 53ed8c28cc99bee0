"""Bytes to events: the framing of NDJSON and of server-sent events.

Lines are split at `\\n` alone and decoded whole: U+2028 and U+0085 are ordinary characters of JSON,
and a code point may be cut by the network anywhere. What it does not know: what the events mean;
each protocol's reader does (`ollama.py`, `_openai.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gearshift.errors import ProtocolError
from gearshift.schemas import Chunk

MAX_LINE_BYTES = 1 << 20
"""A line longer than this is no answer: it would be held in memory until its end came."""


_MAX_LINES = 10_000  # of one event


class StreamReader(Protocol):
    """Turns the bytes of one response into chunks, and knows the proof of its end."""

    @property
    def proven(self) -> bool:
        """The server has said that the answer is whole."""

    @property
    def finished(self) -> bool:
        """Nothing more needs to be read."""

    def feed(self, data: bytes, into: list[Chunk]) -> None:
        """Appends the chunks that `data` completes; those before an error are there, too.

        Raises:
            ProviderError: the server reports an error, or this is not the protocol.
        """

    def end(self, into: list[Chunk]) -> None:
        """Appends what was held back, when the bytes have ended.

        Raises:
            Truncated: there was no proof of the end.
        """


class NotJSON(ValueError):
    """These bytes cannot be read as JSON of the shape that was expected."""


def read_json(data: bytes, decode: Callable[[bytes], Any] = msgspec.json.decode) -> Any:
    """The decoded bytes, whatever somebody has put into them.

    Raises:
        NotJSON: they are no text, no JSON, of another shape, or nested too deeply.
    """
    try:
        if not data.isascii():
            data.decode()  # msgspec does not look at the fields that it skips
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise NotJSON(str(wrong)) from None


def as_count(value: object) -> int | None:
    """A number of tokens or bytes; `None` for whatever else a server puts in its place."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if is_count else None  # type: ignore[return-value]


class Lines:
    """Splits bytes into lines, without their line ends."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        if self._rest:
            data = self._rest + data
        lines = data.split(b"\n")
        if len(data) > MAX_LINE_BYTES and max(map(len, lines)) > MAX_LINE_BYTES:
            raise _too_long("a line")
        self._rest = lines.pop()
        return [line.removesuffix(b"\r") for line in lines] if b"\r" in data else lines

    def rest(self) -> bytes:
        """The last line, when the bytes ended without a line end."""
        rest, self._rest = self._rest, b""
        return rest.rstrip(b"\r")


def _too_long(what: str) -> ProtocolError:
    return ProtocolError(
        f"the server sent {what} of more than {MAX_LINE_BYTES >> 20} MiB",
        hint="check that the address is that of a language model server",
    )


class Events:
    """Reads server-sent events as `(name, data)`; the name is empty where none was given."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0
        self._begun = False

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The events that `data` completes."""
        events = []
        if not self._begun and data:
            data, self._begun = data.removeprefix(b"\xef\xbb\xbf"), True
        for line in self._lines.feed(data):
            if line.startswith(b"data:"):
                value = line[6:] if line.startswith(b"data: ") else line[5:]
                self._data.append(value)
                self._size += len(value)
                if self._size > MAX_LINE_BYTES or len(self._data) > _MAX_LINES:
                    raise _too_long("an event")
            elif not line:
                if self._data:
                    events.append((self._name, b"\n".join(self._data)))
                    self._data = []
                    self._size = 0
                self._name = b""
            elif line.startswith(b"{"):  # a plain body, by a server that streams nothing
                self._data.append(line)
            elif line.startswith(b"event:"):
                self._name = line[6:].strip()
            # Anything else is a comment (keep-alive) or a field that says nothing here.
        return events

    def rest(self) -> list[tuple[bytes, bytes]]:
        """The last event, when the bytes ended without the blank line behind it."""
        return self.feed(self._lines.rest() + b"\n\n")
