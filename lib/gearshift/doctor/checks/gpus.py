"""The GPUs: the driver, their memory and who holds it, and what they can compute with."""

from __future__ import annotations

from gearshift.doctor.checks._base import (
    GIB,
    Finding,
    Machine,
    failed,
    passed,
    unknown,
    warning,
)
from gearshift.engine.environment import Build, choose_build
from gearshift.engine.records import all_records
from gearshift.gpu import GPU, GPUState, Holder

# The guide's 16 GB: such cards tell between 14.6 (a T4) and 16 GiB.
_SMALL = 14.5 * GIB
_FREE = 0.92  # of the memory: what vLLM wants when it is told nothing else
_LOOK = "see what the driver says: nvidia-smi"
NO_GPU = (
    "none is needed for Ollama or the embedded model; vLLM runs on the processor, slowly: "
    "gearshift engine install --cpu"
)


def check_driver(machine: Machine) -> Finding:
    """Does the driver answer, and is it new enough for vLLM's CUDA build?"""
    gpus = machine.gpus
    if gpus.problem is not None:
        hint = gpus.hint or _LOOK
        if gpus.state is GPUState.NO_DRIVER:
            return unknown(
                gpus.problem, f"{hint}; see whether there is one: lspci | grep -i nvidia"
            )
        # Two versions at once are a fault on any machine; the rest is one only if a GPU is there.
        found = failed if gpus.state is GPUState.DRIVER_MISMATCH else warning
        return found(gpus.problem, f"{hint} ({_LOOK})")
    if not gpus.gpus:
        return unknown("the NVIDIA driver answers and knows of no GPU", _LOOK)
    if gpus.driver is None:
        return unknown("the NVIDIA driver does not tell its version", _LOOK)
    build, why = choose_build(gpus)
    if build is not Build.CUDA:
        hint = "update it, on Ubuntu with: sudo ubuntu-drivers install; then: sudo reboot"
        return (failed if machine.wants_vllm else warning)(why, hint)
    return passed(f"NVIDIA driver {gpus.driver}, for programs up to CUDA {gpus.cuda or '?'}")


def check_gpus(machine: Machine) -> Finding:
    """Are there GPUs that answer, with the memory that the guide asks for?"""
    gpus = machine.gpus.gpus
    if not gpus:
        return unknown(machine.gpus.problem or "no NVIDIA GPU was found", NO_GPU)
    broken = [f"GPU {gpu.index}: {gpu.problem}" for gpu in gpus if gpu.problem]
    if broken:
        return failed("; ".join(broken), "see also: sudo dmesg | grep -i xid")
    said = ", ".join(f"{gpu.index} ({_described(gpu)})" for gpu in gpus)
    sizes = [gpu.memory_total_bytes for gpu in gpus if gpu.memory_total_bytes]
    if sizes and max(sizes) < _SMALL:
        return warning(
            f"found: {said}; the guide asks for 16 GB for a model of 7B",
            "take a smaller or quantized model: gearshift plan Qwen/Qwen2.5-3B-Instruct",
        )
    return passed(f"found: {said}")


def _described(gpu: GPU) -> str:
    size = gpu.memory_total_bytes
    return (gpu.name or "unnamed") + ("" if size is None else f", {size / GIB:.0f} GiB")


def check_gpu_memory(machine: Machine) -> Finding:
    """Is the GPUs' memory free for vLLM, and who holds it if not?"""
    gpus = [gpu for gpu in machine.gpus.gpus if gpu.problem is None]
    if not gpus:
        absent = machine.gpus.state is GPUState.NO_DRIVER
        why = machine.gpus.problem or "there is no GPU to ask"
        return unknown(why, NO_GPU if absent else _LOOK)
    free = {gpu: _free(gpu) for gpu in gpus}
    told, short = [], {}
    for gpu, share in free.items():
        if share is None or gpu.memory_free_bytes is None:
            note = next(iter(gpu.notes), "it does not tell its memory")
            return unknown(f"GPU {gpu.index}: {note}", "see the machine's: free -h")
        told.append(f"GPU {gpu.index} has {gpu.memory_free_bytes / GIB:.1f} GiB free ({share:.0%})")
        if share < _FREE:
            short[gpu] = share
    said = ", ".join(told)
    if not short:
        return passed(said)
    servers = _servers(machine)
    holders = {holder: gpu for gpu in short for holder in gpu.holders or ()}
    names = [servers.get(h.pid) or f"{h.name or '?'} (pid {h.pid})" for h in holders]
    by = ", ".join(dict.fromkeys(names)) or "somebody unknown"
    if names and all(holder.pid in servers for holder in holders):
        return passed(f"{said}; held by our own {by}")
    ways = [_way(holder, servers) for holder in holders] or ["see who holds it: sudo nvidia-smi"]
    ways.append(f"or let vLLM take less: --gpu-memory-utilization {_within(min(short.values()))}")
    notes = [note for gpu in short for note in gpu.notes]
    return warning("; ".join([f"{said}; held by {by}", *notes]), "; ".join(dict.fromkeys(ways)))


def _free(gpu: GPU) -> float | None:
    """The share of its memory that is free."""
    if gpu.memory_free_bytes is None or not gpu.memory_total_bytes:
        return None
    return gpu.memory_free_bytes / gpu.memory_total_bytes


def _within(share: float) -> float:
    """A utilization that fits: CUDA gives programs up to 3 % less than NVML tells."""
    return int(97 * share) / 100


def _servers(machine: Machine) -> dict[int, str]:
    """Our servers' names by their processes."""
    records = [record for record in all_records(machine.settings) if record.of_this_boot()]
    return {process.pid: record.name for record in records for process in record.tree}


def _way(holder: Holder, servers: dict[int, str]) -> str:
    """How to free what this process holds."""
    if holder.pid in servers:
        return f"gearshift stop {servers[holder.pid]}"
    if "ollama" in (holder.name or "").lower():
        return "ollama ps, then: ollama stop MODEL"
    return f"if it is not needed: kill {holder.pid}"
