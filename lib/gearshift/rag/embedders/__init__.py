"""Embedders: text to vectors. `minilm` works offline; `PROVIDER:MODEL` asks a provider's own."""

from __future__ import annotations

from gearshift.errors import SettingsError
from gearshift.providers import LLMServiceFactory
from gearshift.rag.embedders._base import Embedder, Fingerprint, Vectors
from gearshift.rag.embedders.minilm import MiniLM
from gearshift.rag.embedders.provider import ProviderEmbedder
from gearshift.settings import PROVIDERS, Settings

__all__ = ["Embedder", "Fingerprint", "MiniLM", "ProviderEmbedder", "Vectors", "make_embedder"]


def make_embedder(name: str, settings: Settings) -> Embedder:
    """The embedder called `minilm`, or `ollama:nomic-embed-text` and the like.

    Raises:
        SettingsError: there is no such embedder.
    """
    if name == MiniLM.name:
        return MiniLM(settings.home_dir)
    provider, _, model = name.partition(":")
    if provider not in PROVIDERS or not model:
        raise SettingsError(
            f"there is no embedder {name!r}",
            hint="take minilm, or a provider's model such as ollama:nomic-embed-text",
        )
    return ProviderEmbedder(LLMServiceFactory.get_service(provider), model)
