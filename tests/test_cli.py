"""The command line's contract: one JSON object on stdout, exit statuses, no traceback."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nvml_stub
from gearshift.cli import app
from gearshift.engine.launch import make_launch
from gearshift.engine.records import Place, State
from gearshift.engine.servers import new_record
from gearshift.gpu import GPUs
from gearshift.providers import LLMServiceFactory
from gearshift.settings import load_settings
from places import ROOT, free_port
from scripted_server import ndjson, ollama, sse, vllm
from stand_in import end_stand_in, stand_in, stand_in_processes

NOTES = "# Harbour\n\nThe harbour master of Gullhaven is Ottoline Brandt. She has two cats.\n"
ASK_KEYS = {
    "answer",
    "reasoning",
    "finish_reason",
    "complete",
    "sources",
    "citations",
    "provider",
    "model",
    "fallback_from",
    "usage",
    "timings",
    "dropped",
}


@pytest.fixture
def gearshift(embedding_home):
    """Runs a command with `--json`; returns exit status, the object and stderr."""

    def run(*arguments):
        LLMServiceFactory.reset()
        found = CliRunner().invoke(app, [*map(str, arguments), "--json"])
        assert found.exception is None or isinstance(found.exception, SystemExit)
        assert "Traceback" not in found.stderr
        record = json.loads(found.stdout) if found.stdout else None
        return found.exit_code, record, found.stderr

    return run


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "harbour.md"
    path.write_text(NOTES)
    return path


@pytest.fixture
def ask_vllm(serve, monkeypatch):
    """A vLLM server with that answer."""

    def start(answer):
        server = serve(vllm(answer))
        monkeypatch.setenv("VLLM_BASE_URL", server.url)
        monkeypatch.setenv("LLM_PROVIDER", "vllm")
        return server

    return start


def test_an_answer_in_json_has_every_key(gearshift, notes, ask_vllm):
    ask_vllm(sse("Ottoline Brandt [1]."))
    assert gearshift("ingest", notes)[0] == 0
    status, record, _ = gearshift("ask", "Who is the harbour master?")
    assert (status, record["answer"]) == (0, "Ottoline Brandt [1].")
    assert record.keys() >= ASK_KEYS
    assert record["timings"].keys() == {"retrieval_s", "ttft_s", "total_s"}
    assert (record["finish_reason"], record["complete"]) == ("stop", True)
    assert (record["provider"], record["model"], record["fallback_from"]) == (
        "vllm",
        "served",
        None,
    )
    (source,) = record["sources"]
    assert source["document"] == str(notes)
    assert "Ottoline" in source["text"]
    (citation,) = record["citations"]
    assert (citation["number"], citation["passage"], citation["by"]) == (1, source["id"], "model")


def test_cut_by_max_tokens_is_an_answer(gearshift, ask_vllm):
    server = ask_vllm(sse("One two", finish="length"))
    status, record, _ = gearshift("ask", "Count.", "--no-retrieval", "--max-tokens", "2")
    assert (status, record["finish_reason"], record["sources"]) == (0, "length", [])
    assert server.requests[-1].json["max_tokens"] == 2


def test_a_broken_answer_is_a_failure_with_its_part(gearshift, ask_vllm):
    ask_vllm(sse("Half", finish=None, done=False, usage=None))
    status, record, errors = gearshift("ask", "Tell.", "--no-retrieval")
    assert status == 1
    assert record.keys() == {"error"}
    assert record["error"].keys() == {"kind", "message", "hint", "partial"}
    assert (record["error"]["kind"], record["error"]["partial"]) == ("truncated", "Half")
    assert record["error"]["hint"] in errors


def test_without_fallback_the_named_provider_fails(gearshift):
    status, record, _ = gearshift(
        "ask", "Hi.", "--provider", "vllm", "--no-fallback", "--no-retrieval"
    )
    assert (status, record["error"]["kind"]) == (1, "unreachable")


def test_the_fallback_is_said(gearshift, serve, monkeypatch):
    monkeypatch.setenv("OLLAMA_BASE_URL", serve(ollama(ndjson("From Ollama."))).url)
    status, record, _ = gearshift("ask", "Hi.", "--provider", "vllm", "--no-retrieval")
    assert (status, record["answer"]) == (0, "From Ollama.")
    assert (record["provider"], record["fallback_from"]) == ("ollama", "vllm")


def test_each_file_has_its_fate(gearshift, tmp_path, notes):
    folder = tmp_path / "many"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text(NOTES)
    (folder / "deep" / "b.txt").write_text("The lighthouse keeper is called Barnaby.")
    (folder / "c.pdf").write_bytes(b"%PDF-1.4 rubbish")
    (folder / "empty.txt").write_bytes(b"")
    status, record, _ = gearshift("ingest", folder, tmp_path / "missing.md", notes)
    fates = {Path(row["path"]).name: row["status"] for row in record["documents"]}
    assert status == 1
    assert fates == {
        "a.md": "indexed",
        "b.txt": "indexed",
        "c.pdf": "failed",
        "empty.txt": "rejected",
        "missing.md": "failed",
        "harbour.md": "duplicate",
    }
    assert all(row["reason"] for row in record["documents"] if row["status"] != "indexed")
    status, record, _ = gearshift("ingest", folder / "a.md")
    assert (status, record["documents"][0]["status"]) == (0, "unchanged")
    status, record, _ = gearshift("search", "lighthouse keeper", "-k", "1")
    (hit,) = record["hits"]
    assert hit.keys() >= {"document", "text", "score"}
    assert hit["document"] == str(folder / "deep" / "b.txt")


def test_the_sample_answers_only_where_no_collection_is_named(gearshift, notes):
    status, record, _ = gearshift("search", "When to use vLLM instead of Ollama?")
    assert status == 0
    assert record["hits"][0]["document"] == "01-choosing-ollama-or-vllm.md"
    status, record, _ = gearshift("search", "anything", "--collection", "none-such")
    assert (status, record["error"]["kind"]) == (1, "index")
    gearshift("ingest", notes, "--collection", "harbour")
    status, record, _ = gearshift("search", "vLLM", "--collection", "harbour")
    assert {hit["document"] for hit in record["hits"]} <= {str(notes)}


def test_providers_are_listed_with_none_ready_and_with_one(gearshift, serve, monkeypatch):
    status, record, _ = gearshift("providers")
    rows = {row["name"]: row for row in record["providers"]}
    assert (status, record["active"]) == (0, "ollama")
    assert rows.keys() == {"ollama", "vllm", "embedded"}
    assert not rows["ollama"]["ready"]
    assert rows["ollama"]["detail"]
    assert (rows["embedded"]["ready"], rows["embedded"]["models"]) == (True, ["smollm2:135m"])
    server = serve(vllm(models=("a", "b")))
    monkeypatch.setenv("VLLM_BASE_URL", server.url)
    rows = {row["name"]: row for row in gearshift("providers")[1]["providers"]}
    assert rows["vllm"]["models"] == ["a", "b"]
    assert (rows["vllm"]["ready"], rows["vllm"]["url"]) == (True, server.url)


def test_a_slow_provider_is_ready_and_a_hanging_one_holds_nothing_up(gearshift, serve, monkeypatch):
    good = ollama()

    async def slow(exchange):
        await asyncio.sleep(0.3)
        await good(exchange)

    async def hang(exchange):
        await exchange.until_closed()

    monkeypatch.setenv("OLLAMA_BASE_URL", serve(slow).url)
    monkeypatch.setenv("VLLM_BASE_URL", serve(hang).url)
    started = time.monotonic()
    rows = {row["name"]: row for row in gearshift("providers")[1]["providers"]}
    assert time.monotonic() - started < 4
    assert rows["ollama"]["ready"]
    assert (rows["vllm"]["ready"], rows["vllm"]["models"]) == (False, [])


def test_switch_writes_the_default_and_keeps_the_rest(gearshift, monkeypatch):
    Path(".env").write_text("# mine\nDEFAULT_MODEL=llama3\n")
    assert gearshift("switch", "vllm")[:2] == (0, {"active": "vllm", "previous": "ollama"})
    assert Path(".env").read_text() == "# mine\nDEFAULT_MODEL=llama3\nLLM_PROVIDER=vllm\n"
    assert gearshift("switch", "ollama")[:2] == (0, {"active": "ollama", "previous": "vllm"})
    monkeypatch.setenv("LLM_PROVIDER", "vllm")
    load_settings.cache_clear()
    status, record, _ = gearshift("switch", "embedded")
    assert (status, record["error"]["kind"]) == (1, "error")
    assert "environment" in record["error"]["message"]
    for harmless in ("", "ollama", "OLLAMA"):
        monkeypatch.setenv("LLM_PROVIDER", harmless)
        load_settings.cache_clear()
        assert gearshift("switch", "ollama")[0] == 0


def test_rebuilding_keeps_the_documents(gearshift, notes):
    gearshift("ingest", notes)
    status, record, _ = gearshift("rebuild")
    assert (status, record["documents"], record["embedder"]) == (0, 1, "minilm")
    assert gearshift("search", "harbour master")[1]["hits"]
    assert gearshift("rebuild", "--collection", "none-such")[0] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        ("ask", "Hi.", "--provider", "gpt"),
        ("ask", "Hi.", "--max-tokens", "0"),
        ("ask",),
        ("search", "x", "-k", "0"),
        ("switch", "nobody"),
        ("ingest",),
        ("fly",),
    ],
)
def test_wrong_usage_is_status_2(gearshift, wrong):
    status, record, errors = gearshift(*wrong)
    assert (status, record) == (2, None)
    assert errors


def test_a_wrong_setting_is_a_failure_with_its_name(gearshift, monkeypatch):
    monkeypatch.setenv("VLLM_GPU_COUNT", "9")
    status, record, _ = gearshift("providers")
    assert (status, record["error"]["kind"]) == (1, "settings")
    assert "VLLM_GPU_COUNT" in record["error"]["message"]


def test_the_installed_command_prints_json_and_nothing_else(embedding_home, notes):
    command = [Path(sys.executable).with_name("gearshift"), "ingest", notes, "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["documents"][0]["status"] == "indexed"
    assert found.stderr == ""


def test_secrets_reach_neither_output_nor_log(gearshift, home, serve, monkeypatch):
    async def refuse(exchange):
        await exchange.reply({"error": "Unauthorized"}, 401)

    monkeypatch.setenv("GEARSHIFT_VLLM_API_KEY", "sk-very-secret-key")
    monkeypatch.setenv("VLLM_BASE_URL", serve(refuse).url)
    outcome = gearshift("ask", "Hi.", "--provider", "vllm", "--no-fallback", "--no-retrieval")
    assert outcome[1]["error"]["kind"] == "auth"
    logged = "".join(path.read_text() for path in (home / "logs").glob("*.log"))
    assert "Security settings validation passed (LLM Provider: ollama)" in logged
    assert "LLM Service initialized: vLLM (http://127.0.0.1:" in logged
    assert "sk-very-secret-key" not in logged + repr(outcome)


def test_the_lines_that_the_guide_tells_people_to_look_for(gearshift, home, ask_vllm, notes):
    ask_vllm(sse("Ottoline."))
    gearshift("ingest", notes)
    gearshift("ask", "Who is the harbour master?")
    logged = (home / "logs" / "gearshift.log").read_text()
    assert "Sending message with 1 sources" in logged
    assert "Message processed for user: 9 chars, 1 sources" in logged


def test_nothing_listens_is_said_in_words(gearshift, monkeypatch):
    port = free_port()
    monkeypatch.setenv("OLLAMA_BASE_URL", f"http://127.0.0.1:{port}")
    rows = {row["name"]: row for row in gearshift("providers")[1]["providers"]}
    assert str(port) in rows["ollama"]["detail"]


@pytest.fixture
def no_gpu(monkeypatch, tmp_path):
    """A machine without a GPU, and without the Hub."""
    monkeypatch.setattr("gearshift.gpu.look", lambda: GPUs(problem="there is no driver"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


SERVE_KEYS = {"name", "command", "environment", "checks", "pid", "url", "log", "state"}


def test_serve_shows_what_it_would_do(gearshift, no_gpu, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_plantedsecret123")
    status, record, _ = gearshift(
        "serve", "mistral", 2, 2, "--port", 9001, "--profile", "throughput", "--dry-run"
    )
    assert status == 0
    assert record.keys() >= SERVE_KEYS
    command = record["command"]
    assert command[1:5] == ["-m", "vllm.entrypoints.cli.main", "serve", command[4]]
    assert {"--tensor-parallel-size=2", "--port=9001", "--max-num-seqs=256"} <= set(command)
    assert "mistral" in command[command.index("--served-model-name") :]
    assert record["environment"]["HF_TOKEN"] == "(hidden)"
    assert "planted" not in json.dumps(record)
    assert {check["status"] for check in record["checks"]} <= {"passed", "refused", "unknown"}
    assert record["pid"] is None
    assert record["url"] == "http://localhost:9001"


def test_serve_takes_its_defaults_from_the_settings(gearshift, no_gpu, monkeypatch):
    monkeypatch.setenv("VLLM_GPU_COUNT", "4")
    monkeypatch.setenv("VLLM_TENSOR_PARALLEL_SIZE", "2")
    load_settings.cache_clear()
    _, record, _ = gearshift("serve", "mistral", "--dry-run")
    assert "--tensor-parallel-size=2" in record["command"]
    port = load_settings().vllm_base_url.rpartition(":")[2]
    assert f"--port={port}" in record["command"]
    _, record, _ = gearshift("serve", "mistral", "--gpus", "1,3", "--dry-run")
    assert "--tensor-parallel-size=2" in record["command"]
    assert record["environment"]["CUDA_VISIBLE_DEVICES"] == "1,3"
    gpus = next(check for check in record["checks"] if check["name"] == "gpus")
    assert gpus["status"] == "unknown"  # no driver to ask


def test_wrong_usage_is_an_object_too(home):
    command = [Path(sys.executable).with_name("gearshift"), "switch", "nobody", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2
    assert json.loads(found.stdout)["error"]["kind"] == "usage"
    assert "choose one of" in found.stderr


def test_the_guides_script_does_what_serve_does(home):
    if not (ROOT / ".venv" / "bin" / "gearshift").exists():
        pytest.skip("the script uses .venv, which `make .venv/ready` makes")
    script = ROOT / "scripts" / "setup_vllm.sh"

    def run(*arguments):
        return subprocess.run([script, *arguments], capture_output=True, text=True, timeout=60)

    found = json.loads(run("mistral", "2", "2", "--dry-run", "--json").stdout)
    assert "--tensor-parallel-size=2" in found["command"]
    wrong = run()
    assert wrong.returncode == 2
    assert "MODEL [GPUS] [TP]" in wrong.stderr


def test_an_impossible_tensor_parallel_size_is_refused_in_under_a_second(gearshift, no_gpu):
    began = time.monotonic()
    status, record, stderr = gearshift("serve", "HuggingFaceTB/SmolLM2-135M-Instruct", 2, 2)
    assert time.monotonic() - began < 1.0
    assert status == 1
    assert record["error"]["kind"] == "refused"
    assert "1, 3" in record["error"]["hint"]
    assert record.keys() >= SERVE_KEYS
    assert record["state"] == "failed"
    assert "9 attention heads" in stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--", "-x"),
        ("serve", "a b"),
        ("serve", "/nowhere/at/all"),
        ("serve", "mistral", "4", "3"),
        ("serve", "mistral", "--gpus", "one"),
        ("serve", "mistral", "--dtype=--trust-remote-code"),
        ("stop", "nobody"),
        ("logs", "nobody"),
        ("engine", "check"),
    ],
)
def test_what_servers_cannot_do_is_said(gearshift, no_gpu, arguments):
    if "--" in arguments:
        found = CliRunner().invoke(app, ["serve", "--json", *arguments[1:]])
        assert found.exit_code == 1
        return
    status, record, stderr = gearshift(*arguments)
    assert status == 1
    assert record["error"]["message"]
    assert record["error"]["hint"]
    assert stderr


def test_servers_are_listed(gearshift):
    for command in ("status", "stop", "logs"):
        assert gearshift(command) == (0, {"servers": []}, "")


def test_a_server_is_served_shown_and_stopped(gearshift, no_gpu, monkeypatch, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text('{"num_attention_heads": 8}')
    (folder / "model.safetensors").write_bytes(b"x")
    python = stand_in(tmp_path / "stand-in")
    monkeypatch.setenv("GEARSHIFT_VLLM_PYTHON", str(python))
    load_settings.cache_clear()
    port = free_port()
    try:
        status, record, _ = gearshift("serve", folder, "--port", port)
        assert (status, record["state"]) == (0, "ready")
        assert record["command"][0] == str(python)
        again = gearshift("serve", folder, "--port", port)[1]
        assert (again["pid"], again["state"]) == (record["pid"], "ready")
        (row,) = gearshift("status")[1]["servers"]
        assert row["name"] == record["name"]
        text = CliRunner().invoke(app, ["logs", record["name"]]).stdout
        assert "Application startup complete" in text
        status, ended, _ = gearshift("stop", record["name"])
        assert (status, ended["servers"][0]["state"]) == (0, "stopped")
        assert stand_in_processes(tmp_path / "stand-in") == {}
    finally:
        end_stand_in(tmp_path / "stand-in")


def test_an_engine_that_serves_is_not_removed(gearshift, no_gpu, embedding_home, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text('{"num_attention_heads": 8}')
    (folder / "model.safetensors").write_bytes(b"x")
    engine = embedding_home / "engine"
    (engine / "bin").mkdir(parents=True)
    stand_in(tmp_path / "stand-in").rename(engine / "bin" / "python")
    (engine / "gearshift-engine").write_text("ready")
    port = free_port()
    try:
        assert gearshift("serve", folder, "--port", port)[0] == 0
        status, record, _ = gearshift("engine", "remove")
        assert (status, record["error"]["kind"]) == (1, "busy")
        assert (engine / "bin" / "python").exists()
        assert gearshift("stop")[0] == 0
        assert gearshift("engine", "remove")[1]["removed"]
        assert not engine.exists()
    finally:
        end_stand_in(tmp_path / "stand-in")


@pytest.fixture
def on_gpus(home, tmp_path):
    """Runs `gearshift` in a process of its own: the NVML that a process has loaded stays."""
    library = nvml_stub.build(tmp_path / "nvml")

    def variables(*lines):
        return nvml_stub.scenario(library, tmp_path / "scenario", *lines) | {"COLUMNS": "160"}

    def run(*arguments, lines):
        return subprocess.run(
            [Path(sys.executable).with_name("gearshift"), *arguments],
            env=os.environ | variables(*lines),
            capture_output=True,
            text=True,
            timeout=60,
        )

    run.variables = variables
    return run


def test_gpus_are_described_with_who_holds_them(on_gpus):
    lines = [nvml_stub.gpu(0, used=5), nvml_stub.gpu(1), "process 0 4194305 4294967296"]
    lines += ["link 0 1 99", "fail 1 memory 3", f"mig 0 MIG-1 {12 << 30} {9 << 30}"]
    found = json.loads(on_gpus("gpus", "--json", lines=lines).stdout)
    first, second = found["gpus"]
    assert (first["index"], first["name"]) == (0, "NVIDIA L4")
    assert (first["memory_used_bytes"], first["memory_total_bytes"]) == (5 << 30, 24 << 30)
    assert (first["utilization_percent"], first["temperature_c"]) == (37, 61)
    assert first["power_watts"] == 70.5
    holder = {"pid": 4194305, "name": None, "memory_bytes": 4 << 30, "server": None}
    assert first["processes"] == [holder]
    assert second["memory_total_bytes"] is None
    assert "unified memory" in second["notes"][0]
    assert found["links"] == [{"first": 0, "second": 1, "kind": "NVLINK"}]
    shown = on_gpus("gpus", lines=lines)
    assert shown.returncode == 0
    said = " ".join(shown.stdout.split())
    assert "5.0 of 24.0 GiB" in said
    assert "GPU 0 and 1: NVLINK" in said
    assert "driver 550.54.15, CUDA 12.4" in said
    assert "power limit 72 W · clock 2040 MHz · memory clock 6251 MHz" in said
    assert "compute capability 8.9" in said
    assert "MIG NVIDIA L4 MIG 1g.6gb: 9.0 of 12.0 GiB free · MIG-1" in said
    assert re.search(r"Processor \d+ % · memory [\d.]+ of", said)  # which the second GPU shares
    assert on_gpus("gpus", "--watch", "--json", lines=lines).returncode == 2


def test_a_process_may_call_itself_what_it_likes(on_gpus):
    """And the kernel's name of a process has room for 15 bytes."""
    rename = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'[/bold][py]x', 0, 0, 0)"
    code = rename + "; print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-ISc", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            shown = on_gpus("gpus", lines=[nvml_stub.gpu(0), f"process 0 {process.pid} -"])
        finally:
            process.kill()
    assert shown.returncode == 0, shown.stderr
    assert "[/bold][py]x" in shown.stdout


def test_a_watch_that_is_piped_tells_each_look_as_it_comes(on_gpus):
    variables = on_gpus.variables(nvml_stub.gpu(0))
    command = [Path(sys.executable).with_name("gearshift"), "gpus", "--watch"]
    with subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.PIPE, text=True
    ) as process:
        found = 0
        try:
            for line in process.stdout:
                found += "NVIDIA L4" in line
                if found == 3:
                    break
        finally:
            process.kill()
    assert found == 3


def test_without_a_driver_the_processor_and_a_reason_are_shown(gearshift, no_gpu):
    status, found, _ = gearshift("gpus")
    assert status == 0
    assert found["gpus"] == []
    assert found["problem"] == "there is no driver"
    assert 0 <= found["machine"]["processor_percent"] <= 100
    assert 0 < found["machine"]["memory_used_bytes"] < found["machine"]["memory_total_bytes"]
    for command in (["gpus"], ["status", "--metrics"]):
        shown = CliRunner().invoke(app, command)
        assert shown.exit_code == 0
        assert re.search(r"Processor \d+ % · memory [\d.]+ of", shown.stdout)


FIGURES = """\
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1700000000.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running 8.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting 12.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc 0.99
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total 1000.0
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total 70.0
# TYPE vllm:num_preemptions counter
vllm:num_preemptions_total 3.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="0.1"} 10.0
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 10.0
vllm:time_to_first_token_seconds_sum 0.4
"""


def test_status_shows_the_figures_in_words(gearshift, serve, monkeypatch, no_gpu):
    async def metrics(exchange):
        await exchange.reply(FIGURES.encode(), 200, "text/plain")

    async def loaded(exchange):
        row = {"name": "[m]", "size": 3 << 30, "size_vram": 0}
        await exchange.reply({"models": [row | {"expires_at": "2318-01-01T00:00:00Z"}]})

    monkeypatch.setenv("VLLM_BASE_URL", serve(metrics).url)
    monkeypatch.setenv("OLLAMA_BASE_URL", serve(loaded).url)
    load_settings.cache_clear()
    shown = CliRunner().invoke(app, ["status", "--metrics"], env={"COLUMNS": "200"}).stdout
    said = " ".join(shown.split())
    assert "12 requests waiting: the KV cache is full (99 %)" in said
    assert "Running 8 · Waiting 12 · KV cache 99 %" in said
    assert "Tokens written 0 /s · Tokens read 0 /s" in said
    assert "since its start: first token 50 ms in the middle, 95 % within 95 ms" in said
    assert "3 put back" in said
    assert "Ollama: [m]: 3.0 GiB, 0 % of it on GPUs, until told to go" in said


def test_figures_of_somebody_else_are_not_those_of_our_stopped_server(
    gearshift, serve, monkeypatch, no_gpu, home, make_settings
):
    async def metrics(exchange):
        await exchange.reply(FIGURES.encode(), 200, "text/plain")

    server = serve(metrics)
    launch = make_launch(model="/models/tiny", served_names=("tiny",), port=server.port)
    record = new_record(launch, make_settings(), Path("/opt/vllm/bin/python"))
    stopped = record.model_copy(update={"state": State.STOPPED})
    Place(make_settings(), server.port).write(stopped)
    monkeypatch.setenv("VLLM_BASE_URL", f"http://localhost:{server.port}")
    load_settings.cache_clear()
    (ours,), (other,) = (
        gearshift("status", "--metrics")[1][key] for key in ("servers", "elsewhere")
    )
    assert ours["metrics"] is None
    assert ours["metrics_problem"] == f"tiny-{server.port} is stopped"
    assert other["metrics"]["running"] == 8
    server.stop()
    _, found, _ = gearshift("status", "--metrics")
    assert (len(found["servers"]), found["elsewhere"]) == (1, [])


def test_status_tells_what_engines_do(gearshift, serve, monkeypatch, no_gpu):
    async def metrics(exchange):
        text = b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 3.0\n"
        await exchange.reply(text, 200, "text/plain")

    async def loaded(exchange):
        await exchange.reply({"models": [{"name": "m", "size": 10, "size_vram": 5}]})

    monkeypatch.setenv("VLLM_BASE_URL", url := serve(metrics).url)
    monkeypatch.setenv("OLLAMA_BASE_URL", serve(loaded).url)
    load_settings.cache_clear()
    status, found, _ = gearshift("status", "--metrics")
    assert status == 0
    assert found["servers"] == []
    (elsewhere,) = found["elsewhere"]
    assert elsewhere["url"] == url
    assert elsewhere["metrics"]["running"] == 3
    assert elsewhere["metrics"]["waiting"] is None
    assert elsewhere["metrics_since_start"] is None  # it does not tell when it was started
    assert [(m["name"], m["gpu_share"]) for m in found["ollama"]["loaded"]] == [("m", 0.5)]


PLAN_KEYS = {
    *("fits", "weights_gib", "available_kv_gib", "kv_cache_tokens", "kv_bytes_per_token"),
    *("max_concurrency", "legal_tensor_parallel", "reasons", "command"),
}


def test_plan_tells_what_fits(gearshift, no_gpu, tmp_path):
    status, found, _ = gearshift("plan", "meta-llama/Llama-3.1-8B-Instruct", "--gpu", "L4")
    assert status == 0  # "does not fit" is an answer
    assert found.keys() >= PLAN_KEYS
    assert found["fits"] is False
    assert found["smallest"]["gpus"] == 2
    assert found["fitting_quantizations"] == []
    larger = ("plan", "Qwen/Qwen2.5-14B-Instruct", "--gpu", "L4", "--max-model-len", 4096)
    assert gearshift(*larger)[1]["fitting_quantizations"] == ["fp8", "awq"]
    assert gearshift(*larger, "--gpus", 4)[1]["latency"]["tensor_parallel"] == 4
    shorter = ("plan", "llama3.1", "--gpu", "L4", "--max-model-len", 8192)
    assert gearshift(*shorter)[1]["fits"] is True
    _, unknown, _ = gearshift("plan", "mistral", "--gpu", "something new")
    assert unknown["available_kv_gib"] is unknown["fits"] is None
    assert unknown["weights_gib"] == pytest.approx(13.5, abs=0.1)
    assert "not known" in unknown["reasons"][0]
    _, illegal, _ = gearshift("plan", "smollm2:135m", "--gpu-memory", 24, "--tensor-parallel", 2)
    assert illegal["fits"] is False
    assert illegal["legal_tensor_parallel"] == [1, 3]
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama", "hidden_size": 2048}')
    options = ("--parameters", "1.1B", "--gpu", "T4", "--gpus", 2, "--quantization", "awq")
    _, file, _ = gearshift("plan", path, *options)
    assert file["tensor_parallel"] == 2
    assert "--quantization=awq" in file["command"]
    assert str(tmp_path) in file["command"]


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_plan_says_what_is_wrong_with_a_config(gearshift, tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    status, found, _ = gearshift("plan", path)
    assert status == 1
    assert found["error"]["hint"]
    assert gearshift("plan", "nobody/knows-this")[0] == 1
    assert gearshift("plan", path, "--parameters", "many")[0] == 2
