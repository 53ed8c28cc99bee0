"""The command line's contract: one JSON object on stdout, exit statuses, no traceback."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gearshift.cli import app
from gearshift.providers import LLMServiceFactory
from gearshift.settings import load_settings
from places import free_port
from scripted_server import ndjson, ollama, sse, vllm

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
