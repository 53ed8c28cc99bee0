"""The weights that Ollama has become a checkpoint, or nothing is left behind."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from typer.testing import CliRunner

from gearshift.cli import app
from gearshift.errors import EngineError
from gearshift.migrate import convert as converting
from gearshift.migrate.chat_template import translate
from gearshift.migrate.convert import convert
from gearshift.migrate.inventory import Item, gguf_of
from gearshift.migrate.modelfile import parse
from gearshift.providers._llama_server import weights

ITS_TEMPLATE = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n"
)
"""As Ollama 0.9.3 makes it, which is not the one in the GGUF file: that adds a system message."""


def quiet(words, share):
    """Nobody looks at the progress."""


def test_the_weights_of_a_real_model_become_a_checkpoint(
    engine_python, make_settings, home, monkeypatch
):
    settings = make_settings(vllm_python=engine_python)
    before = (weights().stat().st_mtime_ns, sorted(os.listdir(weights().parent)))
    seen = []
    target = home / "checkpoints" / "smollm2"
    template = translate(ITS_TEMPLATE)
    found = convert(weights(), target, settings, lambda *told: seen.append(told), template=template)
    assert {check.name: check.ok for check in found.checks} == {
        "tensors": True, "vocabulary": True, "round trip": True, "chat template": True,
        "first tokens": None,
    }  # fmt: skip
    assert (target / "chat_template.jinja").read_text("utf-8") == template
    assert {"unpacking the weights", "writing the checkpoint"} <= {words for words, _ in seen}
    assert any(share == 1.0 for _, share in seen)
    names = {path.name for path in target.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert sorted(path.name for path in target.parent.iterdir()) == [".smollm2.lock", "smollm2"]
    assert (weights().stat().st_mtime_ns, sorted(os.listdir(weights().parent))) == before
    made = (target / "model.safetensors").stat().st_mtime_ns
    again = convert(weights(), target, settings, quiet, template=template)
    assert again == found
    assert (target / "model.safetensors").stat().st_mtime_ns == made  # it is not done again


@pytest.fixture
def small(tmp_path):
    """A GGUF file that is whole, and of no use."""
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_uint32("llama.block_count", 1)
    writer.add_uint32("llama.embedding_length", 8)
    writer.add_uint32("llama.attention.head_count", 1)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("token_embd.weight", np.zeros((2, 8), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "small.gguf"


REPORT = {
    "elements": 16, "other_tokens": 0, "wrong_texts": [], "first_tokens": [],
    "counts": [["a", 1]], "chats": [], "own_template": True,
}  # fmt: skip


@pytest.fixture
def child(tmp_path, make_settings, monkeypatch):
    """Settings with a Python that does as it is told in place of the conversion."""
    monkeypatch.setattr(converting, "add", lambda *_: tmp_path)

    def make(code):
        python = tmp_path / "python"
        script = tmp_path / "script.py"
        script.write_text(
            f"import json, sys, time\nsource, target = sys.argv[2:]\n{code}\n", "utf-8"
        )
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n', "utf-8")
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        return make_settings(vllm_python=python)

    return make


def left(folder):
    """What is there but locks."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def test_a_conversion_that_fails_leaves_nothing(child, small, tmp_path):
    settings = child(
        "open(target + '/model.safetensors', 'w').close()\n"
        "print('Traceback ...')\n"
        "sys.exit('ValueError: GGUF model with architecture foo is not supported yet.')"
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(EngineError, match="cannot unpack this kind of model") as failed:
        convert(small, tmp_path / "out" / "new", settings, quiet)
    assert "architecture foo" in failed.value.message
    assert "migrate plan" in failed.value.hint
    assert left(tmp_path / "out") == []


def test_one_that_is_killed_says_what_is_likely(child, small, tmp_path):
    settings = child("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(EngineError, match="want of memory"):
        convert(small, tmp_path / "out" / "new", settings, quiet)
    assert left(tmp_path / "out") == []


def test_a_checkpoint_that_is_not_the_same_is_thrown_away(child, small, tmp_path):
    settings = child(f"print(json.dumps({REPORT | {'elements': 15}}))")
    with pytest.raises(EngineError, match="tensors: 15 numbers, 16 in the GGUF file"):
        convert(small, tmp_path / "out" / "new", settings, quiet)
    assert left(tmp_path / "out") == []


def test_stopping_ends_the_work_and_leaves_nothing(child, small, tmp_path):
    settings = child(
        f"open({str(tmp_path / 'runs')!r}, 'w').close()\n"
        "print('Loading weights:  50%', flush=True)\ntime.sleep(600)"
    )

    def stop(words, share):
        if share == 0.5:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        convert(small, tmp_path / "out" / "new", settings, stop)
    assert time.monotonic() - started < 60
    assert left(tmp_path / "out") == []


def test_one_that_is_stopped_while_it_compares_goes_on_there(child, small, tmp_path):
    runs = tmp_path / "runs"
    settings = child(
        f"open({str(runs)!r}, 'a').write('once ')\n"
        "open(target + '/model.safetensors', 'w').close()\n"
        f"print(json.dumps({REPORT}))"
    )

    def stop(words, share):
        if words == "looking it over":
            raise KeyboardInterrupt

    target = tmp_path / "out" / "new"
    with pytest.raises(KeyboardInterrupt):
        convert(small, target, settings, stop)
    assert not target.exists()
    convert(small, target, settings, quiet)
    assert runs.read_text("utf-8") == "once "
    assert sorted(path.name for path in target.iterdir()) == ["gearshift.json", "model.safetensors"]


def test_the_work_ends_with_whoever_started_it():
    code = (
        "import threading, time; from gearshift.migrate._convert_child import end_with_parent\n"
        "threading.Thread(target=end_with_parent, daemon=True).start(); time.sleep(120)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        child.stdin.close()  # as the kernel does for one that was killed
        assert child.wait(60) == 1


def test_two_at_once_do_not_mix(child, small, tmp_path):
    settings = child(f"time.sleep(2)\nprint(json.dumps({REPORT}))")
    target = tmp_path / "out" / "new"
    first = threading.Thread(target=convert, args=(small, target, settings, quiet))
    first.start()
    while not (tmp_path / "out" / ".new.part").exists():
        time.sleep(0.01)
    with pytest.raises(EngineError, match="somebody else is converting"):
        convert(small, target, settings, quiet)
    first.join()
    assert left(tmp_path / "out") == ["new"]


def test_what_is_there_already_is_not_touched(child, small, tmp_path):
    settings = child(f"print(json.dumps({REPORT}))")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(EngineError, match="is not made from this file"):
        convert(small, mine, settings, quiet)
    assert left(mine) == ["notes.txt"]


def test_the_same_weights_are_the_same_wherever_they_lie(child, small, tmp_path):
    settings = child(f"print(json.dumps({REPORT}))")
    target = tmp_path / "out" / "new"
    made = convert(small, target, settings, quiet)
    moved = tmp_path / "moved" / "other.gguf"
    moved.parent.mkdir()
    small.rename(moved)
    assert convert(moved, target, settings, quiet) == made

    changed = bytearray(moved.read_bytes())
    changed[-1] ^= 1  # as long as before
    other = tmp_path / "changed.gguf"
    other.write_bytes(changed)
    with pytest.raises(EngineError, match="is not made from this file"):
        convert(other, target, settings, quiet)
    with pytest.raises(EngineError, match="is not made from this file"):
        convert(moved, target, settings, quiet, template="another")


def test_a_checkpoint_of_an_older_gearshift_is_known_by_its_files_name(child, small, tmp_path):
    settings = child(f"print(json.dumps({REPORT}))")
    target = tmp_path / "out" / "new"
    convert(small, target, settings, quiet)
    note = target / "gearshift.json"
    kept = json.loads(note.read_text("utf-8"))
    del kept["source"]["sha256"]
    kept["source"]["file"] = f"/elsewhere/{small.name}"
    note.write_text(json.dumps(kept), "utf-8")
    assert convert(small, target, settings, quiet).identity == kept["source"]
    renamed = small.rename(tmp_path / "renamed.gguf")
    with pytest.raises(EngineError, match="is not made from this file"):
        convert(renamed, target, settings, quiet)


@pytest.mark.parametrize(
    ("what", "how", "words"),
    [
        ("shutil", "disk_usage", "are needed, and"),
        ("psutil", "virtual_memory", "unpacking needs"),
    ],
)
def test_room_is_asked_for_before(child, small, tmp_path, monkeypatch, what, how, words):
    settings = child("raise SystemExit('it was started')")
    none = SimpleNamespace(free=0, available=0)
    monkeypatch.setattr(getattr(converting, what), how, lambda *_: none)
    with pytest.raises(EngineError, match=words):
        convert(small, tmp_path / "out" / "new", settings, quiet)


def test_weights_that_are_elsewhere_are_said(tmp_path):
    def item(base):
        return Item("smollm2:135m", parse(f"FROM {base}\n".encode()))

    with pytest.raises(EngineError, match="does not tell where"):
        gguf_of(item("llama3"))
    with pytest.raises(EngineError, match="it is not on this machine"):
        gguf_of(item("/root/none/sha256-1"))
    assert gguf_of(item(weights())) == weights()


def test_the_command_needs_a_model_or_a_file(tmp_path, make_settings):
    assert CliRunner().invoke(app, ["migrate", "convert"]).exit_code == 2
    shutil.copy(weights(), tmp_path / "cut.gguf")
    with (tmp_path / "cut.gguf").open("r+b") as file:
        file.truncate(5_000_000)
    found = CliRunner().invoke(
        app, ["migrate", "convert", "--gguf", str(tmp_path / "cut.gguf"), "--json"]
    )
    assert found.exit_code == 1
    assert "is no whole GGUF file" in json.loads(found.stdout)["error"]["message"]
