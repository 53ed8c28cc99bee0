"""Settings: the guide's names, a clear sentence for each wrong value, and `.env` kept whole."""

from pathlib import Path

import pytest

from gearshift.errors import SettingsError
from gearshift.settings import is_loopback, load_settings, save_setting


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("LLM_PROVIDER", "gpt", "choose one of embedded, ollama, vllm"),
        ("VLLM_GPU_COUNT", "0", "greater than or equal to 1"),
        ("VLLM_GPU_COUNT", "9", "less than or equal to 8"),
        ("VLLM_GPU_COUNT", "two", "valid integer"),
        ("VLLM_TENSOR_PARALLEL_SIZE", "2", "must divide VLLM_GPU_COUNT=1 evenly"),
        ("VLLM_BASE_URL", "ftp://localhost", "http:// or https://"),
        ("VLLM_BASE_URL", "localhost:8001", "http:// or https://"),
        ("VLLM_BASE_URL", "http://localhost:99999", "not a URL"),
        ("VLLM_BASE_URL", "http://user:pw@localhost", "user name or password"),
        ("OLLAMA_BASE_URL", "http://192.168.1.7:11434", "GEARSHIFT_ALLOW_REMOTE=true"),
        ("OLLAMA_BASE_URL", "http://localhost.evil.org", "GEARSHIFT_ALLOW_REMOTE=true"),
        ("GEARSHIFT_CONNECT_TIMEOUT", "0", "greater than 0"),
        ("GEARSHIFT_TOTAL_TIMEOUT", "inf", "finite"),
    ],
)
def test_a_wrong_value_is_explained(monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert name in caught.value.message
    assert words in caught.value.message
    assert ".env" in caught.value.hint


def test_every_wrong_value_is_named_at_once(monkeypatch):
    monkeypatch.setenv("LLM_PROVIDER", "gpt")
    monkeypatch.setenv("VLLM_GPU_COUNT", "9")
    with pytest.raises(SettingsError, match=r"LLM_PROVIDER.*VLLM_GPU_COUNT"):
        load_settings()


def test_the_environment_wins_over_the_file(monkeypatch):
    Path(".env").write_text("DEFAULT_MODEL=llama3\nVLLM_GPU_COUNT=4\n")
    monkeypatch.setenv("DEFAULT_MODEL", "qwen3")
    settings = load_settings()
    assert (settings.default_model, settings.vllm_gpu_count) == ("qwen3", 4)


def test_a_path_in_front_and_a_slash_behind_are_taken(monkeypatch):
    monkeypatch.setenv("VLLM_BASE_URL", "http://localhost:8001/proxy/")
    assert load_settings().vllm_base_url == "http://localhost:8001/proxy"


def test_a_password_in_an_address_is_never_shown(monkeypatch):
    monkeypatch.setenv("VLLM_BASE_URL", "http://bob:hunter2@localhost:8001")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hunter2" not in caught.value.message


def test_a_secret_is_never_shown(monkeypatch):
    monkeypatch.setenv("GEARSHIFT_VLLM_API_KEY", "sk-secret")
    assert "sk-secret" not in repr(load_settings())


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://localhost:1", True),
        ("http://127.0.0.2", True),
        ("http://[::1]:8001", True),
        ("http://vllm.localhost", True),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0", False),
        ("http://127.0.0.1.example.org", False),
    ],
)
def test_what_is_this_machine(url, here):
    assert is_loopback(url) is here


def test_saving_replaces_the_line_that_counts_and_keeps_the_rest():
    before = "# note\nexport LLM_PROVIDER=ollama\nDEFAULT_MODEL='a b'  # mine\n"
    Path(".env").write_text(before)
    assert save_setting("LLM_PROVIDER", "vllm")
    assert Path(".env").read_text() == before.replace(
        "export LLM_PROVIDER=ollama", "LLM_PROVIDER=vllm"
    )
    assert load_settings().llm_provider == "vllm"
    with pytest.raises(SettingsError):
        save_setting("DEFAULT_MODEL", "two\nlines")
    Path(".env").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot write"):
        save_setting("LLM_PROVIDER", "vllm")
