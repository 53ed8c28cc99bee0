"""The two LanceDB tables that a collection is kept in: `documents` and `passages`.

A document is visible when it stands in `documents`; a passage when its document stands there with
the same content. So a replaced document's passages are written before it and cleared away behind
it, and whoever reads in between, or after a crash, sees the old one whole or the new one whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gearshift.rag import _lancedb
from gearshift.rag.embedders._base import Vectors
from gearshift.rag.passages import searchable
from gearshift.schemas import Passage, StoredDocument

_KEEP = timedelta(minutes=10)  # old versions stay that long for readers that are under way
_FULL_TEXT = "search_text_idx"


Entry = tuple[StoredDocument, Sequence[Passage], Vectors]
"""A document, its passages, and their vectors."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a search needs at hand, of one version of the tables."""

    tables: Tables
    version: tuple[int, int]
    digests: dict[str, str]
    """Content digest by document key."""
    rows: Any
    """Row ids of the visible passages, int64, in the order of `vectors`."""
    vectors: Vectors


class Tables:
    """One generation of a collection's tables, in a folder of its own.

    What it does not know: errors other than LanceDB's own, locks, and where the folder came from;
    `Store` does.
    """

    def __init__(self, folder: Path, dimension: int) -> None:
        self._folder = folder
        self._dimension = dimension

    @classmethod
    def create(cls, folder: Path, dimension: int) -> Tables:
        """Makes empty tables."""
        made = cls(folder, dimension)
        made._database.create_table("documents", schema=_document_schema())
        made._database.create_table("passages", schema=_passage_schema(dimension))
        return made

    # Each is opened when it is needed: documents can be read though the passages are damaged.

    @cached_property
    def _database(self) -> Any:
        return _lancedb.load().connect(self._folder, read_consistency_interval=timedelta(0))

    @cached_property
    def _documents(self) -> Any:
        return self._database.open_table("documents")

    @cached_property
    def _passages(self) -> Any:
        return self._database.open_table("passages")

    # Writing, by one at a time.

    def put(self, entries: Sequence[Entry]) -> None:
        """Takes documents in, each replacing the one of the same name; visible all at once."""
        import pyarrow as pa

        passages = [
            _passage_row(document, passage, vector)
            for document, found, vectors in entries
            for passage, vector in zip(found, vectors, strict=True)
        ]
        documents = [_document_row(document) for document, _, _ in entries]
        digests = {row["key"]: row["digest"] for row in documents}
        replaced = [
            f"(key = '{key}' AND digest != '{digests[key]}')"
            for key in self.keys()
            if key in digests
        ]
        _upsert(
            self._passages,
            "id",
            pa.Table.from_pylist(passages, schema=_passage_schema(self._dimension)),
        )
        _upsert(self._documents, "key", pa.Table.from_pylist(documents, schema=_document_schema()))
        if replaced:
            self._passages.delete(" OR ".join(replaced))

    def delete(self, name: str) -> bool:
        """Removes a document; `False` when there was none of that name."""
        key = _key(name)
        if key not in self.keys():
            return False
        self._documents.delete(f"key = '{key}'")
        self._passages.delete(f"key = '{key}'")
        return True

    @property
    def in_order(self) -> bool:
        """Whether every passage is in the full-text index."""
        if not self._passages.count_rows():
            return True
        if _FULL_TEXT not in [index.name for index in self._passages.list_indices()]:
            return False
        stats = self._passages.index_stats(_FULL_TEXT)
        return stats is not None and not stats.num_unindexed_rows

    def put_in_order(self) -> None:
        """Clears away what a crash left, and folds what is new into the full-text index."""
        from lancedb.index import FTS

        digests = self._digests()
        found = self._passages.search().select(["key", "digest"]).limit(None).to_list()
        orphans = {
            (row["key"], row["digest"]) for row in found if digests.get(row["key"]) != row["digest"]
        }
        if orphans:
            self._passages.delete(
                " OR ".join(f"(key = '{key}' AND digest = '{digest}')" for key, digest in orphans)
            )
        if not self._passages.count_rows():
            return
        if _FULL_TEXT not in [index.name for index in self._passages.list_indices()]:
            self._passages.create_index("search_text", config=FTS())
        self._passages.optimize(cleanup_older_than=_KEEP)
        self._documents.optimize(cleanup_older_than=_KEEP)

    # Reading.

    def documents(self) -> list[StoredDocument]:
        """All documents by name, without their text."""
        columns = [c for c in _document_schema().names if c not in ("key", "text")]
        rows = self._documents.search().select(columns).limit(None).to_list()
        found = [_document({**row, "text": ""}) for row in rows]
        return sorted(found, key=lambda document: document.name)

    def document(self, name: str) -> StoredDocument | None:
        """One document with its text."""
        rows = self._documents.search().where(f"key = '{_key(name)}'").limit(1).to_list()
        return _document(rows[0]) if rows else None

    def count(self) -> int:
        """How many documents there are."""
        return int(self._documents.count_rows())

    def passage_count(self) -> int:
        """How many visible passages there are."""
        digests = self._digests()
        rows = self._passages.search().select(["key", "digest"]).limit(None).to_list()
        return sum(digests.get(row["key"]) == row["digest"] for row in rows)

    def keys(self) -> set[str]:
        """The keys of the documents."""
        return set(self._digests())

    def digests(self) -> dict[str, str]:
        """The content digest of each document, by name."""
        rows = self._documents.search().select(["name", "digest"]).limit(None).to_list()
        return {row["name"]: row["digest"] for row in rows}

    def _digests(self) -> dict[str, str]:
        rows = self._documents.search().select(["key", "digest"]).limit(None).to_list()
        return {row["key"]: row["digest"] for row in rows}

    @property
    def version(self) -> tuple[int, int]:
        """Changes whenever either table does."""
        return self._documents.version, self._passages.version

    def snapshot(self) -> Snapshot:
        """The visible passages' vectors, all of one version of both tables if writers let it be."""
        for _ in range(5):
            version = self.version
            found = self._snapshot(version)
            if self.version == version:
                break
        return found

    def _snapshot(self, version: tuple[int, int]) -> Snapshot:
        digests = self._digests()
        table = (
            self._passages.search()
            .select(["key", "digest", "vector"])
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
        return Snapshot(self, version, digests, table["_rowid"].to_numpy()[visible], vectors)

    def lexical(self, query: str, limit: int) -> list[tuple[int, float]]:
        """Row ids and BM25 scores of the passages that share words with the query."""
        if not self._passages.list_indices():
            return []
        # Within quotes it would be taken for a phrase, which needs another kind of index.
        words = query.replace('"', " ")
        rows = (
            self._passages.search(words, query_type="fts", fts_columns="search_text")
            .select(["_score"])
            .with_row_id(True)
            .limit(limit)
            .to_arrow()
        )
        return list(zip(rows["_rowid"].to_pylist(), rows["_score"].to_pylist(), strict=True))

    def fetch(self, rows: Sequence[int], digests: dict[str, str]) -> list[Passage | None]:
        """The passages in these rows, `None` for one that is gone meanwhile."""
        found = self._passages.take_row_ids(list(rows)).with_row_id().to_list()
        current = [row for row in found if digests.get(row["key"]) == row["digest"]]
        visible = {row["_rowid"]: _passage(row) for row in current}
        return [visible.get(row) for row in rows]


# Rows.


def _key(name: str) -> str:
    """A document's key: no name ever becomes part of a filter."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _upsert(table: Any, column: str, rows: Any) -> None:
    (
        table.merge_insert(column)
        .when_matched_update_all()
        .when_not_matched_insert_all()
        .execute(rows)
    )


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
