"""The Doctor page, and the doctor on the Servers page."""

import json

from playwright.sync_api import expect

from places import free_port
from stand_in import end_stand_in, stand_in

LOG = """INFO 11-24 12:00:00 starting
ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. \
Your <img src=x> Tesla T4 GPU has compute capability 7.5.
"""


def test_the_machine_is_checked_and_an_error_explained(workbench, visit):
    page = visit(workbench(LLM_PROVDER="vllm").url)
    page.get_by_role("link", name="Doctor").click()
    expect(page.get_by_text("perhaps meant as LLM_PROVIDER")).to_be_visible()
    expect(page.get_by_text("unset LLM_PROVDER")).to_be_visible()
    page.get_by_text("in order").click()
    expect(page.get_by_text("Python 3.")).to_be_visible()
    page.get_by_role("tab", name="What does an error mean?").click()
    box = page.get_by_label("An error or a log")
    box.fill(LOG)
    box.press("Control+Enter")
    expect(page.get_by_text("bf16-unsupported-gpu")).to_be_visible()
    expect(page.get_by_text("Line 2", exact=True)).to_be_visible()
    expect(page.get_by_text("<img src=x>").last).to_be_visible()
    box.fill("ERROR the flux capacitor is empty")
    box.press("Control+Enter")
    expect(page.get_by_text("No failure that is known here.")).to_be_visible()
    file = {"name": "vllm.log", "mimeType": "text/plain", "buffer": LOG.encode("utf-16")}
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_text("bf16-unsupported-gpu")).to_be_visible()


def test_a_failed_server_is_explained_and_started_corrected(workbench, visit, tmp_path):
    model = tmp_path / "small"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"num_attention_heads": 9}), "utf-8")
    (model / "model.safetensors").write_bytes(b"weights")
    folder, port = tmp_path / "stand-in", free_port()
    try:
        python = str(stand_in(folder, crash="engine"))
        page = visit(workbench(GEARSHIFT_VLLM_PYTHON=python).url)
        page.get_by_role("link", name="Servers").click()
        main = page.get_by_test_id("stMain")
        for label, value in (("Model", model), ("Port", port)):
            main.get_by_label(label, exact=True).fill(str(value))
            main.get_by_label(label, exact=True).press("Enter")
        main.get_by_role("button", name="Start", exact=True).click()
        expect(main.get_by_text("max-model-len-exceeds-kv-cache")).to_be_visible()
        expect(main.get_by_text("4352").first).to_be_visible()
        stand_in(folder)
        main.get_by_role("button", name="Start it corrected").click()
        expect(main.get_by_text(f"small-{port} · ready")).to_be_visible()
        main.get_by_role("button", name="Stop").click()
        expect(main.get_by_text(f"small-{port} · stopped")).to_be_visible()
        page.get_by_role("link", name="Doctor").click()
        page.get_by_role("tab", name="What does an error mean?").click()
        page.get_by_label("A server of this machine").click()
        page.get_by_role("option", name=f"small-{port}").click()
        expect(page.get_by_text("no line that looks like an error")).to_be_visible()
    finally:
        end_stand_in(folder)
