"""The collections of documents: which one a question goes to, and the embedder of each.

`default` holds a person's own documents. While it is empty, questions that name no collection go to
`sample`, the handbook that comes with Gearshift, which is indexed when it is first needed.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

from gearshift.data import DATA
from gearshift.errors import IndexFault, IndexMismatch
from gearshift.rag import index
from gearshift.rag.embedders import Embedder, MiniLM, make_embedder
from gearshift.rag.embedders.remembered import remembering
from gearshift.rag.index import Collection, Progress, Store, collections, stored_embedder
from gearshift.rag.ingest import OK_STATUSES, ingest_all
from gearshift.rag.passages import split
from gearshift.settings import load_settings

log = logging.getLogger(__name__)

DEFAULT = "default"
SAMPLE = "sample"
VECTORS = DATA / "handbook.npz"
"""The handbook's vectors, so that the first question need not wait for them."""

T = TypeVar("T")
_lock = threading.Lock()
_locks: defaultdict[tuple[str, ...], threading.Lock] = defaultdict(threading.Lock)
_opened: dict[tuple[str, ...], object] = {}


def _once(key: tuple[str, ...], make: Callable[[], T]) -> T:
    """What `make` returns, made once a process; who wants another key never waits for this one."""
    with _lock:
        mine = _locks[key]
    with mine:
        if key not in _opened:
            _opened[key] = make()
        return _opened[key]  # type: ignore[return-value]


def embedder(name: str) -> Embedder:
    """The embedder of that name, loaded once a process."""
    return _once(("embedder", name), lambda: make_embedder(name, load_settings()))


def collection(name: str, embedder_name: str | None = None) -> Collection:
    """Opens a collection, made when absent; it keeps the embedder that it was made with.

    May wait for the provider that embeds.

    Raises:
        IndexMismatch: it was made with another embedder than `embedder_name`, or splitter.
        IndexFault: it is damaged.
        ProviderError: the provider that embeds did not answer.
    """
    home = load_settings().home_dir
    made_with = stored_embedder(name, home)
    if made_with is not None and embedder_name not in (None, made_with):
        raise IndexMismatch(
            f"the collection {name!r} was made with the embedder {made_with!r}",
            hint="leave out --embedder, or change it with: "
            f"gearshift rebuild --collection {name} --embedder {embedder_name}",
        )
    used = made_with or embedder_name or MiniLM.name
    # By embedder, too: another process may have rebuilt it with another one.
    found = _once(
        ("collection", str(home), name, used),
        lambda: Collection.open(name, home, embedder(used)),
    )
    if made_with is None:  # it was removed meanwhile
        Collection.open(name, home, found.embedder)
    return found


def store(name: str) -> Store:
    """A collection's documents, to look at and to delete; waits for nobody."""
    home = load_settings().home_dir
    return _once(("store", str(home), name), lambda: Store(name, home))


def rebuild(
    name: str,
    embedder_name: str | None = None,
    progress: Progress = lambda done, total, name: None,
) -> Collection:
    """Embeds and splits the stored texts of a collection anew, with another embedder if named.

    Raises:
        IndexFault: there is no such collection, or it cannot be read; the old one is kept.
        ProviderError: the provider that embeds did not answer.
    """
    home = load_settings().home_dir
    if name not in names():
        raise _absent(name)
    used = embedder(embedder_name or stored_embedder(name, home) or MiniLM.name)
    return index.rebuild(name, home, used, split, progress)


def remove(name: str) -> None:
    """Removes a collection and everything in it.

    Raises:
        IndexFault: somebody is writing to it, or the disk refuses.
    """
    index.remove(name, load_settings().home_dir)


def mismatch(name: str) -> IndexMismatch | None:
    """Why a collection must be rebuilt before it is searched, as far as no provider is needed."""
    if stored_embedder(name, load_settings().home_dir) != MiniLM.name:
        return None
    try:
        collection(name).count()
    except IndexMismatch as found:
        return found
    return None


def names() -> list[str]:
    """The collections that exist."""
    return collections(load_settings().home_dir)


def has_documents(name: str) -> bool:
    """Whether there is anything in a collection; one that cannot be read is not empty."""
    try:
        return name in names() and store(name).count() > 0
    except IndexFault as problem:
        log.warning("%s", problem)
        return True


def which_to_ask() -> str:
    """The collection that a question goes to which names none: one's own, else the handbook."""
    return DEFAULT if has_documents(DEFAULT) else SAMPLE


def to_ask(name: str | None) -> Collection:
    """A collection to be asked; only one that is not named can be indexed for that.

    Raises:
        IndexFault: there is no collection of that name.
    """
    if name is not None:
        if name not in names():
            raise _absent(name)
        return collection(name)
    return collection(DEFAULT) if which_to_ask() == DEFAULT else sample()


_sample_lock = threading.Lock()


def sample(progress: Progress = lambda done, total, name: None) -> Collection:
    """The handbook, indexed now if it is not or has changed."""
    with _sample_lock:
        try:
            found = collection(SAMPLE)
        except IndexMismatch:  # a newer Gearshift splits otherwise; nothing of a person's is in it
            found = rebuild(SAMPLE, MiniLM.name)
        embed = remembering(VECTORS, found.embedder)
        for outcome in ingest_all(handbook(), found, progress, embed):
            if outcome.status not in OK_STATUSES:
                log.error("the handbook's %s: %s", outcome.path, outcome.reason)
    return found


def handbook() -> list[tuple[str, bytes]]:
    """Names and contents of the handbook's chapters."""
    return [(path.name, path.read_bytes()) for path in sorted((DATA / "handbook").glob("*.md"))]


def _absent(name: str) -> IndexFault:
    hint = f"make it with: gearshift ingest PATH --collection {name}"
    if name == SAMPLE:
        hint = "the handbook is indexed when a question names no collection and you have none"
    there = ", ".join(sorted(names()))
    also = f" (there is {there})" if there else ""
    return IndexFault(f"there is no collection {name!r}{also}", hint=hint)
