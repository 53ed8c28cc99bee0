"""The recogniser on real messages of each cause, on healthy logs, on logs as people paste them."""

import json
import random
import re
import time
from pathlib import Path

import pytest

from gearshift.doctor import Cause, diagnose, make_log, read_log
from gearshift.doctor._signature import Found
from gearshift.doctor.log import log_of
from gearshift.doctor.signatures import SIGNATURES
from gearshift.doctor.told import Told, read_told

HERE = Path(__file__).parent
EXCERPTS = [json.loads(line) for line in (HERE / "excerpts.jsonl").read_text("utf-8").splitlines()]
ORDINARY = [json.loads(line) for line in (HERE / "ordinary.jsonl").read_text("utf-8").splitlines()]
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
            "--tensor-parallel-size 1 or 2 (with more GPUs 4, 5 or 8): it has 40 heads",
        ),
        (
            "non-default args: {'model': 'microsoft/phi-4', 'tensor_parallel_size': 4}\n"
            "    assert self.total_num_kv_heads % tp_size == 0\nAssertionError",
            "1 or 2 (with more GPUs 5): this model has 40 attention heads and 10 KV heads",
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
        "vllm", "serve", "a/b", "--port=8002", "--max-model-len=4352", "--enforce-eager"
    )  # fmt: skip


def test_a_command_in_a_log_tells_model_and_options():
    told = read_told("$ vllm serve org/model --tensor-parallel-size 4 --dtype=half -tp 2\n")
    assert told.model == "org/model"
    assert told.options == {"tensor_parallel_size": "2", "dtype": "half"}


@pytest.mark.parametrize(
    "secret",
    [
        "hf_Sesame1Sesame1",
        "--api-key Sesame1",
        "--api-key=Sesame1",
        "--hf-token 'Sesame1'",
        "{'api_key': ['Sesame1', 'Sesame1']}",
        'Authorization: Bearer Sesame1"',
        "authorization=Basic Sesame1",
        "VLLM_API_KEY=Sesame1",
        "HUGGING_FACE_HUB_TOKEN: Sesame1",
        "DB_PASSWORD='Sesame1'",
        "https://user:Sesame1@host/v1",
        "https://Sesame1@host/v1",
    ],
)
def test_secrets_are_not_shown(secret):
    report = diagnose(make_log(f"ValueError: No available memory for the cache blocks. {secret}"))
    assert "Sesame1" not in str(report)
    assert "cache blocks" in str(report)


def test_secrets_are_in_no_corrected_command():
    text = (
        "$ vllm serve a/b --max-model-len 8192 --api-key Sesame1 --hf-token=Sesame1\n"
        "ValueError: The model's max seq len (8192) is larger than the maximum number of tokens "
        "that can be stored in KV cache (4400)."
    )
    report = diagnose(make_log(text))
    assert "--max-model-len=4352" in (report.causes[0].command or ())
    assert "Sesame1" not in str(report)


def test_colours_are_not_shown():
    assert first(
        "\x1b[31mValueError: No available memory for the cache blocks\x1b[0m"
    ).evidence == ("ValueError: No available memory for the cache blocks")


@pytest.mark.parametrize(
    "lines",
    [
        "$ vllm serve microsoft/phi-4 --tensor-parallel-size 4",
        "$ vllm serve microsoft/phi-4 -tp 4",
        "INFO non-default args: {'model': 'microsoft/phi-4', 'tensor_parallel_size': 4}",
        "INFO Initializing a V0 LLM engine (v0.8.3) with config: model='microsoft/phi-4', "
        "dtype=torch.bfloat16, tensor_parallel_size=4, pipeline_parallel_size=1",
    ],
)
def test_the_corrected_command_has_a_legal_size_for_the_gpus_that_there_are(lines):
    found = first(f"{lines}\n    assert self.total_num_kv_heads % tp_size == 0\nAssertionError")
    assert "--tensor-parallel-size=2" in (found.command or ())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (
            "non-default args: {'model': 'Qwen/Qwen3-235B-A22B-FP8', 'tensor_parallel_size': 8}\n"
            "ValueError: The output_size of gate's and up's weight = 192 is not divisible by "
            "weight quantization block_n = 128.",
            "4",
        ),
        (
            "vllm serve Qwen/Qwen2.5-32B-Instruct-GPTQ-Int4 --tensor-parallel-size 8\n"
            "ValueError: The input size is not aligned with the quantized weight shape.",
            "4",
        ),
        (
            "vllm serve a/b --tensor-parallel-size 4\nWeight output_size_per_partition = 1248 is "
            "not divisible by  min_thread_n = 64. Consider reducing tensor_parallel_size",
            "2",
        ),
    ],
)
def test_the_size_that_leaves_the_groups_of_weights_whole_is_computed(text, size):
    (found,) = (cause for cause in diagnose(make_log(text)).causes if "shards" in cause.cause)
    assert f"--tensor-parallel-size={size}" in (found.command or ())
    assert "--tensor-parallel-size 1" in found.fix


@pytest.mark.parametrize(
    "text",
    [
        "services:\n  ollama:\n    environment:\n      - OLLAMA_MAX_QUEUE=512\n"
        "      - OLLAMA_LOAD_TIMEOUT=10m\n    ports: ['11434:11434']",
        "HF_HUB_OFFLINE=0\nTRANSFORMERS_OFFLINE=0\nNCCL_NVLS_ENABLE=1\n"
        "TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas\nVLLM_ALLOW_LONG_MAX_MODEL_LEN=0\n",
        "ENV HF_HUB_OFFLINE=1 \\\n    TRANSFORMERS_OFFLINE=1\nRUN apt-get install -y gcc g++\n",
        "We bake the weights in: HF_HUB_OFFLINE=1 is set in the image, NCCL_NVLS_ENABLE=0, too.",
        "PID USER   %CPU %MEM COMMAND\n 812 ollama  100% CPU  3.1 /usr/bin/ollama runner",
        "CHANGELOG\n- fix: CUDA out of memory when many images are sent (#1123)\n"
        "- fix(serve): address already in use now prints the PID\n",
        "We fixed the CUDA out of memory error yesterday, thanks!",
        '"env": {"OLLAMA_LOAD_TIMEOUT": "5m0s", "TRITON_CACHE_DIR": "/tmp/no_space_left"}',
        'level=DEBUG msg="bootstrap discovery took" duration=211.5ms',
    ],
)
def test_configuration_and_what_was_mended_are_no_failures(text):
    assert causes(text) == []


def listening(*lines):
    return "\n".join(
        (
            'time=t level=INFO source=routes.go:1554 msg="server config" env="map[CUDA_VISIBLE: '
            'OLLAMA_HOST:http://127.0.0.1:11434 OLLAMA_LOAD_TIMEOUT:5m0s OLLAMA_MAX_QUEUE:512]"',
            'time=t level=INFO source=routes.go:1607 msg="Listening on 127.0.0.1:11434"',
            *(f"time=t {line}" for line in lines),
        )
    )


def test_what_answers_suffer_from_is_found_in_the_log_of_an_ollama_that_runs():
    cut = 'level=WARN msg="truncating input prompt" limit=4096 prompt=7001 keep=4 new=4096'
    assert causes(listening(cut)) == ["ollama-context-truncated"]
    unused = 'level=WARN source=gpu.go:111 msg="no compatible GPUs were discovered"'
    assert causes(listening(unused)) == ["ollama-gpu-not-used"]
    crash = 'level=ERROR msg="error loading" error="llama runner process has terminated: exit 2"'
    assert causes(listening(crash)) == ["ollama-runner-crashed"]
    assert causes(listening('level=INFO msg="inference compute" library=cpu total="15 GiB"')) == []


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("docker compose logs vllm: Error 804: forward compatibility", "cuda-forward-compat-804"),
        ("docker run image → `libcuda.so.1: cannot open shared object file`", "libcuda-missing"),
        ("vllm serve: error: argument --task: invalid choice: 'embed'", "option-unknown"),
        (
            "vllm serve m --max-model-len 9 → 'greater than the derived max_model_len (m=4",
            "max-model-len-above-model",
        ),
    ],
)
def test_an_error_beside_its_command_is_one(text, cause):
    assert causes(text) == [cause]


def test_a_large_file_is_read_in_part_and_that_is_said(tmp_path):
    path = tmp_path / "large.log"
    line = "INFO 11-24 04:14:09 [x.py:1] {n} is a line that nobody needs to see again, {n}\n"
    with path.open("w") as file:
        for n in range(400_000):
            file.write(line.format(n=n))
        file.write("ValueError: No available memory for the cache blocks.\n")
    began = time.process_time()
    log = read_log(path)
    assert [cause.cause for cause in diagnose(log).causes] == ["kv-cache-no-memory"]
    assert log.left_out > 1_000_000
    assert time.process_time() - began < 8  # minutes, if a pattern tried each place anew


def test_bytes_that_are_no_text_take_no_long():
    began = time.process_time()
    assert diagnose(log_of(random.Random(5).randbytes(2_000_000))).causes == ()
    assert time.process_time() - began < 4  # 0.8 on an idle machine


def test_the_part_that_is_looked_for_first_is_in_each_match():
    for row in EXCERPTS:
        text = make_log(row["text"]).cleaned.lower()
        for signature in SIGNATURES:
            for part, pattern in signature.patterns:
                assert part in text or not pattern.search(text), pattern.pattern


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
    began = time.process_time()
    diagnose(make_log(nasty))
    diagnose(make_log("\n".join(nasty[i : i + 3000] for i in range(0, len(nasty), 3000))))
    assert time.process_time() - began < 30


@pytest.mark.parametrize("row", ORDINARY, ids=lambda row: row["text"][:24])
def test_nothing_is_found_in_ordinary_texts(row):
    assert causes(row["text"]) == []


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda signature: signature.cause)
def test_each_fix_that_is_a_text_takes_its_parts_from_each_message(signature):
    for _, pattern in signature.patterns:
        parts = dict.fromkeys(pattern.groupindex, "7")
        if isinstance(signature.fix, str):
            assert signature.advice(Found(parts, Told())).text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("serve: error: argument --dtype: invalid choice: 'int8' (choose from auto)", "--dtype"),
        ("vllm serve: error: argument -tp/--tensor-parallel-size: expected one argument", "-tp"),
        ("main.py: error: the following arguments are required: --model", "--model"),
        (
            "vllm serve: error: argument --max-model-len: invalid int value: 'abc'",
            "--max-model-len",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.0 GiB. GPU 0 has a "
            "total capacity of 23.64 GiB of which 19.62 MiB is free. Process 12345 has 23.10 GiB "
            "memory in use.",
            "process 12345 holds 23.1 of 23.64 GiB",
        ),
        (
            "HTTPSConnectionPool(host='huggingface.co', port=443): Max retries exceeded (Caused by "
            "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]')))",
            "REQUESTS_CA_BUNDLE",
        ),
        (
            "HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': "
            "'/models/llama/3'. Use `repo_type` argument if needed.",
            "ls /models/llama/3",
        ),
        (
            "Total number of attention heads (40) must be divisible by tensor parallel size (3)",
            "KV heads, num_key_value_heads, may allow fewer",
        ),
    ],
)
def test_the_fix_speaks_of_what_the_message_names(text, words):
    assert words in first(text).fix


def test_no_text_breaks_it():
    chance = random.Random(7)
    odd = ["0", "", "9" * 400, "1.2.3", "-5", "²", "nan", "٣", "{x}", "%s", "\\"]
    for row in EXCERPTS:
        text = re.sub(r"\d[\d.,]*", lambda _: chance.choice(odd), row["text"])
        ranks, port = chance.choices(odd, k=2)
        told = f"$ vllm serve microsoft/phi-4 -tp {ranks} --port {port}\n"
        for found in diagnose(make_log(told + text)).causes:
            assert found.fix


def test_the_port_of_the_log_is_told():
    told = "non-default args: {'model': 'a/b', 'port': 8005}"
    assert "--port 8006" in first(f"{told}\nOSError: [Errno 98] Address already in use").fix


def test_a_line_of_a_traceback_is_no_cause():
    text = (
        "    _raise_on_head_call_error(head_call_error, force_download, local_files_only)\n"
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files"
    )
    assert causes(text) == ["hf-unreachable"]


def test_prefixes_of_the_journal_are_left_out():
    text = "Aug 17 18:42:18 host vllm[42]: Killed\nAug  7 18:42:19 host systemd[1]: it ended"
    assert causes(text) == ["host-out-of-memory"]
