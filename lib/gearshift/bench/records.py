"""The record of a series, as JSON: every run, medians over repetitions, and how to repeat it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from gearshift.bench.metrics import METRICS, Goal, Run, confidence_interval
from gearshift.bench.series import Measured, Series


def record(series: Series) -> dict[str, Any]:
    """The series as JSON: `runs`, `client_cpu_percent`, and what is needed to repeat it."""
    runs = [run_record(found, series.wish.goals) for found in series.measured]
    cpu = [found.run.client_cpu_percent for found in series.measured]
    return {
        "runs": runs,
        "client_cpu_percent": max(cpu, default=0.0),
        "summary": summary(series),
        "skipped": series.skipped,
        "cancelled": series.cancelled,
        "problem": series.problem.as_dict() if series.problem else None,
        "scenario": series.scenario,
        "started": series.started,
        "machine": series.machine,
        "command": series.command,
        "seed": series.wish.seed,
        "mark": series.mark,
        "wish": asdict(replace(series.wish, goals=()))
        | {"goals": list(map(str, series.wish.goals))},
    }


def run_record(found: Measured, goals: Sequence[Goal] = ()) -> dict[str, Any]:
    """One run as JSON; times in seconds, over completed requests alone."""
    run, target = found.run, found.target
    return {
        "provider": target.provider,
        "variant": target.variant,
        "model": target.model,
        "version": target.version,
        "weights": target.weights,
        "concurrency": run.users,
        "concurrency_mean": run.concurrency_mean,
        "rate": found.load.rate,
        "repetition": found.repetition,
        "requests": len(run.requests),
        "failed": run.failed,
        "failures": [
            {"kind": kind, "count": count, "example": words} for kind, count, words in run.failures
        ],
        "unfinished": run.unfinished,
        "cancelled": run.cancelled,
        "invalid": found.invalid,
        "duration_s": run.duration_s,
        "output_tokens": run.output_tokens,
        "output_tokens_per_s": run.output_tokens_per_s,
        "requests_per_s": run.requests_per_s,
        "input_tokens_mean": run.input_tokens_mean,
        "tokens_counted_by": run.counted_by,
        "exact_output": found.exactly,
        **{f"{metric}_s": asdict(run.percentiles(metric)) for metric in METRICS},
        "goodput_per_s": run.goodput(goals),
        # Of a run that was cancelled the slowest answers are missing: nobody knows.
        "goals_met": {str(goal): None if run.cancelled else goal.met(run) for goal in goals},
        "client_cpu_percent": run.client_cpu_percent,
        "client_processes": len(run.clients),
        "prompts": found.workload,
        "notes": found.notes,
    }


def summary(series: Series) -> list[dict[str, Any]]:
    """For each target and number of people the medians over the repetitions, and how sure they are.

    What is invalid or was cancelled in the middle does not count.

    `confidence_interval` is at 95 % (`metrics.confidence_interval`); `None` for fewer than three.
    """
    groups: dict[tuple[str, int | None], list[Measured]] = {}
    for found in series.measured:
        if found.invalid is None and found.run.completed and not found.run.cancelled:
            groups.setdefault((found.target.label, found.run.users), []).append(found)
    goals = series.wish.goals
    rows = []
    for (label, users), group in groups.items():
        row: dict[str, Any] = {
            "target": label,
            "concurrency": users,
            "rate": series.wish.rate,
            "repetitions": len(group),
        }
        figures = _SUMMARIZED | {"goodput_per_s": lambda run: run.goodput(goals)}
        for name, value in figures.items():
            values = [number for one in group if (number := value(one.run)) is not None]
            row[name] = {
                "median": median(values) if values else None,
                "confidence_interval": confidence_interval(values),
            }
        rows.append(row)
    return rows


_SUMMARIZED: dict[str, Callable[[Run], float | None]] = {
    "output_tokens_per_s": lambda run: run.output_tokens_per_s,
    "ttft_p50_s": lambda run: run.percentiles("ttft").p50,
    "ttft_p95_s": lambda run: run.percentiles("ttft").p95,
    "tpot_p50_s": lambda run: run.percentiles("tpot").p50,
    "itl_p50_s": lambda run: run.percentiles("itl").p50,
    "itl_p95_s": lambda run: run.percentiles("itl").p95,
    "e2el_p50_s": lambda run: run.percentiles("e2el").p50,
}
