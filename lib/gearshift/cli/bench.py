"""`gearshift bench`: how fast, for how many people at once."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from gearshift.cli._report import JSON, err, out, print_json, reporting
from gearshift.providers import LLMServiceFactory
from gearshift.settings import PROVIDERS

if TYPE_CHECKING:  # they take their time to import
    from gearshift.bench.series import Series

app = typer.Typer()


def _known(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        if name.lower() not in PROVIDERS:
            raise typer.BadParameter(f"choose from {', '.join(PROVIDERS)}")
    return names and [name.lower() for name in names]


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter("write numbers of people like 1,10,50")
    return numbers


@app.command()
def bench(
    provider: Annotated[
        list[str] | None, typer.Option(help="Measure this one; may be repeated.", callback=_known)
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="A server's address; any that speaks OpenAI's API.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Ask this model.")] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="People at once, a run for each number: 1,10,50. [1]")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Requests of a run.")] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.1, help="Instead: seconds in which requests are begun.")
    ] = None,
    input_tokens: Annotated[
        int | None, typer.Option(min=1, help="Synthetic prompts of this length.")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of answers; exact where servers allow it.")
    ] = None,
    prompts: Annotated[
        str, typer.Option(help="questions (of the handbook), conversations (yours), or a file.")
    ] = "questions",
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Open loop: requests that arrive a second.")
    ] = None,
    burstiness: Annotated[
        float, typer.Option(min=0.01, help="Of arrivals: 1 Poisson, less in bursts, more steadier.")
    ] = 1.0,
    think_time: Annotated[
        float, typer.Option(min=0, help="Mean seconds that a person thinks between questions.")
    ] = 0.0,
    slo: Annotated[
        str | None, typer.Option(help='Goals: "p95 ttft < 1, tpot < 0.05" (seconds).')
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before each run, not counted.")] = 2,
    repeat: Annotated[int, typer.Option(min=1, help="Measure everything so often.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of prompts and arrivals.")] = 0,
    as_json: JSON = False,
) -> None:
    """Measure servers under load: time to first token, speed, throughput."""
    from gearshift.bench.metrics import parse_goals
    from gearshift.bench.series import Series, Wish, nothing_measured, record
    from gearshift.bench.target import find_service, find_target

    users = _numbers(concurrency) if concurrency else (() if rate else (1,))
    if requests is not None and duration is not None:
        raise typer.BadParameter("give --requests or --duration, not both")
    with reporting(as_json):
        wish = Wish(
            users=users,
            requests=requests,
            duration_s=duration,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            rate=rate,
            burstiness=burstiness,
            think_s=think_time,
            prompts=prompts,
            repeat=repeat,
            warmup=warmup,
            seed=seed,
            goals=parse_goals(slo) if slo else (),
        )
        names = provider or (["vllm"] if url else [LLMServiceFactory.active()])
        targets = [find_target(find_service(name, url), model) for name in names]
        series = Series(wish, targets, command=shlex.join(["gearshift", *sys.argv[1:]]))
        _watched(series)
        if (absent := nothing_measured(series)) is not None:
            raise absent
        found = record(series)
        if as_json:
            print_json(found)
        else:
            _show(found)
        _say_what_is_wrong(found)


def _watched(series: Series) -> None:
    """Measures, with what happens on stderr: a bar on a terminal, else a line a run."""
    from gearshift.bench.series import measure

    seen = 0
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"))
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=series.planned, counts="")

        def step(now: Series) -> None:
            nonlocal seen
            one = now.progress
            counts = f"{one.done} done, {one.failed} failed, {one.tokens} tokens"
            bar.update(task, completed=len(now.measured), description=now.now, counts=counts)
            for found in now.measured[seen:]:
                run = found.run
                speed = run.output_tokens_per_s or 0.0
                people = "open loop" if run.users is None else f"{run.users} at once"
                err.print(
                    f"{found.target.label}, {people}: {len(run.requests)} requests, "
                    f"{run.failed} failed, {speed:.1f} tokens a second",
                    markup=False,
                    soft_wrap=True,
                )
            seen = len(now.measured)

        measure(series, step)


def _show(found: dict[str, Any]) -> None:
    table = Table(
        "server", "people", "requests", "failed", "tokens/s", "TTFT p50 · p95", "TPOT p50 · p95",
        "ITL p50 · p99", "E2EL p50", box=SIMPLE_HEAD,
    )  # fmt: skip
    for run in found["runs"]:
        name = f"{run['provider']} ({run['variant']})" if run["variant"] else run["provider"]
        people = "-" if run["concurrency"] is None else str(run["concurrency"])
        speed = run["output_tokens_per_s"]
        table.add_row(
            name + (" INVALID" if run["invalid"] else ""),
            people,
            str(run["requests"]),
            str(run["failed"]),
            "-" if speed is None else f"{speed:.1f}",
            *(
                " · ".join(in_time(run[f"{metric}_s"][name]) for name in which)
                for metric, which in (
                    ("ttft", ("p50", "p95")),
                    ("tpot", ("p50", "p95")),
                    ("itl", ("p50", "p99")),
                    ("e2el", ("p50",)),
                )
            ),
        )
    out.print(table)
    for goal in found["wish"]["goals"]:
        met = [str(r["concurrency"]) for r in found["runs"] if r["goals_met"].get(goal)]
        out.print(f"{goal}: met with {', '.join(met)} at once" if met else f"{goal}: never met")
    out.print(f"the client used {found['client_cpu_percent']:.0f} % of a core at most", style="dim")


def in_time(seconds: float | None) -> str:
    """Seconds as people read them."""
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _say_what_is_wrong(found: dict[str, Any]) -> None:
    """On stderr: what failed, what does not count, what is worth knowing."""
    if found["cancelled"]:
        err.print("cancelled: these are the figures until then", style="yellow")
    told = set()
    for run in found["runs"]:
        for failure in run["failures"]:
            line = f"{failure['count']} failed ({failure['kind']}): {failure['example']}"
            err.print(line, style="red", markup=False, soft_wrap=True)
        if run["invalid"]:
            err.print(f"invalid: {run['invalid']}", style="red", markup=False, soft_wrap=True)
        told.update(run["notes"])
    for note in sorted(told):
        err.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)
