"""CPU time per streamed chunk: Gearshift's providers beside openai-python.

A load server in a process of its own streams chat completions as vLLM writes them, either 32 at a
time at 50 tokens a second each, or as fast as they can be read. Each client runs in a process of
its own, on its own event loop, as a script would; counted is the CPU time of that process and its
children from the first request to the last chunk, after a warm-up. The clients take turns, and the
median of the rounds is shown.

    make bench                              all benchmarks
    python benchmarks/stream_cpu.py         this one alone
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator

CLIENTS = ("gearshift", "openai")
STREAMS = 32
TARGETS = {"steady": 1 / 5, "burst": 1 / 20}
LOADS = {"steady": (STREAMS, 300, 50.0), "burst": (STREAMS, 1000, 0.0)}
"""Streams at once, tokens of each, tokens a second of each (0: as fast as they can be read)."""
WORD = " token"


# The load server.


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    event = {
        "id": "chatcmpl-9bfaaa59eba93334",
        "object": "chat.completion.chunk",
        "created": 1795417783,
        "model": "bench",
        "choices": [choice | {"token_ids": None}],
    }
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
)
ROLE = _http_chunk(_event({"role": "assistant", "content": ""}))
TOKEN = _http_chunk(_event({"content": WORD}))
END = _http_chunk(_event({}, "stop")) + _http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One stream, as `max_tokens` and `seed` (tokens a second) ask for it."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    asked = json.loads(await reader.readexactly(length))
    tokens, rate = asked["max_tokens"], asked["seed"]
    writer.write(HEAD + ROLE)
    now = asyncio.get_running_loop().time
    start = now()
    for token in range(tokens):
        writer.write(TOKEN)
        if rate:
            await asyncio.sleep(start + (token + 1) / rate - now())
        elif token % 16 == 15:
            await writer.drain()
    writer.write(END)
    await writer.drain()
    writer.close()


async def _serve() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# The clients.


async def _gearshift(url: str, tokens: int, rate: float) -> AsyncIterator[str]:
    from gearshift.providers import LLMServiceFactory

    service = LLMServiceFactory.get_service("vllm")
    async for chunk in service.generate_stream(
        prompt="Tell me.", model="bench", max_tokens=tokens, seed=int(rate)
    ):
        yield chunk.text


async def _openai(url: str, tokens: int, rate: float) -> AsyncIterator[str]:
    async for chunk in await _openai_client(url).chat.completions.create(
        messages=[{"role": "user", "content": "Tell me."}],
        model="bench",
        stream=True,
        max_tokens=tokens,
        seed=int(rate),
    ):
        for choice in chunk.choices:
            yield choice.delta.content or ""


_shared: dict[str, object] = {}


def _openai_client(url: str):  # type: ignore[no-untyped-def]
    import openai

    if "client" not in _shared:
        _shared["client"] = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    return _shared["client"]


async def _drain(stream: AsyncIterator[str]) -> int:
    """Reads one stream to its end; the number of its pieces of text."""
    pieces = 0
    async for text in stream:
        if text:
            assert text == WORD
            pieces += 1
    return pieces


def _cpu() -> float:
    own, children = (resource.getrusage(who) for who in (0, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


async def _client(name: str, url: str, load: str) -> None:
    stream = {"gearshift": _gearshift, "openai": _openai}[name]
    await asyncio.gather(*(_drain(stream(url, 20, 0)) for _ in range(STREAMS)))
    streams, tokens, rate = LOADS[load]
    before = _cpu()
    pieces = await asyncio.gather(*(_drain(stream(url, tokens, rate)) for _ in range(streams)))
    spent = _cpu() - before
    assert pieces == [tokens] * streams, pieces
    print(spent / sum(pieces) * 1e6)


# The comparison.


def _measure(name: str, url: str, load: str) -> float:
    """Microseconds of CPU time a chunk, in a process of its own."""
    command = [sys.executable, __file__, "--client", name, "--url", url, "--load", load]
    environment = os.environ | {"VLLM_BASE_URL": url, "LLM_PROVIDER": "vllm"}
    return float(subprocess.check_output(command, env=environment))


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time per streamed chunk.")
    parser.add_argument("--rounds", type=int, default=3)
    for internal in ("--client", "--url", "--load"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(_serve())
        return
    if arguments.client:
        asyncio.run(_client(arguments.client, arguments.url, arguments.load))
        return
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        print(
            f"CPU time per streamed chunk, {STREAMS} streams, µs (median of {arguments.rounds})\n"
        )
        print("| load | gearshift | openai-python | ratio | target |")
        print("|---|---|---|---|---|")
        for load, target in TARGETS.items():
            rounds = [[_measure(c, url, load) for c in CLIENTS] for _ in range(arguments.rounds)]
            ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratio = f"1/{theirs / ours:.1f} | 1/{1 / target:.0f}"
            print(f"| {load} | {ours:.1f} | {theirs:.1f} | {ratio} |")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
