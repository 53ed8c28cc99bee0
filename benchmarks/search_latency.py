"""How long a search takes, on its index side, among many passages: ours beside LanceDB's own.

Texts are drawn from a vocabulary whose words are as frequent as Zipf has it, vectors are random
around a thousand centres; queries are eight words and a vector near one of the passages. The
embedding of the query is not part of it. Ours compares vectors exactly, so its recall is 1; that of
LanceDB's approximate index is counted against the exact hundred.

    python benchmarks/search_latency.py                  20,000 and 100,000 passages
    python benchmarks/search_latency.py 5000             as many as you say
"""

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gearshift.rag.embedders import Embedder, Fingerprint
from gearshift.rag.index import Collection
from gearshift.rag.retrieval import CANDIDATES, hybrid
from gearshift.schemas import Passage, StoredDocument

DIMENSION, VOCABULARY, WORDS, QUERIES = 384, 20_000, 100, 100
BATCH = 10_000


class NoEmbedder(Embedder):
    """The vectors are given: nothing is ever embedded."""

    fingerprint = Fingerprint("generated", "0", DIMENSION)

    def _embed(self, texts):
        raise NotImplementedError


def units(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def generate(count: int, random: np.random.Generator):
    """Texts, vectors, and queries as pairs of text and vector."""
    shares = 1 / np.arange(1, VOCABULARY + 1)
    shares /= shares.sum()
    vocabulary = np.array([f"w{i:05d}x" for i in range(VOCABULARY)])

    def texts(number: int, length: int) -> list[str]:
        drawn = random.choice(VOCABULARY, size=(number, length), p=shares)
        return [" ".join(vocabulary[row]) for row in drawn]

    centres = random.standard_normal((1000, DIMENSION))
    vectors = units(
        centres[random.integers(0, 1000, count)] + random.standard_normal((count, DIMENSION))
    )
    near = vectors[random.integers(0, count, QUERIES)]
    asked = units(near + 0.02 * random.standard_normal((QUERIES, DIMENSION)))
    return texts(count, WORDS), vectors, list(zip(texts(QUERIES, 8), asked, strict=True))


def fill(collection: Collection, texts: list[str], vectors: np.ndarray) -> None:
    for first in range(0, len(texts), BATCH):
        part = texts[first : first + BATCH]
        name = f"document {first}"
        passages = [
            Passage(f"{first:016x}-{i}", name, text, 0, len(text)) for i, text in enumerate(part)
        ]
        document = StoredDocument(
            name, str(first), None, "txt", "", None, len(part), "2026-01-01T00:00:00+00:00"
        )
        collection.add([(document, passages, vectors[first : first + BATCH])])
    collection.flush()


def measure(name: str, search: Callable[[str, np.ndarray], object], queries) -> None:
    for text, vector in queries[:5]:
        search(text, vector)
    taken = []
    for text, vector in queries:
        started = time.perf_counter()
        search(text, vector)
        taken.append(1000 * (time.perf_counter() - started))
    p95 = statistics.quantiles(taken, n=20)[-1]
    print(f"  {name:44} {statistics.median(taken):8.1f} {p95:8.1f}", flush=True)


def compare(count: int) -> None:
    texts, vectors, queries = generate(count, np.random.default_rng(1))
    with tempfile.TemporaryDirectory() as home:
        collection = Collection.open("measured", Path(home), NoEmbedder())
        started = time.perf_counter()
        fill(collection, texts, vectors)
        print(f"{count} passages, written and indexed in {time.perf_counter() - started:.1f} s")
        started = time.perf_counter()
        collection.snapshot()
        print(f"  vectors read in {1000 * (time.perf_counter() - started):.0f} ms (once a change)")
        print(f"  {'':44} {'median':>8} {'p95':>8}  ms")
        measure("Gearshift, hybrid", lambda q, v: hybrid(collection.snapshot, q, v, 10), queries)
        tables = collection.snapshot().tables
        measure("  its words alone", lambda q, v: tables.lexical(q, CANDIDATES), queries)
        table = tables._passages

        def theirs(text: str, vector: np.ndarray) -> object:
            search = table.search(query_type="hybrid", fts_columns="search_text")
            return search.vector(vector).text(text).limit(10).to_arrow()

        def nearest(vector: np.ndarray) -> set[str]:
            found = (
                table.search(vector)
                .distance_type("cosine")
                .select(["id", "_distance"])
                .limit(CANDIDATES)
            )
            return set(found.to_arrow()["id"].to_pylist())

        measure("LanceDB, hybrid, no vector index", theirs, queries[:40])
        exact = [nearest(vector) for _, vector in queries]
        started = time.perf_counter()
        table.create_index(metric="cosine", index_type="IVF_HNSW_SQ", vector_column_name="vector")
        seconds = time.perf_counter() - started
        measure(f"LanceDB, hybrid, IVF_HNSW_SQ made in {seconds:.0f} s", theirs, queries)
        recalls = [
            len(nearest(vector) & best) / CANDIDATES
            for (_, vector), best in zip(queries, exact, strict=True)
        ]
        place = table.search().select(["id"]).with_row_id(True).limit(None).to_arrow()
        ids = dict(zip(place["_rowid"].to_pylist(), place["id"].to_pylist(), strict=True))
        snapshot = collection.snapshot()
        ours = [
            len(
                {
                    ids[int(snapshot.rows[i])]
                    for i in np.argsort(-(snapshot.vectors @ vector))[:CANDIDATES]
                }
                & best
            )
            / CANDIDATES
            for (_, vector), best in zip(queries, exact, strict=True)
        ]
        print(
            f"  recall@{CANDIDATES}: ours {np.mean(ours):.3f}, IVF_HNSW_SQ {np.mean(recalls):.3f}"
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"  {peak:.0f} MB at most, generated data included")


def main() -> None:
    for count in [int(argument) for argument in sys.argv[1:]] or [20_000, 100_000]:
        compare(count)


if __name__ == "__main__":
    main()
