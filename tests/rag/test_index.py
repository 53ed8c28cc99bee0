"""A collection is the old one or the new one, whoever crashes, rebuilds or reads meanwhile."""

import threading

import filelock
import pytest

from gearshift.errors import IndexFault, IndexMismatch
from gearshift.rag import index, library, tables
from gearshift.rag.index import Collection, rebuild
from gearshift.rag.ingest import Status, ingest_bytes
from gearshift.rag.passages import split
from hashing import Hashing


@pytest.fixture
def collection(home):
    return Collection.open("test", home, Hashing())


def found(collection, query="text"):
    return sorted(hit.passage.text for hit in collection.search(query, 10))


class Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("survives", range(4))
def test_a_crash_while_a_document_is_replaced_leaves_the_old_or_the_new(
    collection, home, monkeypatch, survives
):
    ingest_bytes("a.txt", b"old text", collection)
    writes = 0

    def dying(table, *arguments):
        nonlocal writes
        if writes == survives:
            raise Crash
        writes += 1
        return real(table, *arguments)

    real = tables._upsert
    with monkeypatch.context() as patch:
        patch.setattr(tables, "_upsert", dying)
        if survives == 2:
            patch.setattr(type(collection._tables()._passages), "delete", dying)
        try:
            ingest_bytes("a.txt", b"new text", collection)
        except Crash:
            assert survives < 3
    other = Collection.open("test", home, Hashing())
    assert found(other) == (["old text"] if survives < 2 else ["new text"])
    assert ingest_bytes("a.txt", b"new text", other).status in (Status.INDEXED, Status.UNCHANGED)
    assert found(other) == ["new text"]
    ingest_bytes("b.txt", b"other text", other)
    assert other._tables()._passages.count_rows() == 2, "what the crash left is cleared away"


def test_a_failed_write_changes_nothing_and_says_why(collection, monkeypatch):
    ingest_bytes("a.txt", b"old text", collection)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "_upsert", full)
        outcome = ingest_bytes("a.txt", b"new text", collection)
    assert outcome.status is Status.FAILED
    assert "No space left" in outcome.reason
    assert found(collection) == ["old text"]


@pytest.mark.parametrize("where", ["first", "swap"])
def test_a_rebuild_that_dies_leaves_the_old_one_and_can_be_repeated(
    collection, home, monkeypatch, where
):
    ingest_bytes("a.txt", b"some text", collection)

    def dies(*arguments):
        raise Crash

    with monkeypatch.context() as patch:
        if where == "swap":
            patch.setattr(index, "_write_made", dies)
        with pytest.raises(Crash):
            rebuild("test", home, Hashing("new"), dies if where == "first" else split)
    assert found(collection) == ["some text"]
    assert found(rebuild("test", home, Hashing("new"), split)) == ["some text"]
    rebuild("test", home, Hashing("third"), split)
    folders = [path for path in (home / "index" / "test").iterdir() if path.is_dir()]
    assert len(folders) == 2, "the one in force and the one that readers may still be in"


def test_after_a_rebuild_nobody_goes_on_with_the_old_embedder(collection, home):
    ingest_bytes("a.txt", b"some text", collection)
    collection.search("text", 1)
    rebuild("test", home, Hashing("new"), split)
    with pytest.raises(IndexMismatch, match="cannot be compared"):
        collection.search("text", 1)
    with pytest.raises(IndexMismatch, match="cannot be compared"):
        ingest_bytes("b.txt", b"more text", collection)
    assert [document.name for document in index.Store("test", home).documents()] == ["a.txt"]


def test_a_document_that_comes_during_a_rebuild_is_in_the_new_one(collection, home):
    ingest_bytes("a.txt", b"some text", collection)
    late = threading.Thread(target=ingest_bytes, args=("b.txt", b"late text", collection))

    def progress(done, total, name):
        if done == 0:
            late.start()

    rebuilt = rebuild("test", home, Hashing(), split, progress)
    late.join()
    assert found(rebuilt) == ["late text", "some text"]


def test_damaged_passages_are_made_anew_from_the_texts(collection, home):
    ingest_bytes("a.txt", b"some text", collection)
    for file in (home / "index" / "test").rglob("passages.lance/**/*"):
        if file.is_file():
            file.write_bytes(b"rubbish")
    with pytest.raises(IndexFault, match="could not be") as fault:
        Collection.open("test", home, Hashing()).search("text", 1)
    assert ".rs" not in fault.value.message
    assert "gearshift rebuild --collection test" in fault.value.hint
    assert found(rebuild("test", home, Hashing(), split)) == ["some text"]


def test_readers_do_not_wait_for_writers(collection, home, monkeypatch):
    ingest_bytes("a.txt", b"some text", collection)
    monkeypatch.setattr(collection._writing, "timeout", 0.2)
    with filelock.FileLock(home / "index" / "test" / "writer.lock"):
        outcomes = []
        writer = threading.Thread(
            target=lambda: outcomes.append(ingest_bytes("b.txt", b"more text", collection))
        )
        writer.start()
        assert found(collection) == ["some text"]
        assert writer.is_alive()
        writer.join()
    assert outcomes[0].status is Status.FAILED
    assert "somebody else has been writing" in outcomes[0].reason


def test_a_collection_whose_folder_was_removed_begins_anew(embedding_home):
    ingest_bytes("a.txt", b"some text", library.collection("mine"))
    folder = embedding_home / "index" / "mine"
    folder.rename(embedding_home / "gone")
    mine = library.collection("mine")
    assert mine.documents() == []
    ingest_bytes("b.txt", b"more text", mine)
    assert found(mine) == ["more text"]


def test_a_handbook_of_an_older_splitter_is_indexed_anew(embedding_home, monkeypatch):
    monkeypatch.setattr(index, "SPLITTER_VERSION", "0")
    library.sample()
    monkeypatch.undo()
    monkeypatch.setenv("GEARSHIFT_HOME", str(embedding_home))
    assert library.sample().search("What is vLLM?", 1)


def test_documents_are_read_and_deleted_without_the_embedder(collection, home):
    ingest_bytes("a.txt", b"some text", collection)
    stored = index.Store("test", home)
    assert stored.document("a.txt").text == "some text"
    assert stored.delete("a.txt")
    assert stored.documents() == []
