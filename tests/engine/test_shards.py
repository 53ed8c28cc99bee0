"""How many ranks can share a layer: vLLM's own checks, family by family."""

import pytest

from gearshift.engine.geometry import legal_tensor_parallel, read_geometry
from gearshift.engine.models import known_shapes
from gearshift.engine.shards import why_not_tensor_parallel

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "vocab_size": 128256,
}  # fmt: skip
SMALL = LLAMA | {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
                 "num_key_value_heads": 2}  # fmt: skip
EXPERTS = LLAMA | {"model_type": "qwen3_moe", "num_attention_heads": 64, "num_experts": 128,
                   "num_key_value_heads": 4, "head_dim": 128}  # fmt: skip


def packed(bits=4, group=128, kind="int"):
    weights = {"num_bits": bits, "type": kind, "group_size": group}
    return {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": weights}}}


BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}


@pytest.mark.parametrize(
    ("shape", "quantization", "legal"),
    [
        # Each expert's part has to be whole blocks: 1536 / 8 = 192 is not, nor is 768 / 4.
        (EXPERTS | {"moe_intermediate_size": 1536}, BLOCKS, [1, 2, 4]),
        (EXPERTS | {"moe_intermediate_size": 768}, BLOCKS, [1, 2]),
        (EXPERTS | {"moe_intermediate_size": 768}, None, [1, 2, 4, 8]),
        (LLAMA, BLOCKS, [1, 2, 4, 8]),
        # Heads of 64: a rank's keys have 64 values, half a block.
        (LLAMA | {"head_dim": 64, "num_key_value_heads": 8}, BLOCKS, [1, 2, 4]),
        # The way out of attention: 896 / 2 = 448 is no multiple of 128.
        (SMALL, AWQ, [1]),
        (SMALL, packed(), [1]),
        (SMALL, packed(8, None), [1, 2]),  # one scale for each row
        (SMALL, {"quant_method": "gptq", "bits": 8, "group_size": -1}, [1, 2]),
        (SMALL, packed() | {"ignore": ["re:.*self_attn.*"]}, [1, 2]),  # 4864 / 2 = 19 * 128
        (LLAMA | {"intermediate_size": 13824}, AWQ, [1, 2, 4]),
        # Of experts in AWQ and GPTQ vLLM halves the groups; of compressed-tensors it does not.
        (EXPERTS | {"moe_intermediate_size": 768}, AWQ, [1, 2, 4, 8]),
        (EXPERTS | {"moe_intermediate_size": 768}, packed(), [1, 2]),
        (LLAMA | {"num_attention_heads": 40, "num_key_value_heads": 10,
                  "intermediate_size": 17920}, None, [1, 2, 5]),  # phi-4
    ],
)  # fmt: skip
def test_quantized_weights_are_cut_between_their_groups(shape, quantization, legal):
    config = shape | ({"quantization_config": quantization} if quantization else {})
    assert legal_tensor_parallel(read_geometry(config), 8) == legal


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("Qwen/Qwen3-235B-A22B-FP8", [1, 2, 4]),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8", [1, 2]),
        ("deepseek-ai/DeepSeek-V3", [1, 2, 4, 8]),
        ("openai/gpt-oss-120b", [1, 2, 4, 8]),  # 2880 / 8 = 360: MXFP4's groups are filled up
        ("microsoft/phi-4", [1, 2, 5]),
    ],
)
def test_known_models(name, legal):
    assert legal_tensor_parallel(read_geometry(known_shapes()[name.lower()]), 8) == legal


@pytest.mark.parametrize(
    ("kind", "vision", "legal"),
    [
        ("qwen2_5_vl", {"num_heads": 16}, [1, 2, 4, 8]),
        ("qwen2_5_vl", {"num_heads": 16, "intermediate_size": 3420}, [1, 2, 4]),
        ("llava", {"num_attention_heads": 6}, [1, 2]),
        ("internvl_chat", {"num_attention_heads": 25}, [1, 2, 4, 8]),  # filled up with others
    ],
)
def test_a_vision_tower_is_shared_too(kind, vision, legal):
    config = {"model_type": kind, "text_config": LLAMA, "vision_config": vision}
    assert legal_tensor_parallel(read_geometry(config), 8) == legal


def test_states_are_cut_between_their_heads_and_groups():
    mamba = LLAMA | {"model_type": "nemotron_h", "hybrid_override_pattern": "M*" * 16,
                     "mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 6}  # fmt: skip
    shape = read_geometry(mamba)
    assert legal_tensor_parallel(shape, 8) == [1, 2]
    assert "6 groups of the layers with a state" in why_not_tensor_parallel(shape, 4)
