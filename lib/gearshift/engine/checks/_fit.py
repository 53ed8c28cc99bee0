"""Do the weights and one request of the longest context fit into the GPUs?"""

from __future__ import annotations

from gearshift.engine.checks._base import Check, Plan, passed, refused, unknown
from gearshift.engine.checks._gpus import chosen
from gearshift.engine.forecast import of_launch
from gearshift.errors import EngineError

# Refused is only what misses by this many times the range in which 9 of 10 plans are right.
_PROVEN = 2


def check_fit(plan: Plan) -> Check:
    """What the fit plan says of this start."""
    if plan.launch.cpu:
        return passed("fit", "it runs on the processor")
    gpus = chosen(plan)
    if plan.model.config is None:
        return unknown("fit", f"the shape of {plan.model.source} is not known here")
    if not gpus:
        return unknown("fit", "the GPUs' memory is not known")
    try:
        found, fewest = of_launch(plan.launch, plan.model.config, tuple(gpus), plan.settings)
    except EngineError as wrong:
        return unknown("fit", wrong.message, wrong.hint)
    if found.fits is None or found.available_kv_gib is None:
        return unknown("fit", "; ".join(found.reasons))
    if found.fits:
        return passed(
            "fit",
            f"{found.weights_gib:.1f} GiB of weights on each GPU and KV cache for "
            f"{found.max_concurrency:.1f} requests of {found.max_model_len:,} tokens",
        )
    hints = []
    if found.longest:
        hints.append(f"--max-model-len {found.longest}")
    if fewest is not None:
        ranks = fewest.tensor_parallel * fewest.pipeline_parallel
        hints.append(f"{ranks} such GPUs, {fewest.tensor_parallel} of them tensor parallel")
    hint = "it would fit with " + " or ".join(hints) if hints else "take a smaller model"
    proven = found.available_kv_gib + _PROVEN * found.range_gib < 0
    return (refused if proven else unknown)("fit", "; ".join(found.reasons), hint)
