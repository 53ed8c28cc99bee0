"""`gearshift doctor`, and what a failed `gearshift serve` says."""

import json

import pytest
from typer.testing import CliRunner

from gearshift.cli import app
from places import free_port
from stand_in import end_stand_in, stand_in

OUT_OF_MEMORY = "ERROR torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB."


@pytest.fixture
def gearshift():
    def run(*arguments, stdin=None):
        found = CliRunner().invoke(app, [*map(str, arguments)], input=stdin)
        assert found.exception is None or isinstance(found.exception, SystemExit)
        assert "Traceback" not in found.stderr
        return found

    return run


def test_every_check_has_a_row(gearshift):
    found = json.loads(gearshift("doctor", "--json").stdout)
    assert found["causes"] == []
    assert {row["name"] for row in found["checks"]} >= {"python", "gpus", "ollama", "index"}
    for row in found["checks"]:
        assert row["status"] in ("passed", "failed", "warning", "unknown")
        assert row["hint"] or row["status"] == "passed", row


def test_a_person_reads_what_is_wrong_first(gearshift, monkeypatch):
    monkeypatch.setenv("VLLM_BASEURL", "http://localhost:8001")
    lines = gearshift("doctor").stdout.splitlines()
    marks = [line[0] for line in lines if line[:1] in ("✗", "!", "✓", "?")]
    assert marks == sorted(marks, key="✗!✓?".index)
    assert any("perhaps meant as VLLM_BASE_URL" in line for line in lines)
    assert any("gpus" in line and "driver" in line for line in lines), "one reason, one line"


def test_wrong_settings_are_a_result_and_hide_no_other(gearshift, monkeypatch):
    monkeypatch.setenv("VLLM_GPU_COUNT", "9")
    found = gearshift("doctor", "--json")
    rows = {row["name"]: row for row in json.loads(found.stdout)["checks"]}
    assert found.exit_code == 0
    assert rows["settings"]["status"] == "failed"
    assert "VLLM_GPU_COUNT" in rows["settings"]["message"]
    assert rows["python"]["status"] == "passed"
    log = gearshift("doctor", "--log", "-", "--json", stdin=OUT_OF_MEMORY)
    assert json.loads(log.stdout)["causes"][0]["cause"] == "cuda-oom"


def test_a_log_from_a_file_and_from_stdin(gearshift, tmp_path):
    path = tmp_path / "server.log"
    path.write_text(f"INFO all is well\n{OUT_OF_MEMORY}\n")
    of_file = json.loads(gearshift("doctor", "--log", path, "--json").stdout)
    of_stdin = json.loads(
        gearshift("doctor", "--log", "-", "--json", stdin=path.read_text()).stdout
    )
    assert of_file == of_stdin
    assert of_file["checks"] == []
    (cause,) = of_file["causes"]
    assert (cause["cause"], cause["line"]) == ("cuda-oom", 2)
    assert cause["evidence"] == OUT_OF_MEMORY
    assert cause["meaning"]
    assert cause["fix"]


def test_what_is_not_known_is_said_and_the_first_error_shown(gearshift):
    text = "INFO fine\nERROR the flux capacitor is empty\n"
    found = json.loads(gearshift("doctor", "--log", "-", "--json", stdin=text).stdout)
    assert found["causes"] == []
    assert found["first_error"] == {"line": 2, "text": "ERROR the flux capacitor is empty"}
    assert "line 2: ERROR the flux" in gearshift("doctor", "--log", "-", stdin=text).stdout


@pytest.mark.parametrize("path", ["missing.log", "."])
def test_a_log_that_cannot_be_read(gearshift, path):
    found = gearshift("doctor", "--log", path, "--json")
    assert found.exit_code == 1
    assert path in json.loads(found.stdout)["error"]["message"]


def test_a_log_and_a_server_are_too_much(gearshift):
    assert gearshift("doctor", "--log", "a", "--server", "b").exit_code == 2
    assert gearshift("doctor", "--server", "b", "--json").exit_code == 1


def test_a_failed_start_says_its_cause_and_offers_the_corrected_one(
    gearshift, tmp_path, monkeypatch
):
    folder = tmp_path / "stand-in"
    monkeypatch.setenv("GEARSHIFT_VLLM_PYTHON", str(stand_in(folder, crash="engine")))
    model = tmp_path / "small"
    model.mkdir()
    (model / "config.json").write_text('{"num_attention_heads": 9}')
    (model / "model.safetensors").write_bytes(b"weights")
    port = free_port()
    try:
        found = gearshift("serve", model, "--port", port, "--json")
        record = json.loads(found.stdout)
        assert (found.exit_code, record["state"]) == (1, "failed")
        assert record["causes"][0]["cause"] == "max-model-len-exceeds-kv-cache"
        assert "--max-model-len=4352" in record["corrected"]
        assert f"--port={port}" in record["corrected"]
        assert "--max-model-len=4352" in record["error"]["hint"]
        assert "max-model-len-exceeds-kv-cache" in gearshift("doctor").stdout
        of_server = gearshift("doctor", "--server", f"small-{port}", "--json").stdout
        assert json.loads(of_server)["causes"] == record["causes"]
        stand_in(folder)
        again = gearshift(*record["corrected"][1:], "--json")
        assert json.loads(again.stdout)["state"] == "ready"
        gearshift("stop", "--all")
        stopped = json.loads(gearshift("doctor", "--server", f"small-{port}", "--json").stdout)
        assert stopped["causes"] == [], "a server that was told to stop has not failed"
    finally:
        end_stand_in(folder)
