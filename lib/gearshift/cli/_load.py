"""The options that say what people ask, the same in `bench` and `tune`."""

from __future__ import annotations

import math
import signal
from typing import Annotated

import typer


def finite(value: float | None) -> float | None:
    """Refuses what is no number, and what has no end."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("give a number")
    return value


Requests = Annotated[
    int | None, typer.Option(min=1, help="Requests of a run. [four for each person]")
]
Duration = Annotated[
    float | None,
    typer.Option(min=0.1, callback=finite, help="Instead: seconds in which requests are begun."),
]
InputTokens = Annotated[int | None, typer.Option(min=1, help="Synthetic prompts of this length.")]
OutputTokens = Annotated[
    int | None, typer.Option(min=1, help="Length of answers; exact where servers allow it.")
]
Prompts = Annotated[
    str, typer.Option(help="questions (of the handbook), conversations (yours), or a file.")
]
ThinkTime = Annotated[
    float,
    typer.Option(
        min=0, callback=finite, help="Mean seconds between an answer and the next question."
    ),
]
Warmup = Annotated[int, typer.Option(min=0, help="Requests before each run, not counted.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn by lot.")]


def check_load(
    requests: int | None, duration: float | None, input_tokens: int | None, prompts: str
) -> None:
    """A run ends by count or by time, and its prompts are made up or given.

    Raises:
        typer.BadParameter: it was told both.
    """
    if requests is not None and duration is not None:
        raise typer.BadParameter("give --requests or --duration, not both")
    if input_tokens and prompts != "questions":
        raise typer.BadParameter("prompts are synthetic (--input-tokens) or given (--prompts)")


def like_ctrl_c() -> None:
    """Makes the end of the terminal, and `kill`, what Ctrl-C is: what was measured is kept."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
