"""What servers and sockets say when something is wrong, translated into our errors at one edge.

Kinds are told apart by status and by the body's fields first; words come last, because they change
from one version of a server to the next.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import msgspec

from gearshift.errors import (
    ContextExceeded,
    ModelNotFound,
    NotAnLLMServer,
    Overloaded,
    ProtocolError,
    ProviderError,
    Rejected,
    ServerFailed,
    Truncated,
    Unauthorized,
    Unreachable,
)
from gearshift.providers._wire import NotJSON, read_json

_CONTEXT_WORDS = re.compile(
    r"context (length|size|window)|maximum model len|prompt is too long", re.IGNORECASE
)
_CONTEXT_CODES = {"input_tokens", "context_length_exceeded", "exceed_context_size_error"}
_SHOWN = 600  # characters of a server's own words that a person is shown


def excerpt(text: str) -> str:
    """A server's words, in one line and not too many of them."""
    words = " ".join(text.split())
    return words if len(words) <= _SHOWN else words[:_SHOWN] + " …"


class Reported(msgspec.Struct):
    """An error as servers report it, whichever shape it had."""

    message: str
    labels: set[str] = msgspec.field(default_factory=set)
    """Its type, code and parameter."""

    @property
    def about_context(self) -> bool:
        return bool(self.labels & _CONTEXT_CODES) or bool(_CONTEXT_WORDS.search(self.message))


def reported(body: Any) -> Reported | None:
    """The error in a decoded body: `{"error": …}` as text or object, or vLLM's older flat one."""
    if not isinstance(body, Mapping):
        return None
    error = body.get("error")
    if error is None and body.get("object") == "error":
        error = body
    if error is None:
        return None
    if not isinstance(error, Mapping):
        return Reported(excerpt(str(error)))
    message = error.get("message") or error.get("detail") or str(dict(error))
    labels = {str(error[key]) for key in ("type", "code", "param") if error.get(key) is not None}
    return Reported(excerpt(str(message)), labels)


def from_report(error: Reported, who: str) -> ProviderError:
    """The error that a server reported inside a stream that had begun with status 200."""
    if error.about_context:
        return context_exceeded(error.message, who)
    return ServerFailed(
        f"{who} reported an error while it answered: {error.message}",
        hint="look into the server's log; out of memory is the usual cause",
    )


def context_exceeded(message: str, who: str) -> ContextExceeded:
    return ContextExceeded(
        f"{who}: the prompt does not fit into the model's context: {message}",
        hint="ask with fewer or shorter sources, or serve the model with a longer context",
    )


def from_status(
    status: int, headers: Mapping[str, str], body: bytes, who: str, model: str | None
) -> ProviderError:
    """The error for an answer with a status other than 200."""
    try:
        decoded = read_json(body)
    except NotJSON:
        decoded = None
    error = reported(decoded)
    said = error.message if error else excerpt(body.decode("utf-8", "replace"))
    if 300 <= status < 400:
        return NotAnLLMServer(
            f"{who} answered with a redirect (status {status}), which is never followed",
            hint="set the address that it really has",
        )
    if status in (401, 403, 407):
        return Unauthorized(
            f"{who} refuses the key (status {status})",
            hint="set GEARSHIFT_VLLM_API_KEY to the key that the server was started with",
        )
    if status in (429, 503, 529):
        return Overloaded(
            f"{who} is busy (status {status}): {said}",
            hint="try again in a moment, or choose another provider",
            retry_after=_retry_after(headers.get("Retry-After")),
        )
    if status >= 500:
        if error and error.about_context:
            return context_exceeded(error.message, who)
        return ServerFailed(
            f"{who} failed (status {status}): {said}", hint="look into the server's log"
        )
    if status == 404 and error and model is not None:
        return ModelNotFound(
            f"{who} does not have the model {model!r}: {error.message}",
            hint="choose one of the models it lists (gearshift providers), or add this one",
        )
    if status in (404, 405):
        return NotAnLLMServer(
            f"{who} does not know what was asked of it (status {status}): another kind of server?",
            hint="check host, port and path; the address goes without /v1 or /api at its end",
        )
    if error and error.about_context:
        return context_exceeded(error.message, who)
    return Rejected(
        f"{who} refuses the request (status {status}): {said}",
        hint="change what the message complains of and send it again",
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number or an HTTP date."""
    if not value:
        return None
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def from_transport(error: Exception, who: str, answering: bool) -> ProviderError:
    """The error for an exception of the HTTP client; `answering` once the status had come."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Unreachable(f"{who}: no such host (DNS)", hint="check the host name in the address")
    if isinstance(error, (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch)):
        return Unreachable(
            f"{who}: the TLS handshake failed: {excerpt(str(error))}",
            hint="use http:// for a server without TLS, or give it a certificate that is trusted",
        )
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Unreachable(
            f"{who} does not accept a connection (or, with https, does not speak TLS) in time",
            hint="is the server running, and is this its port?",
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        code = error.os_error.errno
        return Unreachable(
            f"{who} cannot be reached: {os.strerror(code) if code else error.os_error}",
            hint="start the server, or correct the address",
        )
    if isinstance(error, aiohttp.ClientPayloadError):
        return Truncated(
            f"{who} broke the connection in mid-answer",
            hint="ask again; the server's log says why it stopped",
        )
    if isinstance(error, aiohttp.ClientResponseError):
        return NotAnLLMServer(
            f"{who} does not speak HTTP as a language model server does",
            hint="check host and port",
        )
    if isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionError, aiohttp.ClientOSError)):
        when = "in mid-answer" if answering else "without an answer"
        return Truncated(
            f"{who} closed the connection {when}", hint="look into the server's log, then ask again"
        )
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return Unreachable(f"{who}: the address cannot be used", hint="correct the address")
    return ProtocolError(
        f"{who}: {type(error).__name__}: {excerpt(str(error))}", hint="look into the server's log"
    )
