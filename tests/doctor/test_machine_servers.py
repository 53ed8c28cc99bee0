"""The ports, Ollama and vLLM: who is there, what it has, whether it answers and how fast."""

import os
import subprocess
import sys
import time

import pytest

from gearshift.doctor.checks import Status, speed, system
from gearshift.doctor.checks.offload import check_vllm_offload
from gearshift.doctor.checks.ollama import check_ollama, check_ollama_context, check_ollama_gpu
from gearshift.doctor.checks.ports import check_ollama_port, check_vllm_port
from gearshift.doctor.checks.speed import check_vllm_speed
from gearshift.doctor.checks.vllm import check_vllm, check_vllm_token
from gearshift.engine.processes import port_owner
from places import free_port
from scripted_server import ollama, sse, vllm

GIB = 1 << 30
MINE = f"pid {os.getpid()}"


async def web_page(exchange):
    await exchange.reply(b"<html>Jupyter</html>", kind="text/html")


async def silent(exchange):
    await exchange.until_closed()


def answering(status, path, script=None, body=None):
    """`script`, but for one path."""

    async def answer(exchange):
        if exchange.path.endswith(path):
            await exchange.reply(body or {"error": "it is so"}, status)
        else:
            await (script or vllm())(exchange)

    return answer


# The ports.


def test_a_free_port(machine):
    nobody = machine(vllm_base_url=f"http://localhost:{free_port()}")
    assert check_vllm_port(nobody).status is Status.PASSED
    assert "is free" in check_vllm_port(nobody).message


def test_a_port_where_the_right_server_listens(machine, serve):
    found = machine(ollama_base_url=serve(ollama()).url, vllm_base_url=serve(vllm()).url)
    for check in (check_ollama_port, check_vllm_port):
        assert check(found).status is Status.PASSED
        assert MINE in check(found).message


def test_a_port_where_something_else_listens(machine, serve):
    server = serve(web_page)
    found = check_vllm_port(machine(vllm_base_url=server.url))
    assert found.status is Status.WARNING
    assert MINE in found.message
    assert "no vLLM" in found.message
    assert f"kill {os.getpid()}" in found.hint
    wanted = machine(vllm_base_url=server.url, llm_provider="vllm")
    assert check_vllm_port(wanted).status is Status.FAILED
    unwanted = machine(ollama_base_url=server.url, llm_provider="vllm")
    assert check_ollama_port(unwanted).status is Status.WARNING


def test_an_ollama_where_vllm_should_be(machine, serve):
    speaks_both = answering(200, "/v1/models", ollama(), {"data": [{"id": "mistral"}]})
    found = check_vllm_port(machine(vllm_base_url=serve(speaks_both).url))
    assert (found.status, "Ollama answers" in found.message) == (Status.WARNING, True)


def test_a_server_that_wants_a_key_is_there(machine, serve):
    found = check_vllm_port(machine(vllm_base_url=serve(answering(401, "/v1/models")).url))
    assert (found.status, "GEARSHIFT_VLLM_API_KEY" in found.hint) == (Status.UNKNOWN, True)


def test_another_machines_port_is_not_looked_at(machine):
    found = check_vllm_port(machine(vllm_base_url="http://192.0.2.1:8001", allow_remote=True))
    assert (found.status, "another machine" in found.message) == (Status.PASSED, True)


# Ollama.


def test_ollama_that_is_well(machine, serve):
    found = check_ollama(machine(ollama_base_url=serve(ollama()).url))
    assert found.status is Status.PASSED
    assert "0.35.1" in found.message


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (ollama(models=()), "no model"),
        (ollama(models=("qwen3:8b",)), "mistral is not among them"),
        (answering(200, "/api/version", ollama(), {"version": "0.3.0"}), "security"),
    ],
)
def test_ollama_that_lacks_something(machine, serve, script, words):
    found = check_ollama(machine(ollama_base_url=serve(script).url))
    assert found.status is Status.WARNING
    assert words in found.message


def test_ollama_that_is_not_there(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(system, "_MARKS", ())
    found = check_ollama(machine(ollama_base_url=f"http://127.0.0.1:{free_port()}"))
    assert (found.status, "not installed" in found.message) == (Status.WARNING, True)
    (tmp_path / "ollama").write_text("#!/bin/sh\n")
    (tmp_path / "ollama").chmod(0o755)
    found = check_ollama(machine())
    assert (found.status, found.hint) == (Status.WARNING, "ollama serve")
    assert check_ollama(machine(llm_provider="embedded")).status is Status.UNKNOWN
    monkeypatch.setattr(system, "_MARKS", (tmp_path,))
    assert "host.docker.internal" in check_ollama(machine()).hint


def test_something_else_where_ollama_should_be(machine, serve):
    found = check_ollama(machine(ollama_base_url=serve(web_page).url))
    assert found.status is Status.FAILED


def loaded(*rows):
    return answering(200, "/api/ps", ollama(), {"models": list(rows)})


def row(context=None, on_gpu=8 * GIB, size=8 * GIB):
    return {"name": "mistral:latest", "size": size, "size_vram": on_gpu, "context_length": context}


@pytest.mark.parametrize(
    ("rows", "status", "words"),
    [
        ([row(16384)], "passed", "16384 tokens"),
        ([row(4096)], "warning", "mistral:latest with 4096 tokens"),
        ([row()], "unknown", "default is 4096"),
        ([], "unknown", "OLLAMA_CONTEXT_LENGTH=8192 ollama serve"),
    ],
)
def test_ollamas_context(machine, serve, rows, status, words):
    found = check_ollama_context(machine(ollama_base_url=serve(loaded(*rows)).url))
    assert found.status == status
    assert words in found.message + found.hint


PROGRAM = """
import http.server, sys
class Ollama(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"models": []}')
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ollama).serve_forever()
"""


@pytest.fixture
def started():
    """A server in a process of its own, with these words and this environment."""
    processes = []

    def start(*words, **environment):
        port = free_port()
        command = [sys.executable, "-c", PROGRAM, str(port), *words]
        processes.append(subprocess.Popen(command, env=os.environ | environment))
        while port_owner(port) is None:
            time.sleep(0.05)
        return f"http://127.0.0.1:{port}"

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("tokens", "status", "words"),
    [("2048", "warning", "cut"), ("16384", "passed", "16384"), ("", "unknown", "4096")],
)
def test_ollamas_context_before_a_model_is_loaded(machine, started, tokens, status, words):
    url = started(OLLAMA_CONTEXT_LENGTH=tokens)
    found = check_ollama_context(machine(ollama_base_url=url))
    assert found.status == status
    assert words in found.message + found.hint


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--cpu-offload-gb", "4"], "warning"),
        (["--cpu-offload-gb=0.5"], "warning"),
        (["--cpu-offload-gb", "0"], "passed"),
        (["--dtype", "half"], "passed"),
    ],
)
def test_weights_in_main_memory(machine, started, words, status):
    assert check_vllm_offload(machine(vllm_base_url=started(*words))).status == status


@pytest.mark.parametrize("check", [check_vllm_offload, check_vllm_token, check_vllm_speed])
def test_without_a_server_the_next_thing_is_to_start_one(machine, check):
    found = check(machine(vllm_base_url=f"http://127.0.0.1:{free_port()}"))
    assert found.status == "unknown"
    assert "gearshift serve" in found.hint


@pytest.mark.parametrize(
    ("rows", "with_gpu", "status", "words"),
    [
        ([row()], True, "passed", "100% on the GPU"),
        ([row(on_gpu=2 * GIB)], True, "warning", "25% on the GPU"),
        ([row(on_gpu=0)], True, "warning", "0% on the GPU"),
        ([row(on_gpu=0)], False, "passed", "no GPU"),
        ([row(on_gpu=None)], True, "unknown", "ollama ps"),
        ([], True, "unknown", "no model is loaded"),
    ],
)
def test_ollama_on_the_gpu(machine, card, serve, rows, with_gpu, status, words):
    cards = [card()] if with_gpu else []
    found = check_ollama_gpu(machine(*cards, ollama_base_url=serve(loaded(*rows)).url))
    assert found.status == status
    assert words in found.message + found.hint


# vLLM.


def test_vllm_that_is_well(machine, serve):
    found = machine(vllm_base_url=serve(vllm()).url)
    assert check_vllm(found).status is Status.PASSED
    assert "serves served" in check_vllm(found).message
    assert check_vllm_token(found).status is Status.PASSED


def test_no_vllm_is_a_fault_only_where_it_is_wanted(machine):
    assert check_vllm(machine()).status is Status.UNKNOWN
    found = check_vllm(machine(llm_provider="vllm"))
    assert found.status is Status.FAILED
    assert "LLM_PROVIDER is vllm" in found.message
    assert "gearshift switch ollama" in found.hint
    assert check_vllm_token(machine(llm_provider="vllm")).status is Status.UNKNOWN


def test_vllm_of_an_old_version(machine, serve):
    old = answering(200, "/version", vllm(), {"version": "0.11.0"})
    found = check_vllm(machine(vllm_base_url=serve(old).url))
    assert (found.status, "security holes" in found.message) == (Status.WARNING, True)


def test_vllm_whose_engine_is_dead(machine, serve):
    url = serve(answering(503, "/health")).url
    found = check_vllm(machine(vllm_base_url=url))
    assert (found.status, "health check fails" in found.message) == (Status.WARNING, True)
    assert check_vllm(machine(vllm_base_url=url, llm_provider="vllm")).status is Status.FAILED


def test_servers_that_are_only_busy_are_no_faults(machine, serve):
    found = machine(vllm_base_url=serve(answering(429, "/v1/models")).url, llm_provider="vllm")
    assert check_vllm(found).status is Status.WARNING
    found = machine(ollama_base_url=serve(answering(503, "/api/tags", ollama())).url)
    assert check_ollama(found).status is Status.WARNING


def test_vllm_without_a_model(machine, serve):
    found = machine(vllm_base_url=serve(vllm(models=())).url)
    assert check_vllm(found).status is Status.WARNING
    assert check_vllm_token(found).status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (answering(500, "/chat/completions"), Status.FAILED),
        (answering(400, "/chat/completions"), Status.FAILED),
        (vllm(silent), Status.WARNING),
        (vllm(sse(finish=None, done=False)), Status.FAILED),
        (answering(401, "/v1/models"), Status.UNKNOWN),
    ],
)
def test_vllm_that_writes_no_token(machine, serve, monkeypatch, script, status):
    monkeypatch.setattr("gearshift.doctor.checks.vllm._TOKEN_SECONDS", 0.5)
    found = check_vllm_token(machine(vllm_base_url=serve(script).url, llm_provider="vllm"))
    assert found.status is status
    assert found.hint


# Speed.

SAMPLE = """\
process_start_time_seconds 1000.0
vllm:num_requests_running {running}
vllm:num_requests_waiting {waiting}
vllm:kv_cache_usage_perc {cache}
vllm:num_preemptions_total {preemptions}
vllm:generation_tokens_total {tokens}
vllm:prompt_tokens_total {tokens}
vllm:request_success_total {finished}
vllm:request_queue_time_seconds_sum {queue}
vllm:request_prefill_time_seconds_sum {first}
vllm:request_decode_time_seconds_sum {between}
"""
IDLE = {"running": 0, "waiting": 0, "cache": 0.1, "preemptions": 0, "tokens": 0, "finished": 0}
IDLE |= {"queue": 0.0, "first": 0.0, "between": 0.0}


@pytest.fixture
def metrics(serve, machine, monkeypatch):
    """The check of a server that says one thing and then the other."""
    monkeypatch.setattr(speed, "EVERY", 0.01)

    def check(later, *cards):
        texts = [SAMPLE.format(**IDLE), SAMPLE.format(**IDLE | later)]

        async def script(exchange):
            text = texts.pop(0) if exchange.path == "/metrics" else ""
            await exchange.reply(text.encode(), kind="text/plain")

        return check_vllm_speed(machine(*cards, vllm_base_url=serve(script).url))

    return check


DECODE = {"tokens": 1000, "finished": 10, "first": 1.0, "between": 20.0}
PREFILL = {"tokens": 100, "finished": 10, "first": 30.0, "between": 1.0}


@pytest.mark.parametrize(
    ("later", "busy", "status", "words"),
    [
        ({}, 0, "passed", "Idle"),
        ({"tokens": 1, "finished": 1, "between": 0.1}, 0, "passed", "Idle"),
        ({"tokens": 9, "finished": 9, "queue": 9.0, "first": 1.0}, 0, "passed", "Queue-bound"),
        ({"running": 3} | DECODE, 97, "passed", "Decode-bound: 95%"),
        ({"running": 3} | PREFILL, 97, "passed", "Prefill-bound"),
        ({"running": 3, "waiting": 9} | DECODE, 97, "warning", "9 requests waiting"),
        ({"running": 3, "waiting": 9, "cache": 0.99}, 97, "warning", "--kv-cache-dtype fp8"),
        ({"running": 3, "preemptions": 2}, 97, "warning", "put back"),
        ({"running": 1, "tokens": 50}, 20, "warning", "only 20 % busy"),
        ({"running": 1, "tokens": 50}, None, "passed", "1 request under way"),
    ],
)
def test_what_holds_generation_up(metrics, card, later, busy, status, words):
    found = metrics(later, card(utilization_percent=busy))
    assert found.status == status, found
    assert words in found.message + found.hint


def test_without_metrics_nothing_is_known(machine, serve):
    for url in (f"http://127.0.0.1:{free_port()}", serve(vllm()).url):
        assert check_vllm_speed(machine(vllm_base_url=url)).status is Status.UNKNOWN
