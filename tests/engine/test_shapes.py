"""Shapes from config.json: what families write, beside what transformers makes of the same file.

The numbers of parameters are those of transformers' own models of these configurations.
"""

import pytest

from gearshift.engine.geometry import read_geometry
from gearshift.engine.layers import Feed, Mixer
from gearshift.errors import EngineError

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip


def sized(kind, hidden, inner, layers, heads, kv_heads, vocab, **more):
    return {
        "model_type": kind, "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocab,
    } | more  # fmt: skip


JAMBA = sized("jamba", 4096, 14336, 32, 32, 8, 65536, num_experts=16)
NEMOTRON = sized(
    "nemotron_h",
    4096,
    21504,
    52,
    32,
    8,
    131072,
    mamba_num_heads=128,
    hybrid_override_pattern="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
)
NANO = sized(
    "nemotron_h",
    2688,
    1856,
    52,
    32,
    2,
    131072,
    head_dim=128,
    mamba_num_heads=64,
    n_routed_experts=128,
    moe_intermediate_size=1856,
    moe_shared_expert_intermediate_size=3712,
    hybrid_override_pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
)
SCOUT = sized("llama4_text", 5120, 8192, 48, 40, 8, 202048, num_local_experts=16)
MAVERICK = SCOUT | {"num_local_experts": 128, "interleave_moe_layer_step": 2}
FALCON_40B = {
    "model_type": "falcon",
    "hidden_size": 8192,
    "num_attention_heads": 128,
    "num_kv_heads": 8,
    "num_hidden_layers": 60,
    "new_decoder_architecture": True,
    "vocab_size": 65024,
}
KIMI = sized(
    "kimi_linear",
    2304,
    9216,
    27,
    32,
    32,
    163840,
    kv_lora_rank=512,
    q_lora_rank=None,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    num_experts=256,
    num_shared_experts=1,
    moe_intermediate_size=1024,
    first_k_dense_replace=1,
    linear_attn_config={
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
        "num_heads": 32,
        "head_dim": 128,
    },
)


@pytest.mark.parametrize(
    ("config", "billions", "kv_heads", "full", "sliding"),
    [
        (JAMBA, 51.57, 8, 4, 0),
        (NEMOTRON, 8.10, 8, 4, 0),
        (NANO, 31.58, 2, 6, 0),
        (SCOUT, 107.8, 8, 12, 36),
        (MAVERICK, 400.7, 8, 12, 36),
        (FALCON_40B, 41.30, 8, 60, 0),
        (KIMI, 49.1, 32, 7, 0),
        (sized("lfm2", 2048, 12288, 16, 32, 8, 65536, full_attn_idxs=[2, 5, 8, 10, 12, 14]),
         1.17, 8, 6, 0),
        (sized("bamba", 4096, 14336, 32, 32, 8, 128256, attn_layer_indices=[9, 18, 27]),
         9.81, 8, 3, 0),
        (sized("falcon_h1", 3072, 12288, 44, 12, 2, 130048, head_dim=128, mamba_d_ssm=3072,
               mamba_n_heads=24, mamba_d_state=256), 7.59, 2, 44, 0),
        (sized("granitemoehybrid", 4096, 768, 40, 32, 8, 100352, shared_intermediate_size=1536,
               num_local_experts=72, tie_word_embeddings=True, mamba_n_heads=128,
               layer_types=(["mamba"] * 5 + ["attention"] + ["mamba"] * 4) * 4), 32.2, 8, 4, 0),
        (sized("qwen", 4096, 22016, 32, 32, 32, 151936), 7.72, 32, 32, 0),
        ({"model_type": "chatglm", "hidden_size": 4096, "ffn_hidden_size": 13696,
          "num_attention_heads": 32, "num_layers": 28, "multi_query_group_num": 2,
          "kv_channels": 128, "padded_vocab_size": 65024}, 6.24, 2, 28, 0),
        ({"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40,
          "vocab_size": 100352, "attn_config": {"kv_n_heads": 8},
          "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16}}, 131.6, 8, 40, 0),
        (sized("MiniMaxText01", 6144, 9216, 80, 64, 8, 200064, head_dim=128,
               num_local_experts=32, attn_type_list=([0] * 7 + [1]) * 10), 456, 8, 10, 0),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else None,
)  # fmt: skip
def test_families_write_their_shapes_in_many_ways(config, billions, kv_heads, full, sliding):
    shape = read_geometry(config)
    assert shape.parameters == pytest.approx(billions * 1e9, rel=0.03)
    assert (shape.kv_heads, shape.full_layers, shape.sliding_layers) == (kv_heads, full, sliding)


def test_layers_may_borrow_the_cache_of_earlier_ones():
    gemma = sized("gemma3n_text", 2048, [16384] * 35, 35, 8, 2, 262400, head_dim=256)
    shape = read_geometry({"model_type": "gemma3n", "text_config": gemma})
    assert (shape.intermediate, shape.count(Mixer.BORROWED)) == (16384, 15)
    assert (shape.full_layers, shape.sliding_layers) == (4, 16)


def test_layers_that_look_at_pictures_cache_no_tokens():
    shape = read_geometry(sized("mllama_text_model", 4096, 14336, 40, 32, 8, 128256))
    assert (shape.full_layers, shape.count(Mixer.CROSS)) == (32, 8)


def test_blocks_may_differ_and_tell_their_kv_heads():
    block = {"attention": {"n_heads_in_group": 8}, "ffn": {"ffn_mult": 2.625}}
    none = {"attention": {"no_op": True}, "ffn": {"no_op": True}}
    config = sized("nemotron-nas", 8192, None, 80, 64, None, 128256)
    shape = read_geometry(config | {"block_configs": [block] * 70 + [none] * 10})
    assert (shape.kv_heads, shape.full_layers) == (8, 70)
    assert sum(layer.feed is Feed.DENSE for layer in shape.layers_each) == 70


@pytest.mark.parametrize(
    ("changes", "attribute", "value"),
    [
        ({"model_type": "mistral", "sliding_window": None}, "sliding_layers", 0),
        ({"model_type": "mistral"}, "sliding_layers", 32),  # transformers' default
        ({"model_type": "mistral", "sliding_window": -1}, "sliding_layers", 0),
        ({"num_key_value_heads": None}, "kv_heads", 32),
        ({"head_dim": None}, "head_dim", 128),
        ({"sliding_window": 4096, "use_sliding_window": False}, "sliding_layers", 0),
        ({"model_type": "deepseek_v3", "kv_lora_rank": 512, "q_lora_rank": None}, "mla",
         {"kv_lora_rank": 512, "q_lora_rank": 0, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128,
          "v_head_dim": 128}),
    ],
)  # fmt: skip
def test_null_takes_the_default_away(changes, attribute, value):
    assert getattr(read_geometry(LLAMA | changes), attribute) == value


@pytest.mark.parametrize(
    ("rope", "most", "before"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
         131072, 131072),
        ({"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32768},
         131072, 262144),  # versions before 0.32 multiplied by themselves
        ({"type": "linear", "factor": 4.0}, 524288, 524288),
        ({"type": "dynamic", "factor": 2.0}, 262144, 262144),
        ({"rope_type": "llama3", "factor": 8.0}, 131072, 131072),
        ({"rope_type": "linear", "factor": None}, 131072, 131072),
    ],
)  # fmt: skip
def test_a_scaled_rotation_extends_the_context_as_in_vllm(rope, most, before):
    shape = read_geometry(LLAMA | {"rope_scaling": rope})
    assert (shape.lengths.most, shape.lengths.before) == (most, before)


def test_a_nested_thinker_is_the_language_model():
    text = sized("qwen2_5_omni_text", 2048, 11008, 36, 16, 2, 151936)
    shape = read_geometry({"model_type": "qwen2_5_omni", "thinker_config": {"text_config": text}})
    assert (shape.layers, shape.kv_heads) == (36, 2)


def test_a_vision_tower_is_as_wide_as_it_embeds():
    vision = {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4}
    qwen = sized("qwen2_vl", 3584, 18944, 28, 28, 4, 152064, vision_config=vision)
    assert read_geometry(qwen).parameters == pytest.approx(8.29e9, rel=0.02)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "4096"), ("hidden_size", float("inf")), ("vocab_size", float("nan")),
        ("num_hidden_layers", True), ("num_hidden_layers", -3), ("num_hidden_layers", 10**12),
        ("layer_types", ["a", "b"]), ("num_attention_heads", 0), ("intermediate_size", {}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(key, value):
    with pytest.raises(EngineError, match=key):
        read_geometry(LLAMA | {key: value})


@pytest.mark.parametrize("value", ["awq", [], 3, {"quant_method": None}, {"quant_method": "x"}])
@pytest.mark.parametrize("key", ["quantization_config", "rope_scaling", "vision_config"])
def test_odd_parts_end_in_no_traceback(key, value):
    assert read_geometry(LLAMA | {key: value}).layers == 32
