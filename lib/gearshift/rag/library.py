"""The collections of documents: which one a question goes to, and the embedder of each.

`default` holds a person's own documents. While it is empty, questions that name no collection go to
`sample`, the handbook that comes with Gearshift, which is indexed when it is first needed.
"""

from __future__ import annotations

import logging
import threading

from gearshift.data import DATA
from gearshift.errors import IndexFault
from gearshift.rag.embedders import Embedder, make_embedder
from gearshift.rag.index import Collection, collections, stored_embedder
from gearshift.rag.ingest import OK_STATUSES, Progress, ingest_all
from gearshift.settings import load_settings

log = logging.getLogger(__name__)

DEFAULT = "default"
SAMPLE = "sample"
HANDBOOK = DATA / "handbook"

_lock = threading.RLock()
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
        IndexFault: it was made with another embedder than `embedder_name`, or is damaged.
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
        raise IndexFault(
            f"the collection {name!r} was made with the embedder {made_with!r}",
            hint=f"leave out --embedder, or take another collection for {embedder_name!r}",
        )
    return found


def forget(name: str) -> None:
    """Opens the collection anew the next time, after it was rebuilt or replaced."""
    with _lock:
        _open.pop((str(load_settings().home_dir), name), None)


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
            raise IndexFault(
                f"there is no collection {name!r}",
                hint=f"make it with: gearshift ingest PATH --collection {name}",
            )
        return collection(name)
    if DEFAULT in names() and collection(DEFAULT).documents():
        return collection(DEFAULT)
    return sample()


def sample(progress: Progress = lambda done, total, name: None) -> Collection:
    """The handbook, indexed now if it is not or has changed."""
    with _lock:
        found = collection(SAMPLE)
        pages = [(path.name, path.read_bytes()) for path in sorted(HANDBOOK.glob("*.md"))]
        for outcome in ingest_all(pages, found, progress):
            if outcome.status not in OK_STATUSES:
                log.error("the handbook's %s: %s", outcome.path, outcome.reason)
    return found
