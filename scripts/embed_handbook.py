"""Writes `data/handbook.npz`, the vectors of the handbook's passages: `make data`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from gearshift.rag import library
from gearshift.rag.embedders import MiniLM, Vectors, remembered
from gearshift.rag.index import Collection
from gearshift.rag.ingest import ingest_all

with tempfile.TemporaryDirectory() as home:
    embedder = MiniLM(Path(home))
    texts: list[str] = []

    def embed(batch: Sequence[str]) -> Vectors:
        texts.extend(batch)
        return embedder.embed(batch)

    sample = Collection.open(library.SAMPLE, Path(home), embedder)
    ingest_all(library.handbook(), sample, embed=embed)
    remembered.write(library.VECTORS, texts, embedder)
print(f"{library.VECTORS}: {len(texts)} passages")
