"""An embedder that needs no model, for tests that are not about meaning."""

import numpy as np

from gearshift.rag.embedders import Embedder, Fingerprint


class Hashing(Embedder):
    """Vectors of eight numbers from a text's words: no model to load."""

    def __init__(self, name="hashing"):
        self._name = name

    @property
    def fingerprint(self):
        return Fingerprint(self._name, "1", 8)

    def _embed(self, texts):
        vectors = np.full((len(texts), 8), 0.1, np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in text.lower().split():
                vector[sum(map(ord, word)) % 8] += 1
        return vectors
