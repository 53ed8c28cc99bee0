"""`gearshift tune`: which settings of vLLM serve the most people within the goals."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
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
    like_ctrl_c,
)
from gearshift.cli._report import JSON, err, fail, out, print_json, reporting
from gearshift.errors import GearshiftError
from gearshift.settings import Settings, load_settings

if TYPE_CHECKING:  # they take their time to import
    from gearshift.bench.tuning.trial import Trial
    from gearshift.bench.tuning.tune import Tuning

app = typer.Typer()


@app.command()
def tune(
    model: Annotated[
        str | None, typer.Argument(help="A Hub id, a folder, or an Ollama name. [DEFAULT_MODEL]")
    ] = None,
    slo: Annotated[
        str, typer.Option(help='Goals, several by commas: "p95 ttft < 1, tpot < 0.05" (seconds).')
    ] = "p95 ttft < 1",
    parameters: Annotated[
        str | None,
        typer.Option(
            help="What is searched over: names by commas, with values if you like "
            "(max-num-seqs=16/64), a single value for all; or all. [the guide's three]"
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Settings that are started at most.")] = 12,
    rounds: Annotated[
        int, typer.Option(min=0, help="How often the winner is measured beside the defaults.")
    ] = 5,
    users: Annotated[int, typer.Option(min=1, help="People to begin with.")] = 4,
    max_users: Annotated[int, typer.Option(min=1, help="More are not tried.")] = 256,
    gpus: Annotated[str | None, typer.Option(help="Which may be used: indexes, by commas.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Such as bfloat16, for all.")] = None,
    quantization: Annotated[str | None, typer.Option(help="Such as awq, for all.")] = None,
    requests: Requests = None,
    duration: Duration = None,
    input_tokens: InputTokens = None,
    output_tokens: OutputTokens = None,
    prompts: Prompts = "questions",
    think_time: ThinkTime = 0.0,
    warmup: Warmup = 2,
    seed: Seed = 0,
    name: Annotated[
        str | None, typer.Option(help="Of the profile that is made. [tuned-MODEL]")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what the same command has measured before.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Find the settings with which a model serves the most people within the goals.

    Servers are started one after the other and ended. Ctrl-C keeps what was measured, and the same
    command goes on where it stopped. The result is a profile: gearshift serve MODEL --profile NAME.
    """
    check_load(requests, duration, input_tokens, prompts)
    with reporting(as_json):
        from gearshift.bench.metrics import parse_goals
        from gearshift.bench.series import Wish
        from gearshift.bench.tuning import Aim, keep, open_tuning, record
        from gearshift.bench.tuning import tune as search
        from gearshift.bench.tuning.result import failed
        from gearshift.engine.profiles import check_name

        settings = load_settings()
        if name is not None:
            check_name(name)
        load = Wish(
            requests=requests,
            duration_s=duration,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            think_s=think_time,
            prompts=prompts,
            warmup=warmup,
            seed=seed,
        )
        choices = {"dtype": dtype, "quantization": quantization}
        aim = Aim(
            model or settings.default_model,
            parse_goals(slo),
            parameters,
            load,
            trials,
            rounds,
            min(users, max_users),
            max_users,
            tuple(part.strip() for part in gpus.split(",")) if gpus else (),
            {key: value for key, value in choices.items() if value is not None},
        )
        tuning = open_tuning(aim, settings)
        like_ctrl_c()
        try:
            search(tuning, settings, _Watch(), fresh=fresh)
        except GearshiftError as problem:
            if not tuning.trials:  # nothing was measured: what was kept before stays as it is
                raise
            _give_up(problem, keep(tuning, settings, name), as_json)
        # Where nothing was measured, what was kept before stays as it is.
        found = keep(tuning, settings, name) if tuning.trials else record(tuning, settings)
        if (nothing := failed(tuning)) is not None:
            _give_up(nothing, found, as_json)
        if as_json:
            print_json(found)
        else:
            _show(found, settings)
        if tuning.cancelled:
            err.print("cancelled: the same command goes on where it stopped", style="yellow")


def _give_up(problem: GearshiftError, found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found | {"error": problem.as_dict()})
    else:
        _table(found)
    fail(problem, as_json=False)


class _Watch:
    """Says on stderr what happens: each step once, and how each trial ended."""

    def __init__(self) -> None:
        self._now, self._ended, self._rounds = "", 0, 0

    def __call__(self, tuning: Tuning) -> None:
        if self._ended == 0 and tuning.trials and not self._now:
            err.print(f"known settings, measured before: {len(tuning.trials)}; going on there")
            self._ended = len(tuning.trials)
        if tuning.now and tuning.now != self._now:
            err.print(tuning.now, style="dim", markup=False, soft_wrap=True)
        self._now = tuning.now or self._now
        for trial in tuning.trials[self._ended :]:
            err.print(ended(trial), markup=False, soft_wrap=True)
        self._ended = len(tuning.trials)


def ended(trial: Trial) -> str:
    """How a trial ended, in a line."""
    from gearshift.bench.tuning.trial import Outcome
    from gearshift.engine.profiles import in_words

    words = in_words(trial.setting)
    words = words if words == trial.label else f"{trial.label}: {words}"
    if trial.outcome is Outcome.MEASURED:
        goodput = trial.goodput_per_s or 0.0
        told = f"{words}: {trial.users} at once, {goodput:.2f} answers a second in time"
        return f"{told} ({trial.reason})" if trial.reason else told
    cause = f" ({trial.cause})" if trial.cause else ""
    return f"{words}: {trial.outcome}{cause}: {trial.reason}"


def _show(found: dict[str, Any], settings: Settings) -> None:
    _table(found)
    out.print(found["sentence"], style="bold", markup=False)
    if found["command"]:
        out.print(shlex.join(found["command"]), style="dim", markup=False, soft_wrap=True)
    if found["profile"]:
        line = shlex.join(["gearshift", "serve", found["model"], "--profile", found["profile"]])
        out.print(f"  next: {line}", markup=False, soft_wrap=True)


def _table(found: dict[str, Any]) -> None:
    from gearshift.bench.tuning.result import people_of

    table = Table("setting", "result", "people", "in time/s", "tokens/s", box=SIMPLE_HEAD)
    for row in found["trials"]:
        figures = [row["goodput_per_s"], row["output_tokens_per_s"]]
        table.add_row(
            row["words"],
            row["cause"] or str(row["outcome"]),
            people_of(row),
            *("-" if value is None else f"{value:.1f}" for value in figures),
        )
    out.print(table)
