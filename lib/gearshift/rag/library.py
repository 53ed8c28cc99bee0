"""The collections of documents: which one a question goes to, and the embedder of each.

`default` holds a person's own documents. While it is empty, questions that name no collection go to
`sample`, the handbook that comes with Gearshift, which is indexed when it is first needed.
"""

from __future__ import annotations

import logging
import threading

from gearshift.data import DATA
from gearshift.errors import IndexFault, IndexMismatch
from gearshift.rag import index
from gearshift.rag.embedders import Embedder, make_embedder
from gearshift.rag.embedders.remembered import remembering
from gearshift.rag.index import Collection, collections, stored_embedder
from gearshift.rag.ingest import OK_STATUSES, Progress, ingest_all
from gearshift.rag.passages import split
from gearshift.settings import load_settings

log = logging.getLogger(__name__)

DEFAULT = "default"
SAMPLE = "sample"
VECTORS = DATA / "handbook.npz"
"""The handbook's vectors, so that the first question need not wait for them."""

_lock = threading.RLock()
_sample_lock = threading.Lock()  # its own: nobody else waits while the handbook is indexed
_open: dict[tuple[str, str], Collection] = {}
_embedders: dict[str, Embedder] = {}


def embedder(name: str = "minilm") -> Embedder:
    """The embedder of that name, loaded once a process."""
    with _lock:
        if name not in _embedders:
            _embedders[name] = make_embedder(name, load_settings())
        return _embedders[name]


def collection(name: str, embedder_name: str | None = None) -> Collection:
    """Opens a collection, made when absent; it keeps the embedder that it was made with.

    Raises:
        IndexMismatch: it was made with another embedder than `embedder_name`.
        IndexFault: it is damaged.
    """
    home = load_settings().home_dir
    with _lock:
        key = (str(home), name)
        if key not in _open:
            used = stored_embedder(name, home) or embedder_name or "minilm"
            _open[key] = Collection.open(name, home, embedder(used))
        found = _open[key]
    made_with = found.embedder.fingerprint.name
    if embedder_name not in (None, made_with):
        raise IndexMismatch(
            f"the collection {name!r} was made with the embedder {made_with!r}",
            hint="leave out --embedder, or change it with: "
            f"gearshift rebuild --collection {name} --embedder {embedder_name}",
        )
    return found


def rebuild(name: str, embedder_name: str | None = None) -> Collection:
    """Embeds and splits the stored texts of a collection anew, with another embedder if named.

    Raises:
        IndexFault: there is no such collection, or it cannot be read; the old one is kept.
    """
    home = load_settings().home_dir
    if name not in names():
        raise _absent(name)
    used = embedder(embedder_name or stored_embedder(name, home) or "minilm")
    with _lock:
        _open[(str(home), name)] = made = index.rebuild(name, home, used, split)
    return made


def names() -> list[str]:
    """The collections that exist."""
    return collections(load_settings().home_dir)


def to_ask(name: str | None) -> Collection:
    """The collection that a question goes to; only one that is not named can be the sample.

    Raises:
        IndexFault: there is no collection of that name.
    """
    if name is not None:
        if name not in names():
            raise _absent(name)
        return collection(name)
    if DEFAULT in names() and collection(DEFAULT).documents():
        return collection(DEFAULT)
    return sample()


def sample(progress: Progress = lambda done, total, name: None) -> Collection:
    """The handbook, indexed now if it is not or has changed."""
    with _sample_lock:
        found = collection(SAMPLE)
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
    return IndexFault(f"there is no collection {name!r}", hint=hint)
