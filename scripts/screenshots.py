"""Takes the README's screenshots of a real workbench: `make screenshots`. Needs Chromium."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from places import free_port  # noqa: E402
from stand_in import stand_in  # noqa: E402

IMAGES = ROOT / "docs" / "images"
PORT = 8651
QUESTIONS = ("When should I use vLLM instead of Ollama?", "What does tensor parallelism need?")
ERROR = (
    "ValueError: To serve at least one request with the model's max seq len (32768), (1.75 GiB KV "
    "cache is needed, which is larger than the available KV cache memory (1.21 GiB). Based on the "
    "available memory, the estimated maximum model length is 22656."
)


def chat(page: Page) -> None:
    for count, question in enumerate(QUESTIONS, 1):
        box = page.get_by_placeholder("Ask the documents …")
        expect(box).to_be_enabled(timeout=60_000)
        box.fill(question)
        box.press("Enter")
        expect(page.get_by_text(re.compile(r"first token \d"))).to_have_count(count, timeout=60_000)
    page.wait_for_timeout(1500)
    page.screenshot(path=IMAGES / "chat.png")


def documents(page: Page) -> None:
    page.get_by_role("link", name="Documents").click()
    chapter = (ROOT / "data" / "handbook" / "08-tuning.md").read_bytes()
    page.locator("input[type=file]").set_input_files(
        [
            {"name": "tuning.md", "mimeType": "text/markdown", "buffer": chapter},
            {"name": "scan.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7 not really"},
        ]
    )
    expect(page.get_by_text("tuning.md indexed")).to_be_visible(timeout=60_000)
    page.get_by_role("combobox", name="Look at").click()
    page.get_by_role("option", name="tuning.md").click()
    expect(page.get_by_text("This is the text that was read")).to_be_visible()
    page.wait_for_timeout(1500)
    page.screenshot(path=IMAGES / "documents.png")


def servers_and_monitor(page: Page, model: Path) -> None:
    """A server of the tests' stand-in: what is pictured are the pages."""
    page.get_by_role("link", name="Servers").click()
    fill(page, "Model", str(model))
    fill(page, "Port", str(free_port()))
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("· ready")).to_be_visible(timeout=30_000)
    page.get_by_role("combobox", name="Profile").click()
    page.get_by_role("option", name="throughput").click()
    fill(page, "Port", str(free_port()))
    expect(page.get_by_text("many sequences share")).to_be_visible()
    page.wait_for_timeout(1500)
    page.screenshot(path=IMAGES / "servers.png")
    page.get_by_role("link", name="GPU and engine").click()
    expect(page.get_by_text("Idle: nobody asks.")).to_be_visible(timeout=30_000)
    page.wait_for_timeout(20_000)  # so that there is something in the charts
    page.screenshot(path=IMAGES / "monitor.png")
    page.get_by_role("link", name="Servers").click()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("· stopped")).to_be_visible(timeout=30_000)


def plan_and_doctor(page: Page) -> None:
    page.get_by_role("link", name="Plan").click()
    expect(page.get_by_text("It fits.")).to_be_visible(timeout=30_000)
    page.wait_for_timeout(2500)
    page.screenshot(path=IMAGES / "plan.png")
    page.get_by_role("link", name="Doctor").click()
    page.get_by_role("tab", name="What does an error mean?").click()
    fill(page, "An error or a log", ERROR, "Control+Enter")
    expect(page.get_by_text("max-model-len-exceeds-kv-cache")).to_be_visible(timeout=30_000)
    page.wait_for_timeout(1500)
    page.screenshot(path=IMAGES / "doctor.png", full_page=True)


def fill(page: Page, label: str, value: str, key: str = "Enter") -> None:
    box = page.get_by_test_id("stMain").get_by_label(label, exact=True)
    box.fill(value)
    box.press(key)


def main() -> None:
    url = f"http://127.0.0.1:{PORT}/"
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        model = Path(home) / "SmolLM2-135M-Instruct"
        model.mkdir()
        (model / "config.json").write_text('{"num_attention_heads": 9}', "utf-8")
        (model / "model.safetensors").write_bytes(b"weights")
        python = str(stand_in(Path(home) / "vllm"))
        workbench = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", "workbench/app.py"],
            cwd=ROOT,
            env=os.environ
            | {"GEARSHIFT_HOME": home, "STREAMLIT_SERVER_PORT": str(PORT)}
            | {"GEARSHIFT_VLLM_PYTHON": python, "LLM_PROVIDER": "embedded"},
        )
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(url).close()
                    break
                except OSError:
                    time.sleep(0.1)
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(
                viewport={"width": 1280, "height": 860},
                color_scheme="dark" if "dark" in sys.argv else "light",
            )
            page.goto(url)
            chat(page)
            documents(page)
            servers_and_monitor(page, model)
            plan_and_doctor(page)
            browser.close()
        finally:
            workbench.terminate()
            workbench.wait()


if __name__ == "__main__":
    main()
