"""How a model of Ollama's is served by vLLM: under its name too, with its prompts and defaults."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gearshift.engine.export import serve_command
from gearshift.engine.launch import make_launch
from gearshift.engine.records import Record
from gearshift.engine.start import Wish, carry_out
from gearshift.errors import EngineError, Unreachable
from gearshift.migrate.inventory import Item
from gearshift.migrate.mapping import Fate, request_defaults
from gearshift.providers import run
from gearshift.providers.vllm import VLLMService
from gearshift.settings import Settings, port_of

_BY_SERVER = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "max_tokens": "max_new_tokens",
}
"""Fields of a request that a `generation_config.json` can set, and what they are called there."""


@dataclass(frozen=True)
class Serving:
    """What vLLM is started with.

    Attributes:
        source: A Hub id, or the folder of a checkpoint.
        names: What clients may call it besides.
        choices: Values of `Launch` by their names.
    """

    source: str
    names: tuple[str, ...]
    choices: dict[str, Any]

    def command(self, settings: Settings) -> list[str]:
        """The `gearshift serve …` for it."""
        launch = make_launch(
            model=self.source,
            served_names=(self.source.rstrip("/").rpartition("/")[2], *self.names),
            port=port_of(settings.vllm_base_url),
            **self.choices,
        )
        return serve_command(launch)


def serving(
    source: str, item: Item, found: Iterable[Fate], template: Path | None = None
) -> Serving:
    """How `item` is served from `source`, which is a folder or a Hub id.

    Args:
        found: What becomes of its parameters.
        template: A file with its chat template, where the checkpoint does not have it.
    """
    found = list(found)
    fields = request_defaults(found)
    defaults = {_BY_SERVER[name]: value for name, value in fields.items() if name in _BY_SERVER}
    length = next((f.gives for f in found if f.becomes == "--max-model-len"), None)
    choices = {
        "max_model_len": length,
        "chat_template": str(template) if template is not None else None,
        "generation_config": defaults,
    }
    names: tuple[str, ...] = ()
    if not item.from_file:  # Ollama answers to both
        names = tuple(dict.fromkeys([item.name, item.name.removesuffix(":latest")]))
    return Serving(source, names, {k: v for k, v in choices.items() if v is not None})


def checkpoint_folder(name: str, settings: Settings) -> Path:
    """Where the converted weights of a model are, or would be."""
    return settings.home_dir / "checkpoints" / plain_name(name)


def plain_name(name: str) -> str:
    """A model's name as the name of a file."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def ensure_served(
    name: str, wanted: Serving, settings: Settings, on_change: Callable[[Record], None]
) -> None:
    """Sees to it that the vLLM at `VLLM_BASE_URL` answers to `name`; starts it if nothing is there.

    Raises:
        EngineError: another model is served there, or it cannot be started (its own kinds).
        ProviderError: something is there that does not answer.
    """
    command = shlex.join(wanted.command(settings))
    try:
        there = run(VLLMService(settings).list_models())
    except Unreachable:
        wish = Wish(wanted.source, names=wanted.names, choices=wanted.choices)
        carry_out(wish, settings, on_change)
        return
    if name not in [model.name for model in there]:
        names = ", ".join(model.name for model in there) or "no model"
        raise EngineError(
            "model",
            f"the vLLM at {settings.vllm_base_url} serves {names}, and does not answer to {name}",
            f"stop it and start: {command}",
        )
