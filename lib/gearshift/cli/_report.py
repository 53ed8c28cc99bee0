"""How commands say what they found, and what went wrong."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from gearshift import logs
from gearshift.errors import GearshiftError, SettingsError, unexpected
from gearshift.settings import Settings, load_settings

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def print_json(value: dict[str, Any]) -> None:
    """Writes the one object of `--json`."""
    sys.stdout.write(json.dumps(value, ensure_ascii=True) + "\n")


def fail(error: GearshiftError, as_json: bool) -> NoReturn:
    """Says what went wrong and what to do next, and ends with status 1."""
    if as_json:
        print_json({"error": error.as_dict()})
    err.print(f"gearshift: {error.message}", style="red", markup=False)
    if error.hint:
        err.print(f"  next: {error.hint}", markup=False)
    raise typer.Exit(1)


@contextmanager
def reporting(as_json: bool, settings_too: bool = True) -> Iterator[None]:
    """Turns every failure into the contract's form; nothing ends in a traceback.

    Args:
        settings_too: Whether wrong settings are a failure. Without, the log goes by the defaults.
    """
    settings = Settings.model_construct()
    try:
        try:
            settings = load_settings()
        except SettingsError:
            if settings_too:
                raise
        logs.configure(settings, console=False)
        yield
    except typer.Exit:
        raise
    except GearshiftError as error:
        fail(error, as_json)
    except KeyboardInterrupt:
        err.print("stopped")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise typer.Exit(1) from None
    except Exception as bug:
        logging.getLogger(__name__).exception("unexpected")
        where = settings.home_dir / "logs" / "gearshift.log"
        fail(unexpected(bug, hint=f"please report it; see {where}"), as_json)
