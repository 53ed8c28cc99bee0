"""From a real Ollama to a real vLLM and back: the weights, the proof, the switch, the way back."""

from pathlib import Path

import pytest

from gearshift.engine import servers
from gearshift.engine.processes import alive
from gearshift.migrate.convert import convert
from gearshift.migrate.cutover import cut_over
from gearshift.migrate.inventory import gguf_of, of_ollama
from gearshift.migrate.parity import Exam, check_parity
from gearshift.migrate.plan import translated
from gearshift.migrate.rollback import roll_back
from gearshift.migrate.serving import checkpoint_folder
from gearshift.providers import LLMServiceFactory
from gearshift.settings import load_settings
from places import free_port

MODEL = "smollm2:135m"


@pytest.fixture
def settings(real_ollama, engine_python, embedding_home, monkeypatch):
    monkeypatch.setenv("OLLAMA_BASE_URL", real_ollama)
    monkeypatch.setenv("VLLM_BASE_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("GEARSHIFT_VLLM_PYTHON", str(engine_python))
    found = load_settings()
    yield found
    for record in servers.status(found):
        ended = servers.stop(record, found, 0.0)
        assert not [process for process in ended.tree if alive(process)]


def quiet(*told):
    """Nobody looks."""


def test_from_ollama_to_vllm_and_back(settings):
    item = next(item for item in of_ollama(settings) if item.name == MODEL)
    store = gguf_of(item).parent
    before = sorted((path.name, path.stat().st_mtime_ns) for path in store.iterdir())
    template, _ = translated(item)
    folder = checkpoint_folder(MODEL, settings)
    made = convert(gguf_of(item), folder, settings, quiet, MODEL, template)
    assert {check.name: check.ok for check in made.checks} == dict.fromkeys(
        (
            "tensors", "vocabulary", "round trip", "chat template", "token counts", "prompts",
            "first tokens",
        ),
        True,
    )  # fmt: skip
    report = check_parity(
        item, Exam(most=3, retrieval=False, max_tokens=24, people=0), settings, quiet, quiet
    )
    assert [(pair["same_prompt"], pair["compared"]) for pair in report["pairs"]] == [
        (True, "tokens")
    ] * 3
    assert report["verdict"] in ("same", "near"), report["reasons"]
    Path(".env").write_text("LLM_PROVIDER=ollama\n", "utf-8")
    done = cut_over(MODEL, settings, 2.0, 1.0, 0.05, quiet)
    assert (done.active, done.reason, done.counts.failed) == ("vllm", None, 0)
    assert done.counts.requests >= 2
    assert LLMServiceFactory.active() == "vllm"
    assert roll_back(settings)["exact"] is True
    assert Path(".env").read_text("utf-8") == "LLM_PROVIDER=ollama\n"
    assert sorted((path.name, path.stat().st_mtime_ns) for path in store.iterdir()) == before
