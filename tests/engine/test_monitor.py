"""The monitor keeps looking at everything, and what hangs delays only itself."""

import asyncio
import time

import pytest

from gearshift.engine import monitor as monitor_module
from gearshift.engine.monitor import Monitor, watch_once


def figures(tokens):
    return (
        "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1000.0\n"
        "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 2.0\n"
        "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting 1.0\n"
        f"# TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total {tokens}\n"
    ).encode()


@pytest.fixture
def engine(serve):
    """A server whose counter grows by ten with each look."""
    counted = []

    async def script(exchange):
        assert exchange.path == "/metrics"
        counted.append(exchange)
        await exchange.reply(figures(10.0 * len(counted)), 200, "text/plain")

    return serve(script)


@pytest.fixture
def ollama(serve):
    async def script(exchange):
        assert exchange.path == "/api/ps"
        row = {"name": "mistral:latest", "size": 4000, "size_vram": 3000}
        forever = {"expires_at": "2318-01-01T00:00:00Z"}
        await exchange.reply({"models": [row | forever, "nonsense", {"name": 7}]})

    return serve(script)


@pytest.fixture
def hanging(serve):
    async def script(exchange):
        await asyncio.sleep(60)

    return serve(script)


@pytest.fixture
def watch(make_settings, monkeypatch):
    """A monitor that looks often."""
    monkeypatch.setattr(monitor_module, "EVERY", 0.05)
    started = []

    def start(**urls):
        found = Monitor(lambda: make_settings(**urls))
        found.start()
        started.append(found)
        return found

    yield start
    for one in started:
        one.stop()


def until(condition, seconds=8.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_everything_is_kept_the_oldest_first(watch, engine, ollama):
    found = watch(vllm_base_url=engine.url, ollama_base_url=ollama.url)
    (one,) = until(lambda: [e for e in found.engines if len(e.readings) > 4])
    assert [r.problem for r in one.readings] == [None] * len(one.readings)
    steps = [step for _, step in one.steps()]
    assert all(step.generation_tokens_per_s > 0 for step in steps)
    now = one.now()
    assert (now.running, now.waiting) == (2, 1)
    assert len(found.machine) > 4
    assert found.machine[0].at < found.machine[-1].at
    assert found.machine[-1].memory_total_bytes > found.machine[-1].memory_used_bytes > 0
    (model,) = until(lambda: found.ollama and found.ollama.loaded)
    assert (model.name, model.gpu_share) == ("mistral:latest", 0.75)


def test_what_hangs_delays_nothing_else(watch, engine, hanging):
    found = watch(vllm_base_url=engine.url, ollama_base_url=hanging.url)
    until(lambda: len(found.machine) > 4 and found.engines[0].now())
    assert found.ollama is None
    other = watch(vllm_base_url=hanging.url)
    until(lambda: len(other.machine) > 4)
    assert other.engines[0].readings == other.engines[0].readings.__class__()


def test_a_server_that_goes_away_leaves_a_gap_and_comes_back(watch, engine, make_settings):
    found = watch(vllm_base_url=engine.url)
    until(lambda: found.engines and found.engines[0].now())
    script, engine.script = engine.script, None  # every answer breaks off now
    until(lambda: found.engines[0].readings[-1].problem)
    assert found.engines[0].now() is None
    engine.script = script
    until(lambda: found.engines[0].now())
    assert None in [step for _, step in found.engines[0].steps()]


def test_it_stops(watch, engine):
    found = watch(vllm_base_url=engine.url)
    until(lambda: found.machine)
    found.stop()
    time.sleep(0.2)
    count = len(found.machine)
    time.sleep(0.3)
    assert len(found.machine) == count


async def test_one_look_measures_a_span(engine, make_settings, monkeypatch):
    monkeypatch.setattr(monitor_module, "EVERY", 0.1)
    settings = make_settings(vllm_base_url=engine.url)
    (one,), ollama = await watch_once(settings)
    assert one.now().generation_tokens_per_s == pytest.approx(100, rel=0.5)
    assert one.since_start().generation_tokens_per_s < 1  # since 1970
    assert "cannot be reached" in ollama.problem
