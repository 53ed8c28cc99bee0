"""A real server over a real socket whose every byte is scripted, for faults that no server shows
on demand."""

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable

Script = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request, and the means to answer it byte by byte."""

    def __init__(self, method, path, headers, body, reader, writer, server):
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self.writer = writer
        self._reader = reader
        self._server = server

    @property
    def json(self):
        return json.loads(self.body)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status=200, kind="text/event-stream", **headers) -> None:
        extra = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
        lines = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{extra}Connection: close\r\n\r\n"
        await self.send(lines.encode())

    async def reply(self, body, status=200, kind="application/json", **headers) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.head(status, kind, Content_Length=len(data), **headers)
        await self.send(data)

    async def until_closed(self) -> None:
        """Waits until the client has closed the connection, and notes that it did."""
        with contextlib.suppress(ConnectionError):
            await self._reader.read()
        self._server.closed.set()

    def reset(self) -> None:
        """Breaks the connection off hard (RST)."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class ScriptedServer:
    """Runs `script` for each request; `requests` keeps them all."""

    def __init__(self, script: Script, port: int = 0) -> None:
        self.script = script
        self.requests: list[Exchange] = []
        self.closed = threading.Event()
        self.arrived = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", port), self._loop
        ).result()
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *rest = head.decode().split("\r\n")
            method, path, _ = first.split(" ", 2)
            headers = dict(line.lower().split(": ", 1) for line in rest if ": " in line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            exchange = Exchange(method, path, headers, body, reader, writer, self)
            self.requests.append(exchange)
            self.arrived.set()
            await self.script(exchange)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed.set()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def stop(self) -> None:
        """Ends it and its connections; a second time does nothing."""
        if self._loop.is_closed():
            return

        async def shut():
            self._server.close()
            mine = asyncio.current_task()
            others = [task for task in asyncio.all_tasks() if task is not mine]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(shut(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


def sse(*texts, finish="stop", done=True, usage=(7, 3)) -> bytes:
    """A whole, good answer of an OpenAI-compatible server."""
    events = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
    events += [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    if finish:
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if usage:
        counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        events.append({"choices": [], "usage": counts})
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    return data + (b"data: [DONE]\n\n" if done else b"")


def ndjson(*texts, done=True, reason="stop") -> bytes:
    """A whole, good answer of Ollama."""
    lines = [{"message": {"role": "assistant", "content": text}, "done": False} for text in texts]
    if done:
        lines.append(
            {
                "message": {"role": "assistant", "content": ""},
                "done": True,
                "done_reason": reason,
                "prompt_eval_count": 7,
                "eval_count": 3,
            }
        )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


GREETING_SSE = sse("Hello", " there")
GREETING_NDJSON = ndjson("Hello", " there")


def vllm(answer: Script | bytes = GREETING_SSE, models=("served",), context=4096) -> Script:
    """The script of a vLLM server that answers chats with `answer`."""

    async def script(exchange):
        if exchange.path.endswith("/v1/models"):
            rows = [{"id": name, "object": "model", "max_model_len": context} for name in models]
            await exchange.reply({"object": "list", "data": rows})
        elif exchange.path.endswith("/version"):
            await exchange.reply({"version": "0.32.0"})
        elif not exchange.path.endswith("/v1/chat/completions"):
            await exchange.reply({"detail": "Not Found"}, 404)
        elif isinstance(answer, bytes):
            await exchange.head()
            await exchange.send(answer)
        else:
            await answer(exchange)

    return script


def ollama(answer: Script | bytes = GREETING_NDJSON, models=("mistral:latest",)) -> Script:
    """The script of an Ollama server that answers chats with `answer`."""

    async def script(exchange):
        if exchange.path.endswith("/api/tags"):
            await exchange.reply({"models": [{"name": name, "details": {}} for name in models]})
        elif exchange.path.endswith("/api/version"):
            await exchange.reply({"version": "0.35.1"})
        elif exchange.path.endswith("/api/show"):
            await exchange.reply({"model_info": {"llama.context_length": 4096}})
        elif exchange.path.endswith("/api/pull"):
            await exchange.head(kind="application/x-ndjson")
            await exchange.send(b'{"status":"pulling manifest"}\n{"status":"success"}\n')
        elif not exchange.path.endswith("/api/chat"):
            await exchange.reply(b"404 page not found", 404, "text/plain")
        elif isinstance(answer, bytes):
            await exchange.head(kind="application/x-ndjson")
            await exchange.send(answer)
        else:
            await answer(exchange)

    return script
