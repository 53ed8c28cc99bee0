"""Ten people at once, each in a browser of their own: some minutes on two cores (`make soak`)."""

import os
import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from scripted_server import ndjson, ollama

pytestmark = pytest.mark.soak


@pytest.fixture
def busy_machine():
    """Three processes for each core that want all of it."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(3 * (os.cpu_count() or 1))]
    yield
    for other in others:
        other.kill()
        other.wait()


@pytest.mark.parametrize("turn", range(10))
def test_nothing_is_lost_on_a_busy_machine(workbench, visit, serve, busy_machine, turn):
    """Each turn is a workbench that has just been started: that is when it has most to do."""
    bench = workbench(LLM_PROVIDER="ollama", OLLAMA_BASE_URL=serve(ollama(ndjson("Yes."))).url)
    pages = [visit(bench.url) for _ in range(3)]
    for page in pages:
        box = page.get_by_placeholder("Ask the documents …")
        box.fill("Is anything lost?")
        box.press("Enter")
    for page in pages:
        expect(page.get_by_text("Yes.", exact=True)).to_be_visible()


def test_ten_people_at_once_are_all_answered(workbench, visit):
    url = workbench(LLM_PROVIDER="embedded").url
    pages = [visit(url) for _ in range(10)]
    for page in pages:
        box = page.get_by_placeholder("Ask the documents …")
        box.fill("How do I go back to Ollama?")
        box.press("Enter")
    for page in pages:
        under = page.get_by_text(re.compile(r"first token \d"))
        expect(under).to_contain_text("Embedded model", timeout=240_000)
