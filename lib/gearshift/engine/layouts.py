"""How best to spread a model over the GPUs: for quick answers, or for many at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gearshift.engine.fit import Setup, batching, plan
from gearshift.engine.geometry import Geometry, legal_tensor_parallel

# So much fewer requests at once are worth it if GPUs then wait less for each other.
_NEARLY_ALL = 0.9


@dataclass(frozen=True)
class Layout:
    """A number of equal servers on the same GPUs.

    Attributes:
        copies: Servers, each with all of the model.
        requests: Of the setup's longest context, at once on all of them.
    """

    tensor_parallel: int
    pipeline_parallel: int
    copies: int
    requests: float
    reason: str


def for_latency(shape: Geometry, setup: Setup, gpus: int) -> Layout | None:
    """The one that writes a single answer fastest; `None` if none fits, or no GPU is known."""
    fitting = _fitting(shape, setup, gpus)
    if not fitting:
        return None
    size, stages, requests = max(fitting, key=lambda found: (found[0], -found[1]))
    if gpus == 1:
        reason = "there is one GPU"
    elif size == 1:
        reason = "the model's layers cannot be shared by more of these GPUs"
    else:
        reason = f"each of {size} GPUs reads 1/{size} of the weights for a token"
        reason += "; without NVLink the exchange between them takes part of the gain"
    return Layout(size, stages, 1, requests, reason)


def for_throughput(shape: Geometry, setup: Setup, gpus: int) -> Layout | None:
    """The one that holds most requests at once with the least waiting of GPUs for each other."""
    fitting = _fitting(shape, setup, gpus)
    if not fitting:
        return None
    layouts = []
    for size, stages, requests in fitting:
        copies = gpus // (size * stages)
        layouts.append((copies * requests, size * stages, size, stages, copies))
    most = max(layouts)
    enough = [found for found in layouts if found[0] >= _NEARLY_ALL * most[0]]
    requests, group, size, stages, copies = min(
        enough, key=lambda found: (found[1] * found[4] < gpus, found[1], -found[2])
    )
    if gpus == 1:
        reason = "there is one GPU"
    elif group == gpus:
        reason = f"all {gpus} GPUs together have most room for the KV cache"
    else:
        servers = "one server" if copies == 1 else f"{copies} servers"
        each = f"{group} GPUs" if group > 1 else "one GPU"
        reason = f"{servers} of {each} {'holds' if copies == 1 else 'hold'} {requests:.0f} requests"
        reason += " at once" + (", each at an address of its own" if copies > 1 else "")
        if most[1] > group:
            reason += f"; groups of {most[1]} hold {most[0]:.0f} and wait more for each other"
    return Layout(size, stages, copies, requests, reason)


def _fitting(shape: Geometry, setup: Setup, gpus: int) -> list[tuple[int, int, float]]:
    """Tensor and pipeline parallel sizes that fit, with the requests that each holds at once."""
    found = []
    for size in legal_tensor_parallel(shape, gpus):
        for stages in range(1, min(gpus // size, shape.layers, _MOST_STAGES) + 1):
            tried = replace(setup, tensor_parallel=size, pipeline_parallel=stages, gpus=gpus)
            what = plan(shape, tried)
            if what.fits and what.max_concurrency is not None:
                at_once, _ = batching(shape, tried)  # vLLM runs no more, however much room there is
                found.append((size, stages, min(what.max_concurrency, at_once)))
    return found


_MOST_STAGES = 16  # nobody waits for more
