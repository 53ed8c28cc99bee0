"""A notebook's servers, on vLLM's stand-in: a port that is taken, interruptions, a search."""

import os
import socket

import pytest

from gearshift import notebook
from gearshift.bench import Wish, parse_goals
from gearshift.bench.tuning import Aim, Outcome, Tuning
from gearshift.engine import servers
from gearshift.engine.checks import run_checks
from gearshift.engine.start import Wish as Start
from gearshift.engine.start import carry_out
from gearshift.errors import EngineError
from gearshift.gpu import GPU, GPUs
from gearshift.notebook import _servers, _show
from gearshift.settings import load_settings, port_of
from stand_in import end_stand_in, small_model, stand_in, stand_in_processes


@pytest.fixture
def model(tmp_path):
    return small_model(tmp_path / "models" / "small")


@pytest.fixture
def play(tmp_path, monkeypatch):
    """A stand-in for vLLM; what the servers of a test have changed in the environment goes back."""
    folder, before = tmp_path / "stand-in", dict(os.environ)

    def begin(**plays):
        os.environ["GEARSHIFT_VLLM_PYTHON"] = str(stand_in(folder, start_seconds=0.3, **plays))
        load_settings.cache_clear()

    begin.folder = folder
    yield begin
    os.environ.clear()
    os.environ.update(before)
    end_stand_in(folder)
    assert _servers._started == set()


def test_a_port_that_somebody_holds_is_left_to_them(model, play, capsys):
    play()
    port = port_of(load_settings().vllm_base_url)
    with socket.create_server(("127.0.0.1", port)):
        server = notebook.serve(model)
    assert f"port {port} is held by " in capsys.readouterr().out
    assert server.launch.port != port
    assert load_settings().vllm_base_url == server.url
    again = notebook.serve(model)
    assert "runs already" in capsys.readouterr().out
    assert again.process == server.process
    notebook.stop(server)


def test_a_server_of_ours_with_other_options_stays_as_well(model, play, capsys):
    play()
    first = notebook.serve(model)
    other = notebook.serve(model, choices={"max_model_len": 2048})
    assert f"is held by {first.name}" in capsys.readouterr().out
    assert first.launch.port != other.launch.port
    notebook.stop(other)
    notebook.stop(first)
    assert stand_in_processes(play.folder) == {}


def test_a_port_that_was_asked_for_is_not_replaced(model, play):
    play()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port} is already in use"):
            notebook.serve(model, port=port)


def test_a_small_model_gets_one_rank_whatever_the_env_file_says(model, monkeypatch):
    monkeypatch.setenv("VLLM_GPU_COUNT", "2")
    monkeypatch.setenv("VLLM_TENSOR_PARALLEL_SIZE", "2")
    assert notebook.planned(model).record.launch.tensor_parallel == 1
    asked = notebook.planned(model, gpu_count=2, tensor_parallel=2).record.launch
    assert asked.tensor_parallel == 2
    with (model / "model.safetensors").open("wb") as weights:
        weights.truncate(2 << 30)  # a sparse file
    assert notebook.planned(model).record.launch.tensor_parallel == 2


def test_a_small_model_leaves_most_of_a_card_to_others(model, monkeypatch):
    def share(model, **wish):
        return notebook.planned(model, **wish).record.launch.memory_utilization

    assert share(model) is None
    card = GPU(0, "GPU-1", "L4", 24 << 30, 6 << 30, 18 << 30)  # an Ollama holds a model there
    monkeypatch.setattr("gearshift.gpu.look", lambda: GPUs((card,), "550.54"))
    assert share(model) == 0.25
    (memory,) = (c for c in run_checks(notebook.planned(model).plan) if c.name == "gpu_memory")
    assert memory.status == "passed"
    assert share(model, choices={"memory_utilization": 0.5}) == 0.5
    assert share(model, profile="latency") == 0.8
    with (model / "model.safetensors").open("wb") as weights:
        weights.truncate(2 << 30)
    assert share(model) is None


def test_only_what_the_notebook_has_started_is_stopped(model, play, capsys):
    play()
    settings = load_settings()
    port = port_of(settings.vllm_base_url)
    theirs = carry_out(Start(str(model), port=port), settings)
    server = notebook.serve(model)
    assert "runs already" in capsys.readouterr().out
    assert not notebook.stop(server)
    assert "was there before this notebook, and stays" in capsys.readouterr().out
    ours = notebook.serve(model, port=notebook.free_port())
    assert notebook.stop(ours)
    assert servers.find_on(port, settings).process == theirs.process
    servers.stop(theirs, settings, 0.0)


def test_a_start_that_is_interrupted_belongs_to_the_notebook(model, play, monkeypatch, capsys):
    def interrupted():
        def show(words, share):
            raise KeyboardInterrupt

        return show

    play()
    with monkeypatch.context() as patch:
        patch.setattr(_servers, "progress", interrupted)
        with pytest.raises(KeyboardInterrupt):
            notebook.serve(model)
    server = notebook.serve(model)
    notebook.stop(server)
    said = capsys.readouterr().out
    assert "runs already" in said
    assert "none of its processes is left" in said


def test_a_search_is_seen_while_it_runs_and_afterwards(model, play, monkeypatch):
    boxes, last = [], []

    def show_widget(box, html, text):
        boxes.append(box)
        return lambda html, text: last.append((html, text))

    monkeypatch.setattr("gearshift.notebook._tuning.show_widget", show_widget)
    play(batching=0.02, slow_tokens=0.1)
    seen = []
    aim = Aim(
        str(model),
        parse_goals("p95 ttft < 1"),
        parameters="max-num-seqs=1/128",
        load=Wish(requests=12, input_tokens=8, output_tokens=4, warmup=1),
        starts=2,
        rounds=0,
        most=4,
    )
    told = property(lambda now: seen.append(now.now) or len(seen) / 1000)
    monkeypatch.setattr(Tuning, "share", told)
    found = notebook.tuning(aim)
    assert len(found.trials) == 2
    assert all(trial.outcome is not Outcome.FAILED for trial in found.trials)
    bar, words, rows = boxes[0].children
    assert bar.value == 1.0
    assert words.value == ""
    assert "vLLM&#x27;s defaults" in rows.value
    assert any("4 at once" in now for now in seen)
    html, text = last[0]
    assert html == rows.value
    assert "vLLM's defaults · 4 at once · p95 ttft < 1: " in text
    assert "max-num-seqs 1 · 4 at once" in text
    assert stand_in_processes(play.folder) == {}


def test_what_a_widget_shows_is_replaced_where_it_stands(capsys):
    class Widget:
        def _repr_mimebundle_(self):
            return {"application/vnd.jupyter.widget-view+json": {}}

    shown = _show.show_widget(Widget(), "<b>now</b>", "now")
    shown("<b>then</b>", "then")
    said = capsys.readouterr().out
    assert "now" in said
    assert "then" in said
