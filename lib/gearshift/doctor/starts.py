"""Why a server of ours failed, from its own log, and the start that would go well."""

from __future__ import annotations

import itertools

from gearshift.doctor.log import make_log, read_log
from gearshift.doctor.recogniser import Diagnosis, Report, diagnose
from gearshift.engine.export import serve_command
from gearshift.engine.launch import Launch
from gearshift.engine.records import STARTS, STOPS, Record
from gearshift.engine.servers import new_record
from gearshift.errors import EngineError
from gearshift.settings import Settings

_FIELDS = {
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "gpu_memory_utilization": "memory_utilization",
    "tensor_parallel_size": "tensor_parallel",
    "dtype": "dtype",
    "tool_call_parser": "tool_parser",
}
"""Fields of `Launch` by the options of vLLM that a fix may change."""


def explain(record: Record) -> Report:
    """The causes that its log shows from its last start until it was told to stop, if it was."""
    try:
        log = read_log(record.log)
    except EngineError:
        return diagnose(make_log(""))
    starts = [number for number, line in enumerate(log.lines) if line.startswith(STARTS)]
    first = starts[-1] if starts else 0
    lines = list(itertools.takewhile(lambda line: line != STOPS, log.lines[first:]))
    report = diagnose(make_log("\n".join(lines)))
    return report.moved(first)


def serve_instead(launch: Launch, report: Report) -> list[str] | None:
    """The `gearshift serve …` that the most likely cause calls for, if it calls for one."""
    better = corrected(launch, report.causes[0]) if report.causes else None
    return serve_command(better) if better else None


def start_instead(record: Record, report: Report, settings: Settings) -> Record | None:
    """The start of the same server that the most likely cause calls for, if it calls for one."""
    better = corrected(record.launch, report.causes[0]) if report.causes else None
    if better is None or record.docker is not None:
        return None
    return new_record(better, settings, record.python, restart=record.restart)


def corrected(launch: Launch, diagnosis: Diagnosis) -> Launch | None:
    """The same launch with what the fix changes, `None` if it changes nothing that we know."""
    values = {_FIELDS[name]: value for name, value in diagnosis.options.items() if name in _FIELDS}
    if not values:
        return None
    return Launch.model_validate(launch.model_dump() | values)
