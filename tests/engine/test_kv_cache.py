"""The KV cache as vLLM divides it, beside what its logs say of the same memory."""

import pytest

from gearshift.engine.geometry import read_geometry
from gearshift.engine.kv_cache import logged_tokens, make_pool, token_bytes
from gearshift.engine.models import known_shapes
from gearshift.engine.setup import Setup

GIB = 1 << 30
QWEN, GEMMA = "Qwen/Qwen3.5-27B", "google/gemma-4-31B-it"
LARGE = "Qwen/Qwen3.5-9B"
MIXED = "RedHatAI/gemma-4-26B-A4B-it-NVFP4"


@pytest.mark.parametrize(
    ("model", "version", "ranks", "length", "batched", "gib", "tokens"),
    [
        # Layers with a state: blocks of 784 tokens, and a quarter of them for each group.
        (QWEN, "0.19.0", 1, 32768, 16384, 70.94, 290_864),
        (LARGE, "0.19.0", 4, 32768, None, 15.36, 502_656),
        (GEMMA, "0.20.0", 1, 131072, None, 50, 55_000),
        # Since 0.21 it is concurrency times length; 2496 is a picture's tokens.
        (MIXED, "0.25.1", 1, 262144, 2496, 84.68, 3_912_140),
    ],
)
def test_real_logs_of_models_with_several_kinds_of_layers(
    model, version, ranks, length, batched, gib, tokens
):
    shape = read_geometry(known_shapes()[model.lower()])
    setup = Setup(79, ranks, max_model_len=length, version=version, max_num_batched_tokens=batched)
    found = logged_tokens(make_pool(shape, setup), setup, gib * GIB, length)
    assert found == pytest.approx(tokens, rel=0.05 if gib == 50 else 0.003)


def test_the_version_decides_what_chunks_and_windows_save():
    scout = read_geometry(known_shapes()["meta-llama/llama-4-scout-17b-16e-instruct"])

    def request(version):
        setup = Setup(79, version=version)
        return make_pool(scout, setup).request_bytes(131072) / 131072

    assert request("0.11.0") == token_bytes(scout, Setup(79)) == 48 * 4096  # all of it is kept
    assert request("0.20.0") < 0.4 * request("0.11.0")
    assert request("0.32.0") > request("0.20.0")  # room for two steps under way


@pytest.mark.parametrize(
    ("config", "size"),
    [
        # 576 values of MLA, and a byte for each of 128 of the indexer, with one scale.
        ({"model_type": "deepseek_v32"}, 61 * (576 * 2 + 132)),
        ({"model_type": "deepseek_v3"}, 61 * 576 * 2),
        ({"model_type": "mamba", "hidden_size": 2560, "num_hidden_layers": 64, "state_size": 16,
          "vocab_size": 50280}, 0),
        ({"model_type": "gemma4_text", "hidden_size": 5376, "num_hidden_layers": 60,
          "num_attention_heads": 32, "num_key_value_heads": 16, "num_global_key_value_heads": 4,
          "head_dim": 256, "global_head_dim": 512, "sliding_window": 1024},
         50 * 2 * 16 * 256 * 2 + 10 * 2 * 4 * 512 * 2),
    ],
)  # fmt: skip
def test_bytes_of_a_token(config, size):
    assert token_bytes(read_geometry(config), Setup(79)) == size


def test_v0_kept_latent_values_in_whole_pieces():
    deepseek = read_geometry({"model_type": "deepseek_v3"})
    assert token_bytes(deepseek, Setup(79, version="0.7.3")) == 61 * 640 * 2


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("fp8", 0.5), ("fp8_e5m2", 0.5), ("float16", 1), ("bfloat16", 1), ("auto", 1),
        ("nvfp4", 9 / 32), ("turboquant_4bit_nc", 0.25), ("int4_per_token_head", 0.25),
    ],
)  # fmt: skip
def test_types_of_the_cache(kind, share):
    llama = read_geometry(known_shapes()["meta-llama/llama-3.1-8b-instruct"])
    assert token_bytes(llama, Setup(79, kv_cache_dtype=kind)) == 131072 * share
