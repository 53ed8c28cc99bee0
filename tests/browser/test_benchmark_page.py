"""The Benchmark page: a scenario is measured, cancelled, looked at, compared."""

import re

import pytest
from playwright.sync_api import expect

from known_server import KnownServer


@pytest.fixture
def quick():
    server = KnownServer("ttft=100,itl=20,tokens=10")
    yield server
    server.stop()


def test_a_scenario_is_measured_and_its_report_downloaded(workbench, visit, quick):
    page = visit(workbench(VLLM_BASE_URL=quick.url).url)
    page.get_by_role("link", name="Benchmark").click()
    main = page.get_by_test_id("stMain")
    expect(main.get_by_text("Nothing was kept yet.")).to_be_visible()
    main.get_by_label("Scenario").click()
    page.get_by_role("option", name="Ten at once").click()
    expect(main.get_by_text("Ten people ask")).to_be_visible()
    remove = main.get_by_label("Remove embedded")
    expect(remove).to_have_count(1)
    remove.click()
    expect(remove).to_have_count(0)
    page.get_by_role("link", name="Plan").click()  # what was chosen stays when the page is left
    expect(page.get_by_role("heading", name="Plan")).to_be_visible()
    page.get_by_role("link", name="Benchmark").click()
    expect(main.get_by_text("Ten people ask")).to_be_visible()
    expect(main.get_by_label("Remove vllm")).to_have_count(1)
    expect(remove).to_have_count(0)
    main.get_by_role("button", name="Measure").click()
    expect(main.get_by_text("ollama was not measured")).to_be_visible()
    expect(main.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(main.get_by_text("Throughput, output tokens a second").first).to_be_visible()
    with page.expect_download() as waited:
        main.get_by_role("button", name="Report (HTML)").click()
    text = waited.value.path().read_text("utf-8")
    assert "Ten at once" in text
    assert "<svg" in text
    # A second one can be compared; of one that was cancelled is kept what was measured.
    main.get_by_role("button", name="Measure").click()
    expect(main.get_by_role("button", name="Cancel")).to_be_visible()
    expect(main.get_by_role("button", name="Cancel")).to_have_count(0)
    main.get_by_label("Compare with an earlier one").click()
    page.get_by_role("option").nth(1).click()
    expect(main.get_by_text("A star:")).to_be_visible()
    main.get_by_label("Requests in each run").fill("5000")
    main.get_by_label("Requests in each run").press("Enter")
    main.get_by_role("button", name="Measure").click()
    expect(main.get_by_text(re.compile(r"at once: [1-9]\d* of 5000 answers"))).to_be_visible()
    main.get_by_role("button", name="Cancel").click()
    expect(main.get_by_text("It was cancelled")).to_be_visible()
    expect(main.get_by_text("that was measured to the end")).to_be_visible()
    page.close()
