"""`gearshift plan`: does a model fit, with how much context, for how many people?"""

from __future__ import annotations

from collections.abc import Callable
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


def _known(what: str, text: str | None, option: str | None = None) -> str | None:
    """The value as vLLM writes it, if any version knows it."""
    from gearshift.engine import choices

    check: Callable[[str | None], str | None] = getattr(choices, what)
    try:
        return check(text)
    except ValueError as wrong:
        hint = option or f"--{what.replace('_', '-')}"
        raise typer.BadParameter(str(wrong), param_hint=hint) from None


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
    model: Annotated[str, typer.Argument(help="A Hub id, a folder, a config.json or a GGUF file.")],
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
    quantization = _known("quantization", quantization)
    dtype = _known("dtype", dtype)
    kv_cache_dtype = _known("kv_cache_dtype", kv_cache_dtype)
    vllm_version = _known("version", vllm_version, "--vllm-version")
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

    def about(middle: float | None) -> list[float] | None:
        """From and to, as far as 9 of 10 start-ups are off."""
        return None if middle is None else _rounded((middle - off, middle + off))

    off = found.range_gib
    return {
        "fits": found.fits,
        "refused": found.refused,
        "weights_gib": round(found.weights_gib, 3),
        "weights_gib_range": _rounded(found.weights_range),
        "overhead_gib": round(found.overhead_gib, 3),
        "overhead_gib_range": _rounded((max(0.0, found.overhead_gib - off),
                                        found.overhead_gib + off)),
        "available_kv_gib": _digits(found.available_kv_gib),
        "available_kv_gib_range": about(found.available_kv_gib),
        "kv_cache_tokens": found.kv_cache_tokens,
        "kv_cache_tokens_range": found.tokens_range,
        "kv_bytes_per_token": found.kv_bytes_per_token,
        "max_model_len": found.max_model_len,
        "max_concurrency": _digits(found.max_concurrency),
        "max_concurrency_range": _rounded(found.concurrency_range),
        "longest_context": found.longest,
        "longest_context_range": found.longest_range,
        "gpu": setup.card.name if setup.card and setup.card.known else None,
        "usable_gib": _digits(setup.usable_gib, 2),
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
        "instead": planned.instead_command,
    }  # fmt: skip


def _digits(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


def _rounded(both: tuple[float, float] | None) -> list[float] | None:
    return both and [round(value, 3) for value in both]


def _show(record: dict[str, Any]) -> None:
    fits = {True: "It fits.", False: "It does not fit.", None: "Whether it fits is not known."}
    verdict = "vLLM would refuse this." if record["refused"] else fits[record["fits"]]
    out.print(verdict, style="bold")
    for reason in record["reasons"]:
        out.print(f"  {reason}", markup=False)
    low, high = record["weights_gib_range"]
    least, most = record["overhead_gib_range"]
    lines = {
        "weights": f"{record['weights_gib']:.1f} GiB on each GPU ({low:.1f} to {high:.1f})",
        "working memory": f"{record['overhead_gib']:.1f} GiB on each GPU ({least:.1f} to "
        f"{most:.1f})",
        "a token": f"{record['kv_bytes_per_token'] / 1024:.0f} KiB of KV cache on each GPU",
    }
    if record["gpu"]:
        lines = {"GPU": f"{record['gpu']}: {record['usable_gib']:.1f} GiB for programs"} | lines
    lines |= _room(record)
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
    if record["fits"] is not False:
        command = record["command"]
    elif command := record["instead"]:
        out.print("This would:", markup=False)
    if command:
        out.print(" ".join(command), style="dim", markup=False, soft_wrap=True)


def _room(record: dict[str, Any]) -> dict[str, str]:
    """What is left for the KV cache, or what is missing."""
    left = record["available_kv_gib"]
    if left is None or record["refused"]:
        return {}
    low, high = record["available_kv_gib_range"]
    if left <= 0:
        most = f"{-low:.1f}"
        return {"missing": f"{-left:.1f} GiB on each GPU ({max(0.0, -high):.1f} to {most})"}
    lines = {"KV cache": f"{left:.1f} GiB ({max(0.0, low):.1f} to {high:.1f})"}
    if (at_once := record["max_concurrency"]) is not None:
        few, many = record["max_concurrency_range"]
        lines["KV cache"] += f": {record['kv_cache_tokens']:,} tokens"
        each = f"requests of {record['max_model_len']:,} tokens"
        lines["at once"] = f"{at_once:.1f} {each} ({few:.1f} to {many:.1f})"
    longest = min(record["longest_context"], record["max_model_len"])
    if longest:
        lines["one person"] = f"up to {longest:,} tokens"
    return lines
