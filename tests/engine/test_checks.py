"""Checks refuse what is proven to fail, and call unknown what they cannot know."""

import json
import socket
import struct
import subprocess
import sys

import pytest

from gearshift.engine.checks import Plan, Status, run_checks
from gearshift.engine.checks._fit import check_fit
from gearshift.engine.checks._gpus import check_gpu_memory, check_gpus
from gearshift.engine.checks._machine import check_engine
from gearshift.engine.checks._model import check_context, check_hub
from gearshift.engine.checks._weights import check_weights
from gearshift.engine.launch import make_launch
from gearshift.engine.models import Model, find_model
from gearshift.gpu import GPU, GPUs, Holder, MigInstance
from places import free_port

GIB = 1 << 30
NONE = GPUs(problem="there is no NVIDIA driver on this machine", hint="install it")
TWO = GPUs(
    (
        GPU(0, "GPU-aaaa1111", "L4", 24 * GIB, 1 * GIB, 23 * GIB),
        GPU(
            1,
            "GPU-bbbb2222",
            "L4",
            24 * GIB,
            20 * GIB,
            4 * GIB,
            holders=(Holder(4242, "ollama", 19 * GIB),),
            mig=(MigInstance("MIG-cccc3333", None, None, None),),
        ),
    ),
    "550.54",
)


@pytest.fixture
def make_plan(make_settings):
    def make(found, model=None, settings=None, **values):
        model = model or Model("owner/name", ("owner/name",))
        values = {"cpu": not found.gpus} | values
        launch = make_launch(model=model.source, served_names=model.names, **values)
        return Plan(launch, model, found, make_settings(**(settings or {})))

    return make


@pytest.fixture
def check(make_plan, monkeypatch):
    """The results of all checks by name."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there

    def run(model=None, **values):
        plan = make_plan(NONE, model, **{"port": free_port()} | values)
        return {found.name: found for found in run_checks(plan)}

    return run


def test_a_model_nobody_knows_is_a_warning(check):
    found = check(tensor_parallel=2)
    assert found["tensor_parallel"].status is Status.UNKNOWN
    assert found["model"].status is Status.UNKNOWN
    assert found["hub"].status is Status.UNKNOWN
    assert not [name for name, one in found.items() if one.status is Status.REFUSED]


def test_heads_that_cannot_be_shared_are_refused_with_the_legal_sizes(check, make_settings):
    model = find_model("HuggingFaceTB/SmolLM2-135M-Instruct", make_settings())
    found = check(model, tensor_parallel=2)["tensor_parallel"]
    assert found.status is Status.REFUSED
    assert "1, 3" in found.hint
    assert check(model, tensor_parallel=3)["tensor_parallel"].status is Status.PASSED


def test_a_width_that_cannot_be_cut_is_not_blamed_on_the_heads(check):
    config = {
        "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 384,
        "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 384,
    }  # fmt: skip
    model = Model("tiny", ("tiny",), config=config)
    assert (
        "attention heads cannot be shared by 4"
        in check(model, tensor_parallel=4)["tensor_parallel"].message
    )
    assert "512" in check(model, tensor_parallel=6)["tensor_parallel"].message


def safetensors(size, whole=None):
    """A file of one tensor of `size` bytes, or of as many of them as are `whole`."""
    header = {"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    head = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(size if whole is None else whole)


@pytest.mark.parametrize(
    ("files", "status", "words"),
    [
        ({"model.safetensors": safetensors(100)}, Status.PASSED, "1 file"),
        ({"model.safetensors": safetensors(100, whole=60)}, Status.REFUSED, "cut off"),
        ({"a.safetensors": b"version https://git-lfs.github.com/spec/v1"}, Status.REFUSED, "LFS"),
        ({}, Status.UNKNOWN, "no weights"),
        ({"model.safetensors": b"of a stand-in"}, Status.PASSED, "1 file"),
        ({"model.safetensors": b""}, Status.PASSED, "1 file"),
        ({"pytorch_model.bin": b"x"}, Status.PASSED, "1 file"),
        (
            {
                "model-1.safetensors": safetensors(9),
                "model.safetensors.index.json": b'{"weight_map": {"a": "model-2.safetensors"}}',
            },
            Status.REFUSED,
            "such as model-2.safetensors",
        ),
        (
            {"model.safetensors": safetensors(9), "model.safetensors.index.json": b'{"a": [1]}'},
            Status.PASSED,
            "1 file",
        ),
    ],
)
def test_weights_that_are_cut_off_are_refused(make_plan, tmp_path, files, status, words):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = check_weights(make_plan(NONE, Model("/m", ("m",), tmp_path, {})))
    assert found.status is status
    assert words in found.message


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1"])
def test_a_taken_port_names_its_owner(check, address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    script = (
        "import socket, sys; s = socket.socket(int(sys.argv[1])); s.bind((sys.argv[2], 0));"
        "s.listen(); print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(int(family)), address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        port = int(owner.stdout.readline())
        found = check(port=port)["port"]
        owner.stdin.close()
    assert found.status is Status.REFUSED
    assert f"pid {owner.pid}" in found.message


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({}, Status.PASSED),
        ({"gpus": ("1", "0")}, Status.PASSED),
        ({"gpus": ("GPU-bbbb2222",)}, Status.PASSED),
        ({"gpus": ("MIG-cccc3333",)}, Status.PASSED),
        ({"gpus": ("2",)}, Status.REFUSED),
        ({"gpus": ("GPU-dddd4444",)}, Status.REFUSED),
        ({"tensor_parallel": 4}, Status.REFUSED),
        ({"tensor_parallel": 4, "executor": "ray"}, Status.PASSED),
    ],
)
def test_gpus_have_to_be_among_those_found(make_plan, values, status):
    assert check_gpus(make_plan(TWO, **values)).status is status


def test_a_card_that_is_lost_is_refused(make_plan):
    lost = GPUs((GPU(0, problem="it is lost"), TWO.gpus[1]), "550.54")
    assert check_gpus(make_plan(lost, gpus=("0",))).status is Status.REFUSED
    assert check_gpus(make_plan(lost, gpus=("1",))).status is Status.PASSED


def test_without_a_driver_gpus_are_unknown(make_plan):
    found = check_gpus(make_plan(NONE, gpus=("0", "1"), cpu=False))
    assert found.status is Status.UNKNOWN
    assert "no NVIDIA driver" in found.message


def test_memory_that_others_hold_is_refused_with_their_names(make_plan):
    assert check_gpu_memory(make_plan(TWO, gpus=("0",))).status is Status.PASSED
    found = check_gpu_memory(make_plan(TWO, gpus=("1",)))
    assert found.status is Status.REFUSED
    assert "ollama (pid 4242, 19.0 GiB)" in found.message
    assert "0.16" in found.hint
    low = make_plan(TWO, gpus=("1",), memory_utilization=0.15)
    assert check_gpu_memory(low).status is Status.PASSED
    close = make_plan(TWO, gpus=("0",), memory_utilization=0.97)  # of less than NVML's total
    assert check_gpu_memory(close).status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("status", "token", "result", "words"),
    [
        (200, None, Status.PASSED, ""),
        (307, None, Status.PASSED, ""),
        (401, None, Status.REFUSED, "gated"),
        (403, "hf_sometoken", Status.REFUSED, "token"),
        (404, None, Status.REFUSED, "has no"),
        (500, None, Status.UNKNOWN, "500"),
    ],
)
def test_the_hub_is_asked(make_plan, serve, monkeypatch, tmp_path, status, token, result, words):
    asked = []

    async def answer(exchange):
        asked.append(exchange)
        await exchange.reply(b"", status, location="http://127.0.0.1:9/")

    server = serve(answer)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    found = check_hub(make_plan(NONE, settings={"hf_token": token}))
    assert found.status is result
    assert words in found.message
    assert len(asked) == 1  # a redirect is not followed: the token is for the Hub alone


def test_a_python_that_is_none_is_refused(make_plan, tmp_path):
    found = check_engine(make_plan(NONE, settings={"vllm_python": tmp_path / "none"}))
    assert found.status is Status.REFUSED
    assert check_engine(make_plan(NONE)).status is Status.UNKNOWN
    there = check_engine(make_plan(NONE, settings={"vllm_python": sys.executable}))
    assert there.status is Status.PASSED


def test_a_context_longer_than_the_models_is_refused(make_plan, tmp_path, monkeypatch):
    shape = {"max_position_embeddings": 2048}
    known = Model("/m", ("m",), tmp_path, shape)
    assert check_context(make_plan(NONE, known, max_model_len=4096)).status is Status.REFUSED
    assert check_context(make_plan(NONE, known, max_model_len=2048)).status is Status.PASSED
    for stretch in (
        {"rope_scaling": {"factor": 4}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4}},
        {"text_config": {"rope_scaling": {"factor": 4}}},
    ):
        scaled = Model("/m", ("m",), tmp_path, shape | stretch)
        assert check_context(make_plan(NONE, scaled, max_model_len=4096)).status is Status.UNKNOWN
    plain = Model("/m", ("m",), tmp_path, shape | {"rope_parameters": {"rope_type": "default"}})
    assert check_context(make_plan(NONE, plain, max_model_len=4096)).status is Status.REFUSED
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    assert check_context(make_plan(NONE, plain, max_model_len=4096)).status is Status.UNKNOWN


def a10(index, total):
    return GPU(index, f"GPU-{index}", "NVIDIA A10", total * GIB, 0, total * GIB)


@pytest.mark.parametrize(
    ("model", "gpus", "values", "status", "words"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 1, {"max_model_len": 4096}, "passed", "requests of"),
        ("meta-llama/Llama-3.1-8B-Instruct", 1, {}, "unknown", "--max-model-len"),
        ("Qwen/Qwen2.5-32B-Instruct", 1, {}, "refused", "such GPUs"),
        ("Qwen/Qwen2.5-32B-Instruct", 4, {"tensor_parallel": 4}, "passed", "requests of"),
        ("nobody/knows", 1, {}, "unknown", "shape"),
    ],
)
def test_what_does_not_fit_is_told_before_it_is_started(
    make_plan, make_settings, model, gpus, values, status, words
):
    found = GPUs(tuple(a10(index, 24) for index in range(gpus)), "550.54")
    result = check_fit(make_plan(found, find_model(model, make_settings()), **values))
    assert result.status == status, result
    assert words in f"{result.message} {result.hint}"


def test_a_gpu_that_does_not_tell_its_memory_leaves_it_open(make_plan, make_settings):
    found = GPUs((GPU(0, "GPU-0", "something new"),), "550.54")
    model = find_model("meta-llama/Llama-3.1-8B-Instruct", make_settings())
    assert check_fit(make_plan(found, model)).status is Status.UNKNOWN
