"""Which model answers, and with how much context.

Asking the provider is a help: when it fails or is slow, a chat goes on with what is known.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from gearshift.providers._base import BaseLLMService
from gearshift.providers._model_map import pick

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that a chat waits for a help."""
DEFAULT_CONTEXT = 4096
"""Tokens assumed where the provider does not say."""
LEAST_CONTEXT = 256
"""Tokens; a server that claims less is not believed."""
_FRESH = 15.0  # seconds for which an answer of a help is good

_remembered: dict[tuple[str, str, str], tuple[float, ChosenModel]] = {}


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """A model's name and the tokens of context to make a prompt for."""

    name: str
    context_length: int


async def choose_model(
    service: BaseLLMService, asked: str | None, insist: bool = False
) -> ChosenModel:
    """The model of `service` that answers a person who asked for `asked`.

    With `insist`, `asked` is sent to the server as it is, whatever the server lists.

    What the provider lists is not believed blindly: where it lists nothing, the model that was
    asked for, else the default one, is tried all the same, and the provider's refusal is the proof.
    """
    key = (service.name, service.url, f"{asked}|{insist}")
    when, chosen = _remembered.get(key, (0.0, None))
    if chosen is not None and time.monotonic() - when < _FRESH:
        return chosen
    name = asked or service.settings.default_model
    length: int | None = None
    try:
        async with asyncio.timeout(PATIENCE):
            if not (insist and asked):
                models = await service.list_models()
                name = pick(models, asked, service.settings.default_model) or name
            length = await service.context_length(name)
    except Exception as error:  # noqa: BLE001 (whatever a server makes up, the chat goes on)
        log.info("%s did not say what it has: %s", service.label, error or "too slow")
        return ChosenModel(name, DEFAULT_CONTEXT)
    if length is None or length < LEAST_CONTEXT:
        length = DEFAULT_CONTEXT
    chosen = ChosenModel(name, length)
    _remembered[key] = (time.monotonic(), chosen)
    return chosen
