"""Where a model's shape is found: a GGUF header, and the Hub for what nothing here tells."""

import http.server
import json
import threading

import gguf
import numpy as np
import pytest

from gearshift.engine.forecast import Question, forecast
from gearshift.engine.geometry import read_geometry
from gearshift.engine.gguf_header import read_header
from gearshift.engine.sources import find_source
from gearshift.errors import EngineError

CONFIG = {
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096,
    "num_attention_heads": 16, "num_hidden_layers": 8, "num_key_value_heads": 4,
    "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip


def write_gguf(path, architecture="llama", tied=True, **keys):
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in keys.items():
        name = f"{architecture}.{name.replace('__', '.')}"
        if isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_uint32(name, value)
    writer.add_token_list([f"t{number}" for number in range(500)])
    names = ["token_embd.weight"] if tied else ["token_embd.weight", "output.weight"]
    for name in names:
        writer.add_tensor(name, np.zeros((500, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SMALL = {
    "block_count": 4, "embedding_length": 64, "feed_forward_length": 128,
    "attention__head_count": 8, "attention__head_count_kv": 2, "context_length": 2048,
}  # fmt: skip


def test_a_gguf_header_tells_the_shape(tmp_path, make_settings):
    file = write_gguf(tmp_path / "sha256-abc", **SMALL)  # as Ollama names it
    shape = read_geometry(read_header(file))
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads) == (4, 64, 8, 2)
    assert (shape.max_len, shape.vocab, shape.tied) == (2048, 500, True)
    assert shape.parameters == 500 * 64
    found = forecast(Question(str(file), gpu="L4"), make_settings())
    assert found.fit.weights_gib == pytest.approx(500 * 64 * 2 / 2**30)
    assert "16 bits" in found.fit.reasons[-1]


def test_layers_that_differ_count_with_their_largest(tmp_path):
    each = {"attention__head_count_kv": [0, 2, 0, 2], "feed_forward_length": [128, 256, 128, 128]}
    shape = read_geometry(read_header(write_gguf(tmp_path / "m", tied=False, **SMALL | each)))
    assert (shape.kv_heads, shape.intermediate, shape.tied) == (2, 256, False)


def test_windows_are_those_of_the_architecture(tmp_path):
    keys = SMALL | {"block_count": 12, "attention__sliding_window": 512}
    shape = read_geometry(read_header(write_gguf(tmp_path / "m", "gemma3", **keys)))
    assert (shape.full_layers, shape.sliding_layers, shape.window) == (2, 10, 512)


@pytest.mark.parametrize("keep", [6, 60, 400])
def test_a_gguf_file_that_is_cut_short_is_refused(tmp_path, keep):
    file = write_gguf(tmp_path / "m.gguf", **SMALL)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(EngineError, match="is no whole GGUF file") as refused:
        read_header(file)
    assert "\n" not in refused.value.message


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers by the model's name, and notes the keys that it is sent."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        owner = self.path.split("/")[1]
        if owner == "moved":
            self.send_response(302)
            self.send_header("Location", self.path.replace("moved", "new"))
            self.end_headers()
            return
        status = {"gone": 404, "gated": 401, "ill": 503}.get(owner, 200)
        self.send_response(status)
        self.end_headers()
        if status == 200:
            text = {"broken": "<html>", "list": "[]"}.get(owner) or json.dumps(CONFIG)
            self.wfile.write(text.encode())

    def log_message(self, *_):
        """Nothing on the tests' screen."""


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_hub_is_asked_for_what_is_not_known_here(hub, make_settings):
    settings = make_settings(hf_token="hf_planted")
    found = find_source("owner/new-model", settings)
    assert (found.config, found.serves) == (CONFIG, "owner/new-model")
    assert hub.seen == [("/owner/new-model/resolve/main/config.json", "Bearer hf_planted")]
    find_source("Qwen/Qwen2.5-7B-Instruct", settings)
    assert len(hub.seen) == 1


def test_a_key_does_not_follow_to_another_address(hub, make_settings):
    assert find_source("moved/model", make_settings(hf_token="hf_planted")).config == CONFIG
    assert [key for _, key in hub.seen] == ["Bearer hf_planted", None]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone/model", "answers with status 404"),
        ("gated/model", "does not give gated/model to everybody"),
        ("ill/model", "answers with status 503"),
        ("broken/model", "is no JSON"),
        ("list/model", "is no configuration"),
    ],
)
def test_what_the_hub_does_not_give_is_said(hub, make_settings, name, words):
    with pytest.raises(EngineError, match=words):
        find_source(name, make_settings())


def test_without_the_hub_the_way_out_is_said(hub, make_settings, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EngineError, match="HF_HUB_OFFLINE is set") as off:
        find_source("owner/model", make_settings())
    assert "config.json" in off.value.hint
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(EngineError, match="cannot be reached"):
        find_source("owner/model", make_settings())
    assert hub.seen == []
