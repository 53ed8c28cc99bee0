"""Whatever goes wrong on the way ends in the exact text with proof, or in one of our errors.

The rows are those of a catalogue of real faults; each runs over a real socket, against vLLM's
protocol, Ollama's or both.
"""

import asyncio
import json
import socket
import time

import pytest

from gearshift.errors import (
    ContextExceeded,
    ModelNotFound,
    NotAnLLMServer,
    Overloaded,
    ProtocolError,
    ProviderError,
    Rejected,
    ServerFailed,
    Stalled,
    TimedOut,
    Truncated,
    Unauthorized,
    Unreachable,
)
from gearshift.providers.ollama import OllamaService
from gearshift.providers.vllm import VLLMService
from gearshift.schemas import FinishReason, Usage
from places import free_port
from scripted_server import ndjson, ollama, sse, vllm

GOOD = {"vllm": sse("Hé", "llo ", "wörld"), "ollama": ndjson("Hé", "llo ", "wörld")}
KIND = {"vllm": "text/event-stream", "ollama": "application/x-ndjson"}
BOTH = pytest.mark.parametrize("protocol", ["vllm", "ollama"])


@pytest.fixture
def service(serve, make_settings):
    """A service of `protocol` before a server that answers chats with `answer`."""

    def make(protocol, answer, **settings):
        script = {"vllm": vllm, "ollama": ollama}[protocol](answer)
        server = serve(script)
        fields = make_settings(**{f"{protocol}_base_url": server.url, **settings})
        made = {"vllm": VLLMService, "ollama": OllamaService}[protocol](fields)
        made.server = server
        return made

    return make


async def text_of(service, **options):
    return str(await service.generate("Hi", "served", **options))


async def error_of(service, **options) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await service.generate("Hi", "served", **options)
    assert caught.value.hint
    return caught.value


def raw(data, kind=None, status=200):
    async def answer(exchange):
        await exchange.head(status, kind or "text/event-stream")
        await exchange.send(data)

    return answer


@BOTH
async def test_a_good_answer_is_exact_and_proven(service, protocol):
    answer = await service(protocol, GOOD[protocol]).generate("Hi", "served")
    assert (answer.text, answer.finish_reason) == ("Héllo wörld", FinishReason.STOP)
    assert answer.usage == Usage(7, 3)


@BOTH
async def test_refused_connections_are_unreachable_at_once(make_settings, protocol):
    url = f"http://127.0.0.1:{free_port()}"
    cls = {"vllm": VLLMService, "ollama": OllamaService}[protocol]
    started = time.monotonic()
    error = await error_of(cls(make_settings(**{f"{protocol}_base_url": url})))
    assert isinstance(error, Unreachable)
    assert url in error.message
    assert time.monotonic() - started < 1


async def test_an_unknown_host_is_unreachable(make_settings):
    settings = make_settings(vllm_base_url="http://nosuchhost.invalid:1", allow_remote=True)
    assert isinstance(await error_of(VLLMService(settings)), Unreachable)


async def test_https_to_a_port_that_never_speaks_ends_with_the_connect_budget(make_settings):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://127.0.0.1:{mute.getsockname()[1]}"
        started = time.monotonic()
        error = await error_of(VLLMService(make_settings(vllm_base_url=url)))
    assert isinstance(error, Unreachable)
    assert "TLS" in error.message
    assert time.monotonic() - started < 2.5


async def test_https_to_a_plain_server_is_unreachable(service, make_settings):
    plain = service("vllm", GOOD["vllm"])
    url = plain.url.replace("http:", "https:")
    error = await error_of(VLLMService(make_settings(vllm_base_url=url)))
    assert isinstance(error, Unreachable)
    assert "TLS" in error.message


@BOTH
async def test_no_first_token_times_out(service, protocol):
    async def silent(exchange):
        await exchange.head(kind=KIND[protocol])
        await exchange.until_closed()

    error = await error_of(service(protocol, silent))
    assert isinstance(error, TimedOut)
    assert error.partial == ""


@BOTH
async def test_a_slow_first_token_within_the_budget_is_fine(service, protocol):
    async def slow(exchange):
        await asyncio.sleep(1.0)  # longer than the progress budget, shorter than the first token's
        await exchange.head(kind=KIND[protocol])
        await exchange.send(GOOD[protocol])

    assert await text_of(service(protocol, slow)) == "Héllo wörld"


@BOTH
async def test_silence_in_mid_answer_is_stalled_and_keeps_the_partial_text(service, protocol):

    begun = {
        "vllm": sse("Hel", finish=None, done=False, usage=None),
        "ollama": ndjson("Hel", done=False),
    }

    async def stall_after_text(exchange):
        await exchange.head(kind=KIND[protocol])
        await exchange.send(begun[protocol])
        await exchange.until_closed()

    error = await error_of(service(protocol, stall_after_text))
    assert isinstance(error, Stalled)
    assert error.partial == "Hel"


@BOTH
async def test_keep_alives_are_no_progress(service, protocol):
    begun = {
        "vllm": sse("Hel", finish=None, done=False, usage=None),
        "ollama": ndjson("Hel", done=False),
    }

    async def drip(exchange):
        await exchange.head(kind=KIND[protocol])
        await exchange.send(begun[protocol])
        while True:
            await exchange.send(b": keep-alive\n\n" if protocol == "vllm" else b"\n")
            await asyncio.sleep(0.05)

    assert isinstance(await error_of(service(protocol, drip)), Stalled)


@BOTH
async def test_an_endless_answer_ends_with_the_total_budget(service, protocol):
    piece = {
        "vllm": sse("x", finish=None, done=False, usage=None),
        "ollama": ndjson("x", done=False),
    }

    async def endless(exchange):
        await exchange.head(kind=KIND[protocol])
        while True:
            await exchange.send(piece[protocol])
            await asyncio.sleep(0.05)

    error = await error_of(service(protocol, endless, total_timeout=1.5))
    assert isinstance(error, TimedOut)
    assert error.partial.startswith("xx")


@BOTH
async def test_a_clean_end_without_proof_is_truncated(service, protocol):
    cut = {
        "vllm": sse("Hel", finish=None, done=False, usage=None),
        "ollama": ndjson("Hel", done=False),
    }
    error = await error_of(service(protocol, cut[protocol]))
    assert isinstance(error, Truncated)
    assert error.partial == "Hel"


async def test_done_without_finish_reason_is_truncated(service):
    assert isinstance(await error_of(service("vllm", sse("Hel", finish=None))), Truncated)


@BOTH
async def test_a_reset_in_mid_answer_is_truncated(service, protocol):
    begun = {
        "vllm": sse("Hel", finish=None, done=False, usage=None),
        "ollama": ndjson("Hel", done=False),
    }

    async def reset(exchange):
        await exchange.head(kind=KIND[protocol])
        await exchange.send(begun[protocol])
        await asyncio.sleep(0.1)
        exchange.reset()

    error = await error_of(service(protocol, reset))
    assert isinstance(error, Truncated)
    assert error.partial == "Hel"


@BOTH
async def test_a_chunked_body_cut_before_its_last_chunk_is_truncated(service, protocol):
    begun = {
        "vllm": sse("Hel", finish=None, done=False, usage=None),
        "ollama": ndjson("Hel", done=False),
    }

    async def cut(exchange):
        data = begun[protocol]
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {KIND[protocol]}\r\n"
        head += "Transfer-Encoding: chunked\r\n\r\n"
        await exchange.send(head.encode() + f"{len(data):x}\r\n".encode() + data + b"\r\n")

    error = await error_of(service(protocol, cut))
    assert isinstance(error, Truncated)
    assert error.partial == "Hel"


@BOTH
async def test_a_connection_that_breaks_after_the_proof_is_a_whole_answer(service, protocol):
    whole = {"vllm": sse("Hello", done=False), "ollama": ndjson("Hello")}

    async def reset(exchange):
        await exchange.head(kind=KIND[protocol])
        await exchange.send(whole[protocol])
        await asyncio.sleep(0.1)
        exchange.reset()

    assert await text_of(service(protocol, reset)) == "Hello"


async def test_a_server_that_does_not_close_after_the_proof_is_not_waited_for(service):
    async def linger(exchange):
        await exchange.head()
        await exchange.send(sse("Hello", done=False))
        await exchange.until_closed()

    assert await text_of(service("vllm", linger)) == "Hello"


async def test_keep_alives_after_the_proof_do_not_hold_an_answer_back(service):
    async def drip(exchange):
        await exchange.head()
        await exchange.send(sse("Hello", usage=None, done=False))
        while True:
            await exchange.send(b": keep-alive\n\n")
            await asyncio.sleep(0.2)

    started = time.monotonic()
    assert await text_of(service("vllm", drip, total_timeout=20.0)) == "Hello"
    assert time.monotonic() - started < 4


@pytest.mark.parametrize("usage", [[7], "many", {"prompt_tokens": "12", "completion_tokens": 1.5}])
async def test_odd_counts_do_not_make_a_whole_answer_a_wrong_one(service, usage):
    counted = f'data: {{"choices":[],"usage":{json.dumps(usage)}}}\n\n'.encode()
    data = sse("Hello", usage=None, done=False) + counted + b"data: [DONE]\n\n"
    answer = await service("vllm", data).generate("Hi", "served")
    assert (answer.text, answer.usage) == ("Hello", Usage())


async def test_odd_counts_of_ollama_are_unknown(service):
    data = ndjson("Hello").replace(b'"eval_count": 3', b'"eval_count": 3.5')
    answer = await service("ollama", data).generate("Hi", "served")
    assert (answer.text, answer.usage) == ("Hello", Usage(7, None))


async def test_half_a_character_is_refused_before_it_is_sent(service):
    made = service("vllm", GOOD["vllm"])
    with pytest.raises(Rejected, match="surrogate"):
        await made.generate("Hi \ud800", "served")


@BOTH
async def test_json_that_nests_too_deeply_is_a_protocol_error(service, protocol):
    deep = b"[" * 100_000 + b"]" * 100_000
    line = b'{"choices":[{"index":0,"delta":{"tool_calls":' + deep + b"}}]}"
    if protocol == "ollama":
        line = b'{"message":{"tool_calls":' + deep + b'},"done":false}'
    data = b"data: " + line + b"\n\n" if protocol == "vllm" else line + b"\n"
    assert isinstance(await error_of(service(protocol, raw(data))), ProtocolError)
    assert isinstance(await error_of(service(protocol, raw(deep, status=500))), ServerFailed)


async def test_a_bug_of_ours_is_a_typed_error_too(service, monkeypatch, caplog):
    made = service("vllm", GOOD["vllm"])

    def broken(request):
        raise ZeroDivisionError

    monkeypatch.setattr(made, "_reader", broken)
    assert isinstance(await error_of(made), ProtocolError)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("wait", ["nan", "inf", "soon", "Mon, 01 Jan 2026 00:00:00 +9999999999999"])
async def test_an_absurd_wait_is_no_wait(service, wait):
    async def busy(exchange):
        await exchange.reply({"error": "busy"}, 503, Retry_After=wait)

    assert isinstance(await error_of(service("vllm", busy)), Overloaded)


async def test_a_server_that_streams_nothing_is_understood(service):
    whole = b'{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}'
    assert await text_of(service("vllm", raw(whole, "application/json"))) == "Hi"
    failed = await error_of(service("vllm", raw(b'{"error":{"message":"CUDA OOM"}}')))
    assert "CUDA OOM" in failed.message


@BOTH
async def test_without_a_model_the_first_or_the_default_is_asked(service, protocol):
    made = service(protocol, GOOD[protocol])
    assert (await made.generate("Hi")).model == {"vllm": "served", "ollama": "mistral:latest"}[
        protocol
    ]
    script = made.server.script

    async def listing_hangs(exchange):
        if "chat" not in exchange.path:
            await exchange.until_closed()
        await script(exchange)

    made.server.script = listing_hangs
    assert (await made.generate("Hi")).model == "mistral"


@BOTH
async def test_a_bad_chunk_is_a_protocol_error_and_nothing_is_dropped(service, protocol):
    good = GOOD[protocol]
    bad = good.replace(b'"llo "', b'"llo ')
    error = await error_of(service(protocol, bad))
    assert isinstance(error, ProtocolError)
    assert error.partial == "Hé"


@pytest.mark.parametrize(
    ("protocol", "event"),
    [
        ("ollama", b'{"error":"an error was encountered while running the model: CUDA error"}\n'),
        (
            "vllm",
            b'data: {"error":{"message":"EngineCore encountered an issue.","type":'
            b'"InternalServerError","param":null,"code":500}}\n\ndata: [DONE]\n\n',
        ),
        ("vllm", b'event: error\ndata: {"error":"Unauthorized"}\n\n'),
        ("vllm", b'event: error\ndata: {"message": "broken"}\n\n'),
        ("vllm", b'data: {"error":"out of memory"}\n\n'),
        ("vllm", b'data: {"object":"error","message":"boom","type":"X","code":500}\n\n'),
    ],
)
async def test_an_error_in_mid_stream_wins_and_is_shown(service, protocol, event):
    begun = {
        "vllm": sse("Hel", finish=None, done=False, usage=None),
        "ollama": ndjson("Hel", done=False),
    }
    error = await error_of(service(protocol, begun[protocol] + event))
    assert isinstance(error, ServerFailed)
    assert error.partial == "Hel"


async def test_an_error_behind_the_finish_reason_still_wins(service):
    data = (
        sse("Hel", done=False, usage=None)
        + b'data: {"error":{"message":"late"}}\n\ndata: [DONE]\n\n'
    )
    assert isinstance(await error_of(service("vllm", data)), ServerFailed)


async def test_an_aborted_answer_is_truncated(service):
    assert isinstance(await error_of(service("vllm", sse("Hel", finish="abort"))), Truncated)


CONTEXT = {
    "message": "This model's maximum context length is 2048 tokens. However, your prompt contains "
    "at least 2049 input tokens. (parameter=input_tokens, value=2049)",
    "type": "BadRequestError",
    "param": "input_tokens",
    "code": 400,
}


@pytest.mark.parametrize(
    ("protocol", "status", "body", "kind"),
    [
        ("ollama", 404, {"error": "model 'served' not found"}, ModelNotFound),
        ("ollama", 404, {"error": 'model "served" not found, try pulling it first'}, ModelNotFound),
        (
            "vllm",
            404,
            {"error": {"message": "The model `served` does not exist.", "type": "NotFoundError"}},
            ModelNotFound,
        ),
        ("vllm", 404, {"detail": "Not Found"}, NotAnLLMServer),
        ("ollama", 404, b"404 page not found", NotAnLLMServer),
        ("vllm", 405, {"detail": "Method Not Allowed"}, NotAnLLMServer),
        ("vllm", 400, {"error": CONTEXT}, ContextExceeded),
        ("vllm", 400, {"error": {**CONTEXT, "message": "zu lang"}}, ContextExceeded),
        ("vllm", 400, {"object": "error", **CONTEXT, "param": None}, ContextExceeded),
        (
            "vllm",
            400,
            {"error": {"type": "exceed_context_size_error", "message": "x"}},
            ContextExceeded,
        ),
        (
            "ollama",
            400,
            {"error": "the prompt is longer than the context length currently available"},
            ContextExceeded,
        ),
        (
            "vllm",
            400,
            {"error": {"message": "temperature must be in [0, 2]", "param": "temperature"}},
            Rejected,
        ),
        ("vllm", 422, {"detail": [{"loc": ["body"]}]}, Rejected),
        ("vllm", 401, {"error": "Unauthorized"}, Unauthorized),
        ("vllm", 403, b"forbidden", Unauthorized),
        (
            "ollama",
            500,
            {"error": "model requires more system memory (8 GiB) than is available"},
            ServerFailed,
        ),
        (
            "ollama",
            500,
            {"error": "llama runner process has terminated: signal: killed"},
            ServerFailed,
        ),
        ("vllm", 502, b"<html>Bad Gateway</html>", ServerFailed),
        ("vllm", 307, b"", NotAnLLMServer),
    ],
)
async def test_each_status_and_body_has_its_error(service, protocol, status, body, kind):
    async def answer(exchange):
        await exchange.reply(body, status, Location="http://127.0.0.1:1/")

    made = service(protocol, answer)
    error = await error_of(made)
    assert type(error) is kind
    if isinstance(body, dict) and isinstance(body.get("error"), str) and status == 500:
        assert body["error"] in error.message
    chats = [r for r in made.server.requests if "chat" in r.path]
    assert len(chats) == 1, "asked again"


async def test_a_missing_model_names_those_that_there_are(service):
    async def answer(exchange):
        await exchange.reply({"error": {"message": "no", "type": "NotFoundError"}}, 404)

    assert "served" in (await error_of(service("vllm", answer))).hint


@pytest.mark.parametrize("status", [429, 503])
@BOTH
async def test_a_busy_server_is_asked_again_as_it_says(service, protocol, status):
    times = []

    async def busy_once(exchange):
        times.append(time.monotonic())
        if len(times) == 1:
            body = {"error": "server busy, please try again.  maximum pending requests exceeded"}
            await exchange.reply(body, status, Retry_After="0.5")
        else:
            await exchange.head(kind=KIND[protocol])
            await exchange.send(GOOD[protocol])

    assert await text_of(service(protocol, busy_once)) == "Héllo wörld"
    assert times[1] - times[0] >= 0.5


async def test_a_server_that_wants_more_patience_than_the_budget_is_overloaded_now(service):
    async def busy(exchange):
        await exchange.reply({"error": "busy"}, 429, Retry_After="60")

    started = time.monotonic()
    error = await error_of(service("vllm", busy))
    assert isinstance(error, Overloaded)
    assert error.retry_after == 60
    assert time.monotonic() - started < 1


async def test_a_server_that_stays_busy_is_overloaded_in_the_end(service):
    async def busy(exchange):
        await exchange.reply({"error": "busy"}, 503, Retry_After="0.1")

    made = service("vllm", busy)
    assert isinstance(await error_of(made), Overloaded)
    assert len([r for r in made.server.requests if "chat" in r.path]) == 3


@BOTH
async def test_a_web_page_is_not_a_language_model_server(service, protocol):
    answer = raw(b"<!doctype html><h1>Log in</h1>", "text/html")
    assert isinstance(await error_of(service(protocol, answer)), NotAnLLMServer)


async def test_what_does_not_speak_http_is_not_a_language_model_server(service):
    async def ssh(exchange):
        await exchange.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    assert isinstance(await error_of(service("vllm", ssh)), NotAnLLMServer)


@BOTH
async def test_a_line_without_end_is_refused_before_it_fills_the_memory(service, protocol):
    async def flood(exchange):
        await exchange.head(kind=KIND[protocol])
        for _ in range(64):
            await exchange.send(b"x" * (1 << 20))

    started = time.monotonic()
    assert isinstance(await error_of(service(protocol, flood)), ProtocolError)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("line", [b"data: x\n", b"data:\n", b"data: " + b"x" * 60_000 + b"\n"])
async def test_an_event_without_end_is_refused_before_it_fills_the_memory(service, line):
    async def flood(exchange):
        await exchange.head()
        block = line * (1 + 100_000 // len(line))
        for _ in range(200):
            await exchange.send(block)

    started = time.monotonic()
    assert isinstance(await error_of(service("vllm", flood)), ProtocolError)
    assert time.monotonic() - started < 1


@BOTH
async def test_characters_survive_any_cut_and_line_separators_are_characters(service, protocol):
    words = "a\u2028b\u0085c\u2029 \U0001f600 é"
    data = {"vllm": sse(words), "ollama": ndjson(words)}[protocol]
    data = json.loads(json.dumps(data.decode())).encode()
    unescaped = data.replace(
        json.dumps(words).encode(), json.dumps(words, ensure_ascii=False).encode()
    )

    async def bytewise(exchange):
        await exchange.head(kind=KIND[protocol])
        for i in range(0, len(unescaped), 7):
            await exchange.send(unescaped[i : i + 7])

    assert await text_of(service(protocol, bytewise)) == words


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
async def test_blank_lines_comments_and_line_ends_do_not_matter(service, line_end):
    data = b": hi\n\n\n" + GOOD["vllm"].replace(b"data: ", b"data:")
    assert await text_of(service("vllm", data.replace(b"\n", line_end))) == "Héllo wörld"
    lines = b"\n\n" + GOOD["ollama"].replace(b"\n", b"\n\n")
    assert await text_of(service("ollama", lines.replace(b"\n", line_end))) == "Héllo wörld"


async def test_reasoning_is_kept_apart_and_null_content_is_nothing(service):
    events = [
        {"delta": {"content": None, "reasoning": "hm"}},
        {"delta": {"reasoning_content": "m"}},
    ]
    data = b"".join(
        b"data: " + json.dumps({"choices": [{"index": 0, **event}]}).encode() + b"\n\n"
        for event in events
    )
    answer = await service("vllm", data + sse("Yes")).generate("Hi", "served")
    assert (answer.reasoning, answer.text) == ("hmm", "Yes")
    line = b'{"message":{"role":"assistant","content":"","thinking":"hmm"},"done":false}\n'
    answer = await service("ollama", line + ndjson("Yes")).generate("Hi", "served")
    assert (answer.reasoning, answer.text) == ("hmm", "Yes")


async def test_reasoning_counts_as_progress(service):
    async def thinks(exchange):
        await exchange.head()
        for _ in range(5):
            await exchange.send(b'data: {"choices":[{"index":0,"delta":{"reasoning":"."}}]}\n\n')
            await asyncio.sleep(0.4)
        await exchange.send(sse("Yes"))

    assert await text_of(service("vllm", thinks)) == "Yes"


@BOTH
async def test_cut_by_length_is_said(service, protocol):
    data = {"vllm": sse("Hel", finish="length"), "ollama": ndjson("Hel", reason="length")}
    answer = await service(protocol, data[protocol]).generate("Hi", "served")
    assert answer.finish_reason is FinishReason.LENGTH


@BOTH
async def test_proxies_of_the_environment_do_not_swallow_localhost(service, protocol, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")
    assert await text_of(service(protocol, GOOD[protocol])) == "Héllo wörld"


async def test_the_key_is_sent_and_never_shown(serve, make_settings):
    async def echo(exchange):
        await exchange.reply({"error": {"message": exchange.headers["authorization"]}}, 400)

    server = serve(vllm(echo))
    settings = make_settings(vllm_base_url=server.url, vllm_api_key="s3cret-key")
    error = await error_of(VLLMService(settings))
    assert "s3cret" not in f"{error} {error.hint} {settings!r}"
    assert server.requests[0].headers["authorization"] == "bearer s3cret-key".lower()


@BOTH
async def test_stop_closes_the_connection_within_half_a_second(service, protocol):
    async def silent(exchange):
        await exchange.head(kind=KIND[protocol])
        await exchange.until_closed()

    made = service(protocol, silent, first_token_timeout=30, total_timeout=60)
    stream = made.generate_stream("Hi", "served")
    waiting = asyncio.ensure_future(anext(stream))
    assert await asyncio.to_thread(made.server.arrived.wait, 5)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stream.aclose()
    assert await asyncio.to_thread(made.server.closed.wait, 0.5)


@BOTH
async def test_leaving_in_mid_answer_closes_the_connection(service, protocol):
    begun = {
        "vllm": sse("Hel", finish=None, done=False, usage=None),
        "ollama": ndjson("Hel", done=False),
    }

    async def begin(exchange):
        await exchange.head(kind=KIND[protocol])
        await exchange.send(begun[protocol])
        await exchange.until_closed()

    made = service(protocol, begin, progress_timeout=30, total_timeout=60)
    stream = made.generate_stream("Hi", "served")
    assert str(await anext(stream)) == "Hel"
    await stream.aclose()
    assert await asyncio.to_thread(made.server.closed.wait, 0.5)


async def test_a_server_that_ignores_stream_still_answers(service):
    body = {"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]}

    async def whole(exchange):
        await exchange.reply(
            b"data: " + json.dumps(body).encode() + b"\n\n", kind="text/event-stream"
        )

    assert await text_of(service("vllm", whole)) == "Hello"


@BOTH
async def test_thirty_two_streams_side_by_side_do_not_mix(service, protocol):
    async def by_question(exchange):
        word = exchange.json["messages"][0]["content"]
        await exchange.head(kind=KIND[protocol])
        for piece in (
            {"vllm": sse, "ollama": ndjson}[protocol](*(word for _ in range(5)))
        ).splitlines(True):
            await exchange.send(piece)
            await asyncio.sleep(0)

    made = service(
        protocol, by_question, progress_timeout=10, total_timeout=30, first_token_timeout=20
    )
    answers = await asyncio.gather(*(made.generate(f"<{i}>", "served") for i in range(32)))
    assert [str(a) for a in answers] == [f"<{i}>" * 5 for i in range(32)]


async def test_a_path_in_the_address_is_kept_in_front(serve, make_settings):
    server = serve(vllm())
    settings = make_settings(vllm_base_url=f"{server.url}/proxy/a/")
    await VLLMService(settings).generate("Hi", "served")
    assert server.requests[-1].path == "/proxy/a/v1/chat/completions"
