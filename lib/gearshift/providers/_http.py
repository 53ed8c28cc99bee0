"""Requests to providers: one session on the background loop, budgets, and the only retry.

No redirects, no proxies from the environment (they would swallow localhost), no compression, and a
connection of its own for each request, so that a connection that went stale is never reused.
"""

from __future__ import annotations

import asyncio
import atexit
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from gearshift.errors import (
    NotAnLLMServer,
    Overloaded,
    ProtocolError,
    ProviderError,
    Rejected,
    TimedOut,
)
from gearshift.providers._faults import from_status, from_transport
from gearshift.providers._loop import run
from gearshift.providers._wire import NotJSON, read_json
from gearshift.settings import Settings, is_loopback

HELP_TIMEOUT = 5.0
"""Seconds that a help (listing, counting, health) may take before it counts as failed."""
_MAX_BODY = 16 << 20
_ATTEMPTS = 3

_session: aiohttp.ClientSession | None = None


def _client() -> aiohttp.ClientSession:
    """The process's session; only ever called on the background loop."""
    if _session is None or _session.closed:
        atexit.register(_close_at_exit)
        return open_client()
    return _session


def open_client(
    *traces: aiohttp.TraceConfig, socket_factory: aiohttp.SocketFactoryType | None = None
) -> aiohttp.ClientSession:
    """Makes the process's session, told on by `traces`, for the loop that this is called on."""
    global _session
    _session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=socket_factory),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "User-Agent": "gearshift"},
        trust_env=False,
        trace_configs=list(traces),
    )
    return _session


def _close_at_exit() -> None:
    if _session is not None and not _session.closed:
        run(_session.close())


@dataclass(frozen=True, slots=True)
class Budgets:
    """Seconds that parts of an answer may take."""

    connect: float
    first_token: float
    progress: float
    total: float

    @classmethod
    def of(cls, settings: Settings) -> Budgets:
        return cls(
            settings.connect_timeout,
            settings.first_token_timeout,
            settings.progress_timeout,
            settings.total_timeout,
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider is and how to speak to it. `who` names it in errors."""

    who: str
    url: str
    connect_timeout: float
    key: str | None = None
    proxy: str | None = None

    @asynccontextmanager
    async def open(
        self, path: str, payload: dict[str, Any] | None, model: str | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response with status 200: to a POST of `payload`, or to a GET when that is `None`.

        Raises:
            ProviderError: for every other end, also while the body is read inside the block.
        """
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        data = None
        if payload is not None:
            headers["Content-Type"] = "application/json"
            try:
                data = msgspec.json.encode(payload)
            except UnicodeEncodeError:
                raise Rejected(
                    "the request holds half a character (a lone surrogate), which no server takes",
                    hint="remove it from the text and send it again",
                ) from None
        answering = False
        try:
            async with _client().request(
                "GET" if payload is None else "POST",
                self.url + path,
                data=data,
                headers=headers,
                allow_redirects=False,
                proxy=None if is_loopback(self.url) else self.proxy,
                timeout=aiohttp.ClientTimeout(connect=self.connect_timeout),
            ) as response:
                answering = True
                if response.status != 200:
                    body = await read_body(response)
                    raise from_status(response.status, response.headers, body, self.who, model)
                if response.content_type == "text/html":
                    raise NotAnLLMServer(
                        f"{self.who} answers with a web page",
                        hint="something else listens at that address: check host and port",
                    )
                try:
                    yield response
                finally:
                    # Not a polite end but a close: the server must stop working for us now.
                    response.close()
        except ProviderError as error:
            raise self._without_key(error) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._without_key(from_transport(error, self.who, answering)) from None

    @asynccontextmanager
    async def open_when_free(
        self, path: str, payload: dict[str, Any], model: str | None, deadline: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Like `open`, but asks a busy server again while that is possible before `deadline`.

        `deadline` is a stamp of the loop's clock. Waits as long as the server says, else a moment
        that grows and is jittered so that many clients do not come back together.
        """
        loop = asyncio.get_running_loop()
        for attempt in range(1, _ATTEMPTS + 1):
            opened = False
            try:
                async with self.open(path, payload, model) as response:
                    opened = True
                    yield response
                    return
            except Overloaded as error:
                wait = error.retry_after
                if wait is None:
                    wait = random.uniform(0.5, 1.0) * 0.5 * 2**attempt
                if opened or attempt == _ATTEMPTS or loop.time() + wait >= deadline:
                    raise
            await asyncio.sleep(wait)

    async def ask(
        self,
        path: str,
        payload: dict[str, Any] | None = None,
        model: str | None = None,
        timeout: float = HELP_TIMEOUT,  # noqa: ASYNC109 (the budget is part of the question)
    ) -> dict[str, Any]:
        """The JSON object that answers a small question.

        Raises:
            ProviderError: no answer within `timeout` seconds, or not a JSON object.
        """
        body = await self._body(path, payload, model, timeout)
        try:
            answer = read_json(body)
        except NotJSON:
            answer = None
        if not isinstance(answer, dict):
            raise ProtocolError(
                f"{self.who} answered {path} with something that is not a JSON object",
                hint="check host, port and path of the address",
            )
        return answer

    async def ask_text(self, path: str) -> str:
        """The text that answers a small question.

        Raises:
            ProviderError: no answer within `HELP_TIMEOUT`.
        """
        return (await self._body(path, None, None, HELP_TIMEOUT)).decode("utf-8", "replace")

    async def _body(
        self,
        path: str,
        payload: dict[str, Any] | None,
        model: str | None,
        timeout: float,  # noqa: ASYNC109
    ) -> bytes:
        try:
            async with asyncio.timeout(timeout), self.open(path, payload, model) as response:
                return await read_body(response)
        except TimeoutError:
            raise TimedOut(
                f"{self.who} accepts connections but does not answer within {timeout:g} s",
                hint="it may hang or be busy: look into its log, restart it if need be",
            ) from None

    def _without_key(self, error: ProviderError) -> ProviderError:
        if self.key and self.key in error.message:
            error.message = error.message.replace(self.key, "(key)")
            error.args = (error.message,)
        return error


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """The body, refused beyond 16 MiB."""
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > _MAX_BODY:
            raise ProtocolError(
                f"the answer is larger than {_MAX_BODY >> 20} MiB",
                hint="check that the address is that of a language model server",
            )
    return bytes(body)
