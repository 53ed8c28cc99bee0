"""`gearshift engine …`: the environment that vLLM lives in."""

from __future__ import annotations

from typing import Annotated

import typer

from gearshift.cli._report import JSON, err, fail, out, print_json, reporting
from gearshift.engine import environment, servers
from gearshift.engine.environment import Engine
from gearshift.engine.records import LIVING
from gearshift.errors import EngineError
from gearshift.settings import Settings, load_settings

app = typer.Typer(help="Install, check or remove vLLM.", no_args_is_help=True)


def _say(engine: Engine, as_json: bool) -> None:
    if as_json:
        print_json(engine.as_dict())
        return
    versions = f"vLLM {engine.vllm_version or '?'}, torch {engine.torch_version or '?'}"
    out.print(f"{engine.python}: {versions}, {engine.device or 'no device'}", markup=False)


@app.command()
def install(
    cpu: Annotated[bool, typer.Option("--cpu", help="The build for processors.")] = False,
    cuda: Annotated[bool, typer.Option("--cuda", help="The build for GPUs.")] = False,
    as_json: JSON = False,
) -> None:
    """Make an environment for vLLM; one that is whole stays as it is."""
    if cpu and cuda:
        raise typer.BadParameter("choose --cpu or --cuda, not both")
    with reporting(as_json):
        build = environment.Build.CPU if cpu else environment.Build.CUDA if cuda else None
        settings = load_settings()
        old = environment.installed(settings) and not environment.up_to_date(settings)
        if build is not None or old:
            _nothing_runs(settings)  # it may have to be made anew

        def show(line: str) -> None:
            if not line.startswith(" + "):  # uv names each of 150 packages
                err.print(line, style="dim", markup=False)

        _say(environment.install(settings, build=build, on_line=show), as_json)


@app.command()
def check(as_json: JSON = False) -> None:
    """Import vLLM in its environment and show its versions."""
    with reporting(as_json):
        engine = environment.check(load_settings())
        if not engine.ok:
            if as_json:
                print_json(engine.as_dict() | {"error": _as_error(engine).as_dict()})
            fail(_as_error(engine), as_json=False)
        _say(engine, as_json)


def _nothing_runs(settings: Settings) -> None:
    """A server would lose the files that it runs from."""
    ours = environment.folder(settings) / "bin" / "python"
    for record in servers.status(settings):
        if record.state in LIVING and record.python == ours:
            raise EngineError(
                "busy", f"{record.name} runs from it", f"end it first: gearshift stop {record.name}"
            )


def _as_error(engine: Engine) -> EngineError:
    return EngineError("engine", engine.problem or "vLLM does not work", engine.hint or "")


@app.command()
def remove(as_json: JSON = False) -> None:
    """Remove the environment that `install` made."""
    with reporting(as_json):
        settings = load_settings()
        _nothing_runs(settings)
        removed = environment.remove(settings)
        if as_json:
            nothing = Engine(environment.python(settings), None, None, None, False, None, None)
            print_json(nothing.as_dict() | {"removed": removed})
        else:
            out.print("removed" if removed else "there was none")
