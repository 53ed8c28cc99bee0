"""What every embedder offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gearshift.errors import IndexFault

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What vectors of one index must have in common. All vectors are of length 1."""

    name: str
    digest: str
    dimension: int


class Embedder(ABC):
    """Turns texts into vectors of length 1, so that their dot product is their likeness."""

    @property
    @abstractmethod
    def fingerprint(self) -> Fingerprint: ...

    @abstractmethod
    def _embed(self, texts: Sequence[str]) -> Vectors: ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of shape (texts, dimension), float32, each of length 1.

        Raises:
            IndexFault: the model returned something that is no vector.
            ProviderError: the provider that embeds did not answer.
        """
        if not texts:
            return np.empty((0, self.fingerprint.dimension), np.float32)
        vectors = np.asarray(self._embed(texts), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise IndexFault("the embedder did not return one vector for each text")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.all(np.isfinite(lengths)) or np.any(lengths < 1e-9):
            raise IndexFault(
                "the embedder returned a vector of zeros or of no numbers",
                hint="use another embedding model",
            )
        unit: Vectors = vectors / lengths
        return unit
