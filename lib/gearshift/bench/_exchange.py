"""One measured request: sent, its bytes stamped where they arrive, its end proven or not.

The bytes are read as a chat's are, by the provider's own reader and within the same budgets. What a
chat hides is counted here: messages whose token shows no text yet.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from importlib import import_module
from typing import Any

import aiohttp

from gearshift.bench._arrivals import Arrivals
from gearshift.bench.metrics import Request
from gearshift.errors import ProviderError, Stalled, TimedOut
from gearshift.providers._base import _END_GRACE, _block, _put_off
from gearshift.providers._http import Budgets, Endpoint
from gearshift.providers._openai import OpenAIReader, _Choice
from gearshift.providers._wire import StreamReader
from gearshift.schemas import Chunk

log = logging.getLogger(__name__)

_sending: ContextVar[Request | None] = ContextVar("_sending", default=None)


def departures() -> aiohttp.TraceConfig:
    """Stamps a request when its bytes go to the socket, however long it waited for its turn here.

    The time in which the connection was made is not in it, as with connections that are kept open.
    """
    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(_departed)
    trace.freeze()
    return trace


async def _departed(*_: object) -> None:
    request = _sending.get()
    if request is not None:
        request.started = time.monotonic()
        _sending.set(None)


class _EveryToken(OpenAIReader):
    """Counts tokens without text as well: halves of characters that vLLM holds back."""

    def _choice(self, choice: _Choice, into: list[Chunk]) -> None:
        before = len(into)
        super()._choice(choice, into)
        delta = choice.delta
        silent = delta is not None and delta.content == "" and delta.role is None
        if silent and len(into) == before and not choice.finish_reason:
            into.append(Chunk())


def reader_maker(name: str, who: str) -> Callable[[], StreamReader]:
    """Makes readers of the class `module:Name`, which takes the server's name."""
    module, _, kind = name.partition(":")
    found: Any = getattr(import_module(module), kind)
    if found is OpenAIReader:
        found = _EveryToken
    return lambda: found(who)


async def exchange(
    request: Request,
    endpoint: Endpoint,
    path: str,
    body: dict[str, Any],
    reader: StreamReader,
    budgets: Budgets,
) -> None:
    """Sends one request and fills `request` in; it is never sent twice."""
    now = asyncio.get_running_loop().time
    chunks: list[Chunk] = []
    request.started = time.monotonic()
    _sending.set(request)
    arrivals = Arrivals()
    arrivals.expect()
    started = now()
    last = started + budgets.total
    try:
        async with asyncio.timeout_at(min(started + budgets.first_token, last)) as clock:
            async with endpoint.open(path, body, str(body.get("model"))) as response:
                while data := await _block(response, endpoint.who, reader):
                    arrived = arrivals.last
                    try:
                        reader.feed(data, chunks)
                    finally:
                        if chunks:
                            request.pieces += [arrived] * len(chunks)
                            chunks.clear()
                            _put_off(clock, now() + budgets.progress, last, budgets.progress / 20)
                        if reader.proven and request.ended is None:
                            request.ended = arrived
                            clock.reschedule(min(now() + _END_GRACE, last))
                    if reader.finished:
                        break
        _finish(request, reader)
    except TimeoutError:
        if reader.proven:  # usage or the last mark did not come, the answer did
            request.lingered = True
            _finish(request, reader)
        else:
            _fail(request, _late(bool(request.pieces), budgets))
    except ProviderError as error:
        _fail(request, error)
    except Exception as bug:  # one answer must not cost the figures of all others
        log.exception("unexpected, in an answer")
        request.error, request.reason = "unexpected", f"{type(bug).__name__}: {bug}"


def _finish(request: Request, reader: StreamReader) -> None:
    chunks: list[Chunk] = []
    try:
        reader.end(chunks)
    except ProviderError as error:
        _fail(request, error)
        return
    last = chunks[-1]
    if request.ended is None:
        request.ended = request.pieces[-1] if request.pieces else time.monotonic()
    if last.usage is not None:
        request.input_tokens = last.usage.prompt_tokens
        request.output_tokens = last.usage.completion_tokens
    if not request.pieces:
        if request.output_tokens or chunks[:-1]:  # all of it came with the end
            request.pieces.append(request.ended)
        else:
            request.error, request.reason = "empty", "the answer ended without a token"


def _fail(request: Request, error: ProviderError) -> None:
    request.error, request.reason = error.kind, error.message


def _late(began: bool, budgets: Budgets) -> ProviderError:
    if began:
        return Stalled(f"it went silent for {budgets.progress:g} s, or took {budgets.total:g} s")
    return TimedOut(f"no first token within {budgets.first_token:g} s")
