"""One search at a time on a machine: where searches are kept, their lock, their server's port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gearshift.bench.tuning.server import end, free_port
from gearshift.errors import EngineError
from gearshift.settings import Settings

_LOOKED_AT = 0.5  # seconds that a lock is waited for: `is_tuning` takes it for a moment


def folder(home: Path) -> Path:
    """Where searches are kept: a journal and a record each."""
    return home / "tuning"


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Two searches at once would measure each other.

    Raises:
        EngineError: somebody else is tuning (kind `busy`), or the disk refuses (kind `disk`).
    """
    with written(folder(home)):
        folder(home).mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = _lock(home, timeout=_LOOKED_AT)
        try:
            lock.acquire()
        except Timeout:
            raise EngineError(
                "busy",
                "somebody is tuning on this machine already",
                "wait for its end, or cancel it",
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def written(place: Path) -> Iterator[None]:
    """Says that a search cannot be kept, where the disk refuses.

    Raises:
        EngineError: kind `disk`.
    """
    try:
        yield
    except OSError as wrong:
        raise EngineError(
            "disk",
            f"the search cannot be kept in {place}: {wrong}",
            "make room, or see who may write there; the same command goes on where it stopped",
        ) from None


def is_tuning(home: Path) -> bool:
    """Whether somebody searches on this machine now, in whatever process."""
    if not folder(home).exists():
        return False
    try:
        with _lock(home, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # it is another user's: whose search it is nobody can tell
        return False


def _lock(home: Path, timeout: float) -> FileLock:
    return FileLock(folder(home) / "lock", timeout=timeout)


def own_port(settings: Settings) -> int:
    """A port for this search; the server that a search was killed beside ends before.

    Raises:
        EngineError: the disk refuses (kind `disk`).
    """
    note = folder(settings.home_dir) / "port"
    with suppress(FileNotFoundError, ValueError):  # there is none, or only half of one
        end(int(note.read_text("ascii")), settings)
    port = free_port()
    with written(note.parent):
        note.write_text(str(port), "ascii")
    return port
