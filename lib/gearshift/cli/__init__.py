"""`gearshift …`: the command line. Thin: each command is one function over the library.

With `--json` a command prints one JSON object to stdout and nothing else there. Exit status: 0
done, 1 failed (`error` in the JSON; reason and next step on stderr), 2 wrong usage.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gearshift import __version__
from gearshift.cli import bench, chat, cutover, doctor, engine, gpus, migrate, plan, servers, tune
from gearshift.cli._report import out, print_json
from gearshift.errors import GearshiftError

_WRONG_USAGE, _CANCELLED = 2, 130

app = typer.Typer(
    help="A RAG workbench that runs on Ollama and shifts to vLLM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for part in (chat.app, servers.app, gpus.app, plan.app, doctor.app, bench.app, tune.app):
    app.registered_commands += part.registered_commands
app.add_typer(engine.app, name="engine")
steps = typer.Typer(help="Move from Ollama to vLLM, with proof.", no_args_is_help=True)
for part in (migrate.app, cutover.app):
    steps.registered_commands += part.registered_commands
app.add_typer(steps, name="migrate")


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _gearshift(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point of `gearshift`."""
    try:
        app()
    except SystemExit as end:
        if end.code == _WRONG_USAGE and "--json" in sys.argv:
            error = GearshiftError("wrong usage: stderr says what", hint="add --help")
            print_json({"error": error.as_dict() | {"kind": "usage"}})
        raise
    except KeyboardInterrupt:  # before a command has begun to keep what it has
        if "--json" in sys.argv:
            error = GearshiftError("it was cancelled before anything was done", hint="begin again")
            print_json({"error": error.as_dict() | {"kind": "cancelled"}})
        sys.exit(_CANCELLED)
