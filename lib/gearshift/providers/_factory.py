"""`LLMServiceFactory`: one service a provider, found by being there."""

from __future__ import annotations

import importlib
import logging
import threading
from typing import ClassVar

from gearshift.errors import SettingsError
from gearshift.providers._base import BaseLLMService
from gearshift.settings import PROVIDERS, load_settings

log = logging.getLogger(__name__)


def _make(name: str) -> BaseLLMService:
    if name not in PROVIDERS:
        raise SettingsError(
            f"there is no provider {name!r}", hint=f"choose one of {', '.join(PROVIDERS)}"
        )
    module = importlib.import_module(f"gearshift.providers.{name}")
    for found in vars(module).values():
        if (
            isinstance(found, type)
            and issubclass(found, BaseLLMService)
            and found.__module__ == module.__name__
        ):
            return found(load_settings())
    raise SettingsError(f"providers/{name}.py has no service", hint="see CONTRIBUTING.md")


class LLMServiceFactory:
    """Hands out services; safe to call from any thread or loop."""

    _lock: ClassVar = threading.RLock()
    _services: ClassVar[dict[str, BaseLLMService]] = {}
    _active: ClassVar[str | None] = None

    @classmethod
    def get_service(cls, provider: str | None = None) -> BaseLLMService:
        """The service of `provider`, by default of the active one; the same object each time.

        Raises:
            SettingsError: a setting is wrong, or there is no such provider.
        """
        with cls._lock:
            name = (provider or cls.active()).strip().lower()
            if name not in cls._services:
                service = _make(name)
                cls._services[name] = service
                where = f" ({service.url})" if service.url else ""
                log.info("LLM Service initialized: %s%s", service.label, where)
            return cls._services[name]

    @classmethod
    def active(cls) -> str:
        """The provider that `get_service()` returns: from `switch`, else from `LLM_PROVIDER`."""
        with cls._lock:
            return cls._active or load_settings().llm_provider

    @classmethod
    def switch(cls, provider: str) -> BaseLLMService:
        """Makes another provider the active one of this process; streams that run go on."""
        with cls._lock:
            service = cls.get_service(provider)
            cls._active = service.name
            return service

    @classmethod
    def reset(cls) -> None:
        """Forgets services, choice and settings; the next call reads the settings anew."""
        with cls._lock:
            services = list(cls._services.values())
            cls._services.clear()
            cls._active = None
            load_settings.cache_clear()
        for service in services:
            service.close()
