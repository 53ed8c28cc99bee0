"""What providers are like is known without ever waiting for one that hangs."""

import time

from gearshift.errors import TimedOut, Unreachable
from gearshift.providers import Watch, breaker
from gearshift.providers.ollama import OllamaService
from gearshift.providers.vllm import VLLMService
from scripted_server import ScriptedServer, ollama, vllm


async def hang(exchange):
    await exchange.until_closed()


def seen(watch, service, ready, seconds=10):
    """Looks until the service is as expected."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        (look,) = watch.look([service])
        if look.seen and look.status.ready == ready:
            return look
        time.sleep(0.05)
    raise AssertionError(look)


def test_one_that_hangs_does_not_hide_the_others(serve, make_settings):
    hanging = VLLMService(make_settings(vllm_base_url=serve(hang).url))
    good = OllamaService(make_settings(ollama_base_url=serve(ollama()).url))
    watch = Watch()
    for _ in range(3):
        started = time.monotonic()
        first, second = watch.look([hanging, good])
        assert time.monotonic() - started < 0.5
        assert (first.status.ready, first.models) == (False, ())
        assert [model.name for model in second.models] == ["mistral:latest"]


def test_it_is_asked_anew_and_not_by_every_page(serve, make_settings, monkeypatch):
    monkeypatch.setattr("gearshift.providers._watch._FRESH", 0.3)
    server = serve(vllm())
    service = VLLMService(make_settings(vllm_base_url=server.url))
    watch = Watch()
    seen(watch, service, True)
    asked = len(server.requests)
    for _ in range(20):
        watch.look([service])
    assert len(server.requests) == asked
    server.stop()
    time.sleep(0.3)
    assert "cannot be reached" in seen(watch, service, False).status.detail


def test_a_surprise_is_a_red_light_and_the_next_look_is_a_new_one(
    serve, make_settings, monkeypatch
):
    monkeypatch.setattr("gearshift.providers._watch._FRESH", 0.1)
    service = VLLMService(make_settings(vllm_base_url=serve(vllm()).url))
    watch = Watch()

    async def surprise():
        raise TypeError("unexpected")

    with monkeypatch.context() as patch:
        patch.setattr(service, "list_models", surprise)
        assert not seen(watch, service, False).models
    assert seen(watch, service, True).models


def test_a_provider_that_comes_back_is_let_in_again_and_one_that_hangs_is_not(
    serve, make_settings, monkeypatch
):
    monkeypatch.setattr("gearshift.providers._watch._FRESH", 0.1)
    server = serve(vllm())
    service = VLLMService(make_settings(vllm_base_url=server.url))
    watch = Watch()
    seen(watch, service, True)
    breaker.failed(service, TimedOut("no first token"))
    time.sleep(0.3)
    seen(watch, service, True)
    assert breaker.blocked(service), "it looked ready all along, and did not answer"
    port = server.port
    server.stop()
    seen(watch, service, False)
    again = ScriptedServer(vllm(), port)
    try:
        seen(watch, service, True)
        assert breaker.blocked(service) is None
        breaker.failed(service, Unreachable("refused"))
        deadline = time.monotonic() + 5
        while breaker.blocked(service):
            assert time.monotonic() < deadline
            seen(watch, service, True)
    finally:
        again.stop()
