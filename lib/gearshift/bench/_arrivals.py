"""When bytes arrived: the kernel knows it, also when they are read some milliseconds later.

A process with many streams handles one after the other, and fifty questions that are sent at once
take twenty milliseconds. What arrives meanwhile waits, and its reading says nothing about the
server. So the kernel stamps what arrives (SO_TIMESTAMPING of Linux, `net_tstamp.h`). With the bytes
of a reading comes one stamp, of the last: who reads so late that a stream has sent twice meanwhile
sees both at once.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import aiohttp

_SO_TIMESTAMPING, _RX_SOFTWARE, _SOFTWARE = 37, 1 << 3, 1 << 4
_STAMPS = 48  # three times of 16 bytes
_ROOM = socket.CMSG_SPACE(_STAMPS) if sys.platform == "linux" else 0


class Arrivals:
    """When the bytes of one request's connection came.

    A session that makes its sockets with `stamping_socket` stamps it; one that keeps connections
    open beyond a request must not.
    """

    def __init__(self) -> None:
        self._last: float | None = None

    def expect(self) -> None:
        """Takes the connections that this task opens from now on."""
        _expected.set(self)

    @property
    def last(self) -> float:
        """When the bytes that were read last had come, on the clock of `time.monotonic`."""
        return time.monotonic() if self._last is None else self._last

    def note(self, facts: list[tuple[int, int, bytes]]) -> None:
        """Takes what the kernel told with bytes that have just been read: a stamp, or nothing."""
        age = 0.0
        for _, kind, data in facts:
            if kind == _SO_TIMESTAMPING and len(data) == _STAMPS:
                seconds, nanoseconds = struct.unpack("qq", data[:16])
                age = time.time() - (seconds + nanoseconds / 1e9)
        self._last = time.monotonic() - age


_expected: ContextVar[Arrivals] = ContextVar("_expected")


def stamping_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """The socket of a connection, for the session's `socket_factory`."""
    family, kind, protocol, *_ = address
    made = _Stamping(family, kind, protocol)
    made.arrivals = _expected.get()
    with suppress(OSError):  # what has no such stamps, or forbids them, has the time of reading
        made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE | _SOFTWARE)
    return made


class _Stamping(socket.socket):
    arrivals: Arrivals

    def recv(self, size: int, flags: int = 0) -> bytes:
        data, facts, _, _ = self.recvmsg(size, _ROOM, flags)
        self.arrivals.note(facts)
        return data

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:  # with TLS
        count, facts, _, _ = self.recvmsg_into([memoryview(buffer)[: size or None]], _ROOM, flags)
        self.arrivals.note(facts)
        return count
