"""How checkpoints store weights, in the words of the tools that make them."""

import pytest

from gearshift.engine.fit import Setup, plan
from gearshift.engine.geometry import read_geometry

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "vocab_size": 128256,
}  # fmt: skip
WORDS = 2 * 128256 * 4096


@pytest.mark.parametrize(
    ("told", "bits"),
    [
        ({"quant_method": "quark", "exclude": ["lm_head"], "global_quant_config": {
            "weight": {"dtype": "fp4", "group_size": 32}}}, 4.25),
        ({"quant_method": "quark", "global_quant_config": {
            "weight": {"dtype": "uint4", "group_size": 128}}}, 4.16),
        ({"quant_method": "torchao", "quant_type": {"default": {
            "_type": "Int4WeightOnlyConfig", "_data": {"group_size": 128}}}}, 4.16),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, 8),
        ({"quant_method": "modelopt", "quantization": {
            "quant_algo": "NVFP4", "group_size": 16}}, 4.5),
        ({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}, 8),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
          "config_groups": {"group_0": {"weights": {
              "num_bits": 4, "type": "float", "group_size": 16}}}}, 4.5),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {
            "nbits": 8, "group_size": 64}}}, 8.25),
        ({"quant_method": "gptq", "bits": "8", "group_size": "128"}, 8.125),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, 3.125),
        ({"quant_method": "bitnet"}, 2),
        ({"quant_method": "mxfp8"}, 8.25),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "compressed_tensors"}, 8),
    ],
)  # fmt: skip
def test_bits_of_a_weight(told, bits):
    shape = read_geometry(LLAMA | {"quantization_config": told})
    real = (shape.parameters - WORDS) * bits / 8 + 2 * WORDS
    assert plan(shape, Setup(79)).weights_gib == pytest.approx(real / 2**30, rel=0.01)


@pytest.mark.parametrize(
    ("method", "bits"),
    [
        ("qqq", 4), ("cpu_awq", 4), ("auto_gptq", 4.16), ("nvfp4", 4.5), ("modelopt_fp4", 4.5),
        ("petit_nvfp4", 4.5), ("fp8", 8), ("bitsandbytes", 4), ("rtn", 8), ("none", 16),
        # The experts alone, and this model has none.
        ("experts_int8", 16), ("mxfp4", 16), ("gpt_oss_mxfp4", 16),
    ],
)  # fmt: skip
def test_bits_of_a_named_method(method, bits):
    shape = read_geometry(LLAMA, quantization=method)
    real = (shape.parameters - WORDS) * bits / 8 + 2 * WORDS
    assert plan(shape, Setup(79)).weights_gib == pytest.approx(real / 2**30, rel=0.01)


def test_layers_that_are_left_alone_are_counted_by_name():
    told = {"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["model.layers.0", "lm_head"]}
    shape = read_geometry(LLAMA | {"quantization_config": told})
    assert shape.plain - WORDS == pytest.approx((shape.parameters - WORDS) / 32)


def test_a_gate_of_experts_is_not_their_layer():
    told = {"quant_method": "awq", "modules_to_not_convert": ["model.layers.0.mlp.gate"]}
    shape = read_geometry(LLAMA | {"quantization_config": told})
    assert shape.plain == WORDS
