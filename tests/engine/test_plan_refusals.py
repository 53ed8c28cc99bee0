"""What vLLM would refuse, and what the plan says instead of a figure."""

import json

import pytest
from typer.testing import CliRunner

from gearshift.cli import app

QWEN = "Qwen/Qwen2.5-7B-Instruct"


@pytest.fixture
def plan(home):
    def run(*arguments):
        return CliRunner().invoke(app, ["plan", *map(str, arguments)])

    return run


@pytest.fixture
def record(plan):
    return lambda *arguments: json.loads(plan(*arguments, "--json").stdout)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--gpus", 2, "--tensor-parallel", 4), "4 GPUs are needed"),
        (("--gpus", 8, "--tensor-parallel", 4, "--pipeline-parallel", 4), "16 GPUs are needed"),
        (("--pipeline-parallel", 29), "28 layers cannot be spread over 29 stages"),
        (("--tensor-parallel", 8), "28 attention heads cannot be shared by 8"),
        (("--max-model-len", 100000), "100,000 tokens are more than the model's own 32,768"),
        (("--gpu", "V100-32GB", "--quantization", "fp8"), "fp8 needs compute capability 7.5"),
        (("--gpu", "T4", "--dtype", "bf16"), "bfloat16 needs compute capability 8.0"),
        (("--gpu", "P100"), "vLLM needs compute capability 7.0"),
    ],
)
def test_what_cannot_start_is_refused_with_its_reason(record, arguments, reason):
    found = record(QWEN, *(() if "--gpu" in arguments else ("--gpu", "L4")), *arguments)
    assert (found["fits"], found["refused"]) == (False, True)
    assert any(reason in each for each in found["reasons"])


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [
        ("--quantization", "banana", "awq, awq_marlin"),
        ("--dtype", "int8", "auto, half, float16"),
        ("--kv-cache-dtype", "banana", "fp8_e5m2"),
        ("--vllm-version", "banana", "such as 0.11.0"),
    ],
)
def test_values_that_no_vllm_knows_are_wrong_usage(plan, option, value, known):
    refused = plan(QWEN, "--gpu", "L4", option, value)
    assert refused.exit_code == 2
    assert known in " ".join(refused.stderr.split())


@pytest.mark.parametrize("method", ["squeezellm", "AWQ", "none", "deepspeedfp", "auto_gptq"])
def test_methods_that_vllm_once_knew_are_taken(plan, method):
    assert plan(QWEN, "--gpu", "L4", "--quantization", method).exit_code == 0


@pytest.mark.parametrize("spelling", ["fp32", "float32", "FLOAT32", "torch.float32", "float"])
def test_spellings_of_32_bits(record, spelling):
    assert record(QWEN, "--dtype", spelling)["weights_gib"] == pytest.approx(28.4, rel=0.01)


def test_a_name_that_is_not_known_is_told(record):
    found = record(QWEN, "--gpu", "banana")
    assert found["fits"] is None
    assert any("'banana'" in each and "--gpu-memory" in each for each in found["reasons"])
    sized = record(QWEN, "--gpu", "some card 48GB")
    assert sized["fits"] is True
    assert any("is not known here" in each for each in sized["reasons"])


@pytest.mark.parametrize(
    ("model", "method", "reason"),
    [
        (QWEN, "awq", "this checkpoint is not in awq"),
        ("Qwen/Qwen2.5-14B-Instruct-AWQ", "fp8", "this checkpoint is in awq"),
        (QWEN, "fp8", None),
        ("Qwen/Qwen2.5-14B-Instruct-AWQ", "awq_marlin", None),
        ("deepseek-ai/DeepSeek-V3", "fp8", None),
    ],
)
def test_a_quantization_that_the_checkpoint_has_not_is_told(record, model, method, reason):
    found = record(model, "--gpu", "H200", "--gpus", 8, "--quantization", method)
    told = [each for each in found["reasons"] if "checkpoint" in each]
    assert (reason in told[0]) if reason else not told


def test_what_does_not_fit_is_no_negative_cache_and_no_command_to_run(plan, record):
    text = plan("mistral", "--gpu", "GeForce 3060 12GB").stdout
    assert "missing" in text
    for wrong in ("-3.5", "up to 0 tokens", "KV cache  -"):
        assert wrong not in text
    found = record("mistral", "--gpu", "GeForce 3060 12GB")
    assert "--tensor-parallel-size=2" in found["instead"]
    assert " ".join(found["command"]) not in text.replace("\n", " ")


def test_what_would_start_instead_is_offered(record):
    shorter = record("meta-llama/Llama-3.1-8B-Instruct", "--gpu", "L4")["instead"]
    assert "--tensor-parallel-size=2" in shorter or any("--max-model-len" in e for e in shorter)
    legal = record("microsoft/phi-4", "--gpu", "A100-80GB", "--gpus", 4, "--tensor-parallel", 4)
    assert "--tensor-parallel-size=2" in legal["instead"]
    own = record("smollm2:135m", "--gpu", "L4", "--max-model-len", 100000)["instead"]
    assert "--max-model-len=8192" in own


def test_figures_carry_their_ranges(record):
    found = record(QWEN, "--gpu", "L4")
    for name in ("weights_gib", "overhead_gib", "available_kv_gib", "kv_cache_tokens",
                 "max_concurrency", "longest_context"):  # fmt: skip
        low, high = found[f"{name}_range"]
        assert low < found[name] < high


def test_one_gpu_is_the_reason_for_one_rank(record):
    found = record(QWEN, "--gpu", "L4")
    assert found["latency"]["reason"] == found["throughput"]["reason"] == "there is one GPU"


def test_no_gpu_is_left_idle_where_all_hold_more(record):
    best = record("deepseek-ai/DeepSeek-V3", "--gpu", "H200", "--gpus", 8)["throughput"]
    assert best["tensor_parallel"] * best["pipeline_parallel"] * best["copies"] == 8


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_size": 1e400}, {"layer_types": ["a", "a"]}, {"text_config": {"hidden_size": 1}},
        {"num_attention_heads": [32, 32]}, {"num_key_value_heads": 0}, {"vocab_size": "many"},
        {"num_hidden_layers": 10**30}, {"quantization_config": "awq"}, {"rope_scaling": [1]},
    ],
)  # fmt: skip
def test_odd_configurations_end_in_an_answer_or_a_clear_error(plan, tmp_path, config):
    usual = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
             "num_hidden_layers": 2, "vocab_size": 100}  # fmt: skip
    file = tmp_path / "config.json"
    file.write_text(json.dumps(usual | config), "utf-8")
    answer = plan(file, "--gpu", "L4")
    assert answer.exit_code in (0, 1)
    assert "unexpected" not in answer.output


def test_the_command_is_the_one_that_serve_would_run(record):
    command = record(QWEN, "--gpu", "L4")["command"]
    assert command[command.index("--served-model-name") + 1] == QWEN
