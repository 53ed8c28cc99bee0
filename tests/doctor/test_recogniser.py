"""The recogniser on real messages of each cause, on healthy logs, on logs as people paste them."""

import json
import time
from pathlib import Path

import pytest

from gearshift.doctor import Cause, diagnose, make_log, read_log
from gearshift.doctor.told import read_told

HERE = Path(__file__).parent
EXCERPTS = [json.loads(line) for line in (HERE / "excerpts.jsonl").read_text("utf-8").splitlines()]
HEALTHY = sorted((HERE / "healthy").iterdir())
ROUTINE = (
    "INFO 11-24 04:1{n}:00 [loggers.py:127] Engine 000: Avg prompt throughput: {n}2.0 tokens/s\n"
    '(APIServer pid=7) INFO:     127.0.0.1:4{n} - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'
)


def causes(text):
    return [cause.cause.value for cause in diagnose(make_log(text)).causes]


def first(text):
    return diagnose(make_log(text)).causes[0]


def test_every_cause_has_an_excerpt():
    assert {row["cause"] for row in EXCERPTS} == {cause.value for cause in Cause}


@pytest.mark.parametrize("row", EXCERPTS, ids=lambda row: row["cause"])
def test_the_cause_of_a_real_message(row):
    found = first(row["text"])
    assert found.cause == row["cause"]
    assert found.evidence
    assert found.meaning.endswith(".")
    assert found.fix
    assert "{" not in found.fix
    assert 1 <= found.line <= row["text"].count("\n") + 1


@pytest.mark.parametrize("row", EXCERPTS, ids=lambda row: row["cause"])
def test_the_same_in_a_long_log_of_a_busy_server(row):
    busy = "".join(ROUTINE.format(n=n) for n in range(3000))
    report = diagnose(make_log(f"{busy}{row['text']}\n{busy}"))
    assert report.causes[0].cause == row["cause"]
    assert report.causes[0].line > 6000


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.name)
def test_nothing_is_found_where_nothing_is_wrong(path):
    assert diagnose(read_log(path)).causes == ()


def wrapped(line):
    return (
        "(EngineCore pid=7) ERROR 11-24 04:14:20 [core.py:718] EngineCore failed to start.\n"
        "(EngineCore pid=7) ERROR 11-24 04:14:20 [core.py:718] Traceback (most recent call last):\n"
        f"(EngineCore pid=7) ERROR 11-24 04:14:20 [core.py:718] {line}\n"
        "(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above.\n"
    )


def test_a_wrapper_is_the_answer_only_if_there_is_no_other():
    text = wrapped("ValueError: No available memory for the cache blocks.")
    assert causes(text) == ["kv-cache-no-memory"]
    assert causes(wrapped("FrobnicationError: the frob is out")) == ["engine-core-generic"]


def test_what_is_not_known_is_said_with_the_first_error():
    report = diagnose(make_log("INFO starting\nFrobnicationError: the frob is out\nbye\n"))
    assert report.causes == ()
    assert report.first_error == (2, "FrobnicationError: the frob is out")
    assert diagnose(make_log("all is well\n")).first_error is None
    assert diagnose(make_log("")).causes == ()


def test_an_error_comes_before_a_warning_and_a_specific_one_before_a_general():
    text = (
        "WARNING 02-02 13:25:27 [interface.py:465] Using 'pin_memory=False' as WSL is detected.\n"
        "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)\n"
        "Error while creating shared memory segment /dev/shm/nccl-cjY8K5 (size 10617216)\n"
    )
    assert causes(text) == ["shm-too-small", "nccl-init-failed", "wsl-pin-memory-warning"]


def test_lines_that_were_wrapped_quoted_and_coloured_are_read():
    text = (
        "> \x1b[31mValueError: Free memory on device cuda:0 (2.6/121.63 GiB) on startup\x1b[0m\n"
        "> is less than desired GPU memory utilization (0.08, 9.73 GiB)\n"
    )
    assert causes(text) == ["gpu-memory-held-by-other-process"]


def test_a_command_or_a_denial_is_no_failure():
    assert causes("$ docker run --gpus all --shm-size 8g image") == []
    assert causes("export HF_HUB_OFFLINE=1") == []
    assert causes("The run ended with no CUDA out of memory at all.") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "ValueError: To serve at least one request with the model's max seq len (8192), (0.18 "
            "GiB KV cache is needed, which is larger than the available KV cache memory (0.09 GiB)."
            " Based on the available memory, the estimated maximum model length is 4352. Try",
            "--max-model-len 4352",
        ),
        (
            "ValueError: To serve at least one request with the models's max seq len (32768), (2.00"
            " GB KV cache is needed, which is larger than the available KV cache memory (0.78 GB).",
            "--max-model-len 12544",
        ),
        (
            "The model's max seq len (32,768) is larger than the maximum number of tokens that can "
            "be stored in KV cache (12,480).",
            "--max-model-len 12288",
        ),
        (
            "Free memory on device (16.01/93.0 GiB) on startup is less than desired GPU memory "
            "utilization (0.8, 74.4 GiB).",
            "--gpu-memory-utilization 0.15",
        ),
        (
            "Total number of attention heads (40) must be divisible by tensor parallel size (3)",
            "--tensor-parallel-size 1, 2, 4, 5 or 8",
        ),
        (
            "non-default args: {'model': 'microsoft/phi-4', 'tensor_parallel_size': 4}\n"
            "    assert self.total_num_kv_heads % tp_size == 0\nAssertionError",
            "1, 2 or 5: this model has 40 attention heads and 10 KV heads",
        ),
        (
            "ValueError: World size (8) is larger than the number of available GPUs (3) in this "
            "node.",
            "--tensor-parallel-size 3",
        ),
        (
            "User-specified max_model_len (4096) is greater than the derived max_model_len "
            "(max_position_embeddings=2048.0 or model_max_length=None in model's config.json)",
            "--max-model-len 2048",
        ),
        (
            "This model's maximum context length is 4096 tokens. However, you requested 5000 "
            "tokens (4900 in the messages, 100 in the completion).",
            "904 tokens less",
        ),
        (
            "CUDA out of memory occurred when warming up sampler with 1024 dummy requests.",
            "--max-num-seqs 256",
        ),
        (
            'level=WARN msg="truncating input prompt" limit=4096 prompt=13789 keep=4 new=4096',
            "num_ctx to 15360",
        ),
        ("model 'gemma2:2b' not found, try pulling it first", "ollama pull gemma2:2b"),
    ],
)
def test_the_numbers_of_a_fix_are_computed(text, words):
    assert words in first(text).fix


def test_a_corrected_command_keeps_the_other_options():
    log = (
        "INFO 11-24 04:14:09 [api_utils.py:286] non-default args: {'model_tag': 'a/b', "
        "'port': 8002, 'model': 'a/b', 'max_model_len': 8192, 'enforce_eager': True}\n"
        "ValueError: The model's max seq len (8192) is larger than the maximum number of tokens "
        "that can be stored in KV cache (4400)."
    )
    assert first(log).command == (
        "vllm", "serve", "a/b", "--max-model-len=4352", "--enforce-eager"
    )  # fmt: skip


def test_a_command_in_a_log_tells_model_and_options():
    told = read_told("$ vllm serve org/model --tensor-parallel-size 4 --dtype=half -tp 2\n")
    assert told.model == "org/model"
    assert told.options == {"tensor_parallel_size": "2", "dtype": "half"}


def test_keys_are_not_shown():
    found = first("ValueError: No available memory for the cache blocks. hf_abcdefghijklmnop")
    assert "hf_abcdefghijklmnop" not in found.evidence


def test_a_large_file_is_read_in_part_and_that_is_said(tmp_path):
    path = tmp_path / "large.log"
    line = "INFO 11-24 04:14:09 [x.py:1] {n} is a line that nobody needs to see again, {n}\n"
    with path.open("w") as file:
        for n in range(400_000):
            file.write(line.format(n=n))
        file.write("ValueError: No available memory for the cache blocks.\n")
    began = time.monotonic()
    log = read_log(path)
    assert [cause.cause for cause in diagnose(log).causes] == ["kv-cache-no-memory"]
    assert log.left_out > 1_000_000
    assert time.monotonic() - began < 20  # minutes, if a pattern tried each place anew


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
def test_logs_of_windows_are_read(tmp_path, encoding):
    path = tmp_path / "log.txt"
    text = "Error: listen tcp 127.0.0.1:11434: bind: Only one usage of each socket address\r\n"
    path.write_text(text, encoding)
    assert diagnose(read_log(path)).causes[0].cause == "ollama-already-running"


@pytest.mark.parametrize(
    "nasty", ["a" * 300_000, "(" * 100_000, "flash " * 60_000, "huggingface.co " * 20_000]
)
def test_no_text_takes_long(nasty):
    began = time.monotonic()
    diagnose(make_log(nasty))
    diagnose(make_log("\n".join(nasty[i : i + 3000] for i in range(0, len(nasty), 3000))))
    assert time.monotonic() - began < 30
