"""What a start-up's log says: the stage, what is progress, and why it failed."""

import pytest

from gearshift.engine.redact import HIDDEN, Redactor
from gearshift.engine.stages import essence, root_cause, stage

INFO = "(EngineCore pid=20698) INFO 11-23 21:05:50 [kv_cache_utils.py:2327] "


@pytest.mark.parametrize(
    ("line", "words", "progress"),
    [
        (
            "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00]",
            "weights",
            0.5,
        ),
        (
            "(Worker pid=1) INFO 11-23 21:05:48 [r.py:68] Starting to load model /m...",
            "weights",
            None,
        ),
        (INFO + "CPU KV cache size: 46,592 tokens, Maximum concurrency for …", "KV cache", None),
        ("Capturing CUDA graphs (decode):  12%|█▏  | 4/35", "CUDA graphs", 0.12),
        ("(APIServer pid=1) INFO 11-23 21:05:55 [a.py:1] Starting vLLM server on …", "port", None),
        ("INFO:     Application startup complete.", "first question", None),
        ("nothing of the kind", None, None),
    ],
)
def test_stages(line, words, progress):
    found = stage(line)
    if words is None:
        assert found is None
    else:
        assert words in found.words
        assert found.progress == progress


def test_the_same_line_at_another_time_is_no_progress():
    again = "(EngineCore pid=7) INFO 11-23 21:06:50 [shm.py:1] No available shared memory broadcast"
    assert essence(again) == essence(again.replace("21:06:50", "21:07:50").replace("7", "8", 1))
    assert essence('INFO:     127.0.0.1:50114 - "GET /health HTTP/1.1" 200 OK') == ""
    assert essence("shards:  50%") != essence("shards:  60%")


PYDANTIC = """\
(APIServer pid=9) Traceback (most recent call last):
(APIServer pid=9)   File "/x/serve.py", line 1, in <module>
(APIServer pid=9) pydantic_core._pydantic_core.ValidationError: 1 validation error for M
(APIServer pid=9)   Value error, User-specified max_model_len (9) is greater than … [type=x]
"""
ENGINE = """\
(EngineCore pid=8) ERROR 11-23 21:05:50 [c.py:9] EngineCore failed to start.
(EngineCore pid=8) ERROR 11-23 21:05:50 [c.py:9] Traceback (most recent call last):
(EngineCore pid=8) ERROR 11-23 21:05:50 [c.py:9] torch.OutOfMemoryError: CUDA out of memory.
(EngineCore pid=8) Process EngineCore:
(EngineCore pid=8) torch.OutOfMemoryError: CUDA out of memory.
(APIServer pid=9) RuntimeError: Engine core initialization failed. See root cause above.
"""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (PYDANTIC, "Value error, User-specified max_model_len (9) is greater than …"),
        (ENGINE, "torch.OutOfMemoryError: CUDA out of memory."),
        (
            "x\nRuntimeError: Engine core initialization failed. See root cause above.",
            "RuntimeError",
        ),
        ("/bin/python: No module named vllm.entrypoints", "No module named vllm"),
        ("usage: vllm serve\nvllm serve: error: unrecognized arguments: --x", "unrecognized"),
        ("AssertionError: Not enough allowed NUMA nodes", "Not enough allowed NUMA nodes"),
        ("AssertionError", "AssertionError"),
        ("INFO all is well", None),
        ("", None),
    ],
)
def test_the_root_cause_is_the_first_exception_that_wraps_no_other(log, cause):
    found = root_cause(log.splitlines())
    assert found is None if cause is None else found.startswith(cause) or cause in found


@pytest.mark.parametrize(
    "text",
    [
        "token hf_AbCdEfGh12345 there",
        "Authorization: Bearer abc.def-ghi",
        "http://user:pa55word@host/x",
        "api_key='k'  --api-key=secretvalue1",
        "key is planted-by-value!",
        "sk-abcdefgh12345",
    ],
)
def test_secrets_are_hidden_by_value_and_by_their_looks(text):
    found = Redactor(["planted-by-value"])(text)
    assert HIDDEN in found
    for secret in ("AbCdEfGh", "abc.def", "pa55word", "secretvalue1", "planted", "abcdefgh12345"):
        assert secret not in found


def test_what_is_no_secret_stays():
    text = "tokens: 12, http://localhost:8001/v1 author@example.org mask-based hf_x"
    assert Redactor(["abc", ""])(text) == text
