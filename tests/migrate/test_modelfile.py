"""Modelfiles are read as Ollama reads them.

`modelfiles.jsonl` holds files of ours, most of them damaged at random, each with what the client of
Ollama 0.9.3 sent to its server for it (`ollama create`), or null where it refused the file.
"""

import json
from pathlib import Path

import pytest

from gearshift.errors import EngineError
from gearshift.migrate.modelfile import parse, read_modelfile
from gearshift.migrate.parameters import DEPRECATED

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "modelfiles.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_it_reads_what_ollama_reads(row):
    found = parse(row["file"].encode("latin-1"))
    made = row["made"]
    assert (found.error is None) == (made is not None), found.error
    if made is None:
        return
    assert found.last("from") == made.get("from", "")
    for name in ("system", "template"):
        assert (found.last(name) or "") == made.get(name, "")
    messages = [(message["role"], message["content"]) for message in made.get("messages", [])]
    assert found.messages == messages
    assert found.all("license") == made.get("license", [])
    parameters = made.get("parameters", {})
    assert [v for k, v in found.parameters if k == "stop"] == parameters.get("stop", [])
    assert {k for k, _ in found.parameters if k not in DEPRECATED} == set(parameters)


def test_commands_keep_their_order_and_repeats():
    text = 'FROM a\nPARAMETER stop "x y"\nPARAMETER stop z\nFROM ./b.gguf\nPARAMETER top_k 3\n'
    found = parse(text.encode())
    assert found.all("from") == ["a", "./b.gguf"]
    assert found.parameters == [("stop", "x y"), ("stop", "z"), ("top_k", "3")]


def test_a_byte_order_mark_tells_the_encoding():
    text = "FROM a\nSYSTEM größer"
    for encoding in ("utf-8-sig", "utf-16"):
        assert parse(text.encode(encoding)).last("system") == "größer"
    big_endian = b"\xfe\xff" + text.encode("utf-16-be")
    assert parse(big_endian).last("system") == "größer"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SYSTEM hi\n", "no FROM line"),
        ("FROM a\nPARAMTER top_k 3\n", "line 2: 'PARAMTER' is no instruction"),
        ("FROM a\nSYSTEM\n", "line 3: 'SYSTEM' is no"),
        ("FROM a\nMESSAGE wizard hi\n", "the role of a message is system or user or assistant"),
        ("FROM a\nPARAMETER top_k\n", "'top_k' is not followed by a value"),
        ('FROM a\nSYSTEM "never closed\n', "a closing quote is missing"),
        ("FROM a\nPARAMETER top_k many\n", "'many' is no whole number, which top_k has to be"),
        ("FROM a\nPARAMETER warmth 3\n", "unknown parameter 'warmth'"),
        ("FROM a\nSYS", "it ends in the middle of an instruction"),
    ],
)
def test_a_rejected_file_says_why(text, why):
    found = parse(text.encode())
    assert why in found.error
    assert found.all("from") == (["a"] if text.startswith("FROM") else [])


def test_instructions_that_are_newer_are_known():
    found = parse(b"FROM a\nRENDERER qwen3\nPARSER qwen3\nREQUIRES 0.14.0\nDRAFT ./d.gguf\n")
    assert found.error is None
    assert found.all("renderer") == ["qwen3"]


def test_long_files_take_no_time():
    lines = "\n".join(f'line {number} says "quote"' for number in range(3000))
    assert parse(f'FROM a\nLICENSE """{lines}"""\n'.encode()).all("license") == [lines]


def test_what_cannot_be_read_at_all_is_said(tmp_path):
    with pytest.raises(EngineError, match="cannot be read: No such file"):
        read_modelfile(tmp_path / "none")
    with pytest.raises(EngineError, match="cannot be read: Is a directory"):
        read_modelfile(tmp_path)


def test_a_parameter_that_is_called_like_an_instruction_is_one():
    """Ollama 0.9.3 keeps both in one list, by their names alone."""
    file = parse(b"PARAMETER model mistral\nPARAMETER system Be brief.\nPARAMETER num_ctx 9\n")
    assert (file.error, file.last("from"), file.last("system")) == (None, "mistral", "Be brief.")
    assert file.parameters == [("num_ctx", "9")]


def test_numbers_of_any_length_are_read():
    assert parse(f"FROM a\nPARAMETER seed {'0' * 5000}7\n".encode()).error is None
    assert "whole number" in parse(f"FROM a\nPARAMETER seed {'9' * 5000}\n".encode()).error
    assert parse(b"FROM a\nPARAMETER seed -9223372036854775808\n").error is None
    assert parse(b"FROM a\nPARAMETER seed 9223372036854775808\n").error is not None


def test_a_quote_that_is_not_closed_for_long_is_read_at_once():
    # When each line looked at all those before it, this took minutes.
    found = parse(b'FROM a\nLICENSE """' + b"a line of it\n" * 80_000)
    assert "closing quote is missing" in found.error
