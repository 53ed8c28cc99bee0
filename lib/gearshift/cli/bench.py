"""`gearshift bench`: how fast, for how many people at once."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from gearshift.cli._load import (
    Duration,
    InputTokens,
    OutputTokens,
    Prompts,
    Requests,
    Seed,
    ThinkTime,
    Warmup,
    check_load,
    finite,
    like_ctrl_c,
)
from gearshift.cli._report import JSON, err, fail, out, print_json, reporting
from gearshift.errors import GearshiftError
from gearshift.providers import LLMServiceFactory
from gearshift.settings import PROVIDERS, load_settings

if TYPE_CHECKING:  # they take their time to import
    from gearshift.bench.series import Series, Wish

app = typer.Typer()

_PACE = 5.0  # seconds between lines where there is no terminal


def _known(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        if name.lower() not in PROVIDERS:
            raise typer.BadParameter(f"choose from {', '.join(PROVIDERS)}")
    return names and list(dict.fromkeys(name.lower() for name in names))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter("write numbers of people like 1,10,50")
    return numbers


def _scenario(name: str | None) -> str | None:
    from gearshift.bench.scenarios import SCENARIOS

    if name is not None and name not in SCENARIOS:
        raise typer.BadParameter(f"choose one of {', '.join(SCENARIOS)}")
    return name


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
    requests: Requests = None,
    duration: Duration = None,
    input_tokens: InputTokens = None,
    output_tokens: OutputTokens = None,
    prompts: Prompts = "questions",
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, callback=finite, help="Open loop: requests that arrive a second."),
    ] = None,
    burstiness: Annotated[
        float,
        typer.Option(
            min=0.01, callback=finite, help="Of arrivals: 1 Poisson, less in bursts, more steadier."
        ),
    ] = 1.0,
    think_time: ThinkTime = 0.0,
    slo: Annotated[
        str | None, typer.Option(help='Goals: "p95 ttft < 1, tpot < 0.05" (seconds).')
    ] = None,
    warmup: Warmup = 2,
    repeat: Annotated[int, typer.Option(min=1, help="Measure everything so often.")] = 1,
    seed: Seed = 0,
    scenario: Annotated[
        str | None,
        typer.Option(help="one, ten, many or crossover: all servers here.", callback=_scenario),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with charts to this file (.html).")
    ] = None,
    kept: Annotated[
        bool, typer.Option("--list", help="Only list the measurements that were kept.")
    ] = False,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="BEFORE AFTER", help="Only compare two that were kept."),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Measure servers under load: time to first token, speed, throughput.

    Every measurement is kept: --list, --compare.
    """
    from gearshift.bench import runs
    from gearshift.bench.metrics import parse_goals
    from gearshift.bench.report import html
    from gearshift.bench.scenarios import finished
    from gearshift.bench.series import Wish, nothing_measured
    from gearshift.bench.tuning.alone import is_tuning

    if kept or compare:
        with reporting(as_json):
            _look_back(compare, as_json)
        return
    if scenario and (concurrency or rate or url):
        raise typer.BadParameter("a scenario says itself whom it measures, and how many ask")
    if url and provider and len(provider) > 1:
        raise typer.BadParameter("an address is that of one provider")
    if rate and think_time:
        raise typer.BadParameter("who arrives at a rate does not think between questions")
    users = _numbers(concurrency) if concurrency is not None else (() if rate else (1,))
    check_load(requests, duration, input_tokens, prompts)
    with reporting(as_json):
        if report is not None:
            _check_place(report)
        like_ctrl_c()
        if is_tuning(load_settings().home_dir):
            err.print("a search for settings is under way: the two measure each other")
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
        with _series(wish, scenario, provider, url, model) as series:
            series.command = shlex.join(["gearshift", *sys.argv[1:]])
            _watched(series)
        problem = series.problem or nothing_measured(series)
        if problem is not None and not any(one.run.completed for one in series.measured):
            raise problem
        found = finished(series)
        home = load_settings().home_dir
        asked = any(one.run.requests for one in series.measured)
        found["name"] = None
        try:
            found["name"] = runs.keep(found, home) if asked else None
        except GearshiftError as wrong:  # its figures are there, and are shown
            problem = problem or wrong
        if report is not None:
            _write(report, html(found))
        if as_json:
            print_json(found | ({"error": problem.as_dict()} if problem else {}))
        else:
            _show(found)
        _say_what_is_wrong(found)
        if problem is not None:
            fail(problem, as_json=False)


@contextmanager
def _series(
    wish: Wish, scenario: str | None, names: list[str] | None, url: str | None, model: str | None
) -> Iterator[Series]:
    from gearshift.bench.scenarios import scenario_series
    from gearshift.bench.series import Series
    from gearshift.bench.target import find_service, find_target

    if scenario is not None:
        with scenario_series(scenario, wish, model, names) as series:
            yield series
        return
    names = names or (["vllm"] if url else [LLMServiceFactory.active()])
    yield Series(wish, [find_target(find_service(name, url), model) for name in names])


def _check_place(path: Path) -> None:
    """Says before anything is measured that a report could not be written."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise GearshiftError(f"cannot write {path}", hint="name a file in a folder that is there")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as wrong:
        raise GearshiftError(f"cannot write {path}: {wrong}", hint="name another file") from None


def _look_back(pair: tuple[str, str] | None, as_json: bool) -> None:
    """Lists what was kept, or compares two of them."""
    from gearshift.bench import runs

    home = load_settings().home_dir
    if pair is None:
        names = runs.kept(home)
        if as_json:
            print_json({"kept": names})
            return
        for name in names:
            out.print(f"{name}  {runs.outline(name, home)}", markup=False, soft_wrap=True)
        if not names:
            out.print("nothing was kept yet")
        return
    before, after = (runs.load(name, home) for name in pair)
    rows, unlike = runs.compare(before, after), runs.differences(before, after)
    if as_json:
        compared = {"before": pair[0], "after": pair[1]}
        print_json(compared | {"changes": rows, "differences": unlike})
        return
    for text in unlike:
        out.print(f"not the same: {text}", style="yellow", markup=False, soft_wrap=True)
    if not rows:
        out.print(
            "They have no server and number of people that was measured to the end in common."
        )
    for row in rows:
        people = row["concurrency"] or "open loop"
        out.print(f"{row['target']}, {people}", style="bold", markup=False)
        for name in runs.COMPARED:
            out.print(f"  {name}: {in_words(row[name])}", markup=False)


def in_words(change: dict[str, Any]) -> str:
    """One figure before and after."""
    if change["change"] is None:
        return "not known of both"
    sure = {True: "certain", False: "within what repetitions vary", None: "measured once or twice"}
    figures = f"{change['before']:.4g} → {change['after']:.4g}"
    return f"{figures} ({change['change']:+.1%}, {sure[change['certain']]})"


def _watched(series: Series) -> None:
    """Measures, with what happens on stderr: a bar on a terminal, else a line now and then."""
    from gearshift.bench.series import measure

    seen, told, said = 0, time.monotonic(), ""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"))
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=series.planned, counts="")

        def step(now: Series) -> None:
            nonlocal seen, told, said
            one = now.progress
            of = f" of {now.requests}" if now.requests else ""
            counts = f"{one.done}{of} done, {one.failed} failed, {one.tokens} tokens"
            bar.update(task, completed=len(now.measured), description=now.now, counts=counts)
            line = f"{now.now}: {counts}"
            if not err.is_terminal and line != said and time.monotonic() - told > _PACE:
                told, said = time.monotonic(), line
                err.print(line, markup=False, soft_wrap=True)
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
    """A table for a terminal of 80 columns; the JSON and the report have more."""
    from gearshift.bench.report import intervals, label

    figures = ("tokens/s", "TTFT p50", "p95", "ITL p50", "p95", "E2EL p50")
    table = Table(
        "server", "people", "sent", "failed", *figures, box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.columns[4].min_width = len(figures[0])  # the others may take two lines
    for run in found["runs"]:
        speed = run["output_tokens_per_s"]
        table.add_row(
            label(run) + (" INVALID" if run["invalid"] else ""),
            "-" if run["concurrency"] is None else str(run["concurrency"]),
            str(run["requests"]),
            str(run["failed"]),
            "-" if speed is None else f"{speed:.1f}",
            in_time(run["ttft_s"]["p50"]),
            in_time(run["ttft_s"]["p95"]),
            in_time(run["itl_s"]["p50"]),
            in_time(run["itl_s"]["p95"]),
            in_time(run["e2el_s"]["p50"]),
        )
    out.print(table)
    heads, rows = intervals(found)
    if rows:
        out.print("over the repetitions: median and 95 % interval", style="dim")
        sure = Table(*heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for cells in rows:
            sure.add_row(*cells)
        out.print(sure)
    for goal in found["wish"]["goals"]:
        out.print(f"{goal}: {_met(goal, found['runs'])}")
    if found["wish"]["goals"]:
        within = ", ".join(f"{run['goodput_per_s'] or 0:.2f}" for run in found["runs"])
        out.print(f"goodput, answers a second within all goals: {within}")
    if found["crossover"]:
        out.print(found["crossover"]["sentence"], style="bold", markup=False)
    used = f"the client used {found['client_cpu_percent']:.0f} % of a core at most"
    kept = f"kept as {found['name']}" if found["name"] else "nothing was kept"
    out.print(f"{used}; {kept}", style="dim", markup=False)


def _met(goal: str, runs: list[dict[str, Any]]) -> str:
    """With how many people a goal was met, and in how many of the runs that count."""
    counts: dict[str, list[bool]] = {}
    for run in runs:
        if not run["invalid"]:
            people = "the open loop" if run["concurrency"] is None else str(run["concurrency"])
            counts.setdefault(people, []).append(bool(run["goals_met"].get(goal)))
    told = (
        people + ("" if len(met) == 1 else f" ({sum(met)} of {len(met)} runs)")
        for people, met in counts.items()
        if any(met)
    )
    return "met with " + ", ".join(told) if any(map(any, counts.values())) else "never met"


def in_time(seconds: float | None) -> str:
    """Seconds as people read them."""
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.1f}s"
    return f"{seconds * 1000:.0f}ms" if seconds >= 0.1 else f"{seconds * 1000:.1f}ms"


def _say_what_is_wrong(found: dict[str, Any]) -> None:
    """On stderr: what failed, what does not count, what is worth knowing."""
    from gearshift.bench.report import remarks

    if found["cancelled"]:
        err.print("cancelled: these are the figures until then", style="yellow")
    for text in remarks(found):
        err.print(f"note: {text}", markup=False, soft_wrap=True)
