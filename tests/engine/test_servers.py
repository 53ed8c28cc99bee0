"""Servers start, are watched and end whole, whatever happens to them; nobody else is harmed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import nvml_stub
from gearshift.engine import servers
from gearshift.engine.checks import Status
from gearshift.engine.checks._machine import check_engine
from gearshift.engine.learned import recall
from gearshift.engine.processes import alive, identify
from gearshift.engine.records import LIVING, Place, State
from gearshift.engine.start import Wish, prepare
from gearshift.errors import EngineError
from gearshift.settings import load_settings
from places import free_port
from stand_in import end_stand_in, stand_in, stand_in_processes, stand_in_starts

SECRET = "hf_plantedsecret1234567890"
KEY = "planted-key-0987654321"


@pytest.fixture
def model(tmp_path):
    """A folder that passes for a model; the stand-in does not read it."""
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    shape = {"num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(shape), "utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def decoys():
    """Processes that look like a server's and are not ours."""
    script = "import time; time.sleep(600)  # vllm.entrypoints VLLM::EngineCore"
    found = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    yield found
    assert all(decoy.poll() is None for decoy in found), "a process that is not ours was ended"
    for decoy in found:
        decoy.kill()
        decoy.wait()


class Bench:
    """Starts stand-ins on one port, and knows what is left of them."""

    def __init__(self, folder, model, monkeypatch):
        self.folder, self.model, self._monkeypatch = folder, model, monkeypatch
        self.port = free_port()

    @property
    def settings(self):
        return load_settings()

    def play(self, **plays):
        self._monkeypatch.setenv("GEARSHIFT_VLLM_PYTHON", str(stand_in(self.folder, **plays)))
        load_settings.cache_clear()

    def begin(self, **wish):
        start = prepare(Wish(str(self.model), port=self.port, **wish), self.settings)
        return servers.serve(start.record, self.settings)

    def start(self, **wish):
        self.begin(**wish)
        return servers.wait(self.port, self.settings)

    def now(self):
        return servers.find_on(self.port, self.settings)

    def until(self, state, seconds=10.0):
        deadline = time.monotonic() + seconds
        while self.now().state is not state:
            assert time.monotonic() < deadline, self.now()
            time.sleep(0.02)
        return self.now()

    def stop(self, drain=0.0):
        return servers.stop(self.now(), self.settings, drain)

    def pid(self, role):
        return next(pid for pid, what in stand_in_processes(self.folder).items() if what == role)

    def left(self, seconds=15.0):
        """What is left of the stand-in and of supervisors, once there was time to end."""
        deadline = time.monotonic() + seconds
        while found := {**stand_in_processes(self.folder), **self._supervisors()}:
            if time.monotonic() > deadline:
                return found
            time.sleep(0.05)
        return {}

    def _supervisors(self):
        found = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    with open(f"/proc/{entry.name}/cmdline", "rb") as file:
                        words = file.read().split(b"\0")
                except OSError:
                    continue
                if words[2:4] == [b"gearshift.engine._supervisor", str(self.port).encode()]:
                    found[int(entry.name)] = "supervisor"
        return found

    def end(self):
        end_stand_in(self.folder)
        for pid in self._supervisors():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def bench(tmp_path, model, monkeypatch, home):
    monkeypatch.setenv("GEARSHIFT_START_TIMEOUT", "20")
    found = Bench(tmp_path / "stand-in", model, monkeypatch)
    found.play()
    yield found
    found.end()


def test_a_server_starts_answers_and_ends(bench, decoys):
    record = bench.start()
    assert record.state is State.READY
    assert alive(record.process)
    assert record.process.pid == bench.pid("api")
    assert sorted(stand_in_processes(bench.folder).values()) == ["api", "engine", "worker"]
    with socket.create_connection(("127.0.0.1", bench.port), 2):
        pass
    assert bench.start().process == record.process  # idempotent
    assert bench.stop().state is State.STOPPED
    assert bench.left() == {}
    assert bench.stop().state is State.STOPPED
    text = record.log.read_text("utf-8")
    assert "Application startup complete" in text
    assert record.log.stat().st_mode & 0o077 == 0


def test_only_what_has_ended_is_forgotten(bench):
    record = bench.start()
    with pytest.raises(EngineError) as caught:
        servers.forget(record, bench.settings)
    assert caught.value.kind == "busy"
    ended = bench.stop()
    servers.forget(ended, bench.settings)
    servers.forget(ended, bench.settings)
    assert servers.status(bench.settings) == []
    assert record.log.exists()


def test_another_model_on_the_port_of_a_server_is_refused(bench, model):
    record = bench.start()
    other = model.parent / "other"
    model.rename(other)
    bench.model = other
    with pytest.raises(EngineError) as caught:
        bench.start()
    assert caught.value.kind == "port_taken"
    assert bench.now().process == record.process


@pytest.mark.parametrize(
    ("plays", "kind", "words"),
    [
        ({"crash": "heads"}, "start", "must be divisible by tensor parallel size"),
        ({"crash": "oom"}, "start", "out of memory"),
        ({"crash": "engine"}, "start", "KV cache is needed"),
        ({"crash": "killed"}, "start", ""),
        ({"crash_with_children": True}, "start", ""),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(bench, decoys, plays, kind, words):
    bench.play(**plays)
    record = bench.start()
    assert record.state is State.FAILED
    assert record.failure.kind == kind
    assert words in record.failure.message
    assert "See root cause above" not in record.failure.message or not words
    assert bench.left() == {}


@pytest.mark.parametrize("plays", [{"hang": True}, {"hang": "shm"}, {"never_healthy": True}])
def test_a_start_without_progress_is_failed(bench, monkeypatch, plays):
    monkeypatch.setenv("GEARSHIFT_START_TIMEOUT", "1.5")
    bench.play(**plays)
    record = bench.start()
    assert (record.state, record.failure.kind) == (State.FAILED, "stalled")
    assert bench.left() == {}


@pytest.mark.parametrize(
    ("plays", "words"), [({"wrong_name": True}, "it lists"), ({"no_token": True}, "first token")]
)
def test_ready_means_the_right_model_and_a_token(bench, monkeypatch, plays, words):
    monkeypatch.setenv("GEARSHIFT_START_TIMEOUT", "1.5")
    bench.play(**plays)
    record = bench.start()
    assert record.state is State.FAILED
    assert words in record.failure.message


@pytest.mark.parametrize("role", ["api", "engine"])
def test_a_server_that_dies_is_failed_within_a_second_and_cleared_away(bench, decoys, role):
    bench.start()
    os.kill(bench.pid(role), signal.SIGKILL)
    began = time.monotonic()
    record = bench.until(State.FAILED)
    if role == "api":
        assert time.monotonic() - began < 2.0  # one on a machine that does nothing else
    assert record.failure.kind == "died"
    assert bench.left() == {}


def test_a_server_whose_supervisor_is_killed_is_adopted(bench, decoys):
    record = bench.start()
    os.kill(record.supervisor.pid, signal.SIGKILL)
    while alive(record.supervisor):
        time.sleep(0.01)
    adopted = bench.now()
    assert adopted.process == record.process
    assert adopted.supervisor != record.supervisor
    assert adopted.state is State.READY
    assert bench.start().process == record.process
    assert bench.stop().state is State.STOPPED
    assert bench.left() == {}


def test_what_is_left_when_supervisor_and_server_are_killed_is_cleared_away(bench, decoys):
    record = bench.start()
    for pid in (record.supervisor.pid, record.process.pid):
        os.kill(pid, signal.SIGKILL)
    while alive(record.supervisor) or alive(record.process):
        time.sleep(0.01)
    assert len(stand_in_processes(bench.folder)) == 2  # nobody's children now
    bench.now()
    assert bench.until(State.FAILED).failure.kind == "died"
    assert bench.left() == {}


def test_a_worker_that_left_the_tree_is_ended_too(bench, decoys):
    bench.play(detached_worker=True)
    bench.start()
    assert bench.stop().state is State.STOPPED
    assert bench.left() == {}


@pytest.mark.parametrize(
    "plays", [{"ignore_term": True}, {"lose_term_in_startup": True, "start_seconds": 30}]
)
def test_stop_ends_what_ignores_it_by_the_clock(bench, monkeypatch, plays):
    bench.play(**plays)
    if "start_seconds" in plays:
        bench.begin()
        while len(stand_in_processes(bench.folder)) < 1:
            time.sleep(0.02)
    else:
        bench.start()
    began = time.monotonic()
    assert bench.stop().state is State.STOPPED
    assert time.monotonic() - began < 12
    assert bench.left() == {}


@pytest.mark.parametrize("holds", ["the server's process, which has ended", "another process"])
def test_memory_that_a_driver_does_not_give_back_is_told(bench, tmp_path, monkeypatch, holds):
    ours = holds.startswith("the server's")
    library, file = nvml_stub.build(tmp_path / "nvml"), tmp_path / "scenario"
    for name, value in nvml_stub.scenario(library, file, nvml_stub.gpu(0)).items():
        monkeypatch.setenv(name, value)
    start = prepare(Wish(str(bench.model), port=bench.port), bench.settings).record
    on_gpu = start.model_copy(update={"launch": start.launch.model_copy(update={"cpu": False})})
    servers.serve(on_gpu, bench.settings)
    record = servers.wait(bench.port, bench.settings)
    holder = record.process.pid if ours else os.getpid()
    held = f"process 0 {holder} {10 << 30}"
    nvml_stub.scenario(library, file, nvml_stub.gpu(0, used=11), held)
    record = bench.stop()
    assert bench.left() == {}
    if ours:
        assert (record.state, record.failure.kind) == (State.FAILED, "unkillable")
        assert f"GPU 0 still holds memory for process {holder}" in record.failure.message
    else:
        assert record.state is State.STOPPED


def test_a_start_on_a_gpu_is_learned_from(bench, tmp_path, monkeypatch):
    library, file = nvml_stub.build(tmp_path / "nvml"), tmp_path / "scenario"
    for name, value in nvml_stub.scenario(library, file, nvml_stub.gpu(0)).items():
        monkeypatch.setenv(name, value)
    bench.play(measures=(4.25, 15.5, 123_456))
    start = prepare(Wish(str(bench.model), port=bench.port), bench.settings).record
    launch = start.launch.model_copy(update={"cpu": False, "gpus": ("0",)})
    servers.serve(start.model_copy(update={"launch": launch}), bench.settings)
    servers.wait(bench.port, bench.settings)
    (learned,) = recall(bench.settings)
    assert learned.model == str(bench.model)
    assert (learned.weights_gib, learned.available_kv_gib) == (4.25, 15.5)
    assert (learned.kv_cache_tokens, learned.max_model_len) == (123_456, 2048)
    assert (learned.version, learned.tensor_parallel) == ("0.32.0", 1)
    assert (learned.gpu, learned.usable_gib) == ("NVIDIA L4", 22.03)
    assert 0 < learned.seconds < 60


def test_stop_lets_running_answers_finish(bench):
    bench.play(slow_tokens=0.05)
    bench.start()
    request = json.dumps({"model": "small", "prompt": "x", "max_tokens": 30}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(request)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", bench.port), 20) as connection:
        connection.sendall(head.encode() + request)
        time.sleep(0.3)
        bench.stop(drain=20)
        answer = b""
        while b'"finish_reason"' not in answer:
            block = connection.recv(65536)
            assert block, answer
            answer += block
    assert b" 200 " in answer[:20]


def test_a_server_is_started_again_only_so_often(bench, monkeypatch):
    bench.play(exit_after=1.5, start_seconds=0.2)  # seen to be ready, then gone
    bench.begin(restart=True)
    deadline = time.monotonic() + 40
    while bench.now().restarts < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    bench.stop()
    assert bench.left() == {}


def test_secrets_are_nowhere_but_in_the_environment(bench, monkeypatch, home):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("GEARSHIFT_VLLM_API_KEY", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-for-others")
    bench.play(print_secrets=True)
    record = bench.start()
    assert record.state is State.READY  # the key is sent with every question
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    bench.stop()
    everywhere = [listed.stdout, record.model_dump_json()]
    for path in [*home.rglob("*.log"), *home.rglob("*.json")]:
        everywhere.append(path.read_text("utf-8"))
    assert "VLLM_API_KEY" in "".join(everywhere)
    for text in everywhere:
        for secret in (SECRET, KEY, "planted-for-others"):
            assert secret not in text


DOCKER = """
import json, os, sys
words = sys.argv[1:]
with open({record!r}, "a") as file:
    file.write(json.dumps(words) + "\\n")
if words[0] == "version":
    print("27.0")
elif words[0] == "run":
    port = words[words.index("-p") + 1].split(":")[1]
    image = next(n for n, word in enumerate(words) if word.startswith("vllm/vllm-openai:"))
    inner = [word for word in words[image + 1 :] if not word.startswith(("--host", "--port"))]
    model = inner.pop(0).partition("=")[2]
    serve = ["-m", "vllm.entrypoints.cli.main", "serve", model, "--host=127.0.0.1"]
    os.execv({python!r}, [{python!r}, *serve, f"--port={{port}}", *inner])
"""


def test_a_container_is_started_and_removed(bench, tmp_path, monkeypatch):
    """Docker is played: its command line is what is looked at."""
    record = tmp_path / "docker.jsonl"
    script = DOCKER.format(record=str(record), python=str(stand_in(bench.folder)))
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f"#!{sys.executable}{script}", "utf-8")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    load_settings.cache_clear()
    start = prepare(Wish(str(bench.model), port=bench.port, docker=True), bench.settings)
    assert check_engine(start.plan).status is Status.PASSED
    servers.serve(start.record, bench.settings)
    found = servers.wait(bench.port, bench.settings)
    assert found.state is State.READY, found.failure
    bench.stop()
    assert bench.left() == {}
    calls = [json.loads(line) for line in record.read_text("utf-8").splitlines()]
    assert [call[0] for call in calls] == ["version", "run", "rm"]
    assert calls[1][calls[1].index("-p") + 1] == f"127.0.0.1:{bench.port}:8000"
    assert SECRET not in record.read_text("utf-8")
    docker.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2; exit 1\n")
    refused = check_engine(start.plan)
    assert refused.status is Status.REFUSED
    assert "Cannot connect" in refused.message


def test_much_log_is_rotated_and_blocks_nobody(bench, home):
    bench.play(noisy=25, start_seconds=1.0)
    record = bench.start()
    assert record.state is State.READY
    logs = sorted(path.name for path in record.log.parent.glob("vllm_*"))
    assert len(logs) == 3
    assert all(path.stat().st_size <= 11_000_000 for path in record.log.parent.glob("vllm_*"))


def test_a_huge_line_is_kept_in_pieces_and_holds_nothing_up(bench):
    bench.play(long_line=4)
    record = bench.start()
    assert record.state is State.READY
    assert record.log.read_text("utf-8").count("x") >= 4_000_000


def test_a_record_of_another_boot_is_not_believed(bench):
    record = bench.start()
    bench.stop()
    place = Place(bench.settings, bench.port)
    stale = record.model_copy(update={"boot": "another", "process": identify(os.getpid())})
    place.write(stale)
    found = bench.now()
    assert (found.state, found.failure.kind) == (State.FAILED, "lost")
    assert found.process is None


def test_those_who_look_while_it_starts_do_not_disturb_it(bench):
    bench.start()
    bench.stop()
    done = threading.Event()
    seen = set()

    def look():
        while not done.is_set():
            seen.update(record.state for record in servers.status(bench.settings))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert bench.start().state is State.READY
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert State.FAILED not in seen


FATES = ["stop", "kill api", "kill engine", "kill supervisor", "crash", "hang", "double start"]


def _cycle(bench, fate):
    """One life of a server; afterwards nothing of it may be left."""
    plays = {"start_seconds": 0.2}
    if fate == "crash":
        bench.play(**plays, crash=random.choice(["oom", "heads", "engine"]))
        assert bench.start().state is State.FAILED
        return
    if fate == "hang":
        bench.play(**plays, hang=True)
        bench.begin()
        time.sleep(0.3)
        assert bench.stop().state is State.STOPPED
        return
    bench.play(**plays, ignore_term=False)
    record = bench.start()
    assert record.state is State.READY, record.failure
    if fate == "kill api":
        os.kill(record.process.pid, signal.SIGKILL)
        bench.until(State.FAILED)
    elif fate == "kill engine":
        os.kill(bench.pid("engine"), signal.SIGKILL)
        bench.until(State.FAILED)
    elif fate == "kill supervisor":
        os.kill(record.supervisor.pid, signal.SIGKILL)
        while alive(record.supervisor):
            time.sleep(0.01)
        assert bench.stop().state is State.STOPPED
    else:
        if fate == "double start":
            assert bench.start().process == record.process
        assert bench.stop().state is State.STOPPED


def _cycles(bench, count):
    for number in range(count):
        fate = FATES[number % len(FATES)]
        _cycle(bench, fate)
        assert bench.left() == {}, f"cycle {number}: {fate}"
        assert bench.now().state not in LIVING
    assert len(stand_in_starts(bench.folder)) >= count


def test_twenty_lives_of_a_server_leave_nothing(bench, decoys):
    _cycles(bench, 21)


@pytest.mark.soak
def test_two_hundred_lives_of_a_server_leave_nothing(bench, decoys):
    _cycles(bench, 203)
