"""What providers are like at the moment, without ever waiting for one that hangs.

A look has what is no longer fresh refreshed in the background. It waits a moment for that, the very
first one a little longer, and then returns what is known.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace

from gearshift.errors import ProviderError
from gearshift.providers._base import BaseLLMService
from gearshift.providers._fallback import breaker
from gearshift.providers._loop import submit
from gearshift.schemas import ConnectionStatus, ModelInfo

log = logging.getLogger(__name__)

PATIENCE = 0.4
"""Seconds that a first look waits."""
_MOMENT = 0.1  # seconds that a later one does; a server on this machine needs a few thousandths
_FRESH = 4.0  # seconds

CHECKING = ConnectionStatus(False, "No answer yet.")


@dataclass(frozen=True, slots=True)
class Look:
    """A provider as it was last seen; `models` are those that chat."""

    status: ConnectionStatus = CHECKING
    models: tuple[ModelInfo, ...] = ()
    seen: float | None = None


class Watch:
    """Looks at services; one for a process, shared by all who use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], Look] = {}
        self._under_way: dict[tuple[str, int], Future[None]] = {}

    def look(self, services: Iterable[BaseLLMService], patience: float = PATIENCE) -> list[Look]:
        """What is known of each; takes at most `patience` seconds, all of them together."""
        keys, waiting, all_seen = [], [], True
        for service in services:
            key = (service.name, id(service))
            keys.append(key)
            with self._lock:
                seen = self._known.get(key, Look()).seen
                if seen is None or time.monotonic() - seen > _FRESH:
                    if key not in self._under_way:
                        self._under_way[key] = submit(self._refresh(key, service))
                    waiting.append(self._under_way[key])
                    all_seen = all_seen and seen is not None
        wait(waiting, timeout=min(patience, _MOMENT) if all_seen else patience)
        with self._lock:
            return [self._known.get(key, Look()) for key in keys]

    async def _refresh(self, key: tuple[str, int], service: BaseLLMService) -> None:
        look = Look(ConnectionStatus(False, "It could not be looked at; the log says why."))
        try:
            status, models = await asyncio.gather(service.check_connection(), _models(service))
            look = Look(status, models)
        except Exception:
            log.exception("looking at %s", service.label)
        finally:
            with self._lock:
                before = self._known.get(key)
                self._known[key] = replace(look, seen=time.monotonic())
                self._under_way.pop(key, None)
            if look.status.ready:
                came_back = before is not None and not before.status.ready
                breaker.looks_ready(service, came_back)


async def _models(service: BaseLLMService) -> tuple[ModelInfo, ...]:
    try:
        return tuple(model for model in await service.list_models() if not model.embeds)
    except ProviderError:
        return ()  # `check_connection` says why
