"""`gearshift serve · status · logs · stop`: vLLM servers on this machine."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.status import Status as Spinner
from rich.table import Table
from rich.text import Text

from gearshift.cli._report import JSON, err, fail, out, print_json, reporting
from gearshift.engine.checks import Check, Status, run_checks
from gearshift.engine.export import as_shell, ray_lines, systemd_unit
from gearshift.engine.launch import config_yaml
from gearshift.engine.profiles import profiles
from gearshift.engine.records import LIVING, Record, State
from gearshift.errors import EngineError, SettingsError
from gearshift.providers import run
from gearshift.settings import load_settings

if TYPE_CHECKING:  # it takes its time to import
    from gearshift.engine.monitor import Engine, Ollama

app = typer.Typer()


def row(record: Record) -> dict[str, Any]:
    """A server as `status`, `logs` and `stop` show it."""
    return {
        "name": record.name,
        "state": record.state,
        "pid": record.process.pid if record.process else None,
        "url": record.url,
        "model": record.model,
        "log": str(record.log),
        "stage": record.stage,
        "progress": record.progress,
        "restarts": record.restarts,
        "failure": record.failure.model_dump() if record.failure else None,
    }


def _start_row(record: Record, checks: list[Check]) -> dict[str, Any]:
    found = [
        {"name": c.name, "status": c.status, "message": c.message, "hint": c.hint} for c in checks
    ]
    extra = {"command": record.command, "environment": record.environment, "checks": found}
    return row(record) | extra


def _pairs(values: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = [value.partition("=") for value in values]
    if any(not path for _, _, path in pairs):
        raise typer.BadParameter("write an adapter as NAME=FOLDER")
    return tuple((name, str(Path(path).expanduser().absolute())) for name, _, path in pairs)


def _numbers(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    numbers = values.values() if isinstance(values, dict) else [values]
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
        raise typer.BadParameter(
            'write an object of numbers, such as {"temperature": 0.8}',
            param_hint="--override-generation-config",
        )
    return dict(values)


def _profile(name: str | None) -> str | None:
    with suppress(SettingsError):  # what is wrong with the settings is said later
        known = profiles(load_settings().home_dir)
        if name is not None and name not in known:
            raise typer.BadParameter(f"choose {' or '.join(known)}")
    return name


def _absolute(path: Path | None) -> str | None:
    return str(path.expanduser().absolute()) if path else None


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="A Hub id, a folder, or an Ollama name.")],
    gpu_count: Annotated[
        int | None, typer.Argument(metavar="[GPUS]", min=1, max=64, help="How many GPUs.")
    ] = None,
    tensor_parallel: Annotated[
        int | None,
        typer.Argument(metavar="[TP]", min=1, max=64, help="How many of them share each layer."),
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(help="Which: indexes, GPU-… or MIG-… ids, by commas.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: that of VLLM_BASE_URL.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="latency, throughput, or one that tune has made.", callback=_profile),
    ] = None,
    pipeline_parallel: Annotated[int | None, typer.Option(min=1, help="Stages of layers.")] = None,
    executor: Annotated[str | None, typer.Option(help="mp, or ray over machines.")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, for --executor ray.")] = 1,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="Share of each GPU's memory, 0 to 1.")
    ] = None,
    max_model_len: Annotated[int | None, typer.Option(min=1, help="Longest context.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Answers at once.")] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(min=1, help="Per step.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Such as bfloat16.")] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option(help="Such as fp8.")] = None,
    quantization: Annotated[str | None, typer.Option(help="Such as awq.")] = None,
    chat_template: Annotated[Path | None, typer.Option(help="A Jinja file.")] = None,
    override_generation_config: Annotated[
        str | None, typer.Option(help="What it samples with by default, as JSON.")
    ] = None,
    served_name: Annotated[
        list[str] | None, typer.Option(help="What clients may call the model, too.")
    ] = None,
    lora: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER of an adapter.")] = None,
    tools: Annotated[bool, typer.Option("--tools", help="Let the model call tools.")] = False,
    tool_parser: Annotated[str | None, typer.Option(help="How it writes tool calls.")] = None,
    reasoning_parser: Annotated[str | None, typer.Option(help="How it writes thoughts.")] = None,
    runner: Annotated[str | None, typer.Option(help="pooling, for embeddings.")] = None,
    enforce_eager: Annotated[
        bool | None, typer.Option("--enforce-eager/--compile", help="Do not compile.")
    ] = None,
    enable_chunked_prefill: Annotated[
        bool | None,
        typer.Option(
            "--enable-chunked-prefill/--no-enable-chunked-prefill", help="Long prompts in pieces."
        ),
    ] = None,
    enable_prefix_caching: Annotated[
        bool | None,
        typer.Option(
            "--enable-prefix-caching/--no-enable-prefix-caching", help="Equal beginnings once."
        ),
    ] = None,
    docker: Annotated[bool, typer.Option("--docker", help="In a container.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Again when it dies.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would do.")] = False,
    export: Annotated[
        str | None, typer.Option(help="With --dry-run: yaml or systemd, printed alone.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Start a vLLM server and leave it running."""
    from gearshift.engine import servers
    from gearshift.engine.start import Wish, prepare

    if export not in (None, "yaml", "systemd"):
        raise typer.BadParameter("choose yaml or systemd", param_hint="--export")
    choices = {
        "pipeline_parallel": pipeline_parallel,
        "executor": executor,
        "memory_utilization": gpu_memory_utilization,
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "dtype": dtype,
        "kv_cache_dtype": kv_cache_dtype,
        "quantization": quantization,
        "chat_template": _absolute(chat_template),
        "loras": _pairs(lora or []) or None,
        "generation_config": _numbers(override_generation_config),
        "tool_parser": tool_parser,
        "reasoning_parser": reasoning_parser,
        "runner": runner,
        "enforce_eager": enforce_eager,
        "chunked_prefill": enable_chunked_prefill,
        "prefix_caching": enable_prefix_caching,
    }
    named = tuple(part.strip() for part in gpus.split(",")) if gpus else ()
    wish = Wish(
        model, gpu_count, tensor_parallel, named, port, profile, tools, docker, restart,
        tuple(served_name or ()), choices,
    )  # fmt: skip
    with reporting(as_json):
        settings = load_settings()
        start = prepare(wish, settings)
        record = start.record
        if dry_run:
            checks = run_checks(start.plan)
            record = record.model_copy(update={"state": State.STOPPED})
            if as_json:
                print_json(_start_row(record, checks) | {"would_start": not _refused(checks)})
            elif export == "yaml":
                out.print(config_yaml(record.launch), markup=False, soft_wrap=True, end="")
            elif export == "systemd":
                unit = systemd_unit(record.command, record.environment, record.model)
                out.print(unit, markup=False, soft_wrap=True, end="")
            else:
                _show_start(record, checks)
                for line in ray_lines(record.launch, nodes) if executor == "ray" else []:
                    out.print(line, markup=False, soft_wrap=True)
                if start.profile:
                    for key, reason in start.profile.reasons.items():
                        out.print(f"{key}: {reason}", style="dim", markup=False)
                if against := _refused(checks):
                    names = ", ".join(check.name for check in against)
                    err.print(f"it would not start: see {names}", style="red", markup=False)
            return
        there = servers.find_on(record.launch.port, settings)
        checks = [] if there and there.state in LIVING else run_checks(start.plan)
        if not as_json:
            _show_start(record, checks)
        if against := _refused(checks):
            message = "; ".join(check.message for check in against)
            hint = "; ".join(check.hint for check in against)
            _fail(EngineError("refused", message, hint), record, checks, as_json)
        record = servers.serve(record, settings)
        if not no_wait:
            record = _wait(record, as_json)
        if record.state is State.FAILED and record.failure:
            _failed(record, checks, as_json)
        if as_json:
            print_json(_start_row(record, checks))
            return
        out.print(f"{record.name} is {record.state}: {record.url}", markup=False)
        if record.url.rpartition(":")[2] != settings.vllm_base_url.rpartition(":")[2]:
            out.print(f"  next: VLLM_BASE_URL={record.url} in .env", markup=False)
        elif settings.llm_provider != "vllm":
            out.print("  next: gearshift switch vllm", markup=False)


def _failed(record: Record, checks: list[Check], as_json: bool) -> None:
    """Says why, as the doctor reads its log, and how it would start."""
    from gearshift.cli.doctor import causes, show_causes
    from gearshift.doctor.starts import explain, serve_instead

    assert record.failure is not None
    failure = record.failure
    report = explain(record)
    instead = serve_instead(record.launch, report)
    hint = shlex.join(instead) if instead else failure.hint
    error = EngineError(failure.kind, failure.message, hint)
    if as_json:
        extra = {"causes": causes(report), "corrected": instead, "error": error.as_dict()}
        print_json(_start_row(record, checks) | extra)
    elif report.causes:
        show_causes(report)
    fail(error, as_json=False)


def _refused(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.status is Status.REFUSED]


def _fail(error: EngineError, record: Record, checks: list[Check], as_json: bool) -> None:
    if as_json:
        record = record.model_copy(update={"state": State.FAILED})
        print_json(_start_row(record, checks) | {"error": error.as_dict()})
    fail(error, as_json=False)


_MARKS = {Status.PASSED: "✓", Status.REFUSED: "✗", Status.UNKNOWN: "?"}


def _show_start(record: Record, checks: list[Check]) -> None:
    for check in checks:
        hint = f" ({check.hint})" if check.hint and check.status is not Status.PASSED else ""
        err.print(f"{_MARKS[check.status]} {check.name}: {check.message}{hint}", markup=False)
    text = as_shell(record.command, record.environment)
    out.print(text, style="dim", markup=False, soft_wrap=True)


def _wait(record: Record, as_json: bool) -> Record:
    from gearshift.engine import servers

    console = Console(stderr=True, quiet=as_json)
    with Spinner("", console=console) as spinner:

        def show(now: Record) -> None:
            share = f" {now.progress:.0%}" if now.progress is not None else ""
            usual = f" (usually {now.estimate_s:.0f} s)" if now.estimate_s else ""
            spinner.update(f"{now.name}: {now.stage or now.state}{share}{usual}")

        try:
            return servers.wait(record.launch.port, load_settings(), show)
        except KeyboardInterrupt:
            err.print(f"it goes on starting; end it with: gearshift stop {record.name}")
            raise


@app.command()
def status(
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Also what they do, measured for two seconds.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Show the servers that were started here."""
    from gearshift.engine import servers

    with reporting(as_json):
        settings = load_settings()
        records = servers.status(settings)
        if not metrics:
            _show(records, as_json)
            return
        from gearshift.cli.gpus import machine_row
        from gearshift.engine.monitor import watch_once
        from gearshift.engine.words import hardware_lines

        machine, engines, ollama = run(watch_once(settings))
        if not as_json:
            _show(records, as_json)
            for line in (*hardware_lines(machine), *chain(*map(_doing, engines))):
                out.print(line, markup=False, soft_wrap=True)
            for line in _holding(ollama):
                out.print(line, markup=False, soft_wrap=True)
            return
        ours = {engine.name: engine for engine in engines if engine.record is not None}
        loaded = [asdict(model) | {"gpu_share": model.gpu_share} for model in ollama.loaded]
        print_json(
            {
                "servers": [row(r) | _figures(ours.get(r.name)) for r in records],
                "elsewhere": [{"url": e.url} | _figures(e) for e in engines if e.record is None],
                "ollama": asdict(ollama) | {"loaded": loaded},
                "machine": machine_row(machine),
            }
        )


def _figures(engine: Engine | None) -> dict[str, Any]:
    """What a server did while we looked, and since it was started."""
    now = engine.now() if engine else None
    whole = engine.since_start() if engine else None
    last = engine.readings[-1] if engine else None
    return {
        "in_words": engine.in_words() if engine else None,
        "metrics": asdict(now) if now else None,
        "metrics_since_start": asdict(whole) if whole else None,
        "metrics_problem": last.problem if last else None,
        "metrics_hint": last.hint if last else None,
    }


def _doing(engine: Engine) -> Iterator[str]:
    """What a server does, in words and figures."""
    from gearshift.engine.words import figures, latencies

    now, last = engine.now(), engine.readings[-1]
    if now is None:
        yield (last.problem or f"{engine.name} began anew meanwhile") + _aside(last.hint)
        return
    yield f"{engine.name}: {engine.in_words()}"
    yield "  " + " · ".join(f"{name} {value}" for name, value in figures(now).items())
    whole = engine.since_start()
    for span, found in (("now", now), ("since its start", whole)):
        if found is not None and (told := list(latencies(found))):
            yield f"  {span}: {' · '.join(told)}"


def _holding(ollama: Ollama) -> Iterator[str]:
    from gearshift.engine.words import loaded_line

    if ollama.problem:
        yield ollama.problem + _aside(ollama.hint)
    elif not ollama.loaded:
        yield "Ollama: no model is loaded"
    for model in ollama.loaded:
        yield f"Ollama: {loaded_line(model)}"


def _aside(hint: str | None) -> str:
    return f" ({hint})" if hint else ""


def _show(records: list[Record], as_json: bool) -> None:
    if as_json:
        print_json({"servers": [row(record) for record in records]})
        return
    if not records:
        out.print("no server was started here")
        return
    table = Table("server", "state", "pid", "model", "url", box=SIMPLE_HEAD)
    for column in table.columns:
        column.overflow = "fold"  # what is cut off cannot be copied
    for record in records:
        pid = str(record.process.pid) if record.process else ""
        cells = (record.name, record.state, pid, record.model, record.url)
        table.add_row(*map(Text, cells))
    out.print(table)
    for record in records:
        if detail := record.failure.message if record.failure else record.stage:
            out.print(f"{record.name}: {detail}", markup=False)


@app.command()
def logs(
    name: Annotated[str | None, typer.Argument(help="A server; the last one started.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as it grows.")] = False,
    as_json: JSON = False,
) -> None:
    """Print a server's log."""
    from gearshift.engine import servers

    with reporting(as_json):
        settings = load_settings()
        records = sorted(servers.find(name, settings), key=lambda record: record.started)
        if as_json:
            print_json({"servers": [row(record) for record in records]})
            return
        if not records:
            hint = "start one: gearshift serve MODEL"
            raise EngineError("unknown_server", "no server was started here", hint)
        for line in servers.follow(records[-1], settings, follow):
            out.print(line, markup=False, soft_wrap=True)


@app.command()
def stop(
    name: Annotated[str | None, typer.Argument(help="A server; all without it.")] = None,
    drain: Annotated[
        float | None, typer.Option(min=0, help="Seconds that running requests may take.")
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Drop it from the list, too.")] = False,
    as_json: JSON = False,
) -> None:
    """End a server, or all, and every process of them."""
    from gearshift.engine import servers

    with reporting(as_json):
        settings = load_settings()
        ended = [servers.stop(record, settings, drain) for record in servers.find(name, settings)]
        _show(ended, as_json)
        if any(r.state in LIVING or _unkillable(r) for r in ended):
            raise typer.Exit(1)
        for record in ended if forget else []:
            servers.forget(record, settings)


def _unkillable(record: Record) -> bool:
    return record.failure is not None and record.failure.kind == "unkillable"
