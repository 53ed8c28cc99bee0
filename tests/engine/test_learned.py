"""A start-up's own log corrects the next plan."""

import json

import pytest
from typer.testing import CliRunner

from gearshift.cli import app
from gearshift.engine.forecast import Question, forecast
from gearshift.engine.learned import recall, remember, usual_seconds
from gearshift.engine.startup_log import Startup, read_startup
from gearshift.errors import EngineError

QWEN, LLAMA = "Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"
LOG = """\
INFO starts an API server
(APIServer pid=9) INFO 10-21 09:10:01 [utils.py:233] non-default args: {'model': \
'Qwen/Qwen2.5-7B-Instruct', 'max_model_len': 8192, 'gpu_memory_utilization': 0.85, \
'max_num_seqs': 64, 'tensor_parallel_size': 2}
(EngineCore_DP0 pid=12) INFO 10-21 09:10:20 [core.py:77] Initializing a V1 LLM engine (v0.11.0) \
with config: model='Qwen/Qwen2.5-7B-Instruct', dtype=torch.bfloat16, max_seq_len=8192, \
tensor_parallel_size=2, pipeline_parallel_size=1, quantization=None, enforce_eager=True, \
kv_cache_dtype=auto, seed=0
(Worker_TP0 pid=14) INFO 10-21 09:11:02 [gpu_model_runner.py:2653] Model loading took 7.1211 GiB \
and 11.5 seconds
(Worker_TP1 pid=15) INFO 10-21 09:11:02 [gpu_model_runner.py:2653] Model loading took 7.1214 GiB \
and 11.6 seconds
(Worker_TP0 pid=14) INFO 10-21 09:11:57 [gpu_worker.py:298] Available KV cache memory: 10.25 GiB
(Worker_TP1 pid=15) INFO 10-21 09:11:57 [gpu_worker.py:298] Available KV cache memory: 10.21 GiB
(EngineCore_DP0 pid=12) INFO 10-21 09:11:57 [kv_cache_utils.py:1087] GPU KV cache size: 382,304 \
tokens
"""


def learned(**changes):
    values = {
        "model": QWEN, "seconds": 60.0, "gpu": "NVIDIA L4", "version": "0.11.0",
        "max_model_len": 8192, "weights_gib": 14.3, "available_kv_gib": 3.5,
        "kv_cache_tokens": 65_536,
    }  # fmt: skip
    return Startup(**(values | changes))


def test_a_log_tells_how_it_was_set_up_and_what_was_measured():
    found = read_startup(LOG.splitlines())
    assert found == Startup(
        model=QWEN, version="0.11.0", tensor_parallel=2, max_model_len=8192, dtype="bfloat16",
        utilization=0.85, max_num_seqs=64, enforce_eager=True, weights_gib=7.1214,
        available_kv_gib=10.21, kv_cache_tokens=382_304,
    )  # fmt: skip


def test_of_several_starts_in_a_log_the_last_counts():
    later = LOG.replace("10.25", "9.5").replace("10.21", "9.5")
    assert read_startup((LOG + later).splitlines()).available_kv_gib == 9.5
    broken = LOG[: LOG.index("(Worker_TP0 pid=14) INFO 10-21 09:11:57")]
    assert read_startup((LOG + broken).splitlines()) is None


def test_versions_that_logged_blocks_are_read():
    old = (
        "INFO 03-21 20:15:42 llm_engine.py:234] Initializing an LLM engine (v0.6.6) with config: "
        "model='x', kv_cache_dtype=auto\n"
        "INFO 03-21 20:15:45 [worker.py:267] model weights take 12.55GiB; non_torch_memory takes "
        "0.16GiB; PyTorch activation peak memory takes 2.38GiB; the rest of the memory reserved "
        "for KV Cache is 56.18GiB.\n"
        "INFO 03-21 20:15:46 [executor_base.py:110] # GPU blocks: 1952, # CPU blocks: 2048\n"
    )
    found = read_startup(old.splitlines())
    assert (found.version, found.weights_gib, found.available_kv_gib) == ("0.6.6", 12.55, 56.18)
    assert found.kv_cache_tokens == 1952 * 16


def test_the_same_start_again_is_forecast_as_it_was(make_settings):
    settings = make_settings()
    question = Question(QWEN, gpu="L4", max_model_len=8192)
    before = forecast(question, settings)
    assert before.learned is None
    remember_in(settings, learned())
    after = forecast(question, settings)
    assert after.learned.model == QWEN
    assert after.fit.weights_gib == pytest.approx(14.3)
    assert after.fit.available_kv_gib == pytest.approx(3.5)
    assert after.fit.kv_cache_tokens == pytest.approx(65_536, rel=0.001)
    assert before.fit.available_kv_gib != pytest.approx(3.5, rel=0.05)


def test_more_memory_is_added_to_what_was_measured(make_settings):
    settings = make_settings()
    remember_in(settings, learned())
    less = forecast(Question(QWEN, gpu="L4", max_model_len=8192, utilization=0.85), settings)
    usual = forecast(Question(QWEN, gpu="L4", max_model_len=8192), settings)
    gained = usual.fit.available_kv_gib - less.fit.available_kv_gib
    assert gained == pytest.approx(0.05 * usual.setup.usable_gib)


def test_of_another_model_only_the_overhead_is_learned(make_settings):
    settings, question = make_settings(), Question(LLAMA, gpu="L4", max_model_len=8192)
    asked = Question(LLAMA, gpu="L4", max_model_len=8192, version="0.11.0")
    before = forecast(asked, settings).fit
    remember_in(settings, learned())
    after = forecast(question, settings)
    assert after.fit.weights_gib == before.weights_gib
    assert after.fit.overhead_gib != before.overhead_gib
    assert after.fit.kv_bytes_per_token == before.kv_bytes_per_token
    assert after.setup.version == "0.11.0"  # the machine's


def test_other_gpus_teach_nothing(make_settings):
    settings = make_settings()
    remember_in(settings, learned(gpu="NVIDIA A100-SXM4-80GB"))
    assert forecast(Question(QWEN, gpu="L4"), settings).learned is None
    assert forecast(Question(QWEN), settings).learned is None


def test_the_same_model_teaches_more_than_a_later_other_one(make_settings):
    settings = make_settings()
    remember_in(settings, learned())
    remember_in(settings, learned(model=LLAMA))
    assert forecast(Question(QWEN, gpu="L4"), settings).learned.model == QWEN


def test_a_model_that_is_gone_teaches_nothing(make_settings, tmp_path):
    settings = make_settings()
    remember_in(settings, learned(model=str(tmp_path / "gone")))
    assert forecast(Question(QWEN, gpu="L4"), settings).learned is None
    earlier = learned(model=str(tmp_path / "gone"))
    with pytest.raises(EngineError, match="there is no folder"):
        forecast(Question(QWEN, gpu="L4", earlier=earlier), settings)


def test_damaged_lines_are_left_out(make_settings):
    settings = make_settings()
    remember_in(settings, learned(seconds=40.0))
    file = settings.home_dir / "servers" / "startups.jsonl"
    file.write_text(file.read_text("utf-8") + '{"seconds": "x"}\nnonsense\n', "utf-8")
    remember_in(settings, learned(seconds=50.0))
    assert [row.seconds for row in recall(settings)] == [40.0, 50.0]
    assert usual_seconds(settings, QWEN) == 45.0
    assert usual_seconds(settings, LLAMA) is None


@pytest.fixture
def gearshift(home):
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_command_learns_from_a_log(gearshift, tmp_path):
    log = tmp_path / "vllm.log"
    log.write_text(LOG, "utf-8")
    arguments = ["plan", QWEN, "--gpu", "L4", "--tensor-parallel", "2", "--max-model-len", "8192"]
    arguments += ["--gpu-memory-utilization", "0.85", "--max-num-seqs", "64", "--enforce-eager"]
    found = json.loads(gearshift(*arguments, "--log", str(log), "--json").stdout)
    assert found["available_kv_gib"] == pytest.approx(10.21)
    assert found["kv_cache_tokens"] == pytest.approx(382_304, rel=0.001)
    assert found["learned_from"]["version"] == "0.11.0"
    assert "corrected with" in gearshift(*arguments, "--log", str(log)).stdout
    log.write_text("nothing", "utf-8")
    refused = gearshift(*arguments, "--log", str(log))
    assert refused.exit_code == 1
    assert "is not the log of a start on a GPU" in " ".join(refused.stderr.split())


def remember_in(settings, startup):
    (settings.home_dir / "servers").mkdir(parents=True, exist_ok=True)
    remember(settings, startup)
