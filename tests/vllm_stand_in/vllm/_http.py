"""The API server's HTTP: the answers that a client of vLLM reads, word for word where it matters.

It checks the model's name, JSON and the key; of all other fields it looks at what it needs.
"""

import json
import select
import socket
import socketserver
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

from vllm import __version__
from vllm._failures import ENGINE_DEAD

JSON = "application/json"
_FINGERPRINT = "vllm-0.32.0-00000000"


class State:
    """What the server's threads know.

    Args:
        names: What the model is called.
        listed: What `/v1/models` says it is called.
        key: The API key, or an empty text.
        pooling: It answers with vectors in place of text.
        batch: Sequences and tokens of a step, for `batching`.
    """

    def __init__(self, names, listed, root, key, max_model_len, pooling, batch, plays) -> None:
        self.names: list[str] = names
        self.listed: list[str] = listed
        self.root: str = root
        self.key: str = key
        self.max_model_len: int = max_model_len
        self.pooling: bool = pooling
        self.plays: SimpleNamespace = plays
        self.engine_dead = False
        self.stopping = False
        self.ending = threading.Event()
        self.running = 0
        self.tokens = 0
        self.lock = threading.Lock()
        self.sequences, self.batched = batch
        self.turns: list[object] = []
        self.turn_ends = threading.Condition()

    def end(self, engine_dead: bool) -> None:
        self.engine_dead, self.stopping = engine_dead, not engine_dead
        self.ending.set()


class Server(ThreadingHTTPServer):
    """One thread a connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, address, state: State, log) -> None:
        self.state, self.log = state, log
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks the name service
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request, client_address) -> None:
        pass  # a client that went away


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    @property
    def state(self) -> State:
        return self.server.state

    def log_request(self, code="-", size="-") -> None:
        status = int(code)
        reason = self.responses.get(status, ("",))[0]
        host, port = self.client_address[:2]
        self.server.log(f'INFO:     {host}:{port} - "{self.requestline}" {status} {reason}')

    def log_message(self, format, *args) -> None:
        self.server.log("WARNING:  " + format % args)

    def version_string(self) -> str:
        return "uvicorn"

    # ---- routes

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self._may_not_enter(path):
            return
        if path in ("/health", "/ping"):
            ill = self.state.engine_dead or self.state.plays.never_healthy
            self._answer(503 if ill else 200, b"", None)
        elif path == "/version":
            self._answer(200, {"version": __version__})
        elif path == "/load":
            self._answer(200, {"server_load": self.state.running})
        elif path == "/metrics":
            self._answer(200, self._metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
        elif path == "/v1/models":
            self._answer(200, {"object": "list", "data": list(map(self._card, self.state.listed))})
        elif path in self._posts():
            self._answer(405, {"detail": "Method Not Allowed"})
        else:
            self._answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._may_not_enter(path):
            return
        answer = self._posts().get(path)
        if answer is None:
            self._answer(404, {"detail": "Not Found"})
            return
        try:
            body = json.loads(data)
            assert isinstance(body, dict)
        except (ValueError, AssertionError):
            text = "1 validation error:\n  {'type': 'json_invalid', 'msg': 'JSON decode error'}"
            self._refuse(400, text, "Bad Request", "body")
            return
        name = body.setdefault("model", self.state.names[0])
        if name not in self.state.listed:
            text = f"The model `{name}` does not exist."
            text += f" Valid aliases: {', '.join(self.state.listed)}."
            self._refuse(404, text, "NotFoundError", "model")
        elif self.state.engine_dead or self.state.plays.no_token:
            self._refuse(500, ENGINE_DEAD, "InternalServerError")
        else:
            self._counted(answer, body)

    def _posts(self):
        if self.state.pooling:
            return {"/v1/embeddings": self._embeddings, "/tokenize": self._tokenize}
        return {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._completions,
            "/tokenize": self._tokenize,
        }

    def _may_not_enter(self, path: str) -> bool:
        key = self.state.key
        if not key or not path.startswith("/v1"):
            return False
        if self.headers.get("Authorization") == f"Bearer {key}":
            return False
        self._answer(401, {"error": "Unauthorized"})
        return True

    # ---- what it computes

    def _counted(self, answer, body) -> None:
        with self.state.lock:
            self.state.running += 1
        try:
            answer(body)
        finally:
            with self.state.lock:
                self.state.running -= 1

    def _tokenize(self, body) -> None:
        count = _count(body)
        tokens = list(range(count))
        length = self.state.max_model_len
        self._answer(
            200,
            {"count": count, "max_model_len": length, "tokens": tokens, "token_strs": None},
        )

    def _embeddings(self, body) -> None:
        given = body.get("input", "")
        texts = given if isinstance(given, list) else [given]
        rows = []
        for index, text in enumerate(texts):
            vector = [((len(str(text)) + 7 * i) % 11 - 5) / 64 for i in range(384)]
            rows.append({"index": index, "object": "embedding", "embedding": vector})
        count = sum(len(str(text).split()) for text in texts)
        self._answer(
            200,
            {
                **_head("embd", "list", body["model"]),
                "data": rows,
                "usage": _usage(count, 0) | {"prompt_tokens_details": None},
            },
        )

    def _chat(self, body) -> None:
        if body.get("stream"):
            head = _head("chatcmpl", "chat.completion.chunk", body["model"])
            first = {"role": "assistant", "content": ""}
            self._stream(body, head, first, lambda text: {"delta": {"content": text}})
        else:
            head = _head("chatcmpl", "chat.completion", body["model"])

            def say(text):
                return {"message": {"role": "assistant", "content": text, "refusal": None}}

            self._whole(body, head, say)

    def _completions(self, body) -> None:
        head = _head("cmpl", "text_completion", body["model"])
        if body.get("stream"):
            self._stream(body, head, None, lambda text: {"text": text})
        else:
            self._whole(body, head, lambda text: {"text": text})

    def _whole(self, body, head, say) -> None:
        prompt, wanted = _count(body), _wanted(body)
        written = 0
        with self._batched():
            while written < wanted and self._wait():
                written += 1
        if self.state.engine_dead:
            self._refuse(500, ENGINE_DEAD, "InternalServerError")
            return
        reason = "abort" if written < wanted else _reason(body)
        choice = {"index": 0, **say("token " * written), "logprobs": None}
        choice |= {"finish_reason": reason, "stop_reason": None}
        usage = _usage(prompt, written)
        fingerprint = {"system_fingerprint": _FINGERPRINT}
        self._answer(200, {**head, "choices": [choice], **fingerprint, "usage": usage})

    def _stream(self, body, head, first, say) -> None:
        prompt, wanted = _count(body), _wanted(body)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def chunk(choice, reason=None):
            choice = {"index": 0, **choice, "logprobs": None, "finish_reason": reason}
            self._event({**head, "choices": [choice]})

        with suppress(OSError), self._batched():  # the client went away
            if first is not None:
                chunk({"delta": first})
            for number in range(1, wanted + 1):
                if not self._wait():
                    break
                chunk(say("token "), _reason(body) if number == wanted else None)
            else:
                if (body.get("stream_options") or {}).get("include_usage"):
                    self._event({**head, "choices": [], "usage": _usage(prompt, wanted)})
            if self.state.engine_dead:
                self._event({"error": _error(500, ENGINE_DEAD, "InternalServerError")})
            elif self.state.stopping and number < wanted:
                chunk(say(""), "abort")
            self._event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")

    @contextmanager
    def _batched(self):
        """Waits for its turn, and for its prompt to be read."""
        state, ticket = self.state, object()
        if state.plays.batching is None:
            yield
            return
        with state.turn_ends:
            state.turns.append(ticket)
            while state.turns.index(ticket) >= state.sequences and not state.ending.is_set():
                state.turn_ends.wait(0.1)
            running = min(len(state.turns), state.sequences)
        try:
            self._pass(state.plays.batching * running * 2048 / state.batched)
            yield
        finally:
            with state.turn_ends:
                state.turns.remove(ticket)
                state.turn_ends.notify_all()

    def _wait(self) -> bool:
        """Waits for one token; false when there will be none any more.

        Raises:
            ConnectionError: the client went away.
        """
        if not self._pass(self.state.plays.slow_tokens):
            return False
        with self.state.lock:
            self.state.tokens += 1
        return not self.state.ending.is_set()

    def _pass(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self.state.ending.wait(min(left, 0.05)):
                return False
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                self.close_connection = True
                raise ConnectionError
        return True

    # ---- how it is written

    def _event(self, value) -> None:
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        data = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _refuse(self, status: int, message: str, kind: str, param: str | None = None) -> None:
        self._answer(status, {"error": _error(status, message, kind, param)})

    def _answer(self, status: int, body, kind: str | None = JSON) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _card(self, name: str) -> dict:
        return {
            "id": name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "vllm",
            "root": self.state.root,
            "parent": None,
            "max_model_len": self.state.max_model_len,
            "permission": [],
        }

    def _metrics(self) -> str:
        labels = f'engine="0",model_name="{self.state.names[0]}"'
        values = [
            ("num_requests_running", "gauge", float(self.state.running)),
            ("num_requests_waiting", "gauge", 0.0),
            ("kv_cache_usage_perc", "gauge", 0.0),
            ("generation_tokens_total", "counter", float(self.state.tokens)),
        ]
        lines = []
        for name, kind, value in values:
            lines.append(f"# TYPE vllm:{name.removesuffix('_total')} {kind}")
            lines.append(f"vllm:{name}{{{labels}}} {value}")
        return "\n".join(lines) + "\n"


def _head(prefix: str, kind: str, model: str) -> dict:
    identity = f"{prefix}-{uuid.uuid4().hex[:16]}"
    return {"id": identity, "object": kind, "created": int(time.time()), "model": model}


def _error(status: int, message: str, kind: str, param: str | None = None) -> dict:
    return {"message": message, "type": kind, "param": param, "code": status}


def _usage(prompt: int, written: int) -> dict:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + written,
        "completion_tokens": written,
    }


def _limit(body) -> int | None:
    return body.get("max_completion_tokens") or body.get("max_tokens")


def _wanted(body) -> int:
    return _limit(body) or 16


def _reason(body) -> str:
    return "length" if _limit(body) else "stop"


def _count(body) -> int:
    """A token a word."""
    messages = body.get("messages") or [{"content": body.get("prompt", "")}]
    return sum(len(str(message.get("content", "")).split()) for message in messages)
