"""A launch means exactly one command, whatever a person typed; vLLM's own parser reads it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearshift.engine.export import as_shell, docker_command, ray_lines, systemd_unit
from gearshift.engine.families import _FAMILIES, parsers
from gearshift.engine.launch import (
    HIDDEN,
    Launch,
    command,
    config_yaml,
    environment,
    make_launch,
    shown,
)
from gearshift.engine.profiles import LATENCY, PROFILES, THROUGHPUT, profile
from gearshift.errors import EngineError

PYTHON = "/opt/vllm/bin/python"
HEAD = [PYTHON, "-m", "vllm.entrypoints.cli.main", "serve"]


def launch(**values):
    return make_launch(**{"model": "owner/name", "served_names": ("owner/name",)} | values)


def test_the_smallest_launch():
    assert command(launch(), PYTHON) == [
        *HEAD,
        "owner/name",
        "--host=127.0.0.1",
        "--port=8001",
        "--served-model-name",
        "owner/name",
    ]


WHOLE = {
    "model": "/models/a b",
    "served_names": ("owner/name", "name:7b", "name"),
    "port": 9000,
    "gpus": ("1", "3"),
    "tensor_parallel": 2,
    "executor": "mp",
    "memory_utilization": 0.85,
    "max_model_len": 4096,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 8192,
    "dtype": "bfloat16",
    "kv_cache_dtype": "fp8",
    "quantization": "awq",
    "chat_template": "/templates/a.jinja",
    "loras": (("one", "/loras/one"), ("two", "/loras/two")),
    "tool_parser": "hermes",
    "reasoning_parser": "qwen3",
    "runner": "generate",
    "enforce_eager": True,
    "quiet": True,
    "chunked_prefill": True,
    "prefix_caching": False,
}


def test_a_launch_with_everything():
    assert command(launch(**WHOLE), PYTHON) == [
        *HEAD,
        "/models/a b",
        "--host=127.0.0.1",
        "--port=9000",
        "--tensor-parallel-size=2",
        "--distributed-executor-backend=mp",
        "--gpu-memory-utilization=0.85",
        "--max-model-len=4096",
        "--max-num-seqs=64",
        "--max-num-batched-tokens=8192",
        "--dtype=bfloat16",
        "--kv-cache-dtype=fp8",
        "--quantization=awq",
        "--chat-template=/templates/a.jinja",
        "--tool-call-parser=hermes",
        "--enable-auto-tool-choice",
        "--reasoning-parser=qwen3",
        "--runner=generate",
        "--enforce-eager",
        "--disable-access-log-for-endpoints=/health,/metrics",
        "--enable-chunked-prefill",
        "--no-enable-prefix-caching",
        "--enable-lora",
        "--served-model-name",
        "owner/name",
        "name:7b",
        "name",
        "--lora-modules",
        "one=/loras/one",
        "two=/loras/two",
    ]


ANYTHING = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["--trust-remote-code", "-x", "a b", "a;b", "$(id)", "a\nb", "a=b", "--api-key=x", "", "é"]
    ),
)
NAMES = st.one_of(
    ANYTHING, st.from_regex(r"[A-Za-z0-9][\w.-]{0,8}(/[A-Za-z0-9]{1,8})?", fullmatch=True)
)
PATHS = st.one_of(ANYTHING, ANYTHING.map(lambda text: "/" + text))
NUMBERS = st.one_of(st.none(), st.integers(-2, 10_000))


REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.one_of(NAMES, PATHS),
        "served_names": st.lists(NAMES, max_size=3).map(tuple),
        "gpus": st.lists(st.one_of(ANYTHING, st.integers(0, 9).map(str)), max_size=3).map(tuple),
        "tensor_parallel": st.integers(-1, 9),
        "max_model_len": NUMBERS,
        "max_num_seqs": NUMBERS,
        "dtype": NAMES,
        "quantization": NAMES,
        "kv_cache_dtype": NAMES,
        "chat_template": PATHS,
        "tool_parser": NAMES,
        "reasoning_parser": NAMES,
        "loras": st.lists(st.tuples(NAMES, PATHS), max_size=2).map(tuple),
        "executor": st.one_of(st.sampled_from(["mp", "ray"]), ANYTHING),
        "memory_utilization": st.one_of(st.none(), st.floats()),
        "chunked_prefill": st.one_of(st.none(), st.booleans(), ANYTHING),
        "prefix_caching": st.one_of(st.none(), st.booleans(), ANYTHING),
    },
)


def is_the_template_or_refused(values):
    try:
        made = launch(**values)
    except EngineError:
        return
    argv = command(made, PYTHON)
    assert argv[:4] == HEAD
    assert argv[4] == made.model
    assert not argv[4].startswith("-")
    flags = [part for part in argv[5:] if part.startswith("-")]
    known = set(Launch.model_fields) - {"model", "gpus", "cpu"}
    assert len(flags) <= len(known) + 2  # two switches come with a parser and with adapters
    options = {flag.partition("=")[0] for flag in flags}
    assert len(options) == len(flags)
    assert options <= {part.partition("=")[0] for part in command(launch(**WHOLE), PYTHON)} | {
        "--pipeline-parallel-size",
        "--no-enable-chunked-prefill",
        "--enable-prefix-caching",
    }
    assert all("\n" not in part and "\0" not in part for part in argv)
    lists = argv[argv.index("--served-model-name") + 1 :]
    assert lists[: len(made.served_names)] == list(made.served_names)


@settings(max_examples=500, deadline=None)
@given(REQUESTS)
def test_what_a_person_types_never_becomes_another_argument(values):
    is_the_template_or_refused(values)


@pytest.mark.soak
@settings(max_examples=5000, deadline=None)
@given(REQUESTS)
def test_five_thousand_requests_never_become_another_argument(values):
    is_the_template_or_refused(values)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"model": "-x"}, "Hub id"),
        ({"model": "a/b/c"}, "Hub id"),
        ({"served_names": ("--api-key", "x")}, "letters"),
        ({"gpus": ("0", "0")}, "twice"),
        ({"gpus": ("0",), "tensor_parallel": 2}, "2 GPUs are needed"),
        ({"gpus": ("one",)}, "no GPU"),
        ({"host": "0.0.0.0"}, "127.0.0.1"),
        ({"memory_utilization": float("nan")}, "finite"),
        ({"memory_utilization": 1.5}, "less than or equal to 1"),
        ({"cpu": True, "executor": "ray"}, "does not support ray"),
        ({"trust_remote_code": True}, "not permitted"),
    ],
)
def test_what_cannot_be_is_refused_in_words(values, word):
    with pytest.raises(EngineError, match=word):
        launch(**values)


def test_secrets_are_in_the_environment_alone_and_named_only_where_people_look():
    inherited = {"PATH": "/bin", "HF_TOKEN": "hf_secretsecret"}
    made = launch(gpus=("GPU-0a1b2c3d", "MIG-1234abcd"))
    found = environment(made, inherited, {"VLLM_API_KEY": "key-secret"}, [0, 1])
    assert found["VLLM_API_KEY"] == "key-secret"
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-0a1b2c3d,MIG-1234abcd"
    people = shown(found, inherited)
    assert people["VLLM_API_KEY"] == people["HF_TOKEN"] == HIDDEN
    assert "PATH" not in people
    text = as_shell(command(made, PYTHON), people) + " ".join(command(made, PYTHON))
    assert "secret" not in text
    assert "secret" not in systemd_unit(command(made, PYTHON), people, "m")
    assert "secret" not in " ".join(docker_command(made, "n", "v1", ["HF_TOKEN"]))


@pytest.mark.parametrize(
    ("cpus", "ranks", "bound"),
    [([0, 1], 2, "0|1"), ([0, 1, 2, 3, 6], 2, "0,1|2,3"), ([4], 2, "4|4")],
)
def test_ranks_on_a_processor_share_it(cpus, ranks, bound):
    found = environment(launch(cpu=True, tensor_parallel=ranks), {}, {}, cpus)
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == bound
    own = environment(launch(cpu=True), {"VLLM_CPU_KVCACHE_SPACE": "7"}, {}, cpus)
    assert own["VLLM_CPU_KVCACHE_SPACE"] == "7"


def test_docker_publishes_on_this_machine_alone_and_mounts_what_is_needed():
    found = docker_command(launch(**WHOLE), "name", "v0.32.0", ["HF_TOKEN"])
    assert found[:3] == ["docker", "run", "--rm"]
    assert found[found.index("--gpus") + 1] == '"device=1,3"'
    assert found[found.index("-p") + 1] == "127.0.0.1:9000:8000"
    assert "--ipc=host" in found
    image = found.index("vllm/vllm-openai:v0.32.0")
    assert "--host=0.0.0.0" in found[image:]
    assert "--model=/mounted/0/a b" in found[image:]
    assert "type=bind,source=/models/a b,target=/mounted/0/a b,readonly" in found[:image]
    assert "one=/mounted/2/one" in found[image:]
    assert found[found.index("-e") + 1] == "HF_TOKEN"


def test_a_systemd_unit_quotes_what_means_something_there():
    unit = systemd_unit([PYTHON, "a b", "50%", "$HOME"], {"A": "1", "HF_TOKEN": HIDDEN}, "m")
    assert f'ExecStart={PYTHON} "a b" "50%%" "$$HOME"' in unit
    assert "Environment=A=1" in unit
    assert HIDDEN not in unit


def test_ray_lines_name_the_gpus_of_each_machine():
    lines = ray_lines(launch(tensor_parallel=8, pipeline_parallel=2, executor="ray"), 2)
    assert "ray start --head --port=6379 --num-gpus=8" in lines[0]
    assert "ray start --address=" in lines[1]


def test_profiles_are_within_the_guides_table(home):
    assert 16 <= LATENCY.values["max_num_seqs"] <= 32
    assert LATENCY.values["max_num_batched_tokens"] == 2048
    assert 0.7 <= LATENCY.values["memory_utilization"] <= 0.8
    assert 128 <= THROUGHPUT.values["max_num_seqs"] <= 256
    assert 8192 <= THROUGHPUT.values["max_num_batched_tokens"] <= 16384
    assert 0.9 <= THROUGHPUT.values["memory_utilization"] <= 0.95
    for one in PROFILES.values():
        assert one.values.keys() == one.reasons.keys()
    with pytest.raises(EngineError, match="no profile"):
        profile("fast", home)


@pytest.mark.parametrize(
    ("model", "tool", "reasoning"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "hermes", None),
        ("Qwen/Qwen3-8B", "hermes", "qwen3"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "hermes", None),
        ("Qwen/Qwen3-Embedding-0.6B", None, None),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3_json", None),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", None, "deepseek_r1"),
        ("openai/gpt-oss-20b", "openai", "openai_gptoss"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral", None),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", None, None),
    ],
)
def test_parsers_go_by_the_family(model, tool, reasoning):
    assert parsers(model) == (tool, reasoning)


LAUNCHES = [
    {},
    WHOLE,
    {"pipeline_parallel": 2, "tensor_parallel": 4, "executor": "ray"},
    {"runner": "pooling", "enforce_eager": True},
    {"chunked_prefill": False, "prefix_caching": True},
    *({**one.values} for one in PROFILES.values()),
    *({"tool_parser": tool, "reasoning_parser": reasoning} for _, (tool, reasoning) in _FAMILIES),
]


def test_vllms_own_parser_reads_every_command(vllm_parses):
    made = [launch(**values) for values in LAUNCHES]
    namespaces = vllm_parses([command(one, PYTHON)[4:] for one in made])
    for one, found in zip(made, namespaces, strict=True):
        assert found["model_tag"] == one.model
        assert found["served_model_name"] == list(one.served_names)
        assert (found["host"], found["port"]) == (one.host, one.port)
        assert found["tensor_parallel_size"] == one.tensor_parallel
        assert found["pipeline_parallel_size"] == one.pipeline_parallel
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "quantization"):
            assert found[name] == getattr(one, name)
        if one.memory_utilization is not None:
            assert found["gpu_memory_utilization"] == one.memory_utilization
        assert found["enable_chunked_prefill"] == one.chunked_prefill
        assert found["enable_prefix_caching"] == one.prefix_caching
        assert found["tool_call_parser"] == one.tool_parser
        assert found["enable_auto_tool_choice"] == bool(one.tool_parser)
        assert len(found["lora_modules"] or []) == len(one.loras)


def test_vllms_own_parser_reads_the_yaml_as_the_command(vllm_parses, tmp_path):
    made = launch(**WHOLE)
    (tmp_path / "server.yaml").write_text(config_yaml(made), "utf-8")
    by_file, by_command = vllm_parses(
        [["--config", str(tmp_path / "server.yaml")], command(made, PYTHON)[4:]]
    )
    assert by_file.pop("model") == by_command.pop("model_tag") == made.model
    for found in (by_file, by_command):
        for name in ("model", "model_tag", "config"):
            found.pop(name, None)
    assert json.dumps(by_file, sort_keys=True) == json.dumps(by_command, sort_keys=True)


def test_the_parsers_that_we_name_are_vllms(vllm_parser_names):
    for _, (tool, reasoning) in _FAMILIES:
        assert tool is None or tool in vllm_parser_names["tool"]
        assert reasoning is None or reasoning in vllm_parser_names["reasoning"]
