"""Every parameter of Ollama's has a counterpart on vLLM or a reason why it has none."""

import pytest

from gearshift.migrate.mapping import Where, fate, fates, request_defaults
from gearshift.migrate.modelfile import parse
from gearshift.migrate.parameters import _KINDS, DEPRECATED


@pytest.mark.parametrize(
    ("name", "value", "becomes", "gives"),
    [
        ("num_ctx", "4096", "--max-model-len", 4096),
        ("num_predict", "256", "max_tokens", 256),
        ("num_predict", "-1", None, None),
        ("repeat_penalty", "1.15", "repetition_penalty", 1.15),
        ("temperature", "0", "temperature", 0.0),
        ("temperature", "-1", "temperature", 0.0),
        ("temperature", "0x1p-2", "temperature", 0.25),
        ("top_k", "40", "top_k", 40),
        ("top_k", "0", "top_k", -1),
        ("top_p", "0.9", "top_p", 0.9),
        ("top_p", "1.5", "top_p", 1.0),
        ("min_p", "0.05", "min_p", 0.05),
        ("presence_penalty", "3", "presence_penalty", 2.0),
        ("frequency_penalty", "0.5", "frequency_penalty", 0.5),
        ("seed", "42", "seed", 42),
        ("seed", "-1", None, None),
        ("stop", "User:", "stop", "User:"),
        ("stop", "", None, None),
        ("num_gpu", "99", None, None),
        ("num_thread", "8", None, None),
        ("mirostat", "2", None, None),
        ("keep_alive", "5m", None, None),
        ("rope_frequency_base", "1e6", None, None),
    ],
)
def test_what_becomes_of_a_parameter(name, value, becomes, gives):
    found = fate(name, value)
    assert (found.becomes, found.gives) == (becomes, gives)
    assert (found.where is Where.NOWHERE) == (becomes is None)
    assert found.note or becomes


def test_every_parameter_that_ollama_takes_is_accounted_for():
    values = {"whole number": "5", "number": "0.5", "true or false": "true", "text": "x"}
    for kind, (_, names) in _KINDS.items():
        for name in names:
            found = fate(name, values[kind])
            assert found.becomes or found.note, name
    for name in DEPRECATED:
        assert fate(name, "1").note


def test_a_context_is_no_longer_than_the_models_own():
    found = fate("num_ctx", "131072", context=8192)
    assert (found.becomes, found.gives) == ("--max-model-len", 8192)
    assert "8,192" in found.note


def test_every_line_has_its_fate_and_the_last_one_counts():
    file = parse(
        b"FROM a\nPARAMETER temperature 1\nPARAMETER stop x\nPARAMETER stop y\nSYSTEM one\n"
        b"PARAMETER temperature 0.2\nADAPTER ./lora\nMESSAGE user hi\nTEMPLATE {{ .Prompt }}\n"
    )
    found = fates(file)
    assert [each.parameter for each in found] == [
        "temperature", "stop", "stop", "SYSTEM", "temperature", "ADAPTER", "MESSAGE", "TEMPLATE",
    ]  # fmt: skip
    assert found[0].becomes is None
    assert "overrides" in found[0].note
    assert {each.becomes for each in found[3:]} >= {"--chat-template", "--lora-modules"}
    fields = request_defaults(found)
    assert fields["temperature"] == 0.2
    assert fields["stop"] == ["x", "y"]


def test_what_the_file_leaves_to_ollama_is_carried_over():
    assert request_defaults([]) == {
        "temperature": 0.8, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1,
    }  # fmt: skip
    off = fates(parse(b"FROM a\nPARAMETER repeat_last_n 0\nPARAMETER repeat_penalty 1.3\n"))
    assert request_defaults(off)["repetition_penalty"] == 1.0
