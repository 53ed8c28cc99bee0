"""`.env`, the environment, proxies, the index."""

import os
import subprocess
from pathlib import Path

import pytest

from gearshift.doctor.checks import Status
from gearshift.doctor.checks.environment import (
    check_env_file,
    check_environment,
    check_gpu_count,
    check_proxy,
)
from gearshift.doctor.checks.index import check_index
from gearshift.errors import SettingsError
from gearshift.rag.embedders import MiniLM
from gearshift.rag.index import Collection
from gearshift.rag.ingest import ingest_bytes
from scripted_server import ollama


@pytest.fixture(autouse=True)
def only_what_a_test_sets(monkeypatch):
    """Proxies, and names of servers for other tests, may be in the environment of the tests."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("OLLAMA_", "VLLM_")):
            monkeypatch.delenv(name)


def env_file(*lines):
    Path(".env").write_text("\n".join([*lines, ""]), "utf-8")


def test_names_that_are_known(machine):
    assert "no .env" in check_env_file(machine()).message
    env_file(
        "LLM_PROVIDER=ollama",
        "export VLLM_BASE_URL=http://localhost:8001",
        "# VLLM_BASEURL=x",
        "gearshift_home=/x",
        "VLLM_API_KEY=x",
        "OPENAI_BASE_URL=x",
        "OLLAMA_HOST=0.0.0.0",
        "VLLM_LOGGING_LEVEL=DEBUG",
        "HF_HOME=/cache",
        "EMPTY_AND_UNKNOWN=",
    )
    found = check_env_file(machine())
    assert found.status is Status.PASSED, found


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LLM_PROVDER", "LLM_PROVIDER"),
        ("VLLM_BASEURL", "VLLM_BASE_URL"),
        ("OLLAMA_URL", "OLLAMA_BASE_URL"),
        ("VLLM_TENSOR_PARALLEL", "VLLM_TENSOR_PARALLEL_SIZE"),
        ("GEARSHIFT_FIRST_TOKEN_TIME", "GEARSHIFT_FIRST_TOKEN_TIMEOUT"),
    ],
)
def test_names_that_look_like_typing_errors(machine, monkeypatch, name, meant):
    env_file(f"{name}=x")
    found = check_env_file(machine())
    assert found.status is Status.WARNING
    assert f"{name}, perhaps meant as {meant}" in found.message
    assert found.hint == rf"sed -i -e 's/\b{name}\b/{meant}/I' .env"
    subprocess.run(found.hint, shell=True, check=True)
    assert Path(".env").read_text() == f"{meant}=x\n"
    env_file()
    monkeypatch.setenv(name, "x")
    found = check_env_file(machine())
    assert found.status is Status.WARNING
    assert found.hint == f'export {meant}="${name}"; unset {name}'


def test_a_name_of_ours_that_is_like_no_other(machine):
    env_file("GEARSHIFT_COLOUR_OF_THE_SKY=blue")
    found = check_env_file(machine())
    assert (found.status, found.hint) == (
        Status.WARNING,
        r"sed -i -e '/\bGEARSHIFT_COLOUR_OF_THE_SKY\b/Id' .env",
    )


def test_what_the_environment_overrides(machine, monkeypatch):
    env_file("LLM_PROVIDER=vllm", "HF_TOKEN=hf_of_the_file", "DEFAULT_MODEL=mistral")
    assert check_environment(machine()).status is Status.PASSED
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    monkeypatch.setenv("llm_provider", "ollama")
    monkeypatch.setenv("DEFAULT_MODEL", "mistral")
    found = check_environment(machine())
    assert (found.status, found.hint) == (Status.WARNING, "unset HF_TOKEN LLM_PROVIDER")
    assert "hf_" not in found.message + found.hint


def test_a_file_that_cannot_be_read_is_said_so(machine):
    Path(".env").write_bytes(b"LLM_PROVIDER=\xff\xfe")
    with pytest.raises(SettingsError, match="cannot read"):
        check_environment(machine())


@pytest.mark.parametrize(
    ("count", "size", "cards", "visible", "status"),
    [
        (1, 1, 0, "", "passed"),
        (2, 2, 0, "", "unknown"),
        (2, 2, 2, "", "passed"),
        (4, 2, 2, "", "warning"),
        (2, 2, 1, "", "failed"),
        (2, 2, 2, "1", "failed"),
    ],
)
def test_as_many_gpus_as_are_set(machine, card, monkeypatch, count, size, cards, visible, status):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    settings = {"vllm_gpu_count": count, "vllm_tensor_parallel_size": size}
    found = check_gpu_count(machine(*(card(i) for i in range(cards)), **settings))
    assert found.status == status
    assert f"VLLM_GPU_COUNT={count}" in found.message


@pytest.mark.parametrize(
    ("variables", "status", "words"),
    [
        ({}, "passed", "no proxy"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "passed", "no proxy"),
        ({"HTTP_PROXY": "http://proxy:3128"}, "warning", "HTTP_PROXY"),
        ({"all_proxy": "socks5://proxy:1080"}, "warning", "ALL_PROXY"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "localhost"}, "warning", "to 127.0.0.1"),
        ({"http_proxy": "http://p:1", "no_proxy": "localhost,127.0.0.1"}, "passed", "past"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, "passed", "past"),
    ],
)
def test_proxies_that_would_swallow_localhost(machine, monkeypatch, variables, status, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = check_proxy(machine())
    assert found.status == status
    assert words in found.message
    assert (status == "passed") or "export NO_PROXY=" in found.hint


# The index.


@pytest.fixture
def collection(embedding_home):
    made = Collection.open("papers", embedding_home, MiniLM(embedding_home))
    for name in ("a.txt", "b.txt"):
        ingest_bytes(name, f"what {name} says".encode(), made)
    return made


def test_an_index_that_is_whole(machine, home, collection):
    found = check_index(machine(home=home))
    assert found.status is Status.PASSED
    assert found.message == "papers: 2 documents, 2 passages, embedder minilm"


def test_no_index_at_all(machine):
    assert check_index(machine()).status is Status.PASSED


def test_an_index_of_another_splitter(machine, home, collection):
    path = home / "index" / "papers" / "collection.json"
    path.write_text(path.read_text().replace('"splitter": "', '"splitter": "0'))
    found = check_index(machine(home=home))
    assert found.status is Status.FAILED
    assert "gearshift rebuild --collection papers" in found.hint


def test_a_sample_of_another_splitter_is_made_anew_by_itself(machine, home, collection):
    made = home / "index" / "papers"
    path = made / "collection.json"
    path.write_text(path.read_text().replace('"splitter": "', '"splitter": "0'))
    made.rename(home / "index" / "sample")
    assert check_index(machine(home=home)).status is Status.PASSED


def test_an_index_that_is_damaged(machine, home, collection):
    (home / "index" / "other").mkdir()
    (home / "index" / "other" / "collection.json").write_text("{")
    found = check_index(machine(home=home))
    assert found.status is Status.FAILED
    assert "papers" not in found.message, "what is whole is not among what is wrong"
    for data in (home / "index" / "papers").rglob("*.lance/data/*"):
        data.unlink()
    assert "papers" in check_index(machine(home=home)).message


def test_passages_that_are_gone(machine, home, collection):
    collection._tables()._passages.delete("document = 'a.txt'")
    found = check_index(machine(home=home))
    assert found.status is Status.FAILED
    assert "1 passages are gone" in found.message


def embedding(*vector):
    """An Ollama that makes this of every text."""

    async def script(exchange):
        if exchange.path.endswith("/api/embed"):
            await exchange.reply({"embeddings": [vector] * len(exchange.json["input"])})
        else:
            await ollama()(exchange)

    return script


def test_an_embedder_that_does_not_answer_or_has_changed(home, machine, serve, monkeypatch):
    from gearshift.providers import LLMServiceFactory
    from gearshift.rag.embedders import make_embedder
    from gearshift.settings import load_settings

    def use(script):
        monkeypatch.setenv("OLLAMA_BASE_URL", serve(script).url)
        load_settings.cache_clear()
        LLMServiceFactory.reset()
        return load_settings()

    settings = use(embedding(1.0, 0.0))
    made = Collection.open("papers", home, make_embedder("ollama:nomic-embed-text", settings))
    ingest_bytes("a.txt", b"text", made)
    assert check_index(machine(home=home)).status is Status.PASSED
    use(embedding(0.0, 1.0))
    assert check_index(machine(home=home)).status is Status.FAILED
    use(ollama())
    found = check_index(machine(home=home))
    assert found.status is Status.UNKNOWN
    assert "ollama:nomic-embed-text" in found.message
