"""The embedded model's child: ten at once, its death, its parent's death, its weights."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest

from gearshift.errors import ProviderError, ServerFailed
from gearshift.providers import _llama_server, run
from gearshift.providers.embedded import EmbeddedService
from gearshift.schemas import GenerationRequest, Message
from gearshift.settings import Settings


@pytest.fixture
def service(home):
    made = EmbeddedService(Settings(_env_file=None))
    yield made
    made.close()


def child(service):
    return service._server._process


def gone(pid, seconds=5.0):
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


async def test_ten_at_once_are_all_answered(service):
    asked = [
        service.generate(f"Say the number {i}.", max_tokens=8, temperature=0) for i in range(10)
    ]
    answers = await asyncio.gather(*asked)
    assert all(answer.text for answer in answers)


async def test_an_answer_keeps_to_the_choices_that_it_is_given(service):
    choices = ['The port is 8001, they say "always".', "Größe: 2 µm.", "Nobody knows."]
    messages = [{"role": "user", "content": "Which port?"}]
    request = GenerationRequest([Message(**m) for m in messages], "smollm2:135m", choices=choices)
    text = "".join([str(chunk) async for chunk in service.stream(request)])
    assert text in {*choices} | {
        f"{a} {b}" for i, a in enumerate(choices) for b in choices[i + 1 :]
    }


async def test_a_killed_child_breaks_its_answer_off_and_is_started_again(service):
    stream = service.generate_stream("Tell me a long story.", max_tokens=300)
    await anext(stream)
    os.kill(child(service).pid, signal.SIGKILL)
    with pytest.raises(ProviderError) as caught:
        async for _ in stream:
            pass
    assert caught.value.partial
    assert (await service.generate("Hi.", max_tokens=4, temperature=0)).text


def test_it_is_ended_when_nobody_asks(service, monkeypatch):
    monkeypatch.setattr(_llama_server, "_IDLE_LIMIT", 0.2)
    run(service.generate("Hi.", max_tokens=4, temperature=0))
    assert gone(child(service).pid) if child(service) else True
    assert run(service.generate("Hi.", max_tokens=4, temperature=0)).text


def test_it_dies_with_its_parent(home):
    code = (
        "import time; from gearshift.providers import LLMServiceFactory, run\n"
        "s = LLMServiceFactory.get_service('embedded'); run(s.generate('Hi.', max_tokens=1))\n"
        "print(s._server._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


def test_strangers_on_this_machine_cannot_use_it(service):
    url, _ = service._server.start()
    request = urllib.request.Request(url + "/v1/chat/completions", b"{}")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 401
    caught.value.close()


def test_weights_that_are_not_the_published_ones_are_refused(monkeypatch):
    monkeypatch.setattr(_llama_server, "_SHA256", "0" * 64)
    _llama_server.weights.cache_clear()
    with pytest.raises(ServerFailed, match="not the file that was published"):
        _llama_server.weights()
    monkeypatch.setattr(_llama_server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServerFailed, match="not installed") as caught:
        _llama_server.weights()
    assert "make" in caught.value.hint
    monkeypatch.undo()
    assert _llama_server.weights().is_file()


def test_a_child_that_cannot_start_says_why(service, monkeypatch, tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"this is no model")
    monkeypatch.setattr(_llama_server, "weights", lambda: bad)
    with pytest.raises(ServerFailed, match="did not start"):
        service._server.start()


def test_the_event_loop_goes_on_while_it_starts(service, monkeypatch):
    def slow(server):
        time.sleep(1.0)
        raise ServerFailed("it did not start")

    monkeypatch.setattr(_llama_server.LlamaServer, "_start", slow)

    async def worst_pause():
        asking = [asyncio.ensure_future(service.generate("Hi.")) for _ in range(3)]
        worst = 0.0
        while not all(task.done() for task in asking):
            began = time.monotonic()
            await asyncio.sleep(0.02)
            worst = max(worst, time.monotonic() - began)
        assert all(isinstance(task.exception(), ServerFailed) for task in asking)
        return worst

    assert run(worst_pause()) < 0.5


def test_one_that_was_only_warmed_up_is_ended_when_nobody_asks(service, monkeypatch):
    monkeypatch.setattr(_llama_server, "_IDLE_LIMIT", 0.2)
    run(service.warm_up())
    deadline = time.monotonic() + 5.0
    while service._server.running and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not service._server.running


def test_it_is_not_ended_for_idleness_under_somebody_who_has_just_begun(service):
    with service._server.in_use():
        address = service._server.start()
        service._server._stop_if_idle()
        assert service._server.running
        assert service._server.start() == address
