"""The Tune page: a search is started, watched, left, cancelled, gone on with, and used."""

import json

import pytest
from filelock import FileLock
from playwright.sync_api import expect

from gearshift.bench.tuning.alone import folder
from stand_in import end_stand_in, stand_in, stand_in_processes

_LONG = 300_000  # milliseconds: servers are started and loaded


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    shape = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(shape), "utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def play(tmp_path):
    folder = tmp_path / "stand-in"

    def begin(**plays):
        return str(stand_in(folder, **plays))

    begin.folder = folder
    yield begin
    end_stand_in(folder)


def fill(page, label, value):
    box = page.get_by_test_id("stMain").get_by_label(label, exact=True)
    box.fill(str(value))
    box.press("Enter")


def test_a_search_is_watched_cancelled_and_gone_on_with(
    workbench, visit, embedding_home, play, model
):
    # Four sequences are too few for the eight people, and 256 with 8192 tokens do not start.
    python = play(start_seconds=0.2, batching=0.01, slow_tokens=0.3, room=1_000_000)
    page = visit(workbench(GEARSHIFT_VLLM_PYTHON=python).url)
    page.get_by_role("link", name="Tune").click()
    expect(page.get_by_text("Nothing was tuned yet")).to_be_visible()
    expect(page.get_by_role("button", name="Tune", exact=True)).to_be_disabled()
    fill(page, "Goals", "fast")
    fill(page, "Model", model)
    expect(page.get_by_role("alert").filter(has_text="cannot be read")).to_be_visible()
    fill(page, "Goals", "p100 ttft < 0.5")
    expect(page.get_by_text("max-num-batched-tokens: 256")).to_be_visible()
    page.get_by_role("combobox", name="People ask").click()
    page.get_by_role("option", name="Made-up text").click()
    expect(page.get_by_label("Tokens of a prompt", exact=True)).to_be_enabled()
    fill(page, "Tokens of a prompt", 8)
    fill(page, "Tokens of an answer", 2)
    fill(page, "Starts at most", 3)
    fill(page, "People at most", 8)
    fill(page, "Rounds of the proof", 1)
    folder(embedding_home).mkdir(parents=True, exist_ok=True)
    with FileLock(folder(embedding_home) / "lock"):  # somebody tunes in a shell
        expect(page.get_by_text("was begun elsewhere")).to_be_visible()
        page.get_by_role("button", name="Tune", exact=True).click()
        refused = page.get_by_role("alert").filter(has_text="somebody is tuning")
        expect(refused).to_be_visible()
    expect(page.get_by_text("was begun elsewhere")).to_have_count(0)
    page.get_by_role("button", name="Dismiss").click()
    expect(refused).to_have_count(0)
    page.get_by_role("button", name="Tune", exact=True).click()
    expect(page.get_by_text("start 1 of 3")).to_be_visible()
    expect(page.get_by_text("4 at once")).to_be_visible()
    page.get_by_role("link", name="Plan").click()  # it goes on while the page is left
    expect(page.get_by_role("heading", name="Plan")).to_be_visible()
    page.get_by_role("link", name="Tune").click()
    expect(page.get_by_text("start 2 of 3")).to_be_visible(timeout=_LONG)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("It was cancelled; it can go on")).to_be_visible()
    assert stand_in_processes(play.folder) == {}

    page.reload()
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("The same as a profile")).to_be_visible(timeout=_LONG)
    expect(page.get_by_text("People at once within the goals, by setting")).to_be_visible()
    page.get_by_test_id("stExpander").get_by_text("cuda-oom").click()
    expect(page.get_by_text("warming up sampler").first).to_be_visible()
    assert stand_in_processes(play.folder) == {}

    page.get_by_role("link", name="Servers").click()
    page.get_by_role("combobox", name="Profile").click()
    expect(page.get_by_role("option", name="tuned-small")).to_be_visible()
