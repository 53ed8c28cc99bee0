"""The stand-in for vLLM does what the real one was seen to do, and the faults that it plays."""

import http.client
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from places import free_port
from stand_in import end_stand_in, stand_in, stand_in_processes, stand_in_starts

ALL = ["api", "engine", "worker"]


class Running:
    """A stand-in that was started."""

    def __init__(self, folder: Path, options: list[str], environment: dict[str, str], plays):
        self.folder, self.port = folder, free_port()
        self.log_file = folder / "log"
        python = stand_in(folder, **{"start_seconds": 0.2, **plays})
        command = [str(python), "-m", "vllm.entrypoints.cli.main", "serve", "some/model"]
        command += ["--host=127.0.0.1", f"--port={self.port}", *options]
        command += ["--served-model-name", "one", "two"]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **environment}
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8")

    def roles(self) -> list[str]:
        return sorted(stand_in_processes(self.folder).values())

    def pid(self, role: str) -> int:
        return next(one.pid for one in stand_in_starts(self.folder) if one.role == role)

    def kill(self, role: str, number=signal.SIGKILL) -> None:
        os.kill(self.pid(role), number)

    def ready(self) -> "Running":
        until(lambda: "Application startup complete." in self.log)
        return self

    def ask(self, path: str, body=None, key: str | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            data = None if body is None else json.dumps(body)
            connection.request("POST" if body else "GET", path, data, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if text.startswith("{") else text
        finally:
            connection.close()


def until(condition, seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


@pytest.fixture
def run(tmp_path):
    started = []

    def start(*options: str, environment: dict[str, str] | None = None, **plays) -> Running:
        folder = tmp_path / f"stand-in {len(started)}"  # a path with a blank must do
        started.append(Running(folder, list(options), environment or {}, plays))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        end_stand_in(one.folder)


def proc(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def parent(pid: int) -> int:
    return int(proc(pid, "stat").rpartition(b")")[2].split()[1])


def test_three_processes_of_which_two_cannot_be_known_by_name(run):
    server = run(environment={"MARK": "of-ours"}).ready()
    api, engine, worker = map(server.pid, ALL)
    assert server.roles() == ALL
    assert (parent(engine), parent(worker)) == (api, engine)
    assert os.getsid(engine) == os.getsid(api)
    assert os.getsid(worker) == worker
    for pid, title in ((engine, b"VLLM::EngineCore"), (worker, b"VLLM::Worker")):
        assert proc(pid, "comm").strip() == title[:15]
        assert proc(pid, "cmdline").strip(b"\0") == title
        assert b"of-ours" not in proc(pid, "environ")
    assert b"some/model" in proc(api, "cmdline")
    assert stand_in_starts(server.folder)[0].arguments[:2] == ["serve", "some/model"]


def test_it_answers_as_vllm_does(run):
    server = run("--max-model-len=1024").ready()
    assert server.ask("/health") == (200, "")
    assert server.ask("/version") == (200, {"version": "0.32.0"})
    models = server.ask("/v1/models")[1]["data"]
    assert [(row["id"], row["max_model_len"]) for row in models] == [("one", 1024), ("two", 1024)]
    assert 'vllm:num_requests_running{engine="0",model_name="one"} 0.0' in server.ask("/metrics")[1]

    request = {"model": "two", "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 3}
    status, body = server.ask("/v1/chat/completions", request)
    assert (status, body["choices"][0]["message"]["content"]) == (200, "token token token ")
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 6, "completion_tokens": 3}

    options = {"stream": True, "stream_options": {"include_usage": True}}
    *events, done = server.ask("/v1/chat/completions", request | options)[1].strip().split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert done == "data: [DONE]"
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None, None, None, "length"]
    assert chunks[-1]["usage"]["completion_tokens"] == 3

    status, body = server.ask("/v1/completions", {"model": "one", "prompt": "x"})
    assert (status, body["choices"][0]["text"]) == (200, "token " * 16)
    status, body = server.ask("/v1/completions", {"model": "nope", "prompt": "x"})
    message = "The model `nope` does not exist. Valid aliases: one, two."
    assert (status, body["error"]["message"]) == (404, message)
    assert server.ask("/v1/embeddings", {"input": "x"}) == (404, {"detail": "Not Found"})
    assert server.ask("/v1/completions") == (405, {"detail": "Method Not Allowed"})


def test_a_pooling_model_gives_vectors_only(run):
    server = run("--runner=pooling").ready()
    status, body = server.ask("/v1/embeddings", {"model": "one", "input": ["x", "y z"]})
    assert status == 200
    assert [len(row["embedding"]) for row in body["data"]] == [384, 384]
    assert server.ask("/v1/completions", {"prompt": "x"})[0] == 404


def test_a_key_protects_v1_only(run):
    server = run(environment={"VLLM_API_KEY": "a key"}).ready()
    assert server.ask("/v1/models") == (401, {"error": "Unauthorized"})
    assert server.ask("/v1/models", key="a key")[0] == 200
    assert server.ask("/health")[0] == 200


def test_the_log_tells_how_far_it_is(run):
    log = run().ready().log
    marks = [
        "version 0.32.0",
        "Loading safetensors checkpoint shards:  50% Completed | 1/2",
        "Loading weights took 0.52 seconds",
        "CPU KV cache size: 46,592 tokens, Maximum concurrency for 2,048 tokens per request: 22.75",
        "Starting vLLM server on http://127.0.0.1:",
        "Application startup complete.",
    ]
    places = [log.find(mark) for mark in marks]
    assert -1 not in places
    assert places == sorted(places)


def test_sigterm_ends_all_three_in_time(run):
    server = run().ready()
    server.process.terminate()
    assert server.process.wait(8) == 0
    until(lambda: server.roles() == [], 0.5)


def test_sigterm_in_the_start_ends_all_three(run):
    server = run(start_seconds=5)
    until(lambda: server.roles() == ALL)
    server.process.terminate()
    assert server.process.wait(8) == 0
    until(lambda: server.roles() == [], 0.5)


@pytest.mark.parametrize(("end", "last"), [("term", '"abort"'), ("kill", "EngineCore encountered")])
def test_a_stream_that_is_cut_says_so(run, end, last):
    server = run(slow_tokens=0.02).ready()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    body = json.dumps({"prompt": "x", "stream": True, "max_tokens": 1000})
    connection.request("POST", "/v1/completions", body)
    answer = connection.getresponse()
    answer.readline()
    if end == "term":
        server.process.terminate()
    else:
        server.kill("engine")
    events = answer.read().decode().strip().split("\n\n")
    connection.close()
    assert last in events[-2]
    assert events[-1] == "data: [DONE]"


def test_a_client_that_goes_away_is_forgotten(run):
    server = run(slow_tokens=60).ready()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "x"}))
    until(lambda: '"one"} 1.0' in server.ask("/metrics")[1])
    connection.close()
    until(lambda: '"one"} 1.0' not in server.ask("/metrics")[1])


def test_killing_the_api_server_leaves_two(run):
    server = run().ready()
    server.process.kill()
    server.process.wait()
    time.sleep(0.3)
    until(lambda: server.roles() == ["engine", "worker"])


def test_killing_the_engine_ends_the_api_server_and_the_worker_lingers(run):
    server = run(worker_lingers=1.5).ready()
    server.kill("engine")
    until(lambda: server.ask("/health")[0] == 503)
    assert server.process.wait(8) == 1
    assert "EngineDeadError: EngineCore encountered an issue." in server.log
    assert server.roles() == ["worker"]
    until(lambda: server.roles() == [], 3)


def test_sigterm_can_be_ignored_by_all(run):
    server = run(ignore_term=True).ready()
    for role in ALL:
        server.kill(role, signal.SIGTERM)
    time.sleep(0.3)
    assert server.roles() == ALL
    assert server.ask("/health")[0] == 200


def test_sigterm_can_be_lost_in_the_start_alone(run):
    server = run(lose_term_in_startup=True, start_seconds=0.6)
    until(lambda: server.roles() == ALL)
    for role in ALL:
        server.kill(role, signal.SIGTERM)
    server.ready()
    assert server.roles() == ALL
    time.sleep(0.1)
    server.process.terminate()
    assert server.process.wait(8) == 0


@pytest.mark.parametrize(
    ("crash", "cause", "wrapper", "left"),
    [
        ("oom", "torch.OutOfMemoryError: CUDA out of memory", "core proc(s): {}", []),
        ("engine", "ValueError: To serve at least one request", "core proc(s): {}", []),
        ("killed", "", "core proc(s): {'EngineCore': -9}", ["worker"]),
        ("heads", "Value error, Total number of attention heads (9)", None, []),
    ],
)
def test_a_start_can_fail(run, crash, cause, wrapper, left):
    server = run(crash=crash)
    assert server.process.wait(8) == 1
    until(lambda: server.roles() == left)
    if wrapper:
        assert server.log.index(cause) < server.log.index(wrapper)
    else:
        assert cause in server.log
        assert "Engine core initialization failed" not in server.log


@pytest.mark.parametrize("exit_after", [None, 0.1])
def test_a_crash_can_leave_the_children(run, exit_after):
    server = run(crash_with_children=True, exit_after=exit_after)
    assert server.process.wait(8) == 1
    until(lambda: server.roles() == ["engine", "worker"])


def test_it_can_end_itself_after_being_ready(run):
    server = run(exit_after=0.2).ready()
    assert server.process.wait(8) == 1
    until(lambda: server.roles() == [])


def test_a_taken_port_ends_the_start(run):
    first = run().ready()
    second = run(f"--port={first.port}")
    assert second.process.wait(8) == 1
    assert "OSError: [Errno 98] Address already in use" in second.log
    assert second.roles() == []


def test_a_start_can_hang(run):
    silent, talking = run(hang=True), run(hang="shm")
    until(lambda: talking.log.count("No available shared memory broadcast block") > 2)
    until(lambda: "1/2" in silent.log)
    size = len(silent.log)
    time.sleep(0.4)
    assert len(silent.log) == size
    assert silent.roles() == ALL


def test_it_can_look_ready_and_not_be(run):
    servers = run(never_healthy=True), run(wrong_name=True), run(no_token=True)
    ill, stranger, mute = (server.ready() for server in servers)
    assert ill.ask("/health")[0] == 503
    assert stranger.ask("/v1/models")[1]["data"][0]["id"] == "another-model"
    assert stranger.ask("/v1/completions", {"model": "one", "prompt": "x"})[0] == 404
    assert mute.ask("/health")[0] == mute.ask("/v1/models")[0] == 200
    assert mute.ask("/v1/completions", {"model": "one", "prompt": "x"})[0] == 500


def test_it_can_write_much_and_what_it_should_not(run):
    server = run("--api-key=open", noisy=2, print_secrets=True, environment={"TOKEN": "sesame"})
    server.ready()
    assert server.log_file.stat().st_size > 2_000_000
    assert "TOKEN=sesame" in server.log
    assert "--api-key=open" in server.log


def test_a_worker_can_get_away(run):
    server = run(detached_worker=True).ready()
    worker = server.pid("worker")
    assert parent(worker) not in (server.pid("api"), server.pid("engine"))
    for descriptor in ("1", "2"):
        assert os.readlink(f"/proc/{worker}/fd/{descriptor}") == os.devnull
    server.process.terminate()
    assert server.process.wait(8) == 0
    assert server.roles() == ["worker"]


def test_scripts_can_import_it(tmp_path):
    python = stand_in(tmp_path / "it")
    script = "import vllm; print(vllm.__version__)"
    assert subprocess.check_output([python, "-c", script], text=True) == "0.32.0\n"
