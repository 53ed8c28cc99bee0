"""Why a server of ours failed, from its own log, and the start that would go well."""

from __future__ import annotations

from gearshift.doctor.log import make_log, read_log
from gearshift.doctor.recogniser import Diagnosis, Report, diagnose
from gearshift.engine.export import serve_command
from gearshift.engine.launch import Launch
from gearshift.engine.records import STARTS, Record
from gearshift.errors import EngineError

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
    """The causes that its log shows since it was started last; none if there is no log."""
    try:
        log = read_log(record.log)
    except EngineError:
        return diagnose(make_log(""))
    starts = [number for number, line in enumerate(log.lines) if line.startswith(STARTS)]
    first = starts[-1] if starts else 0
    report = diagnose(make_log("\n".join(log.lines[first:])))
    return report.moved(first)


def serve_instead(launch: Launch, report: Report) -> list[str] | None:
    """The `gearshift serve …` that the most likely cause calls for, if it calls for one."""
    better = corrected(launch, report.causes[0]) if report.causes else None
    return serve_command(better) if better else None


def corrected(launch: Launch, diagnosis: Diagnosis) -> Launch | None:
    """The same launch with what the fix changes, `None` if it changes nothing that we know."""
    values = {_FIELDS[name]: value for name, value in diagnosis.options.items() if name in _FIELDS}
    if not values:
        return None
    return Launch.model_validate(launch.model_dump() | values)
