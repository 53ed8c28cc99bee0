"""The Servers page, and people who chat while a server comes and goes."""

import json
import os
import re
import signal
import time

import pytest
from playwright.sync_api import expect

from places import free_port
from scripted_server import ndjson, ollama
from stand_in import end_stand_in, stand_in, stand_in_processes


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 9}), "utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def play(tmp_path):
    """A stand-in for vLLM, ended with the test."""
    folder = tmp_path / "stand-in"

    def begin(**plays):
        return str(stand_in(folder, **plays))

    begin.folder = folder
    yield begin
    end_stand_in(folder)


def fill(page, label, value):
    # Not in the sidebar: the chat, which is still on show for a moment, has a "Model" there.
    box = page.get_by_test_id("stMain").get_by_label(label, exact=True)
    box.fill(str(value))
    box.press("Enter")


def test_a_server_is_started_watched_and_stopped(workbench, visit, play, model):
    port = free_port()
    settings = {
        "GEARSHIFT_VLLM_PYTHON": play(start_seconds=4, print_secrets=True),
        "VLLM_MODEL_PATH": str(model.parent),
        "HF_TOKEN": "hf_plantedsecret123",
        "GEARSHIFT_VLLM_API_KEY": "planted-key-123",
    }
    address = {"VLLM_BASE_URL": f"http://127.0.0.1:{port}"}
    page = visit(workbench(LLM_PROVIDER="vllm", **settings, **address).url)
    page.get_by_role("link", name="Start one").click()
    expect(page.get_by_text("No server has been started here yet")).to_be_visible()
    fill(page, "Model", "small")
    expect(page.get_by_text(f"--port={port}").first).to_be_visible()
    fill(page, "GPUs", 2)
    fill(page, "Tensor parallel", 2)
    expect(page.get_by_text("9 attention heads")).to_be_visible()
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_disabled()
    fill(page, "Tensor parallel", 1)
    page.get_by_role("tab", name="Docker").click()
    expect(page.get_by_text(f"127.0.0.1:{port}:8000").first).to_be_visible()
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text(f"small-{port} · starting")).to_be_visible()
    expect(page.get_by_text(f"small-{port} · ready")).to_be_visible()
    page.get_by_text("Log", exact=True).click()
    expect(page.get_by_text("Application startup complete").first).to_be_visible()
    assert "planted" not in page.content()
    page.reload()
    expect(page.get_by_text(f"small-{port} · ready")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text(f"small-{port} · stopped")).to_be_visible()
    assert stand_in_processes(play.folder) == {}
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("No server has been started here yet")).to_be_visible()


def test_a_start_that_fails_shows_the_reason(workbench, visit, play, model):
    python = play(crash="oom")
    page = visit(workbench(GEARSHIFT_VLLM_PYTHON=python).url)
    page.get_by_role("link", name="Servers").click()
    fill(page, "Model", model)
    fill(page, "Port", free_port())
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="out of memory")).to_be_visible()


def test_people_chat_on_while_a_server_comes_is_killed_and_comes_back(
    workbench, visit, serve, play, model, tmp_path
):
    port = free_port()
    fallback = serve(ollama(ndjson("The fallback answers.")))
    python = play(slow_tokens=0.1)
    bench = workbench(
        LLM_PROVIDER="vllm",
        VLLM_BASE_URL=f"http://127.0.0.1:{port}",
        OLLAMA_BASE_URL=fallback.url,
        GEARSHIFT_VLLM_PYTHON=python,
    )
    people = [visit(bench.url) for _ in range(3)]

    def everybody(question):
        for page in people:
            box = page.get_by_placeholder("Ask the documents …")
            expect(box).to_be_enabled()
            box.fill(question)
            box.press("Enter")

    everybody("One?")
    for page in people:
        expect(page.get_by_text("vLLM did not answer")).to_be_visible()
        expect(page.get_by_text("The fallback answers.")).to_be_visible()

    def start():
        operator = visit(bench.url)
        operator.get_by_role("link", name="Servers").click()
        fill(operator, "Model", model)
        operator.get_by_role("button", name="Start", exact=True).click()
        expect(operator.get_by_text(f"small-{port} · ready")).to_be_visible()

    start()
    time.sleep(9)  # two looks at the providers: the light turns green, and nobody chooses anything
    everybody("Two?")
    for page in people:
        expect(page.get_by_text(re.compile(r"(token ){3}")).last).to_be_visible()
    api = next(pid for pid, role in stand_in_processes(play.folder).items() if role == "api")
    os.kill(api, signal.SIGKILL)
    for page in people:
        expect(page.get_by_text("This answer broke off.")).to_be_visible()
    everybody("Three?")
    for page in people:
        expect(page.get_by_text("The fallback answers.")).to_have_count(2)
    assert stand_in_processes(play.folder) == {}

    start()
    time.sleep(9)
    everybody("Four?")
    for page in people:
        expect(page.get_by_text(re.compile(r"vLLM · small · first token"))).to_be_visible()
