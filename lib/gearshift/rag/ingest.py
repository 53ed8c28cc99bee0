"""Ingestion: files to passages in a collection, with the fate of each.

Whatever happens to one document, the others go on. Documents are committed in batches for speed;
when a batch fails, its documents are tried one by one, so that only the one at fault is lost.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import queue
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from gearshift.errors import DocumentError, GearshiftError, IndexFault
from gearshift.rag.documents._base import Reason, fail
from gearshift.rag.embedders import Vectors
from gearshift.rag.index import Collection, Progress
from gearshift.rag.parsing import MAX_BYTES, Parser
from gearshift.rag.passages import searchable
from gearshift.schemas import Passage, StoredDocument

log = logging.getLogger(__name__)

_BATCH = 64  # documents a commit
_BATCH_PASSAGES = 512  # or passages, whichever comes first

Embed = Callable[[Sequence[str]], Vectors]


class Status(StrEnum):
    """What became of a file. `rejected`: it cannot be taken in; `failed`: something went wrong."""

    INDEXED = "indexed"
    UNCHANGED = "unchanged"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    FAILED = "failed"


OK_STATUSES = frozenset({Status.INDEXED, Status.UNCHANGED, Status.DUPLICATE})
_WENT_WRONG = {Reason.MISSING, Reason.UNREADABLE, Reason.CORRUPT, Reason.TIMEOUT, Reason.LIMITS}


@dataclass(frozen=True, slots=True)
class DocumentOutcome:
    """The fate of one file; `reason` says why, or what is worth knowing."""

    path: str
    status: Status
    passages: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Ready:
    document: StoredDocument
    passages: list[Passage]
    outcome: DocumentOutcome


@lru_cache(maxsize=1)
def _parsers() -> queue.LifoQueue[Parser]:
    """Two, so that a document that takes long holds one person up and not everybody."""
    free: queue.LifoQueue[Parser] = queue.LifoQueue()
    for _ in range(2):
        free.put(Parser())
    return free


def ingest(
    paths: Iterable[Path | str],
    collection: Collection,
    progress: Progress = lambda done, total, name: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[DocumentOutcome]:
    """Takes files and folders in; a document is called by the path as it was given.

    Yields the fate of every file, in order of being settled. What was taken in before `cancelled`
    returns true stays.
    """
    files = [file for path in paths for file in _files(os.fspath(path))]
    reads = ((file, lambda file=file: _read(Path(file))) for file in files)
    yield from _take_in(reads, len(files), collection, progress, cancelled)


def ingest_bytes(name: str, data: bytes, collection: Collection) -> DocumentOutcome:
    """Takes one document in from memory (an upload)."""
    (outcome,) = ingest_all([(name, data)], collection)
    return outcome


def ingest_all(
    documents: Sequence[tuple[str, bytes]],
    collection: Collection,
    progress: Progress = lambda done, total, name: None,
    embed: Embed | None = None,
) -> list[DocumentOutcome]:
    """Takes several named documents in from memory; `embed` may replace the collection's."""
    reads = ((name, lambda data=data: data) for name, data in documents)
    return list(_take_in(reads, len(documents), collection, progress, lambda: False, embed))


def _files(path: str) -> Iterator[str]:
    """The file itself, or the files below a folder; hidden ones and links to folders left out.

    A folder that cannot be listed is yielded itself: reading it says why.
    """
    try:
        is_folder = Path(path).is_dir()
    except OSError:  # a name that no file can have
        is_folder = False
    if not is_folder:
        yield path
        return
    closed: list[str] = []
    for folder, folders, names in os.walk(path, onerror=lambda e: closed.append(e.filename)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(folder, name)
    yield from closed


def _read(path: Path) -> bytes:
    """The bytes of a regular file; never waits for a pipe or a device."""
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise fail(Reason.UNREADABLE, "the folder cannot be listed", "check its rights")
        if not stat.S_ISREG(facts.st_mode):
            raise fail(Reason.UNSUPPORTED, "it is not a regular file", "give a file or a folder")
        if facts.st_size > MAX_BYTES:
            raise fail(
                Reason.TOO_LARGE,
                f"it has {facts.st_size / 1e6:.1f} MB, the limit is {MAX_BYTES / 1e6:.0f} MB",
                "split it into smaller files",
            )
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise fail(Reason.MISSING, "there is no such file", "check the path") from None
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise fail(Reason.UNREADABLE, f"it cannot be opened: {words}", "check its rights") from None


def _take_in(
    reads: Iterable[tuple[str, Callable[[], bytes]]],
    total: int,
    collection: Collection,
    progress: Progress,
    cancelled: Callable[[], bool],
    embed: Embed | None = None,
) -> Iterator[DocumentOutcome]:
    embed = embed or collection.embedder.embed
    known = collection.digests()
    contents = {digest: name for name, digest in known.items()}
    batch: list[_Ready] = []
    done = 0
    for name, read in reads:
        if cancelled():
            break
        progress(done, total, name)
        done += 1
        name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        try:
            found = _prepare(name, read(), known, contents)
        except DocumentError as error:
            status = Status.FAILED if error.kind in _WENT_WRONG else Status.REJECTED
            reason = f"{error.kind}: {error.message}" + (f" ({error.hint})" if error.hint else "")
            yield DocumentOutcome(name, status, reason=reason)
            continue
        except Exception as bug:  # noqa: BLE001 (it must not take the other documents with it)
            yield _failed(name, bug)
            continue
        if isinstance(found, DocumentOutcome):
            yield found
            continue
        if any(ready.document.name == name for ready in batch):
            yield from _commit(batch, collection, embed)  # one after the other, the last one stays
            batch = []
        known[name] = found.document.digest
        contents.setdefault(found.document.digest, name)
        batch.append(found)
        if len(batch) >= _BATCH or sum(len(b.passages) for b in batch) >= _BATCH_PASSAGES:
            yield from _commit(batch, collection, embed)
            batch = []
    yield from _commit(batch, collection, embed)
    try:
        collection.flush()
    except IndexFault as fault:  # everything is found all the same, only more slowly
        log.warning("%s", fault)
    _give_memory_back()
    progress(done, total, "")


def _give_memory_back() -> None:
    """The C library keeps what was freed for itself: 0.2 MB a document that nobody can use."""
    with suppress(OSError, AttributeError):  # another C library than GNU's
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _prepare(
    name: str, data: bytes, known: dict[str, str], contents: dict[str, str]
) -> _Ready | DocumentOutcome:
    digest = hashlib.sha256(data).hexdigest()
    if known.get(name) == digest:
        return DocumentOutcome(name, Status.UNCHANGED, reason="it is in the collection already")
    parser = _parsers().get()
    try:
        document, passages = parser.read(name, data)
    finally:
        _parsers().put(parser)
    notes = list(document.notes)
    status = Status.INDEXED
    if digest in contents and contents[digest] != name:
        status = Status.DUPLICATE
        notes.insert(0, f"the same content as {contents[digest]}")
    elif name in known:
        notes.insert(0, "replaced an earlier version")
    return _Ready(
        document, passages, DocumentOutcome(name, status, len(passages), "; ".join(notes))
    )


def _commit(batch: list[_Ready], collection: Collection, embed: Embed) -> Iterator[DocumentOutcome]:
    """Embeds and commits a batch."""
    entries = []
    for ready, vectors in _embedded(batch, embed):
        if isinstance(vectors, Exception):
            yield _failed(ready.document.name, vectors)
        else:
            entries.append((ready, vectors))
    try:
        collection.add([(ready.document, ready.passages, vectors) for ready, vectors in entries])
    except Exception as error:  # noqa: BLE001 (each gets its fate, whatever it was)
        yield from (_failed(ready.document.name, error) for ready, _ in entries)
        return
    yield from (ready.outcome for ready, _ in entries)


def _embedded(
    batch: Sequence[_Ready], embed: Embed
) -> Iterator[tuple[_Ready, Vectors | Exception]]:
    """Each document's vectors, or what went wrong: one by one when it does for all together."""
    texts = [searchable(passage) for ready in batch for passage in ready.passages]
    try:
        vectors = embed(texts)
    except Exception as error:  # noqa: BLE001 (it must not take the other documents with it)
        if len(batch) == 1:
            yield batch[0], error
        else:
            for ready in batch:
                yield from _embedded([ready], embed)
        return
    first = 0
    for ready in batch:
        last = first + len(ready.passages)
        yield ready, vectors[first:last]
        first = last


def _failed(name: str, error: Exception) -> DocumentOutcome:
    if isinstance(error, GearshiftError):
        return DocumentOutcome(name, Status.FAILED, reason=f"{error.message} ({error.hint})")
    log.error("unexpected, at %s", name, exc_info=error)
    reason = f"unexpected {type(error).__name__}: {error} (please report it; the log has more)"
    return DocumentOutcome(name, Status.FAILED, reason=reason)
