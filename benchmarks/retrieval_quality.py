"""Retrieval quality on a collection in Cranfield's format, each method in the same run.

    python benchmarks/retrieval_quality.py FOLDER    # cran.all.1400, cran.qry, cranqrel

Prints nDCG@10 and recall@10 over all queries (a judged pair with a grade above 0 is relevant) for
Gearshift's hybrid search, its two halves, and reciprocal rank fusion of the halves. Nothing is
tuned to the queries: the weights of the combination are equal.
"""

import re
import sys
import tempfile
import time
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import R, nDCG

from gearshift.rag.embedders import MiniLM
from gearshift.rag.index import Collection
from gearshift.rag.ingest import ingest_all
from gearshift.rag.retrieval import CANDIDATES


def fields(record: str) -> dict[str, str]:
    parts = re.split(r"^\.([TABWXN])\s*$", record, flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def read(folder: Path):
    """Documents by id, queries by number, and the judged pairs."""
    records = re.split(
        r"^\.I (\d+)\s*$", (folder / "cran.all.1400").read_text(), flags=re.MULTILINE
    )
    documents = {
        number: f"{fields(text).get('T', '')}\n{fields(text).get('W', '')}"
        for number, text in zip(records[1::2], records[2::2], strict=True)
    }
    queries = re.split(r"^\.I \d+\s*$", (folder / "cran.qry").read_text(), flags=re.MULTILINE)[1:]
    topics = {str(i): " ".join(fields(q)["W"].split()) for i, q in enumerate(queries, 1)}
    judged = []
    for line in (folder / "cranqrel").read_text().splitlines():
        query, document, grade = line.split()[:3]
        judged.append(ir_measures.Qrel(query, document, int(int(grade) > 0)))
    return documents, topics, judged


def ranked(passages, limit=100):
    """Documents in the order of their best passages."""
    return list(dict.fromkeys(passage.document for passage in passages if passage))[:limit]


def main() -> None:
    documents, topics, judged = read(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as home:
        embedder = MiniLM(Path(home))
        embedder.embed(["warm"])
        collection = Collection.open("measured", Path(home), embedder)
        started = time.perf_counter()
        ingest_all([(number, text.encode()) for number, text in documents.items()], collection)
        rate = len(documents) / (time.perf_counter() - started)
        print(f"{len(documents)} documents taken in, {rate:.1f} a second")
        runs: dict[str, list] = {"words": [], "meaning": [], "hybrid": [], "rrf": []}
        for topic, query in topics.items():
            snapshot = collection.snapshot()
            vector = embedder.embed([query])[0]
            lexical = [row for row, _ in snapshot.tables.lexical(query, CANDIDATES)]
            order = np.argsort(-(snapshot.vectors @ vector), kind="stable")[:CANDIDATES]
            dense = [int(snapshot.rows[i]) for i in order]
            fused: dict[int, float] = {}
            for rows in (lexical, dense):
                for rank, row in enumerate(rows, 1):
                    fused[row] = fused.get(row, 0.0) + 1 / (60 + rank)
            orders = {
                "words": lexical,
                "meaning": dense,
                "rrf": sorted(fused, key=lambda r: -fused[r]),
            }
            found = {
                name: snapshot.tables.fetch(rows, snapshot.digests) for name, rows in orders.items()
            }
            found["hybrid"] = [hit.passage for hit in collection.search(query, CANDIDATES)]
            for name, passages in found.items():
                for rank, document in enumerate(ranked(passages)):
                    runs[name].append(ir_measures.ScoredDoc(topic, document, 1.0 / (1 + rank)))
        print(f"{'':10} nDCG@10  recall@10")
        for name, run in runs.items():
            got = ir_measures.calc_aggregate([nDCG @ 10, R @ 10], judged, run)
            print(f"{name:10} {got[nDCG @ 10]:.4f}   {got[R @ 10]:.4f}")


if __name__ == "__main__":
    main()
