"""`gearshift doctor`: is this machine ready, and why did a server fail?"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from gearshift.cli._report import JSON, out, print_json, reporting
from gearshift.errors import SettingsError
from gearshift.settings import load_settings

if TYPE_CHECKING:  # they take their time to import
    from gearshift.doctor import Diagnosis, Report
    from gearshift.doctor.checks import Check
    from gearshift.engine.records import Record

app = typer.Typer()


@app.command()
def doctor(
    log: Annotated[
        Path | None, typer.Option(help="Only read this log (- for stdin) and say why it failed.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="Only read the log of this server of ours.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Check this machine; or say what a log's errors mean and how to mend them."""
    from gearshift.doctor import diagnose, read_log
    from gearshift.doctor.log import log_of
    from gearshift.doctor.starts import explain

    if log is not None and server is not None:
        raise typer.BadParameter("give --log or --server, not both")
    with reporting(as_json, settings_too=False):
        if log is not None:
            text = log_of(sys.stdin.buffer.read()) if str(log) == "-" else read_log(log)
            _report([], diagnose(text), as_json, left_out=text.left_out)
        elif server is not None:
            from gearshift.engine import servers

            _report([], explain(servers.find(server, load_settings())[0]), as_json)
        else:
            _check_machine(as_json)


def _check_machine(as_json: bool) -> None:
    from gearshift.doctor.checks import run_machine_checks
    from gearshift.doctor.starts import explain

    checks = run_machine_checks()
    failed = [(record.name, explain(record)) for record in _failed_servers()]
    if as_json:
        found = [cause | {"server": name} for name, report in failed for cause in causes(report)]
        print_json({"checks": [asdict(check) for check in checks], "causes": found})
        return
    _show_checks(checks)
    for name, report in failed:
        out.print(f"\nThe server {name} failed:", style="bold")
        show_causes(report)


def _failed_servers() -> list[Record]:
    from gearshift.engine import servers
    from gearshift.engine.records import State

    try:
        settings = load_settings()
    except SettingsError:  # which is among the checks
        return []
    return [record for record in servers.status(settings) if record.state is State.FAILED]


_MARKS = {
    "failed": ("✗", "red"),
    "warning": ("!", "yellow"),
    "passed": ("✓", "green"),
    "unknown": ("?", "dim"),
}


def _show_checks(checks: list[Check]) -> None:
    """What is wrong first; of what could not be asked, the checks with one reason together."""
    for status, (mark, style) in _MARKS.items():
        together: dict[str, list[Check]] = {}
        for check in checks:
            if check.status == status:
                together.setdefault(check.message, []).append(check)
        for message, same in together.items():
            names = ", ".join(check.name for check in same)
            out.print(Text.assemble((f"{mark} {names}: ", style), message), soft_wrap=True)
            if same[0].hint:
                out.print(f"    {same[0].hint}", style="dim", markup=False, soft_wrap=True)
    counted = Counter(str(check.status) for check in checks)
    out.print("\n" + ", ".join(f"{counted[status]} {status}" for status in _MARKS))


def causes(report: Report) -> list[dict[str, Any]]:
    """What was recognised, as JSON tells it."""
    return [asdict(cause) for cause in report.causes]


def _report(checks: list[Any], report: Report, as_json: bool, left_out: int = 0) -> None:
    first = report.first_error
    if as_json:
        error = {"line": first[0], "text": first[1]} if first else None
        found = {"checks": checks, "causes": causes(report), "first_error": error}
        print_json(found | {"bytes_left_out": left_out})
        return
    if left_out:
        out.print(f"The log is long: {left_out:,} bytes of its middle were not read.")
    show_causes(report)


def show_causes(report: Report) -> None:
    """The causes for a person, the most likely first."""
    for cause in report.causes:
        _show(cause)
    if not report.causes:
        if report.first_error is None:
            out.print("No failure that is known here, and no line that looks like an error.")
        else:
            line, text = report.first_error
            out.print("No failure that is known here. The first line that looks like an error:")
            out.print(f"  line {line}: {text}", markup=False)


def _show(cause: Diagnosis) -> None:
    out.print(f"{cause.cause}", style="bold red")
    out.print(f"  {cause.meaning}", markup=False)
    out.print(f"  line {cause.line}: {cause.evidence}", style="dim", markup=False)
    out.print(f"  fix: {cause.fix}", markup=False)
    if cause.command:
        out.print(f"  {shlex.join(cause.command)}", markup=False, soft_wrap=True)
