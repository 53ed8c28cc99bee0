"""Ingestion beside sentence-transformers: documents a second, on the same passages.

Three hundred text files are made of the handbook's sentences in random order. Gearshift takes them
in whole: reading in its child process, splitting, embedding, index. sentence-transformers only
embeds the same passages with all-MiniLM-L6-v2, at the better of two batch sizes; it lives in an
environment of its own, because it needs torch:

    uv venv /tmp/reference
    uv pip install --python /tmp/reference/bin/python sentence-transformers
    python benchmarks/ingestion_speed.py --reference /tmp/reference/bin/python
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import time
from pathlib import Path

from gearshift.rag import library
from gearshift.rag.citations import sentences
from gearshift.rag.embedders import MiniLM
from gearshift.rag.embedders.minilm import model_folder
from gearshift.rag.index import Collection
from gearshift.rag.ingest import ingest_all
from gearshift.rag.passages import searchable

DOCUMENTS = 300
WORDS = 170

REFERENCE = """
import json, sys, time
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
texts = json.load(sys.stdin)
model.encode(texts[:32])
best = None
for size in (8, 32):
    began = time.perf_counter()
    model.encode(texts, batch_size=size)
    seconds = time.perf_counter() - began
    best = seconds if best is None else min(best, seconds)
print(best)
"""


def documents() -> list[tuple[str, bytes]]:
    """Names and contents, the same each time."""
    found = []
    for _, data in library.handbook():
        text = data.decode()
        found += [text[s.start : s.end].replace("\n", " ") for s in sentences(text)]
    dice = random.Random(1)
    made = []
    for number in range(DOCUMENTS):
        text = ""
        while len(text.split()) < WORDS:
            text += dice.choice(found) + " "
        made.append((f"{number}.txt", text.encode()))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Ingestion beside sentence-transformers.")
    parser.add_argument("--reference", help="a Python that has sentence-transformers")
    reference = parser.parse_args().reference
    files = documents()
    with tempfile.TemporaryDirectory() as home:
        embedder = MiniLM(Path(home))
        embedder.embed(["warm"])
        texts: list[str] = []
        seconds = []
        for turn in range(3):
            collection = Collection.open(f"turn{turn}", Path(home), embedder)
            began = time.perf_counter()
            ingest_all(files, collection)
            seconds.append(time.perf_counter() - began)
            if not texts:
                snapshot = collection.snapshot()
                rows = [int(row) for row in snapshot.rows]
                texts = [searchable(p) for p in snapshot.tables.fetch(rows, snapshot.digests) if p]
            print(f"gearshift, turn {turn + 1}: {DOCUMENTS / seconds[-1]:.1f} documents a second")
    ours = DOCUMENTS / sorted(seconds)[1]
    print(f"\n{DOCUMENTS} documents, {len(texts)} passages\n")
    print("| | documents a second |\n|---|---|")
    print(f"| Gearshift: read, split, embed, index | {ours:.1f} |")
    if reference is None:
        print("| sentence-transformers: embed | not measured: give --reference |")
        return
    command = [reference, "-c", REFERENCE, str(model_folder())]
    answer = subprocess.run(
        command, input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    theirs = DOCUMENTS / float(answer.stdout.splitlines()[-1])
    print(f"| sentence-transformers: embed | {theirs:.1f} |")
    print(f"\nratio: {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
