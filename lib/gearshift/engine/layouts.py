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
    if size == 1:
        reason = "no larger group of GPUs can share the layers"
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
    requests, group, size, stages, copies = min(enough, key=lambda found: (found[1], -found[2]))
    if group == gpus and copies == 1:
        reason = f"all {gpus} GPUs together have most room for the KV cache" if gpus > 1 else ""
    else:
        servers = f"{copies} servers of {group} GPU{'s' if group > 1 else ''}"
        reason = f"{servers} hold {requests:.0f} requests at once, each at an address of its own"
        if most[1] > group:
            reason += f"; groups of {most[1]} hold {most[0]:.0f} and wait more for each other"
    return Layout(size, stages, copies, requests, reason or "there is one GPU")


def _fitting(shape: Geometry, setup: Setup, gpus: int) -> list[tuple[int, int, float]]:
    """Tensor and pipeline parallel sizes that fit, with the requests that each holds at once."""
    found = []
    for size in legal_tensor_parallel(shape, gpus):
        for stages in range(1, gpus // size + 1):
            tried = replace(setup, tensor_parallel=size, pipeline_parallel=stages)
            what = plan(shape, tried)
            if what.fits and what.max_concurrency is not None:
                at_once, _ = batching(shape, tried)  # vLLM runs no more, however much room there is
                found.append((size, stages, min(what.max_concurrency, at_once)))
                break  # more stages only add waiting
    return found
