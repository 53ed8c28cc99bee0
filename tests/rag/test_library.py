"""The handbook: indexed when it is first needed, with vectors that are the embedder's own."""

import json
import threading

import numpy as np

from gearshift.data import DATA
from gearshift.rag import library
from gearshift.rag.embedders import MiniLM, remembered
from gearshift.rag.extract import REFUSAL, candidates
from gearshift.rag.passages import searchable
from gearshift.schemas import Source


def test_the_vectors_that_come_with_the_handbook_are_fresh(embedding_home):
    sample = library.sample()
    snapshot = sample.snapshot()
    passages = snapshot.tables.fetch([int(row) for row in snapshot.rows], snapshot.digests)
    texts = [searchable(passage) for passage in passages]
    with np.load(library.VECTORS) as kept:
        assert set(kept["keys"]) == {remembered._key(text) for text in texts}, "run: make data"
    fresh = MiniLM(embedding_home).embed(texts[:8])
    assert np.allclose(fresh, snapshot.vectors[:8], atol=2e-3), "run: make data"


def test_texts_that_are_not_in_the_file_are_embedded(embedding_home, tmp_path):
    embedder = MiniLM(embedding_home)
    remembered.write(tmp_path / "some.npz", ["one"], embedder)
    embed = remembered.remembering(tmp_path / "some.npz", embedder)
    assert np.allclose(embed(["one", "two"]), embedder.embed(["one", "two"]), atol=2e-3)
    nothing = remembered.remembering(tmp_path / "none.npz", embedder)
    assert np.array_equal(nothing(["two"]), embedder.embed(["two"]))


def test_many_at_once_index_it_once_and_nobody_waits_for_another_collection(embedding_home):
    found = []
    threads = [threading.Thread(target=lambda: found.append(library.sample())) for _ in range(4)]
    for thread in threads:
        thread.start()
    library.collection("mine")
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    names = [document.name for document in found[0].documents()]
    assert names == sorted(name for name, _ in library.handbook())


def test_the_handbook_answers_its_own_questions(embedding_home):
    sample = library.sample()
    rows = [json.loads(line) for line in (DATA / "questions.jsonl").read_text().splitlines()]
    right = [
        row["document"] in {hit.passage.document for hit in sample.search(row["question"], 5)}
        for row in rows
    ]
    assert sum(right) / len(right) > 0.9


def test_sentences_to_choose_from_are_the_sources_own_or_a_refusal(embedding_home):
    sample = library.sample()
    question = "What does tensor parallelism need?"
    hits = sample.search(question, 2)
    sources = [Source(i, hit.passage, hit.score) for i, hit in enumerate(hits, 1)]
    found = candidates([question], sources, sample.embedder)
    texts = [" ".join(hit.passage.text.split()) for hit in hits]
    assert 1 <= len(found) <= 4
    assert all(any(sentence in text for text in texts) for sentence in found)
    assert candidates(["Who won the world cup in 1998?"], sources, sample.embedder) == [REFUSAL]
