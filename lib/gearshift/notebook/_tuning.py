"""A search for settings, watched: what is tried, how far that is, and what came out."""

from __future__ import annotations

from dataclasses import replace
from html import escape

import ipywidgets as widgets

from gearshift.bench.tuning import Aim, Outcome, Point, Trial, Tuning, open_tuning
from gearshift.bench.tuning import tune as search
from gearshift.engine.profiles import in_words
from gearshift.notebook._servers import choices_for, settings_for
from gearshift.notebook._show import show_widget

_WIDE = widgets.Layout(width="34em")


def tuning(aim: Aim) -> Tuning:
    """Searches as `gearshift tune` does, from the beginning, with a bar and a row for each load.

    A small model gets the ranks and the memory that `serve` gives it. Interrupting the search keeps
    what was measured, and ends the server.

    Raises:
        EngineError: there is no such model, vLLM's defaults do not start, or somebody else tunes.
    """
    settings = settings_for(aim.model)
    aim = replace(aim, choices=choices_for(aim.model) | aim.choices)
    found = open_tuning(aim, settings)
    bar, words, rows = widgets.FloatProgress(max=1.0, layout=_WIDE), widgets.HTML(), widgets.HTML()
    shown = show_widget(widgets.VBox([bar, words, rows]), "", "")

    def step(now: Tuning) -> None:
        bar.value, words.value, rows.value = now.share, escape(now.now), loads_html(now)

    search(found, settings, step, fresh=True)
    bar.value = 1.0
    shown(loads_html(found), "\n".join(" · ".join(row) for row, _ in _loads(found)))
    return found


def _loads(now: Tuning) -> list[tuple[list[str], float]]:
    """Of each load the words of its row, and how much of what the goals allow it took."""
    found = []
    for trial in now.trials:
        for point in trial.points:
            people = f"{point.users} at once"
            verdict = "holds" if point.holds else "does not hold"
            words = [in_words(trial.setting), people, *_told(point), verdict]
            found.append((words, _share(point.margin)))
        if trial.outcome in (Outcome.FAILED, Outcome.PRUNED):
            found.append(([in_words(trial.setting), str(trial.outcome), _why(trial)], 0.0))
    return found


def _share(margin: float | None) -> float:
    return 2.0 if margin is None else min(margin, 2.0)


def _told(point: Point) -> list[str]:
    """What the goals look at; a load that was given up has only its quickest answers to tell."""
    if point.failed:
        return [f"{point.failed} of {point.requests} failed"]
    if point.margin is None:
        return ["given up: the goals were missed"]
    return [f"{goal}: {_seconds(value)}" for goal, value in point.figures.items()]


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f} s"


def _why(trial: Trial) -> str:
    return f"{trial.cause}: {trial.reason}" if trial.cause else trial.reason


def loads_html(now: Tuning) -> str:
    """A row a load, with a bar that is full where a goal is just met; red beyond."""
    rows = []
    for words, share in _loads(now):
        color = "#0d9488" if share <= 1 else "#dc2626"
        bar = (
            '<div style="width:12em;background:#8883;border-right:1px solid #888">'
            f'<div style="height:1em;background:{color};width:{100 * min(share, 1.0):.0f}%">'
            "</div></div>"
        )
        cells = "".join(f'<td style="text-align:left">{escape(word)}</td>' for word in words)
        rows.append(f"<tr>{cells}<td>{bar}</td></tr>")
    return f"<table>{''.join(rows)}</table>"
