"""What a person calls a model, what vLLM is given, and how many GPUs can share it."""

import json

import pytest

from gearshift.engine.models import Model, find_model, legal_tensor_parallel
from gearshift.errors import EngineError


def folder(place, **config):
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(config or {"num_attention_heads": 8}), "utf-8")
    (place / "model.safetensors").write_bytes(b"x")
    return place


def test_the_model_path_is_looked_into_first(make_settings, tmp_path):
    whole = folder(tmp_path / "models" / "owner" / "name")
    bare = folder(tmp_path / "models" / "other")
    settings = make_settings(vllm_model_path=str(tmp_path / "models"))
    assert find_model("owner/name", settings).source == str(whole)
    assert find_model("owner/name", settings).names == ("owner/name",)
    assert find_model("someone/other", settings).source == str(bare)
    assert find_model("someone/else", settings).source == "someone/else"


def test_an_ollama_name_becomes_its_hub_id_and_stays_a_name(make_settings):
    found = find_model("smollm2:135m", make_settings())
    assert found.source == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert found.names == ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2:135m")
    asked = find_model("mistralai/Mistral-7B-Instruct-v0.2", make_settings())
    assert asked.source == "mistralai/Mistral-7B-Instruct-v0.2"
    assert "mistral" in asked.names
    assert "mistralai/Mistral-7B-Instruct-v0.3" not in asked.names


def test_what_the_hub_client_has_is_found(make_settings, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = folder(tmp_path / "hub" / "models--owner--name" / "snapshots" / "abc")
    found = find_model("owner/name", make_settings())
    assert (found.source, found.folder) == ("owner/name", snapshot)


def test_folders_that_are_no_models_say_why(make_settings, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{", "utf-8")
    for name, words in {
        "empty": "no config.json",
        "gguf": "GGUF",
        "broken": "cannot be read",
        "absent": "there is no folder",
    }.items():
        assert words in find_model(str(tmp_path / name), make_settings()).problem


@pytest.mark.parametrize(
    "name", ["", " ", "-x", "--model=x", "a b", "a\nb", "a/b/c", "$(id)", "é\0"]
)
def test_what_is_no_model_is_refused(make_settings, name):
    with pytest.raises(EngineError) as caught:
        find_model(name, make_settings())
    assert caught.value.kind == "model"


@pytest.mark.parametrize(
    ("heads", "kv_heads", "legal"),
    [
        (9, 3, [1, 3]),  # SmolLM2-135M
        (40, 10, [1, 2, 5]),  # Phi-4: 4 and 8 divide the heads, and not the KV heads
        (32, 8, [1, 2, 4, 8]),
        (28, 4, [1, 2, 4]),
        (16, 2, [1, 2, 4, 8]),  # KV heads are copied
        (64, None, [1, 2, 4, 8]),
        (8, 1, [1, 2, 4, 8]),
    ],
)
def test_legal_tensor_parallel_sizes(heads, kv_heads, legal):
    config = {"num_attention_heads": heads}
    if kv_heads:
        config["num_key_value_heads"] = kv_heads
    assert legal_tensor_parallel(Model("m", ("m",), config=config)) == legal
    nested = Model("m", ("m",), config={"text_config": config})
    assert legal_tensor_parallel(nested) == legal


def test_an_unknown_shape_is_unknown():
    assert legal_tensor_parallel(Model("m", ("m",))) is None
    assert legal_tensor_parallel(Model("m", ("m",), config={"num_attention_heads": "8"})) is None
