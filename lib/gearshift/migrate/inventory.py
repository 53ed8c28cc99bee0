"""What there is to move: the models of a running Ollama, or Modelfiles on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gearshift.errors import EngineError, ProviderError
from gearshift.migrate.modelfile import Modelfile, parse, read_modelfile
from gearshift.providers import run, same_model
from gearshift.providers.ollama import OllamaService
from gearshift.schemas import ModelInfo
from gearshift.settings import Settings

_KEYS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "context_length": "max_position_embeddings",
    "expert_count": "num_experts",
    "vocab_size": "vocab_size",
}
"""What `/api/show` calls a model's numbers, and what a `config.json` calls them."""


@dataclass(frozen=True)
class Item:
    """A model of Ollama's.

    Attributes:
        name: As Ollama lists it; of a file the path as it was given.
        modelfile: What it is made of.
        shape: The numbers that `/api/show` tells, by the names of a `config.json`.
        quantization: As Ollama writes it, such as `Q4_K_M`.
        loaded: Whether it is in memory now; `None` if nobody said.
        default: Whether it is the one that chats go to.
        embeds: It makes vectors, and no text.
        no_begin_token: Ollama puts no token of its own in front of prompts; `None` if nobody said.
        problem: Why Ollama did not tell more about it.
    """

    name: str
    modelfile: Modelfile
    from_file: bool = False
    shape: Mapping[str, int] | None = None
    architecture: str | None = None
    parameter_count: int | None = None
    quantization: str | None = None
    size_bytes: int | None = None
    loaded: bool | None = None
    default: bool = False
    embeds: bool = False
    no_begin_token: bool | None = None
    problem: str | None = None

    @property
    def base(self) -> str | None:
        """What the last FROM names; it is the one that counts."""
        return self.modelfile.last("from")

    @property
    def context(self) -> int | None:
        """The longest context of the model itself, in tokens."""
        return (self.shape or {}).get("max_position_embeddings")


def of_files(paths: Iterable[Path]) -> list[Item]:
    """One item for each Modelfile, also for those that Ollama would reject.

    Raises:
        EngineError: one of them cannot be read at all.
    """
    return [Item(str(path), read_modelfile(path), from_file=True) for path in paths]


def of_ollama(settings: Settings) -> list[Item]:
    """Every model of the Ollama that runs; nothing there is changed.

    Raises:
        ProviderError: it does not answer.
    """
    service = OllamaService(settings)
    models = run(service.list_models())
    loaded: set[str] | None = None
    try:
        loaded = {model.name for model in run(service.loaded())}
    except ProviderError:  # of old versions; the rest is told all the same
        loaded = None
    return [_item(service, model, loaded, settings) for model in models]


def _item(
    service: OllamaService, model: ModelInfo, loaded: set[str] | None, settings: Settings
) -> Item:
    item = Item(
        model.name,
        Modelfile(()),
        quantization=model.quantization,
        size_bytes=model.size_bytes,
        loaded=None if loaded is None else model.name in loaded,
        default=same_model(model.name, settings.default_model),
        embeds=model.embeds,
    )
    try:
        told = run(service.show(model.name))
    except ProviderError as wrong:
        return replace(item, problem=wrong.message)
    text = told.get("modelfile")
    facts = told.get("model_info")
    facts = facts if isinstance(facts, dict) else {}
    architecture = facts.get("general.architecture")
    return replace(
        item,
        modelfile=parse(text.encode()) if isinstance(text, str) else Modelfile((), "not told"),
        shape=_shape(facts, str(architecture)),
        no_begin_token=facts.get("tokenizer.ggml.add_bos_token") is False or None,
        architecture=architecture if isinstance(architecture, str) else None,
        parameter_count=_count(facts.get("general.parameter_count")),
    )


def _shape(facts: Mapping[str, Any], architecture: str) -> dict[str, int] | None:
    """Numbers alone: where a model has one for each layer, the largest."""
    found = {}
    for theirs, ours in _KEYS.items():
        value = facts.get(f"{architecture}.{theirs}")
        if isinstance(value, list) and value and all(_count(one) is not None for one in value):
            value = max(value)
        if (number := _count(value)) is not None:
            found[ours] = number
    return found or None


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def gguf_of(item: Item) -> Path:
    """The file of a model in Ollama's store.

    Raises:
        EngineError: it is not on this machine, or cannot be read (kind `weights`).
    """
    files = [path for base in item.modelfile.all("from") if (path := Path(base)).is_absolute()]
    if not files:
        raise EngineError(
            "weights",
            f"Ollama does not tell where the weights of {item.name} are",
            "give the file: gearshift migrate convert --gguf FILE",
        )
    path = files[0]  # a second one is the projector of a vision model
    if not os.access(path, os.R_OK):
        there = "you may not read it" if path.exists() else "it is not on this machine"
        raise EngineError(
            "weights",
            f"{path} holds the weights of {item.name}, and {there}",
            "run it where Ollama runs, as somebody who may read its models, or give --gguf FILE",
        )
    return path
