"""A provider's own embedding model as an embedder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from gearshift.providers import BaseLLMService, run
from gearshift.rag.embedders._base import Embedder, Fingerprint, Vectors

_BATCH = 32  # texts a request


class ProviderEmbedder(Embedder):
    """Embeds with `model` of a provider. Its dimension is asked for once, with a short text."""

    def __init__(self, service: BaseLLMService, model: str) -> None:
        self._service = service
        self._model = model

    @cached_property
    def fingerprint(self) -> Fingerprint:
        # No server says which weights it has, so what they make of a sentence stands for them.
        sample = self._embed(["Gearshift shifts between gears."])[0]
        digest = hashlib.sha256(np.round(sample, 2).tobytes()).hexdigest()[:16]
        return Fingerprint(f"{self._service.name}:{self._model}", digest, len(sample))

    def _embed(self, texts: Sequence[str]) -> Vectors:
        rows: list[list[float]] = []
        for first in range(0, len(texts), _BATCH):
            rows += run(self._service.embed(texts[first : first + _BATCH], self._model))
        return np.asarray(rows, np.float32)
