"""The fit plan: shapes from config.json, legal sizes, and what real start-ups have logged."""

import json

import pytest

from gearshift.data import DATA
from gearshift.engine import fit
from gearshift.engine.cards import find_card
from gearshift.engine.geometry import legal_tensor_parallel, read_geometry
from gearshift.engine.models import known_shapes
from gearshift.errors import EngineError

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def test_the_shape_counts_its_parameters():
    assert read_geometry(LLAMA).parameters == pytest.approx(8.03e9, rel=0.001)
    assert read_geometry(LLAMA, parameters=7e9).parameters == 7e9
    experts = known_shapes()["qwen/qwen3-30b-a3b-instruct-2507"] | {"num_parameters": None}
    assert read_geometry(experts).parameters == pytest.approx(30.5e9, rel=0.01)


def test_keys_that_are_left_out_are_as_in_transformers():
    bare = {"model_type": "qwen2", "hidden_size": 1024, "num_attention_heads": 16}
    shape = read_geometry(bare)
    assert (shape.layers, shape.kv_heads, shape.vocab) == (32, 32, 151936)  # constants
    assert shape.head_dim == 64  # follows from the size
    assert read_geometry({"model_type": "llama", "num_attention_heads": 64}).kv_heads == 64
    other = {"model_type": "gpt2", "n_embd": 1600, "n_head": 25, "n_layer": 48}
    shape = read_geometry(other)
    assert (shape.hidden, shape.heads, shape.layers) == (1600, 25, 48)
    assert shape.parameters == pytest.approx(1.56e9, rel=0.02)


def test_a_nested_text_model_is_read():
    vision = {"hidden_size": 1280, "depth": 32, "num_heads": 16}
    nested = {"model_type": "qwen2_5_vl", "text_config": LLAMA, "vision_config": vision}
    shape = read_geometry(nested)
    assert (shape.layers, shape.kv_heads, shape.vision_heads) == (32, 8, 16)
    assert shape.parameters > read_geometry(LLAMA).parameters


@pytest.mark.parametrize("config", [{}, {"hidden_size": 8}, {"num_attention_heads": 8}])
def test_a_config_that_does_not_tell_is_refused(config):
    with pytest.raises(EngineError, match="does not tell"):
        read_geometry(config)


EVEN = {"intermediate_size": 15360}  # whatever the size


@pytest.mark.parametrize(
    ("changes", "legal"),
    [
        ({}, [1, 2, 4, 8]),
        ({"num_attention_heads": 40, "num_key_value_heads": 10} | EVEN, [1, 2, 5]),
        ({"num_attention_heads": 28, "num_key_value_heads": 4}, [1, 2, 4]),
        ({"num_attention_heads": 12, "num_key_value_heads": 2} | EVEN, [1, 2, 4, 6]),
        ({"vision_config": {"num_heads": 6}}, [1, 2]),
        # 13824 / 2 is a multiple of 128, 13824 / 8 is not.
        (
            {"intermediate_size": 13824, "quantization_config": {"quant_method": "awq"}},
            [1, 2, 4],
        ),
        (
            {"intermediate_size": 13824, "quantization_config": {"quant_method": "fp8"}},
            [1, 2, 4, 8],
        ),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64, "num_key_value_heads": 5}, [1, 2, 4, 8]),
    ],
)
def test_legal_sizes(changes, legal):
    assert legal_tensor_parallel(read_geometry(LLAMA | changes), 8) == legal


@pytest.mark.parametrize(
    ("name", "usable", "capability"),
    [
        ("NVIDIA A100-SXM4-80GB", 79.25, "8.0"),
        ("A100 40GB", 39.5, "8.0"),
        ("NVIDIA A100-PCIE-40GB", 39.5, "8.0"),
        ("NVIDIA H100 80GB HBM3", 79.18, "9.0"),
        ("NVIDIA H100 NVL", 93.1, "9.0"),
        ("Tesla T4", 14.7, "7.5"),
        ("Tesla V100-SXM2-16GB", 15.77, "7.0"),
        ("NVIDIA GeForce RTX 4090", 23.55, "8.9"),
        ("rtx4090", 23.55, "8.9"),
        ("RTX 3090", 23.56, "8.6"),
        ("NVIDIA L4", 22.03, "8.9"),
        ("NVIDIA L40S", 44.31, "8.9"),
        ("NVIDIA A10G", 22.06, "8.6"),
        ("NVIDIA RTX A6000", 47.4, "8.6"),
        ("NVIDIA RTX 6000 Ada Generation", 47.4, "8.9"),
        ("NVIDIA GB10 (DGX Spark, unified)", 121.7, "12.1"),
        ("some new card", None, None),
        ("some new card 48GB", pytest.approx(47.2, abs=0.1), None),
    ],
)
def test_a_card_is_known_by_many_names(name, usable, capability):
    found = find_card(name)
    assert (found.usable_gib, found.capability) == (usable, capability)


def test_memory_for_a_token():
    shape = read_geometry(LLAMA)
    usual = fit.Setup(None)
    assert fit.plan(shape, usual).kv_bytes_per_token == 131072
    assert fit.plan(shape, fit.Setup(None, 2)).kv_bytes_per_token == 65536
    assert fit.plan(shape, fit.Setup(None, 16)).kv_bytes_per_token == 16384 // 4 * 4  # copied
    assert fit.plan(shape, fit.Setup(None, kv_cache_dtype="fp8")).kv_bytes_per_token == 65536
    deepseek = read_geometry(known_shapes()["deepseek-ai/deepseek-v3"])
    latent = fit.plan(deepseek, fit.Setup(None, 8)).kv_bytes_per_token
    assert latent == 61 * 576 * 2  # of MLA, whatever the tensor-parallel size


def test_what_does_not_fit_says_why_and_what_would():
    setup = fit.Setup(22.03, version="0.32.0")
    found = fit.plan(read_geometry(LLAMA), setup)
    assert found.fits is False
    assert "131,072 tokens needs 16.00 GiB" in found.reasons[0]
    assert found.longest > 20_000
    shorter = fit.plan(read_geometry(LLAMA), fit.Setup(22.03, max_model_len=found.longest))
    assert shorter.max_concurrency == pytest.approx(1, abs=0.2)
    more = fit.smallest(read_geometry(LLAMA), setup)
    assert (more.tensor_parallel, more.pipeline_parallel) == (2, 1)
    assert fit.plan(read_geometry(LLAMA), more).fits


def test_an_unknown_card_leaves_memory_unknown_and_computes_the_rest():
    found = fit.plan(read_geometry(LLAMA), fit.Setup(None))
    assert found.available_kv_gib is found.fits is found.kv_cache_tokens is None
    assert found.weights_gib == pytest.approx(14.96, abs=0.01)
    assert fit.plan(read_geometry(LLAMA), fit.Setup(None, 3)).fits is False  # whatever the card


def test_windows_save_memory_since_vllm_counts_them():
    gemma = read_geometry(known_shapes()["google/gemma-3-27b-it"])
    assert (gemma.full_layers, gemma.sliding_layers) == (10, 52)
    old, new = (
        fit.plan(gemma, fit.Setup(79.18, max_model_len=32768, version=version))
        for version in ("0.20.0", "0.21.0")
    )
    assert new.kv_cache_tokens > 2 * old.kv_cache_tokens


def start_ups():
    """Those of a known model and version, on one kind of NVIDIA card that is named."""
    for line in (DATA / "startups.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        told = row.get("gpu") and row.get("vllm_version") and row.get("available_kv_gib")
        odd = "AMD" in str(row.get("gpu")) or "+ RTX" in str(row.get("gpu"))
        vision = "VL-Embedding" in row["model"] if row.get("model") else True
        if told and not odd and not vision and row["model"].lower() in known_shapes():
            yield row


@pytest.mark.parametrize("row", [*start_ups()], ids=lambda row: row["source"][:40])
def test_real_start_ups_are_foreseen(row):
    shape = read_geometry(
        known_shapes()[row["model"].lower()], quantization=row.get("quantization")
    )
    card = find_card(row["gpu"])
    usable = row.get("total_gib_logged") or card.usable_gib
    found = fit.plan(
        shape,
        fit.Setup(
            usable,
            row["tensor_parallel"],
            max_model_len=row.get("max_model_len"),
            utilization=row.get("util_effective"),
            max_num_seqs=row.get("max_num_seqs"),
            enforce_eager=row.get("enforce_eager") is True,
            version=row["vllm_version"],
            card=card,
        ),
    )
    assert found.available_kv_gib == pytest.approx(row["available_kv_gib"], rel=0.15)


AWQ = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {
    "group_0": {"weights": {"num_bits": 4, "group_size": 128}}}}  # fmt: skip
ATTENTION = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)


@pytest.mark.parametrize(
    ("ignored", "plain"),
    [
        (["lm_head"], 0),
        (["lm_head", "re:.*self_attn.*"], ATTENTION),
        ([f"model.layers.{n}.self_attn.q_proj" for n in range(8)], ATTENTION / 4),
    ],
)
def test_what_a_checkpoint_leaves_as_it_is_keeps_its_size(ignored, plain):
    shape = read_geometry(LLAMA | {"quantization_config": AWQ | {"ignore": ignored}})
    assert shape.plain == pytest.approx(2 * 128256 * 4096 + plain)
    packed = (shape.parameters - shape.plain) * (4 + 20 / 128) / 8
    found = fit.weights_gib(shape, fit.Setup(None))
    assert found == pytest.approx((packed + 2 * shape.plain) / fit.GIB)


@pytest.mark.parametrize(
    ("told", "named", "version", "size"),
    [
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float"}}, None, "0.32.0", 65536),
        ({"kv_cache_quant_algo": "FP8"}, None, None, 65536),
        ({"quantization": {"kv_cache_quant_algo": "NVFP4"}}, "auto", None, 131072 * 9 // 32),
        ({"kv_cache_quant_algo": "FP8"}, "bfloat16", None, 131072),
        ({"kv_cache_quant_algo": "FP8"}, None, "0.10.0", 131072),
        ({"kv_cache_scheme": None}, None, None, 131072),
    ],
)
def test_a_checkpoint_may_tell_the_type_of_the_kv_cache(told, named, version, size):
    shape = read_geometry(LLAMA | {"quantization_config": {"quant_method": "modelopt"} | told})
    setup = fit.Setup(None, kv_cache_dtype=named, version=version)
    assert fit.plan(shape, setup).kv_bytes_per_token == size
