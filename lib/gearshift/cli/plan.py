"""`gearshift plan`: does a model fit, with how much context, for how many people?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gearshift.cli._report import JSON, out, print_json, reporting
from gearshift.errors import EngineError
from gearshift.settings import load_settings

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
    as_json: JSON = False,
) -> None:
    """Work out whether a model fits on GPUs, before anything is started."""
    from gearshift import gpu as hardware
    from gearshift.engine import fit
    from gearshift.engine.cards import Card, find_card, from_nameplate
    from gearshift.engine.geometry import legal_tensor_parallel, read_geometry

    count = _parameters(parameters)
    if gpu is not None and gpu_memory is not None:
        raise typer.BadParameter("give --gpu or --gpu-memory, not both")
    with reporting(as_json):
        config, source = _config(model)
        shape = read_geometry(config, count, quantization, dtype)
        card = None
        if gpu is not None:
            card = find_card(gpu)
        elif gpu_memory is not None:
            card = Card("", from_nameplate(gpu_memory))
        elif there := hardware.look().gpus:
            total = there[0].memory_total_bytes
            card = find_card(there[0].name or "")
            card = replace(card, usable_gib=card.usable_gib or (total and 0.98 * total / fit.GIB))
        legal = legal_tensor_parallel(shape, max(8, gpus or 1))
        stages = pipeline_parallel or 1
        size = tensor_parallel or max(n for n in legal if n <= max(1, (gpus or stages) // stages))
        if pipeline_parallel is None and gpus and gpus % size == 0:
            stages = gpus // size
        setup = fit.Setup(
            usable_gib=card.usable_gib if card else None,
            tensor_parallel=size,
            pipeline_parallel=stages,
            max_model_len=max_model_len,
            kv_cache_dtype=kv_cache_dtype,
            utilization=gpu_memory_utilization,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            enforce_eager=enforce_eager,
            version=vllm_version,
            card=card,
        )
        found = fit.plan(shape, setup)
        fewest = fit.smallest(shape, setup) if found.fits is False else None
        extra = {"quantization": quantization, "dtype": dtype}
        record = _record(found, setup, legal, _command(source, setup, extra), fewest)
        if as_json:
            print_json(record)
        else:
            _show(record, card)


def _config(model: str) -> tuple[dict[str, Any], str]:
    """The configuration, and what `serve` would be given."""
    from gearshift.engine.models import find_model

    path = Path(model).expanduser()
    if path.is_file():
        try:
            config = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as wrong:
            raise EngineError(
                "model", f"{path} cannot be read: {wrong}", "give a config.json"
            ) from None
        if not isinstance(config, dict):
            raise EngineError(
                "model", f"{path} is not a model's configuration", "give a config.json"
            )
        return config, str(path.absolute().parent)
    found = find_model(model, load_settings())
    if found.config is None:
        problem = found.problem or f"the shape of {found.source} is not known here"
        raise EngineError("model", problem, "give its config.json, or the folder that has it")
    return found.config, found.source


def _command(source: str, setup: Any, extra: dict[str, str | None]) -> list[str]:
    from gearshift.engine.environment import python
    from gearshift.engine.launch import command, make_launch

    values = {
        "max_model_len": setup.max_model_len,
        "kv_cache_dtype": setup.kv_cache_dtype,
        "memory_utilization": setup.utilization,
        "max_num_seqs": setup.max_num_seqs,
        "max_num_batched_tokens": setup.max_num_batched_tokens,
        "enforce_eager": setup.enforce_eager,
        "tensor_parallel": min(setup.tensor_parallel, 64),
        "pipeline_parallel": min(setup.pipeline_parallel, 64),
    }
    launch = make_launch(
        model=source, served_names=(Path(source).name or "model",), **values, **extra
    )
    return command(launch, python(load_settings()))


def _record(
    found: Any, setup: Any, legal: list[int], command: list[str], fewest: Any
) -> dict[str, Any]:
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
        "legal_tensor_parallel": legal,
        "smallest": fewest
        and {
            "gpus": fewest.tensor_parallel * fewest.pipeline_parallel,
            "tensor_parallel": fewest.tensor_parallel,
            "pipeline_parallel": fewest.pipeline_parallel,
        },
        "reasons": list(found.reasons),
        "command": command,
    }


def _show(record: dict[str, Any], card: Any) -> None:
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
        lines["one person"] = f"up to {record['longest_context']:,} tokens"
    lines["tensor parallel"] = "can be " + ", ".join(map(str, record["legal_tensor_parallel"]))
    if record["smallest"]:
        few = record["smallest"]
        lines["it would fit on"] = (
            f"{few['gpus']} of them (tensor parallel {few['tensor_parallel']}, pipeline parallel "
            f"{few['pipeline_parallel']})"
        )
    for name, text in lines.items():
        out.print(f"{name:>16}  {text}", markup=False)
    out.print(" ".join(record["command"]), style="dim", markup=False, soft_wrap=True)
