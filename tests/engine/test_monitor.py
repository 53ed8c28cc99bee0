"""The monitor keeps looking at everything, and what hangs delays only itself."""

import asyncio
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import nvml_stub
from gearshift.engine import host
from gearshift.engine import monitor as monitor_module
from gearshift.engine.launch import make_launch
from gearshift.engine.monitor import Engine, Monitor, Reading, machine_of, read_engine, watch_once
from gearshift.engine.processes import identify
from gearshift.engine.records import Failure, Place, State
from gearshift.engine.servers import new_record, owners
from gearshift.gpu import GPU, GPUs


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
    machine, (one,), ollama = await watch_once(settings)
    assert machine.processor_percent is not None
    assert one.now().generation_tokens_per_s * one.now().seconds == pytest.approx(10)
    assert one.since_start().generation_tokens_per_s < 1  # since 1970
    assert "cannot be reached" in ollama.problem


def test_the_processors_load_is_never_a_false_zero():
    """Whichever thread looks."""
    busy = subprocess.Popen([sys.executable, "-ISc", "while True: pass"])
    try:
        before, found = host.look(), []
        for _ in range(4):
            time.sleep(0.3)
            with ThreadPoolExecutor(1) as thread:
                now = thread.submit(host.look).result()
            found.append(now.load_since(before))
            before = now
    finally:
        busy.kill()
        busy.wait()
    assert all(10 / os.cpu_count() < load <= 100 for load in found)
    assert before.load_since(before) is None


HANG = """
import json, sys, time
from pathlib import Path
from gearshift.engine import monitor
from gearshift.settings import load_settings
monitor.EVERY, monitor._PATIENCE = 0.1, 0.5
watched = monitor.Monitor(load_settings)
watched.start()
found = []
def until(condition):
    deadline = time.monotonic() + 20
    while not condition(watched.machine[-1].gpus if watched.machine else None):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    found.append([watched.machine[-1].gpus.problem, len(watched.machine[-1].gpus.gpus)])
until(lambda gpus: gpus and gpus.gpus)
Path(sys.argv[1]).touch()
until(lambda gpus: gpus.problem)
count = len(watched.machine)
until(lambda gpus: len(watched.machine) > count and gpus.problem != found[-1][0])
Path(sys.argv[1]).unlink()
until(lambda gpus: gpus.gpus)
watched.stop()
print(json.dumps(found))
"""


def test_of_a_driver_that_hangs_nothing_old_is_shown(tmp_path):
    library, hang = nvml_stub.build(tmp_path / "nvml"), tmp_path / "hang"
    lines = nvml_stub.gpu(0), f"hang {hang}"
    variables = nvml_stub.scenario(library, tmp_path / "scenario", *lines)
    done = subprocess.run(
        [sys.executable, "-c", HANG, hang],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    well, hung, later, again = json.loads(done.stdout)
    assert well == again == [None, 1]
    assert "the NVIDIA driver has not answered for" in hung[0]
    assert (hung[1], later[1]) == (0, 0)
    assert later[0] != hung[0]


@pytest.mark.parametrize(
    ("gpus", "matters"),
    [
        (GPUs(), True),
        (GPUs((GPU(0, memory_total_bytes=24),)), False),
        (GPUs((GPU(0),)), True),  # it shares the machine's
        (GPUs((GPU(0, problem="it is lost"),)), False),
    ],
)
def test_the_machines_memory_matters_where_no_gpu_has_its_own(gpus, matters):
    now = host.look()
    assert machine_of(gpus, now, now).processor_matters is matters


@pytest.fixture
def record(make_settings):
    """Writes the record of a server of ours; it is kept up by this process."""

    def write(port, state, **changes):
        settings = make_settings()
        launch = make_launch(model="/models/tiny", served_names=("tiny",), port=port)
        me = identify(os.getpid())
        made = new_record(launch, settings, Path("/opt/vllm/bin/python")).model_copy(
            update={"state": state, "supervisor": me, "process": me, "tree": [me]} | changes
        )
        Place(settings, port).write(made)
        return made

    return write


def test_a_server_of_ours_that_dies_keeps_its_charts_and_says_so(watch, engine, record):
    record(engine.port, State.READY)
    found = watch(vllm_base_url=engine.url)
    (one,) = until(lambda: [e for e in found.engines if e.now()])
    assert one.name == f"tiny-{engine.port}"
    failure = Failure(kind="crashed", message="its engine was killed.", hint="see its log")
    record(engine.port, State.FAILED, failure=failure)
    engine.stop()  # nobody listens there any more
    (one,) = until(lambda: [e for e in found.engines if e.problem and e.record])
    assert one.problem == f"tiny-{engine.port} failed: its engine was killed."
    assert one.readings[-1].hint == f"see why: gearshift doctor --server tiny-{engine.port}"
    assert one.was_seen
    assert [step for _, step in one.steps() if step]
    assert [e.name for e in found.engines] == [one.name]  # its address is not told twice
    record(engine.port, State.STARTING, stage="loading weights")
    (one,) = until(lambda: [e for e in found.engines if "starting" in (e.problem or "")])
    assert one.problem.endswith("is starting: loading weights")
    assert one.was_seen


async def test_who_answers_on_the_port_of_a_stopped_server_is_somebody_else(
    engine, record, make_settings, monkeypatch
):
    monkeypatch.setattr(monitor_module, "EVERY", 0.1)
    record(engine.port, State.STOPPED)
    _, engines, _ = await watch_once(make_settings(vllm_base_url=engine.url))
    ours, other = engines
    assert ours.now() is None
    assert ours.problem == f"tiny-{engine.port} is stopped"
    assert (other.record, other.now().running) == (None, 2)


def test_what_holds_memory_is_named_ours_from_its_first_moment(record):
    starting = record(8001, State.STARTING)
    assert owners([starting]) == {os.getpid(): "tiny-8001"}
    assert owners([starting.model_copy(update={"boot": "another"})]) == {}


async def test_what_is_no_vllm_is_named(serve, make_settings):
    async def script(exchange):
        await exchange.reply(b"# TYPE go_threads gauge\ngo_threads 7\n", 200, "text/plain")

    url = serve(script).url
    found = await read_engine(Engine(url, url, None), make_settings())
    assert found.problem == f"vLLM at {url}: its /metrics are not those of vLLM"
    assert found.hint


@pytest.mark.parametrize("models", [None, {"a": 1}, "m"])
async def test_an_ollama_that_does_not_say_what_it_has_loaded_has_not_said_nothing(
    serve, make_settings, models
):
    async def script(exchange):
        await exchange.reply({"models": models})

    found = await monitor_module.read_ollama(make_settings(ollama_base_url=serve(script).url))
    assert found.loaded == ()
    assert "did not say what it has loaded" in found.problem


def sample_of(at, tokens, running=1):
    names = f"vllm:prompt_tokens_total 7\nvllm:generation_tokens_total {tokens}\n"
    counters = "# TYPE vllm:prompt_tokens counter\n# TYPE vllm:generation_tokens counter\n"
    gauges = f"vllm:num_requests_running {running}\nvllm:num_requests_waiting 0\n"
    return monitor_module.read_sample(counters + names + gauges, at)


def test_silence_counts_from_the_last_token_and_not_from_idle_times():
    engine = Engine("x", "x", None)
    rows = [(0, 5, 0), (60, 5, 0), (70, 5, 1), (100, 6, 1), (130, 6, 1), (170, 6, 1)]
    readings = [Reading(0.0, sample_of(float(at), *rest)) for at, *rest in rows]
    engine.readings.extend(readings)
    assert engine.silent_s() == 70
    assert "no token was counted for 70 s" in engine.in_words()
    engine.readings.append(Reading(0.0, problem="it is gone"))
    assert engine.silent_s() == 0
    engine.readings.extend(readings[:3])
    assert engine.silent_s() == 0
