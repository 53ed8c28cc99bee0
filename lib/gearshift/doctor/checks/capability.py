"""Compute capability: what number formats a GPU computes with.

The limits are those that vLLM names when it refuses: 7.0 in all, 8.0 for bfloat16. FP8 is computed
from 8.9 on and FP4 from 10.0 on; older cards run such weights in 16 bits, which saves memory only.
"""

from __future__ import annotations

from gearshift.doctor.checks._base import Finding, Machine, failed, passed, unknown, warning
from gearshift.doctor.checks.gpus import NO_GPU
from gearshift.engine.launch import Launch
from gearshift.engine.records import State, all_records
from gearshift.gpu import GPUState

Capability = tuple[int, int]

_LEAST = (7, 0)
_CUDA_13 = (7, 5)  # the oldest that CUDA 13 makes programs for
_BFLOAT16 = (8, 0)
_FP8 = (8, 9)
_FP4 = (10, 0)
_QUANTIZATIONS = {
    "awq": (7, 5),
    "awq_marlin": (7, 5),
    "fp8": (7, 5),
    "fbgemm_fp8": (8, 0),
    "experts_int8": (8, 0),
    "modelopt": (8, 0),
    "modelopt_fp4": (7, 5),
    "mxfp4": (8, 0),
    "mxfp8": (7, 5),
    "torchao": (7, 5),
    "fp_quant": (10, 0),
}
"""Methods that vLLM refuses on cards that could run others (`get_min_capability`, vLLM 0.32)."""


def check_compute_capability(machine: Machine) -> Finding:
    """What can the GPUs compute with, and do the starts so far ask for more?"""
    cards = [gpu for gpu in machine.gpus.gpus if gpu.compute_capability is not None]
    if not cards:
        why = machine.gpus.problem or "no GPU tells its compute capability"
        absent = machine.gpus.state is GPUState.NO_DRIVER
        ask = "nvidia-smi --query-gpu=name,compute_cap --format=csv"
        return unknown(why, NO_GPU if absent else ask)
    card = min(cards, key=lambda gpu: gpu.compute_capability or _LEAST)
    least = card.compute_capability or _LEAST
    name = f"GPU {card.index} ({card.name or 'unnamed'}) has compute capability {_shown(least)}"
    fault = failed if machine.wants_vllm else warning
    if least < _LEAST:
        return fault(
            f"{name}; vLLM needs {_shown(_LEAST)}",
            "stay with Ollama (gearshift switch ollama), or leave that card out: "
            "export CUDA_VISIBLE_DEVICES=…",
        )
    packages = machine.packages
    if packages is not None and (packages.cuda_major or 0) >= 13 and least < _CUDA_13:
        return fault(
            f"{name}; its torch is for CUDA {packages.cuda}, which needs {_shown(_CUDA_13)}",
            "make an environment with a torch for CUDA 12 and name it: uv venv VLLM && uv pip "
            "install --python VLLM/bin/python --torch-backend=cu128 vllm && "
            "export GEARSHIFT_VLLM_PYTHON=$PWD/VLLM/bin/python",
        )
    for record in all_records(machine.settings):
        excess = _excess(record.launch, least) if record.state is State.FAILED else None
        if excess is not None:
            what, instead = excess
            again = f"gearshift serve {record.launch.model} {instead}"
            return warning(f"{name}; {record.name} failed, it asked for {what}", again)
    if least < _BFLOAT16:
        return warning(
            f"{name}: no bfloat16, which most models are published in",
            "start models in float16: gearshift serve MODEL --dtype half",
        )
    if least < _FP8:
        return passed(f"{name}: bfloat16; FP8 and FP4 weights run in 16 bits")
    if least < _FP4:
        return passed(f"{name}: bfloat16 and FP8; FP4 weights run in 16 bits")
    return passed(f"{name}: bfloat16, FP8 and FP4")


def _excess(launch: Launch, least: Capability) -> tuple[str, str] | None:
    """What a start asked for that these cards do not have, and what to ask for instead."""
    if launch.cpu:
        return None
    if launch.dtype == "bfloat16" and least < _BFLOAT16:
        return f"bfloat16, which needs {_shown(_BFLOAT16)}", "--dtype half"
    if least < _QUANTIZATIONS.get(launch.quantization or "", _LEAST):
        needed = _shown(_QUANTIZATIONS[launch.quantization or ""])
        return f"{launch.quantization}, which needs {needed}", "--quantization gptq"
    return None


def _shown(capability: Capability) -> str:
    return ".".join(map(str, capability))
