"""Benchmarks: a load generator, metrics as `vllm bench serve` defines them, scenarios and reports.

From Python, for a server's speed with one person and with ten:

    target = find_target(find_service("vllm"))
    series = measure(Series(Wish(users=(1, 10), output_tokens=64), [target]))
    for found in series.measured:
        print(found.run.users, found.run.output_tokens_per_s, found.run.percentiles("ttft").p50)
"""

from gearshift.bench.load import Load, Progress, run_load
from gearshift.bench.metrics import Goal, Request, Run, parse_goals
from gearshift.bench.prompts import Workload
from gearshift.bench.records import record
from gearshift.bench.series import Measured, Series, Wish, measure
from gearshift.bench.target import Target, find_service, find_target

__all__ = [
    "Goal",
    "Load",
    "Measured",
    "Progress",
    "Request",
    "Run",
    "Series",
    "Target",
    "Wish",
    "Workload",
    "find_service",
    "find_target",
    "measure",
    "parse_goals",
    "record",
    "run_load",
]
