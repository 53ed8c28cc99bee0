"""`gearshift plan`: does a model fit, with how much context, for how many people?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gearshift.cli._report import JSON, out, print_json, reporting
from gearshift.settings import load_settings

if TYPE_CHECKING:
    from gearshift.engine.forecast import Forecast
    from gearshift.engine.startup_log import Startup

app = typer.Typer()


def _parameters(text: str | None) -> float | None:
    """`7.6B` as a number."""
    if text is None:
        return None
    factor = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1:].upper(), 1.0)
    try:
        value = float(text.rstrip("kKmMbBtT")) * factor
    except ValueError:
        value = 0.0
    if not 0 < value < 1e14:
        raise typer.BadParameter("write how many, such as 7.6B or 494M")
    return value


def _startup(path: Path) -> Startup:
    from gearshift.engine.startup_log import read_startup
    from gearshift.errors import EngineError

    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            found = read_startup(lines)
    except OSError as problem:
        raise EngineError("log", f"{path} cannot be read: {problem.strerror}") from None
    if found is None or found.model is None:
        raise EngineError(
            "log",
            f"{path} is not the log of a start on a GPU that came as far as its KV cache",
            "give the whole log of vLLM, from its first line",
        )
    return found


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="A Hub id that is known, a folder, a config.json.")],
    gpu: Annotated[str | None, typer.Option(help="Such as A100-80GB, or L4.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(min=0.1, help="GiB of each GPU.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, max=1024, help="How many.")] = None,
    tensor_parallel: Annotated[int | None, typer.Option(min=1, max=1024)] = None,
    pipeline_parallel: Annotated[int | None, typer.Option(min=1, max=1024)] = None,
    max_model_len: Annotated[int | None, typer.Option(min=1, help="Longest context.")] = None,
    quantization: Annotated[str | None, typer.Option(help="Such as awq or fp8.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Such as bfloat16.")] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option(help="Such as fp8.")] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option(min=0.01, max=1.0)] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Answers at once.")] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(min=1, help="Per step.")] = None,
    enforce_eager: Annotated[bool, typer.Option("--enforce-eager", help="No CUDA graphs.")] = False,
    vllm_version: Annotated[str | None, typer.Option(help="Such as 0.32.0.")] = None,
    parameters: Annotated[str | None, typer.Option(help="How many, such as 7.6B.")] = None,
    log: Annotated[
        Path | None,
        typer.Option(help="vLLM's log of a start on such a GPU, to correct the figures with."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Work out whether a model fits on GPUs, before anything is started."""
    from gearshift import gpu as hardware
    from gearshift.engine.forecast import Question, forecast

    count = _parameters(parameters)
    if gpu is not None and gpu_memory is not None:
        raise typer.BadParameter("give --gpu or --gpu-memory, not both")
    with reporting(as_json):
        question = Question(
            model,
            gpu=gpu,
            gpu_gib=gpu_memory,
            gpus=gpus,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
            max_model_len=max_model_len,
            quantization=quantization,
            dtype=dtype,
            kv_cache_dtype=kv_cache_dtype,
            utilization=gpu_memory_utilization,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            enforce_eager=enforce_eager,
            version=vllm_version,
            parameters=count,
            earlier=_startup(log) if log else None,
        )
        here = hardware.look().gpus if gpu is None and gpu_memory is None else ()
        record = _record(forecast(question, load_settings(), here))
        if as_json:
            print_json(record)
        else:
            _show(record)


def _record(planned: Forecast) -> dict[str, Any]:
    found, setup, fewest = planned.fit, planned.setup, planned.fewest

    def whole(value: float | None, digits: int = 3) -> float | None:
        return None if value is None else round(value, digits)

    return {
        "fits": found.fits,
        "weights_gib": whole(found.weights_gib),
        "overhead_gib": whole(found.overhead_gib),
        "available_kv_gib": whole(found.available_kv_gib),
        "available_kv_gib_range": None
        if found.available_kv_gib is None
        else [
            whole(found.available_kv_gib - found.range_gib),
            whole(found.available_kv_gib + found.range_gib),
        ],
        "kv_cache_tokens": found.kv_cache_tokens,
        "kv_bytes_per_token": found.kv_bytes_per_token,
        "max_model_len": found.max_model_len,
        "max_concurrency": whole(found.max_concurrency, 2),
        "longest_context": found.longest,
        "usable_gib": whole(setup.usable_gib, 2),
        "tensor_parallel": setup.tensor_parallel,
        "pipeline_parallel": setup.pipeline_parallel,
        "legal_tensor_parallel": planned.legal,
        "smallest": fewest
        and {
            "gpus": fewest.tensor_parallel * fewest.pipeline_parallel,
            "tensor_parallel": fewest.tensor_parallel,
            "pipeline_parallel": fewest.pipeline_parallel,
        },
        "fitting_quantizations": list(planned.quantizations),
        "latency": planned.latency and asdict(planned.latency),
        "throughput": planned.throughput and asdict(planned.throughput),
        "learned_from": planned.learned and planned.learned.model_dump(exclude_none=True),
        "reasons": list(found.reasons),
        "command": planned.command,
    }


def _show(record: dict[str, Any]) -> None:
    fits = {True: "It fits.", False: "It does not fit.", None: "Whether it fits is not known."}
    out.print(fits[record["fits"]], style="bold")
    for reason in record["reasons"]:
        out.print(f"  {reason}", markup=False)
    lines = {
        "weights": f"{record['weights_gib']:.1f} GiB on each GPU",
        "working memory": f"{record['overhead_gib']:.1f} GiB on each GPU",
        "a token": f"{record['kv_bytes_per_token'] / 1024:.0f} KiB of KV cache on each GPU",
    }
    if record["available_kv_gib"] is not None:
        low, high = record["available_kv_gib_range"]
        lines["KV cache"] = (
            f"{record['available_kv_gib']:.1f} GiB ({low:.1f} to {high:.1f}): "
            f"{record['kv_cache_tokens']:,} tokens, {record['max_concurrency']:.1f} requests of "
            f"{record['max_model_len']:,}"
        )
        longest = min(record["longest_context"], record["max_model_len"])
        lines["one person"] = f"up to {longest:,} tokens"
    lines["tensor parallel"] = "can be " + ", ".join(map(str, record["legal_tensor_parallel"]))
    if record["smallest"]:
        few = record["smallest"]
        lines["it would fit on"] = (
            f"{few['gpus']} of them (tensor parallel {few['tensor_parallel']}, pipeline parallel "
            f"{few['pipeline_parallel']})"
        )
    if methods := record["fitting_quantizations"]:
        lines["it would fit as"] = f"a checkpoint in {' or '.join(methods)}"
    for goal in ("latency", "throughput"):
        if best := record[goal]:
            spread = f"tensor parallel {best['tensor_parallel']}"
            if best["pipeline_parallel"] > 1:
                spread += f", pipeline parallel {best['pipeline_parallel']}"
            lines[f"for {goal}"] = f"{spread}: {best['reason']}"
    if learned := record["learned_from"]:
        lines["corrected with"] = f"an earlier start of {learned['model']} on such a GPU"
    for name, text in lines.items():
        out.print(f"{name:>16}  {text}", markup=False)
    out.print(" ".join(record["command"]), style="dim", markup=False, soft_wrap=True)
