"""The ONNX graph of MiniLM-L6 (a BERT of 6 layers), from its safetensors file.

Only operators that ONNX Runtime fuses for processors are used; the output is the last layer's
vectors, (batch, sequence, 384), to be averaged over the tokens.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_FUSED = "com.microsoft"
_LAYERS, _HEADS, _WIDTH = 6, 12, 384


def _read(path: Path) -> dict[str, Any]:
    """The float tensors of a safetensors file (https://huggingface.co/docs/safetensors)."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    start = 8 + size
    tensors = {}
    for name, facts in json.loads(data[8:start]).items():
        if facts.get("dtype") == "F32":
            first, last = facts["data_offsets"]
            values = np.frombuffer(data[start + first : start + last], np.float32)
            tensors[name] = values.reshape(facts["shape"])
    return tensors


def save_graph(weights: Path, target: Path) -> None:
    """Writes the graph with its weights inside (90 MB)."""
    tensors = _read(weights)
    constants: list[Any] = []
    nodes: list[Any] = []

    def weight(name: str, transpose: bool = False) -> str:
        values = tensors[name].T if transpose else tensors[name]
        constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(operator: str, inputs: list[str], outputs: list[str], **options: Any) -> None:
        fused = operator not in ("MatMul", "Add")
        nodes.append(
            helper.make_node(operator, inputs, outputs, domain=_FUSED if fused else "", **options)
        )

    embeddings = [
        weight(f"embeddings.{name}.weight")
        for name in (
            "word_embeddings",
            "position_embeddings",
            "token_type_embeddings",
            "LayerNorm",
        )
    ]
    node(
        "EmbedLayerNormalization",
        ["ids", "types", *embeddings, weight("embeddings.LayerNorm.bias"), "mask"],
        ["layer0", "lengths"],
        epsilon=1e-12,
    )
    for i in range(_LAYERS):
        at = f"encoder.layer.{i}."
        parts = [f"{at}attention.self.{part}" for part in ("query", "key", "value")]
        tensors[f"{at}qkv.weight"] = np.concatenate([tensors[f"{p}.weight"] for p in parts])
        tensors[f"{at}qkv.bias"] = np.concatenate([tensors[f"{p}.bias"] for p in parts])
        node(
            "Attention",
            [f"layer{i}", weight(f"{at}qkv.weight", True), weight(f"{at}qkv.bias"), "lengths"],
            [f"{at}heads"],
            num_heads=_HEADS,
        )
        _dense(node, weight, f"{at}attention.output", f"{at}heads", f"layer{i}", f"{at}attended")
        node(
            "MatMul",
            [f"{at}attended", weight(f"{at}intermediate.dense.weight", True)],
            [f"{at}wide"],
        )
        node("BiasGelu", [f"{at}wide", weight(f"{at}intermediate.dense.bias")], [f"{at}gelu"])
        _dense(node, weight, f"{at}output", f"{at}gelu", f"{at}attended", f"layer{i + 1}")
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "sequence"])
        for name in ("ids", "types", "mask")
    ]
    output = helper.make_tensor_value_info(
        f"layer{_LAYERS}", TensorProto.FLOAT, ["batch", "sequence", _WIDTH]
    )
    graph = helper.make_graph(nodes, "minilm", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_FUSED, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(target))


def _dense(node: Any, weight: Any, name: str, source: str, residual: str, target: str) -> None:
    """A dense layer, then the sum with `residual`, normalised."""
    node("MatMul", [source, weight(f"{name}.dense.weight", True)], [f"{name}.product"])
    node("Add", [f"{name}.product", weight(f"{name}.dense.bias")], [f"{name}.sum"])
    node(
        "SkipLayerNormalization",
        [
            f"{name}.sum",
            residual,
            weight(f"{name}.LayerNorm.weight"),
            weight(f"{name}.LayerNorm.bias"),
        ],
        [target],
        epsilon=1e-12,
    )
