"""Conversations on disk: one JSON file each, under an address that cannot be guessed.

Whoever knows the address may read the conversation and go on with it; there is no list of them for
everybody.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from gearshift.errors import GearshiftError
from gearshift.schemas import Answer, State

_ADDRESS = re.compile(r"[A-Za-z0-9_-]{22}")


@dataclass
class Conversation:
    """Turns, oldest first; `first_turn` is the oldest one that prompts still contain."""

    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    turns: list[Answer] = field(default_factory=list)
    first_turn: int = 0

    @property
    def title(self) -> str:
        return self.turns[0].question if self.turns else "New conversation"


_lock = threading.Lock()
_opened: WeakValueDictionary[str, Conversation] = WeakValueDictionary()


def opened(home: Path, address: str) -> Conversation | None:
    """The conversation at an address, the same object for all who have it open in this process.

    Raises:
        GearshiftError: its file cannot be read.
    """
    with _lock:
        found = _opened.get(address) or load(home, address)
        if found is not None:
            _opened[address] = found
        return found


def _path(home: Path, address: str) -> Path:
    return home / "conversations" / f"{address}.json"


def save(home: Path, conversation: Conversation) -> None:
    """Writes the conversation; a reader sees the old file or the new one, never half of one.

    Raises:
        GearshiftError: the disk refuses.
    """
    with _lock:
        _opened.setdefault(conversation.id, conversation)
    path = _path(home, conversation.id)
    scratch = path.with_suffix(f".{secrets.token_hex(4)}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with scratch.open("wb") as file:
            file.write(msgspec.json.encode(conversation))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as wrong:
        scratch.unlink(missing_ok=True)
        raise GearshiftError(
            f"the conversation cannot be saved: {wrong}",
            hint=f"make room or give the right to write in {path.parent}",
        ) from None


def load(home: Path, address: str) -> Conversation | None:
    """The conversation at an address; `None` when there is none.

    An answer that was being written when the workbench stopped comes back as stopped.

    Raises:
        GearshiftError: the file cannot be read.
    """
    if not _ADDRESS.fullmatch(address):
        return None
    path = _path(home, address)
    try:
        conversation = msgspec.json.decode(path.read_bytes(), type=Conversation)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise GearshiftError(
            f"the conversation {path.name} cannot be read: {wrong}",
            hint="start a new one; the file is left as it is",
        ) from None
    for turn in conversation.turns:
        if not turn.state.final:
            turn.state = State.STOPPED
    return conversation
