"""What vLLM would refuse before it looks at the memory, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gearshift.engine.quantization import NEEDS
from gearshift.engine.setup import Setup, own_length
from gearshift.engine.shards import why_not_tensor_parallel

if TYPE_CHECKING:
    from gearshift.engine.geometry import Geometry

_HALVES = {"bfloat16", "bf16", "torch.bfloat16"}


def refusals(shape: Geometry, setup: Setup) -> list[str]:
    """The reasons for which no start like this can succeed, whatever memory there is."""
    found = []
    size, stages = setup.tensor_parallel, setup.pipeline_parallel
    if why := why_not_tensor_parallel(shape, size):
        found.append(why)
    if setup.gpus is not None and size * stages > setup.gpus:
        found.append(
            f"{size * stages} GPUs are needed (tensor parallel {size} x pipeline parallel "
            f"{stages}), and there {'is' if setup.gpus == 1 else 'are'} {setup.gpus}"
        )
    if stages > shape.layers:
        found.append(f"{shape.layers} layers cannot be spread over {stages} stages")
    own = own_length(shape, setup)
    if setup.max_model_len and own and setup.max_model_len > own:
        found.append(
            f"{setup.max_model_len:,} tokens are more than the model's own {own:,}: vLLM refuses "
            "that unless VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 is set"
        )
    return found + _card(shape, setup)


def _card(shape: Geometry, setup: Setup) -> list[str]:
    """What the GPU cannot do."""
    card = setup.card
    if card is None or card.capability is None:
        return []
    able = round(10 * float(card.capability))
    found = []
    how = shape.quantization
    if how and (needed := NEEDS.get(how.method, 0)) > able:
        found.append(
            f"{how.method} needs compute capability {needed / 10:.1f} or more, and a {card.name} "
            f"has {card.capability}"
        )
    if shape.dtype in _HALVES and able < 80:
        found.append(
            f"bfloat16 needs compute capability 8.0 or more, and a {card.name} has "
            f"{card.capability}: take --dtype half"
        )
    if (setup.kv_cache_dtype or "").startswith("fp8") and able < 70:
        found.append(f"a {card.name} cannot keep its KV cache in {setup.kv_cache_dtype}")
    if able < 70 and setup.since("0.5"):
        found.append(f"vLLM needs compute capability 7.0 or more: a {card.name} has "
                     f"{card.capability}")  # fmt: skip
    return found
