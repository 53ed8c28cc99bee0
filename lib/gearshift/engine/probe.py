"""Asks a server whether it works: health, the right model, one token."""

from __future__ import annotations

import http.client
import json
import re
import time
from typing import Any


class Probe:
    """Questions to one server on this machine; each ends within `seconds`.

    Args:
        port: Where it listens.
        key: The API key, or an empty text.
    """

    def __init__(self, port: int, key: str = "") -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def healthy(self, seconds: float = 5.0) -> bool:
        """Whether the engine behind `/health` lives."""
        return self._ask("GET", "/health", seconds)[0] == 200

    def why_not_ready(self, model: str, pooling: bool, seconds: float = 60.0) -> str | None:
        """`None` when it is ready: healthy, lists `model`, and has computed one token or vector."""
        if not self.healthy():
            return "its health check does not answer yet"
        status, body = self._ask("GET", "/v1/models", 5.0)
        listed = [row.get("id") for row in _rows(body)]
        if status != 200:
            return f"its list of models gives status {status}"
        if model not in listed:
            return f"it lists {', '.join(map(str, listed)) or 'no model'}, not {model}"
        request: dict[str, Any] = {"model": model}
        if pooling:
            path, request["input"] = "/v1/embeddings", "ready"
        else:
            path = "/v1/completions"
            request |= {"prompt": "Hello", "max_tokens": 1, "temperature": 0}
        status, body = self._ask("POST", path, seconds, request)
        if status != 200:
            return f"its first {'vector' if pooling else 'token'} gives status {status}"
        return None

    def busy(self) -> int | None:
        """How many requests run or wait, `None` if it does not say."""
        status, body = self._ask("GET", "/metrics", 2.0, text=True)
        if status != 200:
            return None
        pattern = r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? ([0-9.e+]+)$"
        return int(sum(float(value) for value in re.findall(pattern, str(body), re.MULTILINE)))

    def _ask(
        self,
        method: str,
        path: str,
        seconds: float,
        request: dict[str, Any] | None = None,
        text: bool = False,
    ) -> tuple[int, Any]:
        """Status and body; 0 when there is no HTTP answer in time."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=seconds)
        try:
            data = None if request is None else json.dumps(request)
            headers = self._headers | ({"Content-Type": "application/json"} if data else {})
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            body = _read(answer, time.monotonic() + seconds)
            return answer.status, body.decode("utf-8", "replace") if text else json.loads(body)
        except (ValueError, RecursionError):  # no JSON: /health answers with nothing
            return answer.status, None
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()


def _read(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    body = bytearray()
    while block := answer.read1(1 << 16):
        body += block
        if time.monotonic() > deadline or len(body) > 1 << 24:
            raise TimeoutError
    return bytes(body)


def _rows(body: Any) -> list[dict[str, Any]]:
    rows = body.get("data") if isinstance(body, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
