"""Fallback with provenance: configured provider, then Ollama, then the embedded model.

Before the first token a failing provider is replaced by the next one, and the record says so. After
the first token nothing is replaced: two answers are never spliced. A breaker keeps a provider that
just failed from costing every request its connect time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gearshift.errors import ContextExceeded, ModelNotFound, ProviderError, Rejected, Unreachable
from gearshift.providers._base import BaseLLMService
from gearshift.schemas import Chunk, GenerationRequest

ORDER = ("ollama", "embedded")
"""Who is asked after the configured provider."""


_NOT_ITS_FAULT = (ContextExceeded, Rejected, ModelNotFound)
"""Errors of a request, not of the provider that reports them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A provider that was tried, or skipped, and why."""

    provider: str
    error: ProviderError


@dataclass(frozen=True, slots=True)
class Started:
    """Whose answer follows, and to what was asked of it."""

    service: BaseLLMService
    request: GenerationRequest
    fallback_from: str | None
    """The provider that was wanted, when another one answers."""


class Breaker:
    """Remembers which providers just failed, by name and address, for everyone in this process."""

    COOL_DOWN = 30.0  # seconds until one request may try again

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[tuple[str, str], tuple[float, ProviderError]] = {}

    def blocked(self, service: BaseLLMService) -> ProviderError | None:
        """The error that keeps the provider out; past the cool-down one caller is let through."""
        key = (service.name, service.url)
        with self._lock:
            until, error = self._until.get(key, (0.0, None))
            if error is None or self._clock() < until:
                return error
            self._until[key] = (self._clock() + self.COOL_DOWN, error)
            return None

    def failed(self, service: BaseLLMService, error: ProviderError) -> None:
        with self._lock:
            until = self._clock() + self.COOL_DOWN
            self._until[(service.name, service.url)] = (until, error)

    def worked(self, service: BaseLLMService) -> None:
        """Lets the provider in again: it answered, or a person asked for it by name."""
        with self._lock:
            self._until.pop((service.name, service.url), None)

    def looks_ready(self, service: BaseLLMService, came_back: bool) -> None:
        """Lets a provider in again that was seen to come back, or that only refused to connect.

        One that looks ready all along and yet does not answer is kept out for its cool-down.
        """
        key = (service.name, service.url)
        with self._lock:
            _, error = self._until.get(key, (0.0, None))
            if error is not None and (came_back or isinstance(error, Unreachable)):
                del self._until[key]


breaker = Breaker()


@dataclass
class Fallback:
    """Streams one answer from the first of `services` that gives one."""

    services: Sequence[BaseLLMService]
    prepare: Callable[[BaseLLMService], Awaitable[GenerationRequest]]
    """Makes the request for a service: model and context differ from one to the next."""
    model_matters: bool = False
    """The person insists on a model: another provider's would be no replacement."""
    breaker: Breaker = field(default_factory=lambda: breaker)
    failures: dict[str, Failure] = field(default_factory=dict, init=False)
    """Who failed or was skipped, by name, also when nobody answered."""

    async def stream(self) -> AsyncIterator[Started | Chunk]:
        """First a `Started`, with the first chunk at hand, then the chunks.

        Raises:
            ProviderError: of the first provider, when none gave an answer; of the one that
                answered, when it broke off.
        """
        for service in self._in_turn():
            started = False
            try:
                request = await self.prepare(service)
                chunks = service.stream(request)
                try:
                    first = await anext(chunks)
                    self.breaker.worked(service)
                    wanted = self.services[0]
                    started = True
                    yield Started(
                        service,
                        request,
                        None if service is wanted else wanted.name,
                    )
                    yield first
                    async for chunk in chunks:
                        yield chunk
                    return
                finally:
                    await chunks.aclose()
            except ProviderError as error:
                if not isinstance(error, _NOT_ITS_FAULT):
                    self.breaker.failed(service, error)
                if started or not self._may_replace(service, error):
                    raise
                self.failures[service.name] = Failure(service.name, error)
        raise self.failures[self.services[0].name].error

    def _may_replace(self, service: BaseLLMService, error: ProviderError) -> bool:
        if isinstance(error, ContextExceeded):
            return False
        if service is not self.services[0]:
            return True  # its trouble with the request must not hide why it was asked at all
        if isinstance(error, ModelNotFound):
            return not self.model_matters
        return not isinstance(error, Rejected)

    def _in_turn(self) -> Iterator[BaseLLMService]:
        """The services in order; those that the breaker holds back come last, not never."""
        held_back = []
        for service in self.services:
            error = self.breaker.blocked(service) if len(self.services) > 1 else None
            if error is None:
                yield service
            else:
                self.failures[service.name] = Failure(service.name, error)
                held_back.append(service)
        yield from held_back


def chain(
    first: str, get_service: Callable[[str], BaseLLMService], fallback: bool = True
) -> list[BaseLLMService]:
    """The services to try for a chat that wants `first`."""
    names = [first, *(name for name in ORDER if name != first)] if fallback else [first]
    return [get_service(name) for name in names]
