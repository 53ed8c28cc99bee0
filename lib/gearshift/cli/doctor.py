"""`gearshift doctor`: is this machine ready, and why did a server fail?"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gearshift.cli._report import JSON, out, print_json, reporting
from gearshift.settings import load_settings

if TYPE_CHECKING:  # they take their time to import
    from gearshift.doctor import Diagnosis, Report

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
    from gearshift.doctor import diagnose, make_log, read_log
    from gearshift.doctor.log import decode
    from gearshift.doctor.starts import explain

    if log is not None and server is not None:
        raise typer.BadParameter("give --log or --server, not both")
    with reporting(as_json):
        if log is not None:
            text = make_log(decode(sys.stdin.buffer.read())) if str(log) == "-" else read_log(log)
            _report([], diagnose(text), as_json, left_out=text.left_out)
        elif server is not None:
            from gearshift.engine import servers

            _report([], explain(servers.find(server, load_settings())[0]), as_json)
        else:
            _check_machine(as_json)


_MARKS = {"passed": "✓", "warning": "!", "failed": "✗", "unknown": "?"}


def _check_machine(as_json: bool) -> None:
    from gearshift.doctor.checks import run_machine_checks
    from gearshift.doctor.starts import explain
    from gearshift.engine import servers
    from gearshift.engine.records import State

    checks = run_machine_checks()
    failed = [r for r in servers.status(load_settings()) if r.state is State.FAILED]
    if as_json:
        found = [asdict(check) for check in checks]
        print_json(
            {
                "checks": found,
                "causes": [
                    cause | {"server": record.name}
                    for record in failed
                    for cause in causes(explain(record))
                ],
            }
        )
        return
    for check in checks:
        out.print(f"{_MARKS[check.status]} {check.name}: {check.message}", markup=False)
        if check.hint:
            out.print(f"    {check.hint}", style="dim", markup=False)
    for record in failed:
        out.print(f"\nThe server {record.name} failed:", style="bold")
        show_causes(explain(record))


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
        from shlex import join

        out.print(f"  {join(cause.command)}", markup=False, soft_wrap=True)
