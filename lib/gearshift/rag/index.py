"""A collection of documents on disk: their text, their passages, full text and vectors, in LanceDB.

Two tables: `documents` and `passages`. A batch's passages are committed first, its documents last,
and only passages whose document is committed with the same content are ever found: a crash between
the two leaves nothing half visible. Writers take turns by a lock file; readers never wait.

Vectors are compared exactly, in memory: measured here, 100,000 of them take 7 ms where LanceDB's
flat search takes 240, and its full-text search takes 6 ms where SQLite's FTS5 takes 195.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from gearshift.errors import IndexFault, IndexMismatch
from gearshift.rag.embedders import Embedder
from gearshift.rag.embedders._base import Vectors
from gearshift.rag.passages import SPLITTER_VERSION, searchable
from gearshift.schemas import Hit, Passage

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LOCK_SECONDS = 60.0
_UNINDEXED = 1_000  # passages that full-text search reads one by one before they are folded in
_KEEP = timedelta(minutes=10)  # old versions stay that long for readers that are under way


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it was taken in; `text` is what was read, pages parted by form feeds.

    `digest` is the SHA-256 of the file's bytes, `added` an ISO time in UTC.
    """

    name: str
    digest: str
    title: str | None
    kind: str
    text: str
    pages: int | None
    passages: int
    added: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a search needs at hand, of one version of the tables."""

    version: tuple[int, int]
    digests: dict[str, str]
    """Content digest by document key."""
    rows: Any
    """Row ids of the visible passages, int64, in the order of `vectors`."""
    vectors: Vectors


def _key(name: str) -> str:
    """A document's key: no name ever becomes part of a filter."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _folder(home: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise IndexFault(
            f"{name!r} cannot be a collection's name",
            hint="use up to 64 letters, digits, - and _, beginning with a letter or digit",
        )
    return home / "index" / name


def collections(home: Path) -> list[str]:
    """The names of the collections that exist."""
    return sorted(path.parent.name for path in (home / "index").glob("*/collection.json"))


def stored_embedder(name: str, home: Path) -> str | None:
    """The name of the embedder that a collection was made with; `None` when there is none."""
    made_with = _made_with(_folder(home, name))
    return None if made_with is None else str(made_with["name"])


def _made_with(folder: Path) -> dict[str, Any] | None:
    path = folder / "collection.json"
    try:
        made_with = json.loads(path.read_text("utf-8"))
        if not isinstance(made_with, dict) or not {"name", "digest"} <= set(made_with):
            raise ValueError("keys are missing")
        return made_with
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise IndexFault(
            f"{path} cannot be read: {error}",
            hint=f"remove {folder} and take the documents in again",
        ) from None


class Collection:
    """Documents and their passages; safe to use from many threads and processes."""

    def __init__(self, name: str, folder: Path, embedder: Embedder) -> None:
        """Use `Collection.open`."""
        self.name = name
        self.embedder = embedder
        self._folder = folder
        self._lock = threading.RLock()
        self._snapshot: Snapshot | None = None
        self._writing = filelock.FileLock(folder / "writer.lock", timeout=_LOCK_SECONDS)

    @classmethod
    def open(cls, name: str, home: Path, embedder: Embedder) -> Collection:
        """Opens a collection; makes it when it is absent.

        Raises:
            IndexMismatch: it was made with another embedder or splitter.
            IndexFault: it cannot be read.
        """
        folder = _folder(home, name)
        made_with = _made_with(folder)
        ours = {**asdict(embedder.fingerprint), "splitter": SPLITTER_VERSION}
        if made_with is not None and made_with != ours:
            raise IndexMismatch(
                f"the collection {name!r} was made by {made_with.get('name')} "
                f"({made_with.get('digest')}, splitter {made_with.get('splitter')}), "
                f"not by {ours['name']} ({ours['digest']}, splitter {ours['splitter']}): "
                "their vectors cannot be compared",
                hint="rebuild it from its stored texts, on the Documents page or with: "
                f"gearshift rebuild --collection {name}",
            )
        collection = cls(name, folder, embedder)
        with collection._translated("opened"):
            folder.mkdir(parents=True, exist_ok=True)
            collection._connect(create=made_with is None)
            if made_with is None:
                scratch = folder / "collection.json.new"
                scratch.write_text(json.dumps(ours), "utf-8")
                scratch.replace(folder / "collection.json")
        return collection

    def _connect(self, create: bool) -> None:
        import lancedb

        database = lancedb.connect(self._folder, read_consistency_interval=timedelta(0))
        schemas = {"documents": _document_schema(), "passages": _passage_schema(self._dimension)}
        if create:
            with self._writing:
                for table, schema in schemas.items():
                    database.create_table(table, schema=schema, exist_ok=True)
        self._documents = database.open_table("documents")
        self._passages = database.open_table("passages")

    @property
    def _dimension(self) -> int:
        return self.embedder.fingerprint.dimension

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """LanceDB's many exceptions as ours: what was being done, and what to do now."""
        try:
            yield
        except filelock.Timeout:
            raise IndexFault(
                f"somebody else has been writing to the collection {self.name!r} "
                f"for {_LOCK_SECONDS:.0f} s",
                hint="try again when that is done",
            ) from None
        except (OSError, RuntimeError, ValueError) as error:
            words = " ".join(str(error).split())[:300]
            raise IndexFault(
                f"the collection {self.name!r} could not be {doing}: {words}",
                hint=f"check free space and rights in {self._folder}; if it is damaged, "
                "remove that folder and take the documents in again",
            ) from None

    # Writing.

    def add(self, documents: Sequence[tuple[StoredDocument, Sequence[Passage], Vectors]]) -> None:
        """Takes documents in, each replacing the one of the same name.

        New ones are visible all at once. A replaced one is written in two commits: a crash between
        them leaves it listed without passages.

        Raises:
            IndexFault: the disk is full, another writer is at work …; nothing was changed.
        """
        import pyarrow as pa

        if not documents:
            return
        keys = ", ".join(f"'{_key(document.name)}'" for document, _, _ in documents)
        passages = [
            _passage_row(document, passage, vector)
            for document, found, vectors in documents
            for passage, vector in zip(found, vectors, strict=True)
        ]
        rows = [_document_row(document) for document, _, _ in documents]
        with self._translated("changed"), self._lock, self._writing:
            table = pa.Table.from_pylist(passages, schema=_passage_schema(self._dimension))
            (
                self._passages.merge_insert("id")
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .when_not_matched_by_source_delete(f"key IN ({keys})")
                .execute(table)
            )
            (
                self._documents.merge_insert("key")
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .execute(pa.Table.from_pylist(rows, schema=_document_schema()))
            )

    def flush(self) -> None:
        """Folds what was added into the full-text index, so that searches stay fast."""
        from lancedb.index import FTS

        with self._translated("indexed"), self._lock, self._writing:
            if not self._passages.count_rows():
                return
            names = [index.name for index in self._passages.list_indices()]
            if "search_text_idx" not in names:
                self._passages.create_index("search_text", config=FTS())
                return
            stats = self._passages.index_stats("search_text_idx")
            if stats is None or stats.num_unindexed_rows:
                self._passages.optimize(cleanup_older_than=_KEEP)
                self._documents.optimize(cleanup_older_than=_KEEP)

    def delete(self, name: str) -> bool:
        """Removes a document; `False` when there was none of that name."""
        with self._translated("changed"), self._lock, self._writing:
            if name not in self.digests():
                return False
            self._documents.delete(f"key = '{_key(name)}'")
            self._passages.delete(f"key = '{_key(name)}'")
            return True

    # Reading.

    def documents(self) -> list[StoredDocument]:
        """All documents by name, without their text."""
        columns = [c for c in _document_schema().names if c not in ("key", "text")]
        with self._translated("read"):
            rows = self._documents.search().select(columns).limit(None).to_list()
        found = [_document({**row, "text": ""}) for row in rows]
        return sorted(found, key=lambda document: document.name)

    def document(self, name: str) -> StoredDocument | None:
        """One document with its text."""
        with self._translated("read"):
            rows = self._documents.search().where(f"key = '{_key(name)}'").limit(1).to_list()
        return _document(rows[0]) if rows else None

    def digests(self) -> dict[str, str]:
        """The content digest of each document, by name."""
        with self._translated("read"):
            rows = self._documents.search().select(["name", "digest"]).limit(None).to_list()
        return {row["name"]: row["digest"] for row in rows}

    def passage(self, id_: str) -> Passage | None:
        """One passage by its id."""
        if not re.fullmatch(r"[0-9a-f]+-\d+", id_):
            return None
        with self._translated("read"):
            rows = self._passages.search().where(f"id = '{id_}'").limit(1).to_list()
        return _passage(rows[0]) if rows else None

    def search(self, query: str, k: int) -> list[Hit]:
        """The best `k` passages for a query, by words and meaning."""
        from gearshift.rag.retrieval import hybrid

        if not query.strip() or k < 1:
            return []
        vector = self.embedder.embed([query])[0]
        return hybrid(self, query, vector, k)

    # What the search is made of.

    def snapshot(self) -> Snapshot:
        """The visible passages' vectors, read again only when the tables have changed."""
        with self._translated("read"), self._lock:
            version = (self._documents.version, self._passages.version)
            if self._snapshot is None or self._snapshot.version != version:
                self._snapshot = self._read(version)
            return self._snapshot

    def _read(self, version: tuple[int, int]) -> Snapshot:
        columns = ["key", "digest"]
        documents = self._documents.search().select(columns).limit(None).to_list()
        digests = {row["key"]: row["digest"] for row in documents}
        table = (
            self._passages.search()
            .select([*columns, "vector"])
            .with_row_id(True)
            .limit(None)
            .to_arrow()
        )
        visible = np.fromiter(
            (
                digests.get(key) == digest
                for key, digest in zip(
                    table["key"].to_pylist(), table["digest"].to_pylist(), strict=True
                )
            ),
            bool,
            len(table),
        )
        flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = flat.reshape(-1, self._dimension)[visible]
        return Snapshot(version, digests, table["_rowid"].to_numpy()[visible], vectors)

    def lexical(self, query: str, limit: int) -> list[tuple[int, float]]:
        """Row ids and BM25 scores of the passages that share words with the query."""
        with self._translated("searched"):
            if not self._passages.list_indices():
                return []
            rows = (
                self._passages.search(query, query_type="fts", fts_columns="search_text")
                .select(["_score"])
                .with_row_id(True)
                .limit(limit)
                .to_arrow()
            )
        return list(zip(rows["_rowid"].to_pylist(), rows["_score"].to_pylist(), strict=True))

    def fetch(self, rows: Sequence[int], digests: dict[str, str]) -> list[Passage | None]:
        """The passages in these rows, `None` for one that is gone meanwhile."""
        with self._translated("read"):
            found = self._passages.take_row_ids(list(rows)).with_row_id().to_list()
        current = [row for row in found if digests.get(row["key"]) == row["digest"]]
        visible = {row["_rowid"]: _passage(row) for row in current}
        return [visible.get(row) for row in rows]


Split = Callable[[StoredDocument], list[Passage]]


def rebuild(name: str, home: Path, embedder: Embedder, split: Split) -> Collection:
    """Makes a collection anew from its documents' stored text, with another embedder or splitter.

    The old one stays until the new one is whole.
    """
    folder = _folder(home, name)
    old = Collection(name, folder, embedder)
    with old._translated("rebuilt"):
        old._connect(create=False)
        texts = [old.document(document.name) for document in old.documents()]
        scratch_home = folder / "rebuilding"
        shutil.rmtree(scratch_home, ignore_errors=True)
        new = Collection.open(name, scratch_home, embedder)
        for document in texts:
            if document is not None:
                passages = split(document)
                vectors = embedder.embed([searchable(passage) for passage in passages])
                new.add([(replace(document, passages=len(passages)), passages, vectors)])
        new.flush()
        with old._writing:
            for part in ("documents.lance", "passages.lance", "collection.json"):
                target = folder / part
                if target.is_dir():
                    shutil.rmtree(target)
                shutil.move(scratch_home / "index" / name / part, target)
            shutil.rmtree(scratch_home)
    return Collection.open(name, home, embedder)


# Rows.


def _document_schema() -> Any:
    import pyarrow as pa

    texts = ["key", "name", "digest", "title", "kind", "text", "added"]
    return pa.schema(
        [(column, pa.string()) for column in texts]
        + [("pages", pa.int32()), ("passages", pa.int32()), ("notes", pa.list_(pa.string()))]
    )


def _passage_schema(dimension: int) -> Any:
    import pyarrow as pa

    texts = ["id", "key", "document", "digest", "text", "search_text"]
    numbers = ["start", "end", "page"]
    return pa.schema(
        [(column, pa.string()) for column in texts]
        + [(column, pa.int32()) for column in numbers]
        + [("heading", pa.list_(pa.string())), ("vector", pa.list_(pa.float32(), dimension))]
    )


def _document_row(document: StoredDocument) -> dict[str, Any]:
    return {**asdict(document), "key": _key(document.name), "notes": list(document.notes)}


def _document(row: dict[str, Any]) -> StoredDocument:
    values = {name: row[name] for name in StoredDocument.__slots__}
    return StoredDocument(**{**values, "notes": tuple(row["notes"] or ())})


def _passage_row(document: StoredDocument, passage: Passage, vector: Any) -> dict[str, Any]:
    return {
        **asdict(passage),
        "heading": list(passage.heading),
        "key": _key(document.name),
        "digest": document.digest,
        "search_text": searchable(passage),
        "vector": vector,
    }


def _passage(row: dict[str, Any]) -> Passage:
    values = {name: row[name] for name in Passage.__slots__}
    return Passage(**{**values, "heading": tuple(row["heading"] or ())})
