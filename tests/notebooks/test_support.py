"""What the notebooks share does what its name says, and fails where it should."""

import os
import subprocess
import sys
import time
from pathlib import Path

import ipywidgets as widgets
import pytest

from gearshift import notebook
from gearshift.doctor import diagnose, make_log
from gearshift.engine.forecast import Question, forecast
from gearshift.errors import EngineError, ProviderError, Unreachable
from gearshift.migrate.rollback import last_cut_over, roll_back, switch
from gearshift.notebook import _show, _widgets
from gearshift.providers import LLMServiceFactory
from gearshift.rag import library
from gearshift.rag.ask import ask
from gearshift.schemas import Answer, State, Timings
from gearshift.settings import load_settings


@pytest.fixture(autouse=True)
def environment():
    """`begin` changes the process's environment, as a notebook's kernel may."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_a_notebook_works_with_the_env_file_of_the_project_that_it_lies_in(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("DEFAULT_MODEL=tiny\n")
    inside = tmp_path / "notebooks" / "deep"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert notebook.begin().default_model == "tiny"
    assert Path.cwd() == tmp_path


def test_an_env_file_above_the_project_is_somebody_elses(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("DEFAULT_MODEL=theirs\n")
    inside = tmp_path / "project" / "notebooks"
    inside.mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").touch()
    monkeypatch.chdir(inside)
    assert notebook.begin().default_model != "theirs"
    assert Path.cwd() == inside


@pytest.mark.parametrize("before", [None, "1"])
def test_a_variable_is_set_for_a_while_also_when_it_fails(before, monkeypatch):
    if before is not None:
        monkeypatch.setenv("OF_A_TEST", before)

    def fails():
        with notebook.variable("OF_A_TEST", "2"):
            assert os.environ["OF_A_TEST"] == "2"
            raise EngineError("serve", "it did not start")

    with pytest.raises(EngineError):
        fails()
    assert os.environ.get("OF_A_TEST") == before


def test_a_cut_over_in_a_notebook_leaves_a_real_one_its_way_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("DEFAULT_MODEL=tiny\n")
    switch("mine", "ollama", load_settings())
    before = last_cut_over(load_settings())
    real = (tmp_path / ".env").read_bytes()

    borrowed = notebook.borrow_env(load_settings())
    assert Path.cwd().parent == load_settings().home_dir
    switch("theirs", "embedded", borrowed)
    assert roll_back(borrowed)["exact"]
    notebook.give_back_env(borrowed)
    notebook.give_back_env(borrowed)
    assert Path.cwd() == tmp_path
    assert not borrowed.home.exists()
    assert (tmp_path / ".env").read_bytes() == real
    assert last_cut_over(load_settings()) == before
    assert roll_back(load_settings())["exact"]
    assert (tmp_path / ".env").read_text() == "DEFAULT_MODEL=tiny\n"


def test_what_a_killed_notebook_has_left_goes_with_the_next_one(embedding_home):
    library.collection("notebook")  # a person's own, whatever it is called
    mine = notebook.own_collection()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = library.collection(f"notebook-{ended.pid}-12ab")
    copy = embedding_home / f"env-{ended.pid}-x7_"
    copy.mkdir()
    notebook.begin()
    assert library.names() == sorted(["notebook", mine.name])
    assert not copy.exists()
    assert not (embedding_home / "index" / left.name).exists()
    notebook.drop(mine)
    notebook.drop(mine)
    assert library.names() == ["notebook"]


def test_commands_are_found_in_cells_of_bash():
    notebook.begin()
    first = os.environ["PATH"].split(os.pathsep)[0]
    assert (Path(first) / "gearshift").exists()


def test_an_error_on_purpose_is_shown_and_its_absence_is_an_error(capsys):
    with notebook.on_purpose(ProviderError):
        raise Unreachable("nobody is there", hint="start it")
    assert capsys.readouterr().out == "Unreachable: nobody is there\nnext: start it\n"
    with pytest.raises(AssertionError, match="nothing went wrong"), notebook.on_purpose():
        pass
    with pytest.raises(ValueError, match="another"), notebook.on_purpose():
        raise ValueError("another")


def test_an_answer_that_is_not_whole_is_not_shown_as_one():
    found = Answer("Why?", Timings(time.monotonic()), State.FAILED, text="Becau")
    found.error = {"message": "it broke off", "hint": "ask again"}
    with pytest.raises(RuntimeError, match="it broke off"):
        notebook.answer(found)


def test_checks_that_do_not_exist_are_not_silently_left_out():
    with pytest.raises(KeyError, match="gpus"):
        notebook.checks([], "gpus")


@pytest.fixture
def as_text(monkeypatch):
    """What is displayed, as a page of text shows it."""
    monkeypatch.setattr(_show, "both", lambda html, text: print(text))


def test_a_table_is_text_too(as_text, capsys):
    notebook.table([{"name": "a", "size": 12345, "ok": True}, {"name": "long", "size": None}])
    assert capsys.readouterr().out == "name  size    ok\na     12,345  yes\nlong\n"


def test_causes_are_shown_with_their_line(capsys):
    notebook.causes(diagnose(make_log("INFO fine\nOSError: [Errno 98] Address already in use")))
    assert capsys.readouterr().out.startswith("port-in-use: ")
    notebook.causes(diagnose(make_log("INFO fine")))
    assert capsys.readouterr().out.startswith("No failure that is known")


def test_the_fit_plan_can_be_moved(monkeypatch):
    shown = []
    monkeypatch.setattr(_widgets, "show_widget", lambda *parts: shown.append(parts))
    notebook.fit_plan("Qwen/Qwen2.5-7B-Instruct", card="T4", gpus=1)
    box, html, text = shown[0]
    *fields, result = box.children
    assert html == result.value
    assert text.startswith("It does not fit.")
    gpus = next(f for f in fields if isinstance(f, widgets.IntSlider))
    assert "It does not fit." in result.value
    gpus.value = 2
    assert "It fits." in result.value
    assert "Qwen/Qwen2.5-7B-Instruct 2 2" in result.value


def test_a_size_that_the_heads_forbid_is_answered_with_the_reason(monkeypatch):
    shown = []
    monkeypatch.setattr(_widgets, "show_widget", lambda *parts: shown.append(parts))
    notebook.fit_plan("microsoft/phi-4", card="L4", gpus=4)
    *_, tensor_parallel, _, _, result = shown[0][0].children
    assert "tensor parallel 2, pipeline parallel 2" in result.value
    tensor_parallel.value = 4
    assert result.value == (
        "10 KV heads can neither be shared by 4 nor copied evenly. Tensor parallel can be 1, 2, 5."
    )
    tensor_parallel.value = 1
    assert "tensor parallel 1, pipeline parallel 4" in result.value


def test_no_context_is_offered_that_the_model_does_not_have(monkeypatch):
    shown = []
    monkeypatch.setattr(_widgets, "show_widget", lambda *parts: shown.append(parts))
    notebook.fit_plan("meta-llama/Llama-2-13b-chat-hf", card="L4", gpus=2)
    box, _, text = shown[0]
    assert text.startswith("It fits.")
    model, *_, context, _, result = box.children
    assert max(context.options) == context.value == 4096
    model.value = "Qwen/Qwen2.5-7B-Instruct"
    assert (max(context.options), context.value) == (32768, 4096)
    context.value = 32768
    model.value = "meta-llama/Llama-2-13b-chat-hf"
    assert context.value == 4096
    assert "It fits." in result.value


def test_the_memory_of_a_plan_says_what_the_plan_says(as_text, capsys):
    question = Question("Qwen/Qwen2.5-7B-Instruct", gpu="L4", max_model_len=8192)
    planned = forecast(question, load_settings())
    notebook.memory(planned)
    said = capsys.readouterr().out
    assert said.startswith("It fits.")
    assert f"{planned.fit.kv_cache_tokens:,} tokens" in said


async def test_the_strip_is_live_and_ends(monkeypatch):
    shown = []
    monkeypatch.setattr(_widgets, "show_widget", lambda *parts: shown.append(parts))
    began = time.monotonic()
    await notebook.watch(seconds=0.4, every=0.1)
    assert 0.3 < time.monotonic() - began < 5
    assert "memory" in shown[0][0].value


def test_a_server_that_is_refused_is_not_counted_as_started():
    with pytest.raises(EngineError, match="no config"):
        notebook.serve(load_settings().home_dir)


async def test_one_call_answers_from_documents_and_says_who(embedding_home):
    nobody = LLMServiceFactory.get_service("vllm")
    embedded = LLMServiceFactory.get_service("embedded")
    answer = await ask(
        "Which port does Ollama use?", services=[nobody, embedded], documents=library.sample()
    )
    assert answer.complete
    assert (answer.provider, answer.fallback_from) == ("embedded", "vllm")
    assert answer.citations
