"""Vectors that were computed before and come with a file, so that nobody waits for them again.

The handbook's come with the repository (`make data` writes them): the first question a newcomer
asks need not wait for 144 passages to be embedded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gearshift.rag.embedders._base import Embedder, Vectors


def write(path: Path, texts: Sequence[str], embedder: Embedder) -> None:
    """Embeds the texts and keeps their vectors, in half precision, under the texts' hashes."""
    np.savez(
        path,
        digest=np.array(embedder.fingerprint.digest),
        keys=np.array([_key(text) for text in texts]),
        vectors=embedder.embed(texts).astype(np.float16),
    )


def remembering(path: Path, embedder: Embedder) -> Callable[[Sequence[str]], Vectors]:
    """`embedder.embed`, except for texts whose vectors are in the file.

    A file of another embedder's, or none, is as good as an empty one.
    """
    known: dict[str, Vectors] = {}
    if path.is_file():
        with np.load(path) as kept:
            if str(kept["digest"]) == embedder.fingerprint.digest:
                known = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))

    def embed(texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), embedder.fingerprint.dimension), np.float32)
        new = []
        for i, text in enumerate(texts):
            vector = known.get(_key(text))
            if vector is None:
                new.append(i)
            else:
                vectors[i] = vector
        vectors[new] = embedder.embed([texts[i] for i in new])
        return vectors

    return embed


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
