"""The five steps of a migration in a browser, between two scripted servers."""

import json
import re

import pytest
from playwright.sync_api import expect

from two_sides import MODEL, Sides


@pytest.fixture
def sides(serve):
    """Both servers, and what a workbench has to know of them."""
    found = Sides()
    found.variables = {
        "OLLAMA_BASE_URL": serve(found.ollama).url,
        "VLLM_BASE_URL": serve(found.vllm).url,
    }
    return found


@pytest.fixture
def checkpoint(embedding_home):
    """What a conversion leaves behind, as far as nothing is served from it."""
    folder = embedding_home / "checkpoints" / "small-1b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", "utf-8")
    report = {"source": {"file": "/blobs/sha256-1"}, "checks": []}
    (folder / "gearshift.json").write_text(json.dumps(report), "utf-8")
    return folder


def step(page, name):
    page.get_by_role("radio", name=re.compile(name)).click()


def test_the_five_steps_are_walked_left_and_taken_up_again(workbench, visit, sides, checkpoint):
    bench = workbench(**sides.variables)
    page = visit(bench.url)
    page.get_by_role("link", name="Migrate").click()
    expect(page.get_by_text("5 · The switch")).to_be_visible()  # the first step that is not done
    step(page, "What you have")
    expect(page.get_by_text("{{ range .Messages }}")).to_be_visible()
    step(page, "What it becomes")
    expect(page.get_by_text("translated from TEMPLATE")).to_be_visible()
    expect(page.get_by_role("button", name="The plan as a document")).to_be_visible()

    step(page, "The proof")
    questions = page.get_by_label("Your questions, one a line")
    questions.fill("What is the capital of France?")
    questions.press("Control+Enter")
    page.get_by_text("With passages of the documents").click()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("1 of 1 answers are the same to the letter")).to_be_visible()
    page.get_by_text("= What is the capital of France?").click()
    expect(page.get_by_text("Paris it is.")).to_have_count(2)

    page.reload()  # what was done is kept
    step(page, "The proof")
    expect(page.get_by_text("1 of 1 answers are the same to the letter")).to_be_visible()

    step(page, "The switch")
    page.get_by_label("Seconds to watch").fill("1")
    page.get_by_label("Seconds to watch").press("Enter")
    page.get_by_role("button", name="Cut over").click()
    expect(page.get_by_text("Chats go to vLLM now. Before, they went to Ollama.")).to_be_visible()
    assert "LLM_PROVIDER=vllm" in (bench.folder / ".env").read_text("utf-8")
    page.get_by_role("button", name="Go back").click()
    expect(page.get_by_role("button", name="Cut over")).to_be_visible()
    assert not (bench.folder / ".env").exists()


def test_a_server_that_fails_is_left_and_it_says_so(workbench, visit, sides, checkpoint):
    bench = workbench(**sides.variables)
    page = visit(f"{bench.url}migrate")
    step(page, "The switch")
    page.get_by_role("button", name="Cut over").click()
    expect(page.get_by_text("watching:")).to_be_visible()
    sides.status = 500
    expect(page.get_by_text("It went back by itself")).to_be_visible()
    assert not (bench.folder / ".env").exists()


def test_without_an_ollama_it_says_what_to_do(workbench, visit):
    page = visit(f"{workbench().url}migrate")
    expect(page.get_by_role("alert").filter(has_text="Ollama at")).to_contain_text("Next: start")
    assert MODEL not in page.content()
