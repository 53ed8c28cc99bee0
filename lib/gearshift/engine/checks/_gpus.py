"""The GPUs: are they there, and is enough of them free?"""

from __future__ import annotations

from gearshift.engine.checks._base import GIB, Check, Plan, passed, refused, unknown
from gearshift.engine.processes import processors
from gearshift.gpu import GPU, Holder


def check_gpus(plan: Plan) -> Check:
    """Are the GPUs there?"""
    launch, gpus = plan.launch, plan.gpus
    if launch.cpu and plan.ranks == 1:
        return passed("gpus", "there is none: it runs on the processor")
    if launch.cpu:
        here = len(processors())
        hint = f"more than {here} ranks only wait for each other" if plan.ranks > here else ""
        message = f"no GPU was found; {plan.ranks} ranks share {here} processors"
        return unknown("gpus", message, hint)
    if not gpus.known:
        return unknown("gpus", gpus.problem or "no driver to ask", gpus.hint or "")
    there = {str(g.index) for g in gpus.gpus} | {g.uuid for g in gpus.gpus if g.uuid}
    there |= {instance.uuid for g in gpus.gpus for instance in g.mig}
    short = {name for name in launch.gpus if any(known.startswith(name) for known in there)}
    missing = [
        name
        for name in launch.gpus
        if name not in there and not (name.startswith(("GPU-", "MIG-")) and name in short)
    ]
    shown = ", ".join(f"{g.index} ({g.name or 'unnamed'})" for g in gpus.gpus) or "none"
    if missing:
        return refused("gpus", f"there is no GPU {', '.join(missing)}", f"found: {shown}")
    if launch.executor != "ray" and not launch.gpus and plan.ranks > len(gpus.gpus):
        return refused(
            "gpus",
            f"{plan.ranks} GPUs are needed and {len(gpus.gpus)} found",
            f"found: {shown}; use fewer, or --executor ray over several machines",
        )
    for gpu in chosen(plan):
        if gpu.problem:
            hint = "take other --gpus"
            return refused("gpus", f"GPU {gpu.index} cannot be used: {gpu.problem}", hint)
    return passed("gpus", f"found: {shown}")


def chosen(plan: Plan) -> list[GPU]:
    """The GPUs that the launch means and that were found, whole ones."""
    found = plan.gpus.gpus
    if not plan.launch.gpus:
        return list(found[: plan.ranks])
    names = set(plan.launch.gpus)
    return [g for g in found if str(g.index) in names or (g.uuid or "") in names]


# CUDA lets programs have 1 to 2.5 % less than the total that NVML tells (79.2 of an H100's 79.6
# GiB, 22.0 of an L4's 22.5), and vLLM takes its share of that: within this, nobody can know.
_MARGIN = 0.97


def _named(holder: Holder) -> str:
    size = "" if holder.memory_bytes is None else f", {holder.memory_bytes / GIB:.1f} GiB"
    return f"{holder.name or '?'} (pid {holder.pid}{size})"


def check_gpu_memory(plan: Plan) -> Check:
    """Is as much memory free as vLLM wants, and who holds it if not?"""
    if plan.launch.cpu:
        return passed("gpu_memory", "it runs on the processor")
    share = plan.launch.memory_utilization or 0.92
    gpus = chosen(plan)
    for gpu in gpus:
        if gpu.memory_free_bytes is None or gpu.memory_total_bytes is None:
            return unknown("gpu_memory", f"GPU {gpu.index} does not say how much is free")
        wanted = share * gpu.memory_total_bytes
        if gpu.memory_free_bytes < wanted:
            holders = ", ".join(_named(holder) for holder in gpu.holders or ())
            fits = int(100 * _MARGIN * gpu.memory_free_bytes / gpu.memory_total_bytes) / 100
            proven = gpu.memory_free_bytes < _MARGIN * wanted
            return (refused if proven else unknown)(
                "gpu_memory",
                f"GPU {gpu.index} has {gpu.memory_free_bytes / GIB:.1f} GiB free, and "
                f"{wanted / GIB:.1f} GiB are wanted (utilization {share:g})"
                + (f"; it is held by {holders}" if holders else ""),
                f"end what holds it (for Ollama: ollama stop MODEL), take other --gpus, or "
                f"--gpu-memory-utilization {fits:g}",
            )
    if not gpus:
        return unknown("gpu_memory", plan.gpus.problem or "how much of a MIG instance is free")
    return passed("gpu_memory", f"{share:.0%} of each GPU is free")
