"""Ten people at once, each in a browser of their own: some minutes on two cores (`make soak`)."""

import re

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.soak


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
